-- formerly 1b2bbbd8fb158ebaa1ebd2d694645f81b957d5ff0e088eedf23fc9b6a1ecda75
-- Alerts: who is told of an incident, when, by which channel, and how often at most.
--
-- An incident becomes news for a channel (alert_news), news become a message (alerts), a message is handed over by a
-- sender with tries of its own. Each step is a row, written in the transaction of a look, so nothing is forgotten: news
-- stand until a message tells them. What is told at once, in the digest or never is decided here from alert_policy and
-- alert_rules; the words are the monitor program's (daemons/heartbeat-monitor).
--
-- The cap. A day begins at the policy's digest hour in its zone and its digest is the first message of that day, so the
-- digest counts and always fits. Whatever was handed over since then counts (alerts, recoveries, reminders, digest),
-- and so does what is on its way; messages that wait go out together and count as one. At per_day the rest waits for
-- the digest of the next day. The last `reserve` messages of a day are kept for new trouble: recoveries and reminders
-- then wait for the next message. `leasehold alerts test` is asked for by a person and does not count.
--
-- Locks: locks 'monitor' (the look), then rows of alert_channels in order of their name, then alerts and alert_news.

-- ---------------------------------------------------------------------------------------------------- the policy
create table leasehold.alert_policy (
  one_row boolean primary key default true,
  per_day integer not null default 2,
  reserve integer not null default 1,
  zone text not null default 'UTC',
  digest_at time not null default '08:00',
  quiet_from time,
  quiet_until time,
  gap interval not null default interval '1 minute',
  constraint alert_policy_is_one_row check (one_row),
  constraint alert_per_day_is_1_to_1000 check (per_day between 1 and 1000),
  constraint alert_reserve_is_within_per_day check (reserve between 0 and per_day),
  constraint alert_digest_is_an_hour_of_the_day check (digest_at < time '24:00'),
  constraint alert_gap_is_up_to_an_hour check (gap between interval '0' and interval '1 hour'),
  constraint quiet_hours_have_both_ends check ((quiet_from is null) = (quiet_until is null)),
  constraint quiet_hours_are_not_the_whole_day check (
    quiet_from <> quiet_until and quiet_from < time '24:00' and quiet_until < time '24:00'),
  constraint digest_is_not_in_quiet_hours check (quiet_from = quiet_until or not case
    when quiet_from < quiet_until then digest_at >= quiet_from and digest_at < quiet_until
    else digest_at >= quiet_from or digest_at < quiet_until end)
);
comment on table leasehold.alert_policy is 'How often and when people are told; one row. A change counts from the next look of the monitor on.';
comment on column leasehold.alert_policy.per_day is 'Messages a day and channel, digest included. A day begins at digest_at in zone.';
comment on column leasehold.alert_policy.reserve is 'So many messages of a day are kept for new trouble: recoveries and reminders do not take them.';
comment on column leasehold.alert_policy.zone is 'IANA time zone of digest_at and of the quiet hours.';
comment on column leasehold.alert_policy.gap is 'The least time between two messages of a channel; what happens meanwhile is told together.';
insert into leasehold.alert_policy default values;

create table leasehold.alert_rules (
  kind text collate "C" primary key,
  tell text collate "C" not null default 'now',
  min_age interval not null default '0',
  remind_after interval,
  channels text[] collate "C",
  recovery boolean not null default true,
  through_quiet boolean not null default false,
  constraint alert_rule_kind_is_plain check (kind ~ '^([a-z][a-z_]{0,47}|\*)$'),
  constraint alert_tell_is_known check (tell in ('now', 'digest', 'never')),
  constraint alert_min_age_is_up_to_7_days check (min_age between interval '0' and interval '7 days'),
  constraint alert_reminder_is_5_minutes_to_a_year check (remind_after between interval '5 minutes' and interval '366 days'),
  constraint alert_rule_channels_are_known check (
    channels <@ array['email', 'telegram', 'webhook', 'command'] and cardinality(channels) > 0
    and array_position(channels, null) is null)
);
comment on table leasehold.alert_rules is 'How incidents of a kind are told. A kind without a row follows the row ''*''.';
comment on column leasehold.alert_rules.tell is 'now: a message as soon as cap, gap and quiet hours allow; digest: once a day; never: the views only.';
comment on column leasehold.alert_rules.min_age is 'What is over sooner is never told.';
comment on column leasehold.alert_rules.remind_after is 'Tell again when it has been open for so long since it was last told; null: never.';
comment on column leasehold.alert_rules.channels is 'Only these channels; null: all that a monitor serves.';
comment on column leasehold.alert_rules.recovery is 'Also tell when it is over.';
comment on column leasehold.alert_rules.through_quiet is 'Told in quiet hours too.';
insert into leasehold.alert_rules (kind, tell, min_age, remind_after, recovery, through_quiet) values
  ('*', 'now', '0', '1 day', true, false),
  ('worker_dead', 'now', '0', null, true, false),
  ('stage_without_worker', 'now', '0', '1 day', true, true),
  ('workers_missing', 'now', '0', '1 day', true, false),
  ('worker_wedged', 'now', '0', '1 day', true, false),
  ('task_quarantined', 'now', '0', '7 days', false, false),
  ('tasks_failing', 'digest', '0', '1 day', false, false),
  ('backlog_old', 'now', '0', '1 day', true, false),
  ('monitor_silent', 'now', '0', null, true, true),
  ('channel_down', 'now', '0', '1 day', true, false),
  ('schedule_missed', 'now', '0', '1 day', true, false),
  ('schedule_failing', 'now', '0', '1 day', true, false),
  ('housekeeping_overdue', 'digest', '0', '1 day', true, false),
  -- Its successor is channel_down; what is open resolves when the mail has gone.
  ('mail_undeliverable', 'never', '0', null, false, false);

