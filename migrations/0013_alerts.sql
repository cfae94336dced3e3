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

-- ------------------------------------------------------------------------------------------------------- grants
do $$
declare
  v_object record;
  v_tables constant text[] := array['alert_policy', 'alert_rules', 'alert_channels', 'backlog_limits', 'alert_news'];
  v_verbs constant text[] := array['set_alert_policy', 'set_alert_rule', 'set_alert_channel', 'set_backlog_limit'];
  v_internal constant text[] := array['check_alert_zone', 'check_change', 'alert_rule'];
begin
  for v_object in
    select p.oid::regprocedure as signature, p.proname = any (v_verbs) as is_verb from pg_catalog.pg_proc p
    where p.pronamespace = 'leasehold'::regnamespace and p.proname = any (v_verbs || v_internal)
  loop
    execute pg_catalog.format('revoke all on function %s from public', v_object.signature);
    if exists (select from pg_catalog.pg_roles where rolname = 'leasehold_owner') then
      execute pg_catalog.format('alter function %s owner to leasehold_owner', v_object.signature);
    end if;
    if v_object.is_verb and exists (select from pg_catalog.pg_roles where rolname = 'leasehold_operator') then
      execute pg_catalog.format('grant execute on function %s to leasehold_operator', v_object.signature);
    end if;
  end loop;
  for v_object in select t.name from unnest(v_tables) as t(name) loop
    if exists (select from pg_catalog.pg_roles where rolname = 'leasehold_owner') then
      execute pg_catalog.format('alter table leasehold.%I owner to leasehold_owner', v_object.name);
    end if;
    if exists (select from pg_catalog.pg_roles where rolname = 'leasehold_observer') then
      execute pg_catalog.format('grant select on leasehold.%I to leasehold_observer', v_object.name);
    end if;
  end loop;
end
$$;
