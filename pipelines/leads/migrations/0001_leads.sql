-- The lead pipeline's own tables: what was asked for, which companies were found, what is known of them, whom to write to.
--
-- Schema leads belongs to this pipeline; the queue (schema leasehold, migrated first) knows nothing of it, and nothing here depends on
-- the queue's tables or views. Tasks point here by ids in their payloads, never the other way round.
--   runs ─► companies ─► research ─► contact_searches ─► contacts        suppressions, recent_contacts ─► blocked_domains
-- `companies` and `rejected_rows` are only ever inserted into, in the transaction that settles a discovery slice. `research` and
-- `contact_searches` hold one row per company, written in batches just before its task is settled, guarded by the task's fence: a worker
-- that lost its lease cannot overwrite its successor's row, and a task worked twice leaves one row. Status is computed by views, not stored.

create schema leads;
comment on schema leads is 'The lead pipeline: runs, companies, research, contacts. Read run_status and run_leads; insert into suppressions.';

create table leads.runs (
  id text collate "C" primary key,
  criteria jsonb not null,
  target integer not null,
  created_at timestamptz not null default clock_timestamp(),
  -- What discovery did so far; it adds to these in the transaction of each slice.
  scanned bigint not null default 0,
  rejected bigint not null default 0,
  unmatched bigint not null default 0,
  blocked bigint not null default 0,
  duplicates bigint not null default 0,
  candidates integer not null default 0,
  discovered_at timestamptz,
  notes text[] not null default '{}',
  constraint run_id_is_1_to_200_printable check (id ~ '^[[:print:]]{1,200}$'),
  constraint target_is_positive check (target > 0),
  constraint candidates_are_at_most_twice_the_target check (candidates <= target::bigint * 2)
);
comment on table leads.runs is 'One row per run: what was asked for and what discovery counted. run_id of its tasks is the id.';
comment on column leads.runs.discovered_at is 'When discovery ended: source read to its end, or enough candidates. Null while it goes on.';
comment on column leads.runs.notes is 'What was not available or not as expected, for the reader of the result.';

create table leads.companies (
  id bigint generated always as identity primary key,
  run_id text collate "C" not null references leads.runs (id) on delete cascade,
  identity text collate "C" not null,
  name text not null,
  domain text collate "C",
  website text,
  city text,
  state text,
  country text,
  industry text,
  description text,
  phone text,
  email text,
  employees integer,
  pms text,
  contact_name text,
  contact_title text,
  extra jsonb not null default '{}',
  source_line bigint,
  found_at timestamptz not null default clock_timestamp(),
  -- A slice that is worked twice inserts nothing the second time.
  constraint companies_are_unique_in_a_run unique (run_id, identity)
);
comment on table leads.companies is 'Candidates as their source described them. Never updated.';
comment on column leads.companies.identity is 'domain:<registrable domain>, or name:<canonical name>|<city> when there is none.';
comment on column leads.companies.pms is 'The system the source itself names; what research detected is in leads.research.';

create table leads.research (
  company_id bigint primary key references leads.companies (id) on delete cascade,
  run_id text collate "C" not null,
  score smallint not null,
  signals jsonb not null,
  scored_by text not null,
  pms text,
  pms_evidence text,
  pms_detail text,
  pms_status text not null,
  site jsonb,
  qualified boolean not null,
  verdict text not null,
  notes text[] not null default '{}',
  fence bigint not null,
  researched_at timestamptz not null default clock_timestamp(),
  constraint score_is_0_to_100 check (score between 0 and 100),
  constraint scored_by_rules_or_model check (scored_by in ('rules', 'model')),
  constraint pms_status_is_known check (pms_status in ('detected', 'none seen', 'unknown')),
  constraint a_detected_pms_has_evidence check ((pms is not null) = (pms_status = 'detected') and (pms is null) = (pms_evidence is null))
);
create index research_by_run on leads.research (run_id, qualified);
comment on table leads.research is 'What research found about a company: ICP score 0–100 with its signals, property-management system, the site''s facts.';
comment on column leads.research.fence is 'The fence of the task that wrote the row; a lower one is not accepted any more.';

create table leads.contact_searches (
  company_id bigint primary key references leads.companies (id) on delete cascade,
  run_id text collate "C" not null,
  found boolean not null,
  notes text[] not null default '{}',
  fence bigint not null,
  searched_at timestamptz not null default clock_timestamp()
);
create index contact_searches_by_run on leads.contact_searches (run_id, found);
comment on table leads.contact_searches is 'One row per company whose contacts were looked for. found: there is at least one, so it is a lead.';

create table leads.contacts (
  company_id bigint not null references leads.contact_searches (company_id) on delete cascade,
  email text collate "C" not null,
  -- 1 is the best contact.
  position smallint not null,
  name text,
  title text,
  decision_rank smallint not null,
  source text not null,
  basis text not null,
  email_status text not null,
  email_reason text not null,
  primary key (company_id, email),
  constraint email_status_is_known check (email_status in ('valid', 'unknown')),
  constraint basis_is_known check (basis in ('directory', 'published', 'pattern', 'role', 'model'))
);
comment on table leads.contacts is 'Ways to reach a company, best first. Addresses that are certainly wrong are not kept.';
comment on column leads.contacts.email_status is 'valid: well-formed and the domain accepts mail (the mailbox is not proven). unknown: nobody could tell.';
comment on column leads.contacts.basis is 'directory or published: somebody gave it; pattern, role: guessed; model: named by a model from the page.';