create table leasehold.alert_channels (
  channel text collate "C" primary key,
  enabled boolean not null default true,
  per_day integer,
  served_at timestamptz,
  last_sent_at timestamptz,
  failing_since timestamptz,
  failures integer not null default 0,
  last_error text,
  not_before timestamptz,
  constraint alert_channel_is_known check (channel in ('email', 'telegram', 'webhook', 'command')),
  constraint alert_channel_per_day_is_1_to_100000 check (per_day between 1 and 100000)
) with (fillfactor = 50);
comment on table leasehold.alert_channels is 'The ways to tell people. Addresses and secrets are the monitor''s settings, never here.';
comment on column leasehold.alert_channels.per_day is 'Instead of the policy''s; null: the policy''s.';
comment on column leasehold.alert_channels.served_at is 'When a monitor last said that it is configured to send there.';
comment on column leasehold.alert_channels.failing_since is 'Nothing was taken since; null: the last try went well.';
comment on column leasehold.alert_channels.not_before is 'The other side asked to be left alone until then.';
insert into leasehold.alert_channels (channel) values ('email'), ('telegram'), ('webhook'), ('command');

create table leasehold.backlog_limits (
  stage text collate "C" primary key,
  older_than interval not null,
  constraint backlog_stage_is_plain check (stage ~ '^[a-z][a-z0-9_.-]{0,47}$'),
  constraint backlog_limit_is_a_second_to_a_year check (older_than between interval '1 second' and interval '366 days')
);
comment on table leasehold.backlog_limits is 'Stages whose oldest ready task must not be older than this; a stage without a row may be late.';

-- The zone must be one that this server knows by name; abbreviations and offsets do not know of daylight saving time.
create function leasehold.check_alert_zone() returns trigger
  language plpgsql
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  if not exists (select from pg_catalog.pg_timezone_names z where z.name = new.zone) then
    raise exception 'there is no time zone ''%''', left(new.zone, 100)
      using errcode = '22023', hint = 'Name one of pg_timezone_names: Europe/London, America/New_York, UTC …',
        constraint = 'alert_zone_is_known', table = 'alert_policy', column = 'zone';
  end if;
  return new;
end
$$;
create trigger alert_zone_is_known before insert or update of zone on leasehold.alert_policy
  for each row execute function leasehold.check_alert_zone();

-- ------------------------------------------------------------------------------------------------ news and messages
create table leasehold.alert_news (
  id bigint generated always as identity primary key,
  channel text collate "C" not null,
  incident_id bigint not null references leasehold.incidents (id) on delete cascade,
  what text collate "C" not null,
  minor boolean not null,
  at timestamptz not null,
  told_at timestamptz,
  alert_id bigint,
  followed boolean not null default false,
  constraint alert_news_what_is_known check (what in ('opened', 'reminder', 'resolved')),
  constraint alert_news_told_by_a_message check ((told_at is null) = (alert_id is null))
);
comment on table leasehold.alert_news is 'What each channel has to tell, or has told, of each incident; told_at is null while it waits.';
comment on column leasehold.alert_news.minor is 'Does not take the last messages of a day (alert_policy.reserve).';
comment on column leasehold.alert_news.followed is 'The incident is over and nothing more will come of this row.';
create unique index one_opening_and_end_per_channel on leasehold.alert_news (incident_id, channel, what) where what <> 'reminder';
create index alert_news_waiting on leasehold.alert_news (channel, id) where told_at is null;
create index alert_news_open on leasehold.alert_news (incident_id) where what = 'opened' and not followed;
create index alert_news_reminders on leasehold.alert_news (incident_id, channel) where what = 'reminder';

alter table leasehold.alerts
  add column purpose text collate "C" not null default 'alert',
  add column transmission uuid,
  add column refused_at timestamptz,
  add constraint alert_purpose_is_known check (purpose in ('alert', 'digest')),
  add constraint alert_goes_to_a_known_channel check (channel in ('email', 'telegram', 'webhook', 'command'));
comment on column leasehold.alerts.transmission is 'Messages with the same one went out together, as one.';
comment on column leasehold.alerts.refused_at is 'The other side refused it for good; it is tried again only when somebody asks (retry_alerts).';
create index incidents_by_end on leasehold.incidents (resolved_at) where resolved_at is not null;
create index alerts_by_channel on leasehold.alerts (channel, id);
create index alerts_sent on leasehold.alerts (channel, sent_at) where sent_at is not null;

-- What was told before this table was there is not told again.
insert into leasehold.alert_news (channel, incident_id, what, minor, at, told_at, alert_id, followed)
select 'email', i.id, 'opened', false, i.opened_at, min(a.created_at), min(a.id), i.resolved_at is not null
from leasehold.incidents i join leasehold.alerts a on i.id = any (a.incident_ids)
group by i.id;
update leasehold.alerts set transmission = gen_random_uuid() where sent_at is not null;

-- --------------------------------------------------------------------------------------------- changing the policy
-- A change is a JSON object of columns: {"per_day": 3, "quiet_from": null}. What it does not name stays as it is.

-- Refuses what is no object of the columns named.
create function leasehold.check_change(p_change jsonb, p_known text[]) returns void
  language plpgsql immutable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_unknown text;
begin
  if jsonb_typeof(p_change) is distinct from 'object' then
    raise exception 'a change is a JSON object, not %', left(coalesce(p_change::text, 'null'), 100)
      using errcode = '22023', hint = 'Known: ' || array_to_string(p_known, ', ') || '.';
  end if;
  select string_agg(left(k, 60), ', ' order by k) into v_unknown
  from jsonb_object_keys(p_change) k where not k = any (p_known);
  if v_unknown is not null then
    raise exception 'there is no setting %', v_unknown
      using errcode = '22023', hint = 'Known: ' || array_to_string(p_known, ', ') || '.';
  end if;
end
$$;

-- Changes the policy. True when something is different now.
create function leasehold.set_alert_policy(p_change jsonb) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_old leasehold.alert_policy;
  v_new leasehold.alert_policy;
begin
  perform leasehold.check_change(p_change,
    array['per_day', 'reserve', 'zone', 'digest_at', 'quiet_from', 'quiet_until', 'gap']);
  select * into strict v_old from leasehold.alert_policy for update;
  v_new := jsonb_populate_record(v_old, p_change);
  if v_new is not distinct from v_old then
    return false;
  end if;
  update leasehold.alert_policy set per_day = v_new.per_day, reserve = v_new.reserve, zone = v_new.zone,
    digest_at = v_new.digest_at, quiet_from = v_new.quiet_from, quiet_until = v_new.quiet_until, gap = v_new.gap;
  return true;
end
$$;

-- Changes the rule of a kind, or makes one that begins as a copy of '*'; null removes it, so that '*' counts again.
-- True when something is different now.
create function leasehold.set_alert_rule(p_kind text, p_change jsonb) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_old leasehold.alert_rules;
  v_new leasehold.alert_rules;
  v_found boolean;
begin
  if p_change is null then
    delete from leasehold.alert_rules r where r.kind = p_kind;
    return found;
  end if;
  perform leasehold.check_change(p_change,
    array['tell', 'min_age', 'remind_after', 'channels', 'recovery', 'through_quiet']);
  select * into v_old from leasehold.alert_rules r where r.kind = p_kind for update;
  v_found := found;
  if not v_found then
    v_old := leasehold.alert_rule('*');
    v_old.kind := p_kind;
  end if;
  v_new := jsonb_populate_record(v_old, p_change);
  if v_found and v_new is not distinct from v_old then
    return false;
  end if;
  insert into leasehold.alert_rules as r select v_new.*
  on conflict (kind) do update set tell = excluded.tell, min_age = excluded.min_age, remind_after = excluded.remind_after,
    channels = excluded.channels, recovery = excluded.recovery, through_quiet = excluded.through_quiet;
  return true;
end
$$;

-- Switches a channel on or off, or gives it a cap of its own. True when something is different now.
create function leasehold.set_alert_channel(p_channel text, p_change jsonb) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_old leasehold.alert_channels;
  v_new leasehold.alert_channels;
begin
  perform leasehold.check_change(p_change, array['enabled', 'per_day']);
  select * into v_old from leasehold.alert_channels c where c.channel = p_channel for update;
  if not found then
    raise exception 'there is no alert channel ''%''', left(p_channel, 60)
      using errcode = '22023', hint = 'Known: email, telegram, webhook, command.';
  end if;
  v_new := jsonb_populate_record(v_old, p_change);
  if v_new is not distinct from v_old then
    return false;
  end if;
  update leasehold.alert_channels c set enabled = v_new.enabled, per_day = v_new.per_day where c.channel = p_channel;
  return true;
end
$$;

-- Says how old the oldest ready task of a stage may be; null: as old as it likes. True when something is different now.
create function leasehold.set_backlog_limit(p_stage text, p_older_than interval) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  if p_older_than is null then
    delete from leasehold.backlog_limits b where b.stage = p_stage;
    return found;
  end if;
  insert into leasehold.backlog_limits as b (stage, older_than) values (p_stage, p_older_than)
  on conflict (stage) do update set older_than = excluded.older_than where b.older_than <> excluded.older_than;
  return found;
end
$$;

-- The rule that counts for a kind: its own, else '*', else (that row was deleted) to tell it at once.
create function leasehold.alert_rule(p_kind text) returns leasehold.alert_rules
  language sql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select coalesce(
    (select r from leasehold.alert_rules r where r.kind = p_kind),
    (select r from leasehold.alert_rules r where r.kind = '*'),
    row(p_kind, 'now', interval '0', null, null, true, false)::leasehold.alert_rules)
$$;

-- ------------------------------------------------------------------------------------------------- who is told when

-- The policy's zone, or UTC when this server does not know it any more (a restore onto an older one): a look must not
-- fail for that.
create function leasehold.alert_zone() returns text
  language plpgsql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_zone text;
begin
  select p.zone into v_zone from leasehold.alert_policy p;
  perform leasehold.clock() at time zone v_zone;
  return v_zone;
exception when invalid_parameter_value then
  return 'UTC';
end
$$;

-- When the day of the cap began: the last moment, not after p_at, at which clocks in the zone showed the digest's hour.
-- All three candidates are looked at because a local time may come twice, or not at all, when clocks change.
create function leasehold.alert_day(p_at timestamptz) returns timestamptz
  language sql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select max(s.began)
  from leasehold.alert_policy p cross join (select leasehold.alert_zone() as zone) z
  cross join generate_series(-1, 1) as d(days)
  cross join lateral (select ((p_at at time zone z.zone)::date + d.days + p.digest_at) at time zone z.zone as began) s
  where s.began <= p_at
$$;

-- Whether it is quiet at p_at, by the clock on the wall: an hour that comes twice is quiet twice.
create function leasehold.is_quiet(p_at timestamptz) returns boolean
  language sql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select coalesce(case
    when p.quiet_from < p.quiet_until then t.local >= p.quiet_from and t.local < p.quiet_until
    else t.local >= p.quiet_from or t.local < p.quiet_until end, false)
  from leasehold.alert_policy p cross join lateral (select (p_at at time zone leasehold.alert_zone())::time as local) t
$$;

-- The channels that news are for: switched on, and served by a monitor within a day. When there is none, e-mail: the
-- messages then wait for a monitor that can send them. Nobody at all when every channel is switched off.
create function leasehold.alert_targets() returns setof text
  language sql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  with served as (
    select c.channel from leasehold.alert_channels c
    where c.enabled and c.served_at > leasehold.clock() - interval '1 day'
  )
  select s.channel from served s
  union all
  select c.channel from leasehold.alert_channels c
  where c.channel = 'email' and c.enabled and not exists (select from served)
$$;

-- A monitor says where it can send. Written at most once in half a minute by each channel.
create function leasehold.serve_channels(p_channels text[]) returns void
  language sql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  update leasehold.alert_channels c set served_at = leasehold.clock()
  where c.channel = any (p_channels) and (c.served_at is null or c.served_at < leasehold.clock() - interval '30 seconds')
$$;