create table leads.rejected_rows (
  run_id text collate "C" not null references leads.runs (id) on delete cascade,
  line bigint not null,
  problem text not null,
  primary key (run_id, line)
);
comment on table leads.rejected_rows is 'Lines of the directory that could not be read; at most the first 1,000 of a run, runs.rejected counts all.';

create table leads.suppressions (
  domain text collate "C" primary key,
  reason text not null default 'asked not to be contacted',
  created_at timestamptz not null default clock_timestamp(),
  constraint domain_is_lower_case_and_bare check (domain = lower(domain) and domain ~ '^[a-z0-9-]+(\.[a-z0-9-]+)+$' and domain !~ '^www\.')
);
comment on table leads.suppressions is 'Registrable domains never to be contacted. Insert one to stop it everywhere, also in results of earlier runs.';

create table leads.recent_contacts (
  domain text collate "C" not null,
  contacted_at timestamptz not null default clock_timestamp(),
  run_id text collate "C",
  primary key (domain, contacted_at),
  constraint domain_is_lower_case_and_bare check (domain = lower(domain) and domain ~ '^[a-z0-9-]+(\.[a-z0-9-]+)+$' and domain !~ '^www\.')
);
create index recent_contacts_by_time on leads.recent_contacts (contacted_at);
comment on table leads.recent_contacts is 'Domains that were written to, and when; they are left out of new runs for 90 days.';

create view leads.blocked_domains as
select s.domain, 'suppressed: ' || s.reason as reason, s.created_at as since, null::timestamptz as until
from leads.suppressions s
union all
select c.domain, 'contacted recently', max(c.contacted_at), max(c.contacted_at) + interval '90 days'
from leads.recent_contacts c
where c.contacted_at > clock_timestamp() - interval '90 days'
  and not exists (select from leads.suppressions s where s.domain = c.domain)
group by c.domain;
comment on view leads.blocked_domains is 'Domains that discovery leaves out, each once, with the reason: suppressed, or contacted in the last 90 days.';

-- Counts are taken from the indexes by run; nothing is kept up to date by hand, so nothing can disagree.
create view leads.run_status as
select r.id as run_id, r.created_at, r.target, n.leads, r.candidates, n.researched, n.qualified, n.searched,
  case
    when n.leads >= r.target then 'target met'
    when r.discovered_at is null then 'discovering'
    when n.researched < r.candidates or n.searched < n.qualified then 'working'
    else 'candidates used up'
  end as state,
  r.scanned, r.rejected, r.unmatched, r.blocked, r.duplicates, r.discovered_at, r.criteria, r.notes
from leads.runs r
cross join lateral (
  select
    (select count(*) from leads.research x where x.run_id = r.id) as researched,
    (select count(*) from leads.research x where x.run_id = r.id and x.qualified) as qualified,
    (select count(*) from leads.contact_searches x where x.run_id = r.id) as searched,
    (select count(*) from leads.contact_searches x where x.run_id = r.id and x.found) as leads
) n;
comment on view leads.run_status is 'Where each run stands: target, leads, candidates, counts per step. "working" without open tasks means that some ended dead.';

-- The best `target` leads; more may exist, because the last ones of a run finish side by side.
create view leads.run_leads as
select ranked.*
from (
  select c.run_id, row_number() over (partition by c.run_id order by x.score desc, c.id) as rank, c.id as company_id,
    c.name as company, c.domain, coalesce(x.site ->> 'url', c.website) as website, c.city, c.state, c.country, c.industry, c.phone,
    x.score, x.scored_by, x.pms, x.pms_status, x.pms_evidence, x.verdict, x.signals,
    k.name as contact, k.title as contact_title, k.email, k.email_status, k.basis as email_basis, k.email_reason,
    x.notes || s.notes as notes, c.source_line, c.extra
  from leads.contact_searches s
  join leads.companies c on c.id = s.company_id
  join leads.research x on x.company_id = s.company_id
  join lateral (select * from leads.contacts k where k.company_id = s.company_id order by k.position limit 1) k on true
  where s.found and not exists (select from leads.suppressions b where b.domain = c.domain)
) ranked
join leads.runs r on r.id = ranked.run_id
where ranked.rank <= r.target;
comment on view leads.run_leads is 'The result of a run: its best leads, at most the target, each with its best contact. Suppressed domains never show.';

-- The stages exist from now on, also while no worker has ever started: a run submitted then waits, and the monitor reports that
-- nobody works on it. Their settings are brought by the runners.
select leasehold.register_stage(stage)
from unnest(array['company_discovery', 'company_research', 'contact_discovery']) as stage;

-- The queue's roles, where they exist: workers write, observers read, operators suppress.
do $$
begin
  if (select count(*) from pg_catalog.pg_roles where rolname in (
    'leasehold_submitter', 'leasehold_worker', 'leasehold_observer', 'leasehold_operator')) = 4 then
    grant usage on schema leads to leasehold_submitter, leasehold_worker, leasehold_observer, leasehold_operator;
    grant select on all tables in schema leads to leasehold_worker, leasehold_observer, leasehold_operator;
    grant insert, update on leads.runs, leads.research, leads.contact_searches, leads.contacts to leasehold_worker;
    grant delete on leads.contacts to leasehold_worker;
    grant insert on leads.companies, leads.rejected_rows, leads.recent_contacts to leasehold_worker;
    grant insert on leads.runs to leasehold_submitter;
    grant select on leads.run_status, leads.run_leads, leads.blocked_domains to leasehold_submitter;
    grant insert, update, delete on leads.suppressions, leads.recent_contacts to leasehold_operator;
  end if;
end
$$;