-- Makes news of what has changed: incidents to tell for the first time, again, or as over. Reads the state and not what
-- one look found, so a look that could not tell leaves it to the next ones, for six hours also what was over meanwhile.
-- Deliberately no news: rules that say never, what was over before min_age, an outage of the channel itself.
create function leasehold.gather_news() returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_targets text[] := array(select leasehold.alert_targets());
begin
  insert into leasehold.alert_news (channel, incident_id, what, minor, at)
  select t.channel, i.id, 'opened',
    -- The death was told a moment ago, and with it that nobody is left for this stage.
    i.kind in ('stage_without_worker', 'workers_missing') and exists (
      select from leasehold.incidents d join leasehold.alert_news n on n.incident_id = d.id
      where d.kind = 'worker_dead' and d.opened_at > i.opened_at - interval '1 hour'
        and n.channel = t.channel and n.what = 'opened' and n.told_at is not null
        and d.details -> case i.kind when 'workers_missing' then 'stages' else 'unserved' end ? i.subject),
    v_now
  from (
    select x.* from leasehold.incidents x where x.resolved_at is null
    union all select x.* from leasehold.incidents x where x.resolved_at > v_now - interval '6 hours'
  ) i
  cross join lateral leasehold.alert_rule(i.kind) r
  cross join unnest(v_targets) as t(channel)
  where r.tell <> 'never'
    and coalesce(i.resolved_at, v_now) - i.opened_at >= r.min_age
    and (t.channel = any (r.channels) or r.channels is null or not r.channels && v_targets)
    and not (i.kind = 'channel_down' and i.subject = t.channel)
    and not exists (select from leasehold.alert_news n
      where n.incident_id = i.id and n.what = 'opened' and (n.channel = t.channel or i.resolved_at is not null))
  order by i.id;

  -- What was told and is over; not that others go on with a dead worker's stages, which the first message said, nor
  -- that a death was closed after a day although nothing came back.
  with over as (
    update leasehold.alert_news n set followed = true
    from leasehold.incidents i
    where n.what = 'opened' and not n.followed and n.told_at is not null
      and i.id = n.incident_id and i.resolved_at is not null
    returning n.channel, n.incident_id, i.kind, i.details, i.resolved_at - i.opened_at as lasted
  )
  insert into leasehold.alert_news (channel, incident_id, what, minor, at, followed)
  select o.channel, o.incident_id, 'resolved', true, v_now, true
  from over o cross join lateral leasehold.alert_rule(o.kind) r
  where r.recovery and r.tell <> 'never'
    and (o.kind <> 'worker_dead' or (jsonb_array_length(o.details -> 'unserved') > 0 and o.lasted < interval '1 day'))
  order by o.incident_id;

  insert into leasehold.alert_news (channel, incident_id, what, minor, at, followed)
  select n.channel, n.incident_id, 'reminder', true, v_now, true
  from leasehold.alert_news n
  join leasehold.incidents i on i.id = n.incident_id and i.resolved_at is null
  cross join lateral leasehold.alert_rule(i.kind) r
  where n.what = 'opened' and not n.followed and n.told_at is not null and r.tell <> 'never'
    and n.told_at <= v_now - r.remind_after
    and n.channel = any (v_targets)
    and not exists (select from leasehold.alert_news m where m.incident_id = n.incident_id and m.channel = n.channel
      and m.what = 'reminder' and (m.told_at is null or m.told_at > v_now - r.remind_after))
  order by n.incident_id;

  delete from leasehold.alert_news n using leasehold.incidents i
  where n.told_at is null and i.id = n.incident_id
    and ((n.what = 'reminder' and i.resolved_at is not null) or (leasehold.alert_rule(i.kind)).tell = 'never');
end
$$;

-- How many messages of a channel's day are used: handed over since it began, on their way, and one for all that wait.
-- waiting: some wait and are not on their way, so that one more goes with them and costs nothing.
create function leasehold.alerts_used(p_channel text, p_at timestamptz, out used integer, out waiting boolean)
  language sql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select (s.n + u.flying + u.waits::integer)::integer, u.waits
  from (
    select count(distinct a.transmission) as n from leasehold.alerts a
    where a.channel = p_channel and a.sent_at >= leasehold.alert_day(p_at)
  ) s cross join (
    select count(distinct a.transmission) filter (where a.claimed_until > p_at) as flying,
      coalesce(bool_or(a.claimed_until is null or a.claimed_until <= p_at), false) as waits
    from leasehold.alerts a where a.channel = p_channel and a.sent_at is null and a.refused_at is null
  ) u
$$;

-- While other workers have missed two beats as well, a burst of deaths is still unfolding: until when to wait for the
-- rest of it. Null: nobody else is late. Never so long that the first of the dead is told later than one interval after
-- its lease ran out.
create function leasehold.burst_ends_at(p_incidents bigint[], p_interval interval) returns timestamptz
  language sql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  with dead as (
    select min(w.expires_at) + least(p_interval, interval '1 minute') as latest
    from leasehold.incidents i join leasehold.workers w on w.id = case when i.kind = 'worker_dead' then i.subject::uuid end
    where i.id = any (p_incidents)
  )
  select least(max(w.expires_at), min(d.latest)) + interval '10 milliseconds'
  from dead d join leasehold.workers w on w.ended_at is null and w.expires_at > leasehold.clock()
    and w.beat_at < leasehold.clock() - w.beat_interval * 2
  where d.latest > leasehold.clock()
$$;

-- What has to be told now: a row for each channel with a message to write, and how long what waits has to wait.
-- news: [{news_id, what, incident}] in the order in which it happened; of a kind's incidents beyond the first hundred
-- the long lists are left out. Locks the channels, so that the count of their messages stands until the caller commits.
-- p_interval: the monitor's. p_unfinished: more dead workers are about to be released.
create function leasehold.due_messages(p_interval interval, p_unfinished boolean default false)
  returns table (channel text, purpose text, news jsonb, again interval)
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_now timestamptz := leasehold.clock();
  v_day timestamptz := leasehold.alert_day(v_now);
  v_quiet boolean := leasehold.is_quiet(v_now);
  v_policy leasehold.alert_policy;
  v_channel record;
  v_used record;
  v_last record;
  v_picked bigint[];
  v_incidents bigint[];
  v_minor boolean;
  v_until timestamptz;
begin
  select * into strict v_policy from leasehold.alert_policy;
  for v_channel in
    select c.channel, coalesce(c.per_day, v_policy.per_day) as per_day from leasehold.alert_channels c
    where c.channel in (select leasehold.alert_targets()) order by c.channel for update
  loop
    continue when not exists (select from leasehold.alert_news n where n.channel = v_channel.channel and n.told_at is null);
    channel := v_channel.channel; purpose := null; news := null; again := null;
    v_used := leasehold.alerts_used(channel, v_now);
    if (v_used.waiting or v_used.used < v_channel.per_day)
      and exists (select from leasehold.alert_news n where n.channel = v_channel.channel and n.told_at is null and n.at < v_day)
      and not exists (select from leasehold.alerts a
        where a.channel = v_channel.channel and a.purpose = 'digest' and a.created_at >= v_day)
    then
      purpose := 'digest';
      v_picked := array(select n.id from leasehold.alert_news n
        where n.channel = v_channel.channel and n.told_at is null order by n.id);
    else
      select array_agg(n.id order by n.id), array_agg(n.incident_id) filter (where n.what = 'opened'), bool_and(n.minor)
      into v_picked, v_incidents, v_minor
      from leasehold.alert_news n join leasehold.incidents i on i.id = n.incident_id
      cross join lateral leasehold.alert_rule(i.kind) r
      where n.channel = v_channel.channel and n.told_at is null and r.tell = 'now' and (r.through_quiet or not v_quiet);
      continue when v_picked is null;
      continue when not v_used.waiting
        and v_used.used >= v_channel.per_day - case when v_minor then v_policy.reserve else 0 end;
      select a.created_at into v_last from leasehold.alerts a where a.channel = v_channel.channel order by a.id desc limit 1;
      v_until := greatest(v_last.created_at + v_policy.gap, leasehold.burst_ends_at(v_incidents, p_interval),
        case when p_unfinished and exists (select from leasehold.alert_news n
          where n.id = any (v_picked) having min(n.at) > v_now - least(p_interval, interval '1 minute')) then v_now + interval '1 ms' end);
      if v_until > v_now then
        again := v_until - v_now;
        return next;
        continue;
      end if;
      purpose := 'alert';
    end if;
    select jsonb_agg(jsonb_build_object('news_id', x.id::text, 'what', x.what,
      'incident', to_jsonb(x.incident) || jsonb_build_object('id', x.incident_id::text)
        || case when x.nr > 100 then jsonb_build_object('details', (x.incident).details - 'held') else '{}' end) order by x.id)
    into news
    from (
      select n.id, n.what, n.incident_id, i as incident, row_number() over (partition by i.kind order by n.id) as nr
      from leasehold.alert_news n join leasehold.incidents i on i.id = n.incident_id where n.id = any (v_picked)
    ) x;
    return next;
  end loop;
end
$$;

-- Writes a message and marks its news as told; it is sent only if this transaction commits. Returns its id.
create function leasehold.write_message(p_channel text, p_purpose text, p_news bigint[], p_subject text, p_body text)
  returns bigint
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_id bigint;
begin
  insert into leasehold.alerts (channel, purpose, incident_ids, subject, body, created_at, next_try_at)
  values (p_channel, p_purpose, array(select distinct n.incident_id from leasehold.alert_news n
    where n.id = any (p_news) order by 1), p_subject, p_body, v_now, v_now)
  returning id into v_id;
  -- What is over when it is told for the first time was told as over: nothing more will come of it.
  update leasehold.alert_news n set told_at = v_now, alert_id = v_id, followed = n.followed or i.resolved_at is not null
  from leasehold.incidents i where n.id = any (p_news) and i.id = n.incident_id;
  return v_id;
end
$$;

-- ------------------------------------------------------------------------------------------------- handing it over

-- Takes all messages of a channel that wait, to hand them over as one; nobody else gets them within p_for, and a sender
-- that dies leaves nothing behind but that wait. No row: nothing waits, or the channel asked to be left alone; then
-- `leasehold.alert_channels.not_before` says until when. Bodies beyond the first hundred are null.
create function leasehold.claim_messages(p_channel text, p_for interval)
  returns table (id bigint, subject text, body text, purpose text, created_at timestamptz, tries integer,
    incidents jsonb, transmission uuid)
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_now timestamptz := leasehold.clock();
  v_transmission uuid := gen_random_uuid();
begin
  perform from leasehold.alert_channels c
  where c.channel = p_channel and (c.not_before is null or c.not_before <= v_now) for update;
  if not found then
    return;
  end if;
  return query
  with claimed as (
    update leasehold.alerts a set tries = a.tries + 1, claimed_until = v_now + p_for, transmission = v_transmission
    where a.channel = p_channel and a.sent_at is null and a.refused_at is null
      and (a.claimed_until is null or a.claimed_until <= v_now)
    returning a.*
  ), numbered as (
    select c.*, row_number() over (order by c.id) as nr from claimed c
  )
  select n.id, n.subject, case when n.nr <= 100 then n.body end, n.purpose, n.created_at, n.tries,
    case when n.nr <= 100 then (select coalesce(jsonb_agg(jsonb_build_object('id', i.id::text, 'kind', i.kind, 'subject', i.subject,
      'summary', i.summary, 'opened_at', i.opened_at, 'resolved_at', i.resolved_at) order by i.id), '[]')
      from (select i.* from leasehold.incidents i where i.id = any (n.incident_ids) order by i.id limit 500) i) end,
    v_transmission
  from numbered n order by n.id;
end
$$;

-- A transmission was taken. p_remark: what the other side said about part of it, or null. The channel works again.
create function leasehold.messages_sent(p_channel text, p_transmission uuid, p_remark text default null) returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  update leasehold.alert_channels c set last_sent_at = leasehold.clock(), failing_since = null, failures = 0,
    last_error = null, not_before = null
  where c.channel = p_channel;
  update leasehold.alerts a set sent_at = leasehold.clock(), claimed_until = null, last_error = p_remark
  where a.transmission = p_transmission and a.channel = p_channel and a.sent_at is null;
end
$$;

-- A transmission was not taken: its messages go back and are due again after p_delay; with p_refused they stay until
-- somebody asks for them (retry_alerts). p_alone: the other side wants to be left alone until p_delay has passed. From
-- the third failure in a row on, and at once when refused, the incident channel_down is open.
create function leasehold.messages_failed(
  p_channel text, p_transmission uuid, p_error text, p_delay interval, p_refused boolean default false, p_alone boolean default false
) returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_failures integer;
begin
  update leasehold.alert_channels c set failing_since = coalesce(c.failing_since, v_now), failures = c.failures + 1,
    last_error = p_error, not_before = case when p_alone then v_now + p_delay end
  where c.channel = p_channel returning c.failures into v_failures;
  update leasehold.alerts a set claimed_until = null, last_error = p_error, next_try_at = v_now + p_delay,
    refused_at = case when p_refused then v_now end
  where a.transmission = p_transmission and a.channel = p_channel and a.sent_at is null;
  if v_failures >= 3 or p_refused then
    perform leasehold.open_incident('channel_down', p_channel,
      'alerts by ' || p_channel || case when p_refused then ' are refused: ' else ' could not be delivered: ' end || p_error,
      jsonb_build_object('channel', p_channel, 'failures', v_failures, 'refused', p_refused, 'error', p_error));
  end if;
end
$$;

-- Puts messages that were refused back among those which wait. Null: of all channels. Returns how many.
create function leasehold.retry_alerts(p_channel text default null) returns integer
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_count integer;
begin
  perform from leasehold.alert_channels c where p_channel is null or c.channel = p_channel order by c.channel for update;
  update leasehold.alerts a set refused_at = null, next_try_at = leasehold.clock()
  where a.refused_at is not null and a.sent_at is null and (p_channel is null or a.channel = p_channel);
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

-- Keeps how a test of a channel went, which somebody ran by hand. p_error null: it was taken, so the channel works.
create function leasehold.note_alert_test(p_channel text, p_error text) returns void
  language sql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  update leasehold.alert_channels c set last_error = p_error,
    last_sent_at = case when p_error is null then leasehold.clock() else c.last_sent_at end,
    failing_since = case when p_error is not null then c.failing_since end,
    failures = case when p_error is null then 0 else c.failures end,
    not_before = case when p_error is not null then c.not_before end
  where c.channel = p_channel
$$;

-- Channels with a message that has been due for p_slack and that nobody has in hand: its job must have been lost.
create function leasehold.overdue_channels(p_slack interval) returns setof text
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select distinct a.channel from leasehold.alerts a join leasehold.alert_channels c on c.channel = a.channel
  where a.sent_at is null and a.refused_at is null
    and greatest(a.next_try_at, a.claimed_until, c.not_before) < leasehold.clock() - p_slack
$$;

-- --------------------------------------------------------------------------------------------- what is wrong right now
-- What is wrong with workers and monitors right now, apart from what happens once (deaths, quarantines). p_wedge: how
-- long a main loop may stand still. p_lonely: how long a stage may have work and no live worker, or fewer than expected;
-- a restart is shorter. p_silent: the least silence of a monitor that counts. Reads the front of each lane only for
-- stages without a worker.
create function leasehold.fleet_conditions(p_wedge interval, p_lonely interval, p_silent interval)
  returns table (kind text, subject text, summary text, details jsonb)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  with seen as (
    select w.*, w.ended_at is null and w.expires_at > leasehold.clock() as live
    from leasehold.workers w where w.ended_at is null or w.ended_at > leasehold.clock() - interval '1 day'
  ), by_stage as (
    select u.stage, count(*) filter (where w.live) as live_workers,
      count(distinct w.slot) filter (where w.live or coalesce(w.ended_at, w.expires_at) > leasehold.clock() - p_lonely)
        as recent_slots,
      -- A dead worker counts until it was released: its death is news of its own.
      max(coalesce(w.ended_at, w.expires_at)) as last_live, max(w.beat_at) as last_seen
    from seen w cross join lateral unnest(w.stages) as u(stage) group by 1
  ), stage_work as (
    select s.name, s.expected_workers, s.registered_at, b.last_live, b.last_seen,
      coalesce(b.live_workers, 0) as live_workers, coalesce(b.recent_slots, 0) as recent_slots,
      case when coalesce(b.live_workers, 0) = 0 then least(
        (select min(greatest(t.submitted_at, t.run_at)) from generate_series(0, 11) as g(lane)
         cross join lateral (
           select r.task_id from leasehold.ready r
           where r.stage = s.name and r.lane = g.lane::smallint
             and r.position >= coalesce((select f.floor from leasehold.floors f
               where f.stage = s.name and f.lane = g.lane::smallint order by f.floor desc limit 1), 0)
           order by r.position limit 1) first
         join leasehold.tasks t on t.id = first.task_id),
        (select n.run_at from leasehold.scheduled n where n.stage = s.name order by n.run_at limit 1),
        (select w.waiting_since from leasehold.waiting w where w.stage = s.name and not w.for_parents
         order by w.concurrency_key limit 1)
      ) end as oldest
    from leasehold.stages s left join by_stage b on b.stage = s.name
    where s.paused_until is null or s.paused_until <= leasehold.clock()
  ), lonely as (
    select s.* from stage_work s
    where s.live_workers = 0 and greatest(s.oldest, s.last_live) < leasehold.clock() - p_lonely and s.oldest is not null
  )
  -- The last beat tells how old the loop's turn was then; a worker that is silent as well is not wedged but about to be dead.
  select 'worker_wedged', w.id::text,
    'worker ' || w.slot || ' beats but its main loop has not turned for ' || date_trunc('second', w.beat_at - w.loop_at)::text,
    jsonb_build_object('worker_id', w.id, 'slot', w.slot, 'stages', w.stages, 'host', w.host, 'pid', w.pid,
      'loop_at', w.loop_at, 'stands_still_s', round(extract(epoch from w.beat_at - w.loop_at)::numeric, 1), 'running', w.running)
  from seen w where w.live and w.beat_at - w.loop_at > p_wedge
  union all
  select 'stage_without_worker', s.name,
    'stage ' || s.name || ' has work and no live worker',
    jsonb_build_object('stage', s.name, 'oldest', s.oldest, 'last_worker_seen', s.last_seen)
  from lonely s
  union all
  select 'workers_missing', s.name,
    'stage ' || s.name || ' has ' || s.live_workers || ' of ' || s.expected_workers || ' expected workers',
    jsonb_build_object('stage', s.name, 'live', s.live_workers, 'expected', s.expected_workers)
  from stage_work s
  where s.recent_slots < s.expected_workers and s.registered_at < leasehold.clock() - p_lonely
    and s.name not in (select l.name from lonely l)
  union all
  select 'monitor_silent', m.id::text,
    'monitor on ' || m.host || ' (pid ' || coalesce(m.pid::text, '?') || ') has not ticked for ' || date_trunc('second', leasehold.clock() - m.ticked_at)::text,
    jsonb_build_object('monitor_id', m.id, 'host', m.host, 'pid', m.pid, 'ticked_at', m.ticked_at, 'interval_ms', m.interval_ms)
  from leasehold.monitors m
  where m.stopped_at is null
    and m.ticked_at < leasehold.clock() - greatest(p_silent, m.interval_ms * 3 * interval '1 millisecond')
    and m.ticked_at > leasehold.clock() - interval '1 day'
    -- Started again on its host: that process watches in its place.
    and not exists (select from leasehold.monitors n where n.host = m.host and n.started_at > m.ticked_at)
$$;

-- What is wrong with the work right now: stages whose tasks end dead, and stages that are later than they may be.
-- Reads at most the 5000 newest failed attempts of an hour (index attempts_failed_by_time), and the front of each lane
-- of stages with a limit. A stage stops failing when no task of it has ended dead for an hour; what was quarantined has
-- an incident of its own.
create function leasehold.work_conditions()
  returns table (kind text, subject text, summary text, details jsonb)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  with failed as (
    select a.task_id, a.outcome, a.ended_at, a.error from leasehold.attempts a
    -- The moment once, in a subquery: the clock is volatile, and a filter would walk the whole history of failures.
    where a.outcome in ('dead', 'retry', 'lost') and a.ended_at > (select leasehold.clock() - interval '1 hour')
    order by a.ended_at desc limit 5000
  ), dead as (
    select t.stage, count(*) as n, max(f.ended_at) as last_at,
      (array_agg(jsonb_build_object('task_id', t.id::text, 'title', left(t.title, 200), 'error', left(f.error ->> 'message', 500))
        order by f.ended_at desc))[1] as last
    from failed f join leasehold.tasks t on t.id = f.task_id
    where f.outcome = 'dead' and f.error ->> 'code' is distinct from 'quarantined'
    group by t.stage
  ), late as (
    select b.stage, b.older_than, leasehold.clock() - (
      select min(greatest(t.submitted_at, t.run_at)) from generate_series(0, 11) as g(lane)
      cross join lateral (
        select r.task_id from leasehold.ready r
        where r.stage = b.stage and r.lane = g.lane::smallint
          and r.position >= coalesce((select f.floor from leasehold.floors f
            where f.stage = b.stage and f.lane = g.lane::smallint order by f.floor desc limit 1), 0)
        order by r.position limit 1) first
      join leasehold.tasks t on t.id = first.task_id) as age
    from leasehold.backlog_limits b
    where not exists (select from leasehold.stages s where s.name = b.stage and s.paused_until > leasehold.clock())
  )
  select 'tasks_failing', d.stage, 'tasks of stage ' || d.stage || ' end dead',
    jsonb_build_object('stage', d.stage, 'dead', d.n, 'last_at', d.last_at, 'last', d.last)
  from dead d
  union all
  select 'backlog_old', l.stage,
    'the oldest ready task of stage ' || l.stage || ' is older than ' || l.older_than::text,
    jsonb_build_object('stage', l.stage, 'age_s', round(extract(epoch from l.age)::numeric, 1),
      'limit_s', round(extract(epoch from l.older_than)::numeric, 1))
  from late l where l.age > l.older_than
$$;

-- Schedules whose last task that has ended ended dead: wrong until one of them is done again, or it is retried and done.
-- Looks at the last three firings of each enabled schedule. Nothing where there are no schedules at all.
create function leasehold.failing_schedules()
  returns table (kind text, subject text, summary text, details jsonb)
  language plpgsql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  if to_regclass('leasehold.schedule_firings') is null then
    return;
  end if;
  return query
  select 'schedule_failing', s.name, 'the last task of schedule ' || s.name || ' (' || s.stage || ') ended dead',
    jsonb_build_object('schedule', s.name, 'stage', s.stage, 'slot', l.slot, 'task_id', l.task_id::text,
      'error', (select left(a.error ->> 'message', 500) from leasehold.attempts a
        where a.task_id = l.task_id order by a.fence desc limit 1))
  from leasehold.schedules s
  cross join lateral (
    select f.slot, f.task_id, leasehold.final_outcome(f.task_id) as outcome
    from (select x.slot, x.task_id from leasehold.schedule_firings x
      where x.schedule = s.name and x.task_id is not null order by x.slot desc limit 3) f
  ) l
  where s.enabled and l.outcome = 'dead' and not exists (
    select from leasehold.schedule_firings y where y.schedule = s.name and y.slot > l.slot and y.task_id is not null
      and leasehold.final_outcome(y.task_id) is not null);
end
$$;

-- Everything that is wrong right now and stays an open incident for as long as it is. Other parts bring conditions of
-- their own (the scheduler's and the housekeeping's migrations): each function named here is asked when it is there.
create or replace function leasehold.current_conditions(p_wedge interval, p_lonely interval, p_silent interval)
  returns table (kind text, subject text, summary text, details jsonb)
  language plpgsql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_function text;
begin
  return query select c.kind, c.subject, c.summary, c.details from leasehold.fleet_conditions(p_wedge, p_lonely, p_silent) c;
  return query select c.kind, c.subject, c.summary, c.details from leasehold.work_conditions() c;
  foreach v_function in array array['late_schedules', 'failing_schedules', 'overdue_housekeeping'] loop
    if to_regprocedure(format('leasehold.%I()', v_function)) is not null then
      return query execute format('select c.kind, c.subject, c.summary, c.details from leasehold.%I() c', v_function);
    end if;
  end loop;
end
$$;

-- One look of the monitor: releases dead workers and overdue leases, opens and resolves incidents. One monitor looks at
-- a time; another gets looked = false at once. Releasing stops after p_budget with unfinished = true: look again.
-- Returns the incidents this call opened and resolved; ids of incidents and tasks are texts.
create or replace function leasehold.monitor_tick(
  p_wedge interval, p_lonely interval, p_silent interval default '30 seconds', p_budget interval default '10 seconds'
) returns table (looked boolean, unfinished boolean, opened jsonb, resolved jsonb)
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_now timestamptz := leasehold.clock();
  v_started timestamptz := clock_timestamp();
  v_opened bigint[];
  v_gone bigint[];
  v_conditions jsonb;
  v_count integer;
begin
  opened := '[]'; resolved := '[]'; unfinished := false;
  perform from leasehold.locks where name = 'monitor' for update skip locked;
  looked := found;
  if not looked then
    return next;
    return;
  end if;

  loop
    select count(*) into v_count from leasehold.release_dead_workers(50);
    exit when v_count < 50;
    unfinished := clock_timestamp() > v_started + p_budget;
    exit when unfinished;
  end loop;
  -- A worker that could not settle because the database was away gets a minute to do so.
  if leasehold.release_grace_until(interval '1 minute') < v_now then
    perform leasehold.expire_deadlines();
  end if;
  perform leasehold.process_nudges(array(select s.name from leasehold.stages s), 1000);

  v_opened := leasehold.open_deaths();
  select coalesce(jsonb_agg(to_jsonb(c)), '[]') into v_conditions
  from leasehold.current_conditions(p_wedge, p_lonely, p_silent) c;
  v_opened := v_opened || array(
    select o.id from (
      select leasehold.open_incident(c.kind, c.subject, c.summary, c.details) as id
      from jsonb_to_recordset(v_conditions) as c(kind text, subject text, summary text, details jsonb)) o
    where o.id is not null);

  with gone as (
    update leasehold.incidents i set resolved_at = v_now
    where i.resolved_at is null and not i.id = any (v_opened) and case i.kind
      -- A death is over when its slot lives again, or each of its stages has a live worker, or after a day.
      when 'worker_dead' then
        exists (select from leasehold.workers w
          where w.slot = i.details ->> 'slot' and w.ended_at is null and w.expires_at > v_now)
        or not exists (select from jsonb_array_elements_text(i.details -> 'stages') as u(stage)
          where not exists (select from leasehold.workers w
            where w.ended_at is null and w.expires_at > v_now and u.stage = any (w.stages)))
        or i.opened_at < v_now - interval '1 day'
      when 'task_quarantined' then coalesce(leasehold.final_outcome(i.subject::bigint), '') <> 'dead'
      when 'mail_undeliverable' then not exists (select from leasehold.alerts a where a.sent_at is null and a.tries > 0)
      when 'channel_down' then not exists (select from leasehold.alert_channels c
        where c.channel = i.subject and c.failing_since is not null and c.enabled and c.served_at > v_now - interval '1 day')
      else not exists (
        select from jsonb_to_recordset(v_conditions) as c(kind text, subject text) where c.kind = i.kind and c.subject = i.subject)
    end
    returning i.id
  )
  select array_agg(g.id) into v_gone from gone g;

  select coalesce(jsonb_agg(to_jsonb(i) || jsonb_build_object('id', i.id::text) order by i.id), '[]') into opened
  from leasehold.incidents i where i.id = any (v_opened);
  select coalesce(jsonb_agg(to_jsonb(i) || jsonb_build_object('id', i.id::text) order by i.id), '[]') into resolved
  from leasehold.incidents i where i.id = any (v_gone);
  return next;
end
$$;

-- ------------------------------------------------------------------------------------------------------- grants
do $$
declare
  v_object record;
  v_ours constant boolean := (select pg_get_userbyid(n.nspowner) = 'leasehold_owner' from pg_catalog.pg_namespace n where n.nspname = 'leasehold');
  v_tables constant text[] := array['alert_policy', 'alert_rules', 'alert_channels', 'backlog_limits', 'alert_news'];
  v_verbs constant text[] := array['set_alert_policy', 'set_alert_rule', 'set_alert_channel', 'set_backlog_limit', 'retry_alerts',
    'note_alert_test'];
  v_internal constant text[] := array['check_alert_zone', 'check_change', 'alert_rule', 'alert_zone', 'alert_day', 'is_quiet',
    'alert_targets', 'serve_channels', 'gather_news', 'alerts_used', 'burst_ends_at', 'due_messages', 'write_message',
    'claim_messages', 'messages_sent', 'messages_failed', 'overdue_channels', 'fleet_conditions', 'work_conditions',
    'failing_schedules'];
begin
  for v_object in
    select p.oid::regprocedure as signature, p.proname = any (v_verbs) as is_verb from pg_catalog.pg_proc p
    where p.pronamespace = 'leasehold'::regnamespace and p.proname = any (v_verbs || v_internal)
  loop
    execute pg_catalog.format('revoke all on function %s from public', v_object.signature);
    if v_ours then
      execute pg_catalog.format('alter function %s owner to leasehold_owner', v_object.signature);
    end if;
    if v_object.is_verb and v_ours then
      execute pg_catalog.format('grant execute on function %s to leasehold_operator', v_object.signature);
    end if;
  end loop;
  for v_object in select t.name from unnest(v_tables) as t(name) loop
    if v_ours then
      execute pg_catalog.format('alter table leasehold.%I owner to leasehold_owner', v_object.name);
    end if;
    if v_ours then
      execute pg_catalog.format('grant select on leasehold.%I to leasehold_observer', v_object.name);
    end if;
  end loop;
end
$$;
