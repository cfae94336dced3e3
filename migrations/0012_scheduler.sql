-- formerly 2eb388b61870712c32c0316704d49dad783c586ee75e658a5d9cae288464918c
-- Schedules: which tasks are submitted when, and what became of every slot.
--
-- A *slot* is a moment that a schedule's timing names. Promise: a slot fires exactly once or leaves a recorded skip,
-- however many schedulers run and whenever they die. The guard is the primary key of schedule_firings: the row and the
-- task commit together, or neither does. Which moments a cron expression names is computed by the schedulers
-- (packages/schedules); here stands which slot is next, and a plan that was made for another one is refused.
-- A timing that cannot be computed stops its own schedule alone: it is written into `problem` and told by the monitor.

create table leasehold.schedules (
  name text collate "C" primary key,
  stage text collate "C" not null,
  cron text,
  every interval,
  anchor timestamptz not null default timestamptz '1970-01-01 00:00:00+00',
  zone text not null default 'UTC',
  payload jsonb not null default '{}',
  priority smallint,
  key text collate "C",
  catch_up text collate "C" not null default 'one',
  jitter interval not null default '0',
  enabled boolean not null default true,
  owner text collate "C" not null default 'sql',
  created_at timestamptz not null default leasehold.clock(),
  updated_at timestamptz not null default leasehold.clock(),
  revision bigint not null default 1,
  since timestamptz not null default leasehold.clock(),
  next_slot timestamptz,
  next_at timestamptz,
  planned_at timestamptz,
  problem text,
  problem_at timestamptz,
  constraint schedule_name_is_plain check (name ~ '^[a-z][a-z0-9_.-]{0,47}$'),
  constraint schedule_stage_is_plain check (stage ~ '^[a-z][a-z0-9_.-]{0,47}$'),
  constraint schedule_has_cron_or_every check ((cron is null) <> (every is null)),
  constraint schedule_cron_has_five_fields check (
    cron ~ '^\s*(@[A-Za-z]+|[-0-9A-Za-z*,/#?+]+(\s+[-0-9A-Za-z*,/#?+]+){4})\s*$' and length(cron) <= 500),
  constraint schedule_every_is_1_s_to_366_days check (every between interval '1 second' and interval '366 days'),
  constraint schedule_every_is_whole_seconds_without_months check (
    extract(month from every) = 0 and extract(year from every) = 0 and extract(epoch from every) % 1 = 0),
  constraint schedule_anchor_is_a_whole_second check (
    anchor > '-infinity' and anchor < 'infinity' and extract(epoch from anchor) % 1 = 0),
  constraint schedule_payload_is_at_most_1_mib check (pg_column_size(payload) <= 1048576),
  constraint schedule_priority_is_0_to_9 check (priority between 0 and 9),
  constraint schedule_key_is_1_to_200_characters check (length(key) between 1 and 200),
  constraint schedule_catch_up_is_known check (catch_up in ('skip', 'one', 'all')),
  constraint schedule_jitter_is_up_to_a_day check (
    jitter between interval '0' and interval '1 day' and extract(month from jitter) = 0),
  constraint schedule_owner_is_known check (owner in ('manifest', 'cli', 'sql'))
) with (fillfactor = 70);
comment on table leasehold.schedules is 'One row per schedule. Insert, update or delete rows to edit; columns from revision on are kept by the program.';
comment on column leasehold.schedules.cron is 'Five fields (minute hour day month weekday) or @daily etc., read in zone. Either this or every.';
comment on column leasehold.schedules.every is 'Slots are whole multiples of this, counted from anchor; not moved by clock changes.';
comment on column leasehold.schedules.zone is 'IANA name, e.g. Europe/London.';
comment on column leasehold.schedules.key is 'Key of its tasks: while one of them is unfinished, a slot is skipped (key_held).';
comment on column leasehold.schedules.catch_up is 'Slots missed by more than two minutes: skip all, fire the latest one, or fire all.';
comment on column leasehold.schedules.jitter is 'Each slot is put off by a part of this, always the same for the same slot.';
comment on column leasehold.schedules.enabled is 'Slots that pass while this is false are not made up for.';
comment on column leasehold.schedules.revision is 'Grows when the timing changes; a plan for an older revision is refused.';
comment on column leasehold.schedules.since is 'Slots up to this moment do not belong to the schedule: it was made, changed or switched then.';
comment on column leasehold.schedules.next_slot is 'The first slot that is neither fired nor skipped; null until a scheduler has computed it.';
comment on column leasehold.schedules.next_at is 'When next_slot is due: the slot and its jitter.';
comment on column leasehold.schedules.problem is 'Why it cannot fire; gone with the next edit or firing.';
create index schedules_by_due_time on leasehold.schedules (next_at) where enabled and next_slot is not null;
create index schedules_unplanned on leasehold.schedules (name) where enabled and next_slot is null;
create index schedules_by_plan on leasehold.schedules (planned_at) where enabled;

create table leasehold.schedule_firings (
  schedule text collate "C" not null,
  slot timestamptz not null,
  last_slot timestamptz,
  slots integer,
  outcome text collate "C" not null,
  reason text collate "C",
  task_id bigint,
  due_at timestamptz,
  recorded_at timestamptz not null,
  recorded_by text collate "C" not null,
  scheduler_id uuid,
  constraint slot_once_per_schedule primary key (schedule, slot),
  constraint firing_outcome_is_known check (outcome in ('fired', 'skipped')),
  constraint firing_has_a_task_or_a_reason check (
    (outcome = 'fired' and task_id is not null) or (outcome = 'skipped' and task_id is null and reason is not null)),
  constraint firing_range_is_skipped_and_ordered check (last_slot is null or (outcome = 'skipped' and last_slot >= slot))
);
comment on table leasehold.schedule_firings is 'What became of every slot; only inserted into. Fired rows commit together with their task.';
comment on column leasehold.schedule_firings.last_slot is 'Skipped together: all slots from slot to this one are recorded in this row.';
comment on column leasehold.schedule_firings.slots is 'How many slots the row stands for; null: many, or nobody could count them.';
comment on column leasehold.schedule_firings.reason is 'Skipped: missed, changed, disabled, unknown_stage, key_held. Fired: null, stage_paused (the task waits), or extra (by hand, outside of the slots).';
create index schedule_firings_by_time on leasehold.schedule_firings (recorded_at);

create table leasehold.schedulers (
  id uuid primary key,
  host text not null,
  pid integer,
  version text,
  poll_ms integer not null,
  started_at timestamptz not null,
  ticked_at timestamptz not null,
  ticks bigint not null default 0,
  stopped_at timestamptz,
  constraint scheduler_poll_is_positive check (poll_ms > 0)
) with (fillfactor = 50);
comment on table leasehold.schedulers is 'One row per scheduler process; the newest ticked_at says whether anybody fires schedules.';

-- A moment in milliseconds, as programs count them. Like the two below it is parsed once and inlined (see clock()).
create function leasehold.epoch_ms(p_at timestamptz) returns bigint
  language sql immutable parallel safe
  return pg_catalog.floor(extract(epoch from p_at) * 1000)::bigint;

-- When a slot is due. The jitter is a hash of schedule and slot, so that all schedulers agree on it.
create function leasehold.schedule_due(p_schedule text, p_slot timestamptz, p_jitter interval) returns timestamptz
  language sql stable parallel safe
  return case when p_jitter = interval '0' then p_slot else p_slot + pg_catalog.make_interval(secs => pg_catalog.trunc((
    ('x' || pg_catalog.left(pg_catalog.md5(p_schedule || ' ' || extract(epoch from p_slot)::bigint), 8))::bit(32)::bigint
    / 4294967296.0 * extract(epoch from p_jitter))::numeric, 3)::float8) end;

-- What a plan is made from.
create function leasehold.schedule_facts(p_schedule leasehold.schedules) returns jsonb
  language sql stable
  return pg_catalog.jsonb_build_object('name', (p_schedule).name, 'revision', (p_schedule).revision,
    'enabled', (p_schedule).enabled, 'cron', (p_schedule).cron, 'every_ms', pg_catalog.floor(extract(epoch from (p_schedule).every) * 1000)::bigint,
    'anchor', leasehold.epoch_ms((p_schedule).anchor), 'zone', (p_schedule).zone, 'catch_up', (p_schedule).catch_up,
    'jitter_ms', pg_catalog.floor(extract(epoch from (p_schedule).jitter) * 1000)::bigint,
    'next_slot', leasehold.epoch_ms((p_schedule).next_slot), 'since', leasehold.epoch_ms((p_schedule).since));

-- Before each edit. A new timing (or switching on) begins now: no slot before it fires, and the next one is computed
-- anew. A slot that was due at that moment and had not fired is recorded as skipped, with the reason changed or
-- disabled; one row stands for everything from it until now. Unknown zone: 22023. Renaming: 0A000.
create function leasehold.schedule_edited() returns trigger
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_switched boolean;
begin
  begin
    perform v_now at time zone new.zone;
  exception when invalid_parameter_value then
    raise exception '% is no time zone', quote_literal(left(new.zone, 100))
      using errcode = 'invalid_parameter_value', hint = 'Names are IANA''s, such as Europe/London: select name from pg_timezone_names.';
  end;
  new.updated_at := v_now;
  if tg_op = 'INSERT' then
    new.created_at := v_now; new.since := v_now; new.revision := 1;
    new.next_slot := null; new.next_at := null; new.planned_at := null; new.problem := null; new.problem_at := null;
    return new;
  end if;
  if new.name <> old.name then
    raise exception 'schedule % cannot be renamed', quote_literal(old.name)
      using errcode = 'feature_not_supported', hint = 'Its history goes by its name: delete it and insert another one.';
  end if;
  v_switched := new.enabled <> old.enabled;
  if v_switched or (new.cron, new.every, new.anchor, new.zone, new.jitter)
      is distinct from (old.cron, old.every, old.anchor, old.zone, old.jitter) then
    if old.enabled and old.next_slot <= v_now then
      insert into leasehold.schedule_firings (schedule, slot, last_slot, outcome, reason, due_at, recorded_at, recorded_by)
      values (old.name, old.next_slot, v_now, 'skipped', case when v_switched then 'disabled' else 'changed' end,
        old.next_at, v_now, 'edit')
      on conflict on constraint slot_once_per_schedule do nothing;
    elsif new.enabled and v_switched then
      insert into leasehold.schedule_firings (schedule, slot, last_slot, outcome, reason, recorded_at, recorded_by)
      values (old.name, old.since, v_now, 'skipped', 'disabled', v_now, 'edit')
      on conflict on constraint slot_once_per_schedule do nothing;
    end if;
    new.since := v_now; new.next_slot := null; new.next_at := null; new.planned_at := null;
    new.problem := null; new.problem_at := null;
    new.revision := old.revision + 1;
  elsif new.catch_up <> old.catch_up then
    new.revision := old.revision + 1;
  end if;
  return new;
end
$$;

create trigger schedule_edited
  before insert or update of name, stage, cron, every, anchor, zone, payload, priority, key, catch_up, jitter, enabled, owner
  on leasehold.schedules
  for each row execute function leasehold.schedule_edited();

-- One look of a scheduler: renews its row and returns what it has to plan, as JSON with times in milliseconds:
--   now; wait_ms until the next slot is due (null: none is); due: the schedules whose slot is due, that were never
--   computed, or (again, after ten minutes) whose problem may have gone. Ranges: three indexes, nothing else is read.
-- A schedule that was planned in the future is planned anew (anew = true): the clock has gone back since.
create function leasehold.scheduler_tick(
  p_scheduler uuid, p_host text, p_pid integer, p_version text, p_poll_ms integer, p_limit integer default 500
) returns jsonb
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_due jsonb;
  v_next timestamptz;
begin
  insert into leasehold.schedulers as c (id, host, pid, version, poll_ms, started_at, ticked_at, ticks)
  values (p_scheduler, p_host, p_pid, p_version, p_poll_ms, v_now, v_now, 1)
  on conflict (id) do update set ticked_at = v_now, ticks = c.ticks + 1, stopped_at = null;
  select jsonb_agg(leasehold.schedule_facts(f.one) || jsonb_build_object('anew', f.anew)) into v_due
  from (
    (select s as one, false as anew from leasehold.schedules s
     where s.enabled and s.next_slot is not null and s.next_at <= v_now order by s.next_at limit p_limit)
    union all
    (select s, false from leasehold.schedules s
     where s.enabled and s.next_slot is null and (s.problem is null or s.problem_at < v_now - interval '10 minutes')
     order by s.name limit p_limit)
    union all
    (select s, true from leasehold.schedules s
     where s.enabled and s.planned_at > v_now + interval '1 minute' and s.next_at > v_now order by s.planned_at limit p_limit)
  ) f;
  if v_due is null then
    select s.next_at into v_next from leasehold.schedules s
    where s.enabled and s.next_slot is not null order by s.next_at limit 1;
  end if;
  return jsonb_build_object('now', leasehold.epoch_ms(v_now), 'due', coalesce(v_due, '[]'),
    'wait_ms', case when v_due is not null then 0 else leasehold.epoch_ms(v_next) - leasehold.epoch_ms(v_now) end);
end
$$;

-- A scheduler stops in order. False when it is not known.
create function leasehold.scheduler_leave(p_scheduler uuid) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  update leasehold.schedulers c set stopped_at = leasehold.clock() where c.id = p_scheduler;
  return found;
end
$$;

-- Carries plans out: next_slot → the slot after it, with a task or a recorded skip for every slot between.
-- A plan: name, revision and expected (the next_slot it was made for; else it is refused), fire (slots), skip_first,
-- skip_last, skip_count, next, problem, extra (the firing lies outside of the slots). Times in milliseconds. A plan that
-- fires in the future, or whose schedule is locked by somebody, is refused as well: make it anew.
-- p_by 'command' may fire disabled schedules too. Returns a row for each plan that was carried out, with what was
-- recorded; no row: it was refused. Locks: the schedules in order of their names, then task_keys, then firings.
-- Needs READ COMMITTED (else LH004): a firing that another transaction commits meanwhile must be seen. Joins look schedules
-- up by name: a few are due at a time, of however many there are.
create function leasehold.advance_schedules(p_plans jsonb, p_by text default 'scheduler', p_scheduler uuid default null)
  returns table (schedule text, recorded jsonb)
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set enable_hashjoin = off
  set enable_mergejoin = off
  set plan_cache_mode = force_generic_plan
  -- A key that an open transaction has taken must not hold up all schedules that are due: 55P03, and the caller goes on
  -- one by one.
  set lock_timeout = '1s'
as $$
#variable_conflict use_column
declare
  v_now timestamptz := leasehold.clock();
  v_held text[];
  v_names text[];
  v_slots timestamptz[];
  v_extras boolean[];
  v_ids bigint[];
  v_recorded jsonb;
  v_skipped jsonb;
begin
  perform leasehold.require_read_committed('firing schedules');
  select array_agg(h.name) into v_held from (
    select s.name
    from jsonb_to_recordset(p_plans) as p(name text, revision bigint, expected bigint, fire bigint[])
    join leasehold.schedules s on s.name = p.name
    where s.revision = p.revision and leasehold.epoch_ms(s.next_slot) is not distinct from p.expected
      and (s.enabled or p_by = 'command')
      and not exists (select from unnest(p.fire) as f(slot) where f.slot > leasehold.epoch_ms(v_now))
    order by s.name for update of s skip locked
  ) h;
  if v_held is null then
    return;
  end if;

  select array_agg(w.name order by w.name, w.slot), array_agg(w.slot order by w.name, w.slot),
    array_agg(w.extra order by w.name, w.slot), array_agg(w.id order by w.name, w.slot)
  into v_names, v_slots, v_extras, v_ids
  from (
    select p.name, to_timestamp(f.slot / 1000.0) as slot, coalesce(p.extra, false) as extra,
      nextval('leasehold.tasks_id_seq') as id
    from jsonb_to_recordset(p_plans) as p(name text, fire bigint[], extra boolean)
    cross join lateral unnest(p.fire) as f(slot)
    where p.name = any (v_held)
  ) w;

  if v_names is not null then
    -- Keys first, under the ids the tasks will have: whoever gets none leaves a skip instead of a task.
    insert into leasehold.task_keys (stage, key, task_id)
    select s.stage, s.key, w.id
    from unnest(v_names, v_slots, v_ids) as w(name, slot, id) join leasehold.schedules s on s.name = w.name
    where s.key is not null
      and exists (select from leasehold.stages t where t.name = s.stage)
      and not exists (select from leasehold.schedule_firings f where f.schedule = w.name and f.slot = w.slot)
    order by s.stage, s.key, w.slot
    on conflict on constraint key_once_per_unfinished_task do nothing;

    with judged as (
      select w.name, w.slot, w.id, w.extra, s.jitter, t.paused_until > v_now as paused,
        case when t.name is null then 'unknown_stage' when s.key is not null and k.task_id is null then 'key_held' end as refusal
      from unnest(v_names, v_slots, v_extras, v_ids) as w(name, slot, extra, id)
      join leasehold.schedules s on s.name = w.name
      left join leasehold.stages t on t.name = s.stage
      left join leasehold.task_keys k on k.task_id = w.id
    ), written as (
      insert into leasehold.schedule_firings as f (
        schedule, slot, slots, outcome, reason, task_id, due_at, recorded_at, recorded_by, scheduler_id)
      select j.name, j.slot, 1, case when j.refusal is null then 'fired' else 'skipped' end,
        coalesce(j.refusal, case when j.extra then 'extra' when j.paused then 'stage_paused' end),
        case when j.refusal is null then j.id end,
        case when j.extra then v_now else leasehold.schedule_due(j.name, j.slot, j.jitter) end, v_now, p_by, p_scheduler
      from judged j
      on conflict on constraint slot_once_per_schedule do nothing
      returning f.schedule, f.slot, f.outcome, f.reason, f.task_id
    )
    select jsonb_agg(to_jsonb(w) || jsonb_build_object('task_id', w.task_id::text) order by w.schedule, w.slot)
    into v_recorded from written w;

    -- A slot that another one has fired meanwhile gives back the key it has just taken.
    delete from leasehold.task_keys k using unnest(v_ids) as i(id)
    where k.task_id = i.id and not exists (
      select from jsonb_to_recordset(v_recorded) as r(task_id bigint) where r.task_id = i.id);

    insert into leasehold.tasks (id, stage, payload, priority, key, title, meta)
    overriding system value
    select r.task_id, s.stage, s.payload, s.priority, s.key, r.schedule || ' ' || x.slot,
      jsonb_build_object('schedule', r.schedule, 'slot', x.slot)
    from jsonb_to_recordset(v_recorded) as r(schedule text, slot timestamptz, task_id bigint)
    join leasehold.schedules s on s.name = r.schedule
    cross join lateral (select to_char(r.slot at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as slot) x
    where r.task_id is not null
    order by r.task_id;
  end if;

  with written as (
    insert into leasehold.schedule_firings as f (
      schedule, slot, last_slot, slots, outcome, reason, due_at, recorded_at, recorded_by, scheduler_id)
    select p.name, to_timestamp(p.skip_first / 1000.0), nullif(to_timestamp(p.skip_last / 1000.0), to_timestamp(p.skip_first / 1000.0)),
      p.skip_count, 'skipped', 'missed', s.next_at, v_now, p_by, p_scheduler
    from jsonb_to_recordset(p_plans) as p(name text, skip_first bigint, skip_last bigint, skip_count integer)
    join leasehold.schedules s on s.name = p.name
    where p.name = any (v_held) and p.skip_first is not null
    on conflict on constraint slot_once_per_schedule do nothing
    returning f.schedule, f.slot, f.last_slot, f.slots, f.outcome, f.reason
  )
  select jsonb_agg(to_jsonb(w)) into v_skipped from written w;

  update leasehold.schedules s set
    next_slot = case when s.enabled then to_timestamp(p.next / 1000.0) end,
    next_at = case when s.enabled and p.problem is null
      then leasehold.schedule_due(s.name, to_timestamp(p.next / 1000.0), s.jitter)
      else v_now + interval '1 minute' end,
    planned_at = v_now, problem = left(p.problem, 1000), problem_at = case when p.problem is not null then v_now end
  from jsonb_to_recordset(p_plans) as p(name text, next bigint, problem text)
  where s.name = p.name and p.name = any (v_held);

  return query
  select h.name, coalesce(jsonb_agg(r.one) filter (where r.one is not null), '[]')
  from unnest(v_held) as h(name)
  left join jsonb_array_elements(coalesce(v_recorded, '[]') || coalesce(v_skipped, '[]')) as r(one)
    on r.one ->> 'schedule' = h.name
  group by h.name;
end
$$;

-- A scheduler is live while it has ticked within three of its polls, and half a minute at least.
create view leasehold.scheduler_health as
select c.id as scheduler_id, c.host, c.pid, c.version,
  case
    when c.stopped_at is not null then 'stopped'
    when c.ticked_at < leasehold.clock() - greatest(c.poll_ms * 3 * interval '1 millisecond', interval '30 seconds') then 'dead'
    else 'live'
  end as status,
  c.started_at, c.ticked_at as last_seen, leasehold.clock() - c.ticked_at as silent, c.ticks
from leasehold.schedulers c;
comment on view leasehold.scheduler_health is 'Every scheduler process of the last week: live, dead (silent for three polls) or stopped.';

create view leasehold.schedule_health as
select s.name as schedule,
  case
    when not s.enabled then 'disabled'
    when s.problem is not null then 'broken'
    when s.next_at < leasehold.clock() - interval '2 minutes' then 'late'
    when s.next_slot is null and s.since < leasehold.clock() - interval '2 minutes' then 'late'
    when s.next_slot is null then 'not planned yet'
    when f.reason in ('unknown_stage') then 'skipped'
    when leasehold.final_outcome(f.task_id) = 'dead' then 'failed'
    else 'ok'
  end as status,
  s.stage, s.cron, s.every, s.anchor, s.zone, s.catch_up, s.jitter, s.enabled, s.owner, s.key, s.priority,
  s.next_slot, s.next_at,
  greatest(leasehold.clock() - coalesce(s.next_at, s.since), interval '0') as late_by,
  coalesce(f.last_slot, f.slot) as last_slot, f.outcome as last_outcome, f.reason as last_reason, f.recorded_at as last_at,
  f.task_id as last_task_id,
  case when f.task_id is not null then coalesce(leasehold.final_outcome(f.task_id), 'unfinished') end as last_task_state,
  s.problem, s.created_at, s.updated_at
from leasehold.schedules s
left join lateral (
  select x.slot, x.last_slot, x.outcome, x.reason, x.task_id, x.recorded_at
  from leasehold.schedule_firings x where x.schedule = s.name order by x.slot desc limit 1) f on true;
comment on view leasehold.schedule_health is 'Every schedule: its last slot with what became of its task, its next one, how late it is, and why it cannot fire.';

-- What is wrong with schedules right now; kind schedule_missed. A schedule counts as late five minutes after its slot,
-- and not in the minute after an outage, in which the schedulers come back too. Without a live scheduler one condition
-- stands for all schedules but those that a command fires (systemd timers): these are judged each by itself.
create function leasehold.late_schedules() returns table (kind text, subject text, summary text, details jsonb)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  with scheduler as (
    select bool_or(h.status = 'live') as live, max(h.last_seen) as last_seen from leasehold.scheduler_health h
  ), settled as (
    select leasehold.release_grace_until(interval '1 minute') < leasehold.clock() as yes
  ), enabled as (
    select s.*, f.outcome, f.reason, f.slot, f.recorded_by,
      coalesce(s.next_at, s.since) < leasehold.clock() - interval '5 minutes' as late
    from leasehold.schedules s
    left join lateral (
      select x.outcome, x.reason, x.slot, x.recorded_by from leasehold.schedule_firings x
      where x.schedule = s.name and x.recorded_by <> 'edit' order by x.slot desc limit 1) f on true
    where s.enabled
  ), orphaned as (
    select e.* from enabled e
    where not coalesce((select live from scheduler), false) and e.recorded_by is distinct from 'command'
  )
  select 'schedule_missed', 'scheduler',
    'no scheduler is running: ' || count(*) || case when count(*) = 1 then ' schedule waits' else ' schedules wait' end,
    jsonb_build_object('problem', 'no_scheduler', 'schedules', count(*), 'late', count(*) filter (where o.late),
      'last_seen', (select last_seen from scheduler), 'first', (array_agg(o.name order by o.next_at, o.name))[1:20])
  from orphaned o
  where o.since < leasehold.clock() - interval '2 minutes' and (select yes from settled)
  having count(*) > 0
  union all
  select 'schedule_missed', e.name, x.summary,
    jsonb_build_object('problem', x.problem, 'schedule', e.name, 'stage', e.stage, 'slot', coalesce(e.next_slot, e.slot),
      'due_at', e.next_at, 'late_s', case when e.late then round(extract(epoch from leasehold.clock() - coalesce(e.next_at, e.since))::numeric, 1) end,
      'reason', e.problem)
  from enabled e
  cross join lateral (
    select 'cannot_fire' as problem, 'schedule ' || e.name || ' cannot fire: ' || left(e.problem, 300) as summary
    where e.problem is not null
    union all
    select 'late', 'schedule ' || e.name || ' should have fired at '
      || to_char(coalesce(e.next_at, e.since) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"') || ' and did not'
    where e.problem is null and e.late and (select yes from settled)
      and not exists (select from orphaned o where o.name = e.name)
    union all
    select 'unknown_stage', 'schedule ' || e.name || ' fires for stage ' || e.stage || ', which is not known'
    where e.problem is null and e.reason = 'unknown_stage'
      and not exists (select from leasehold.stages t where t.name = e.stage)
    limit 1
  ) x
$$;

-- Removes what is older than p_keep (31 days at least: so far back slots can be fired by hand), at most p_limit rows; the
-- last row of each schedule stays. Schedulers long gone go too. Returns the number of firings removed: call it until that
-- is below p_limit.
create function leasehold.trim_schedule_firings(p_keep interval default '90 days', p_limit integer default 10000) returns integer
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_removed integer;
begin
  delete from leasehold.schedulers c where c.ticked_at < leasehold.clock() - interval '7 days';
  delete from leasehold.schedule_firings f
  where f.ctid = any (array(
    select x.ctid from leasehold.schedule_firings x
    where x.recorded_at < (select leasehold.clock() - greatest(p_keep, interval '31 days'))
      and exists (select from leasehold.schedule_firings n where n.schedule = x.schedule and n.slot > x.slot)
    order by x.recorded_at limit p_limit));
  get diagnostics v_removed = row_count;
  return v_removed;
end
$$;

revoke all on function leasehold.schedule_due, leasehold.schedule_edited, leasehold.scheduler_tick, leasehold.epoch_ms,
  leasehold.schedule_facts, leasehold.scheduler_leave, leasehold.advance_schedules, leasehold.late_schedules,
  leasehold.trim_schedule_firings from public;

-- A scheduler needs no more than leasehold_operator, which may edit schedules too.
do $$
declare
  v_object text;
begin
  if (select pg_get_userbyid(n.nspowner) <> 'leasehold_owner' from pg_catalog.pg_namespace n where n.nspname = 'leasehold') then
    return; -- 0010 has said so
  end if;
  grant select on leasehold.schedule_firings, leasehold.scheduler_health, leasehold.schedule_health to leasehold_observer;
  grant select on leasehold.schedules to leasehold_operator; -- with payloads, which no view shows
  grant execute on function leasehold.late_schedules() to leasehold_observer;
  grant insert (name, stage, cron, every, anchor, zone, payload, priority, key, catch_up, jitter, enabled, owner),
    update (stage, cron, every, anchor, zone, payload, priority, key, catch_up, jitter, enabled, owner), delete
    on leasehold.schedules to leasehold_operator;
  grant execute on function leasehold.scheduler_tick(uuid, text, integer, text, integer, integer),
    leasehold.scheduler_leave(uuid), leasehold.advance_schedules(jsonb, text, uuid), leasehold.epoch_ms(timestamptz),
    leasehold.schedule_facts(leasehold.schedules) to leasehold_operator;
  foreach v_object in array array['schedules', 'schedule_firings', 'schedulers'] loop
    execute pg_catalog.format('alter table leasehold.%I owner to leasehold_owner', v_object);
  end loop;
  foreach v_object in array array['scheduler_health', 'schedule_health'] loop
    execute pg_catalog.format('alter view leasehold.%I owner to leasehold_owner', v_object);
  end loop;
  for v_object in
    select p.oid::regprocedure::text from pg_catalog.pg_proc p
    where p.pronamespace = 'leasehold'::regnamespace and p.proname in ('schedule_due', 'schedule_edited', 'scheduler_tick',
      'epoch_ms', 'schedule_facts', 'scheduler_leave', 'advance_schedules', 'late_schedules', 'trim_schedule_firings')
  loop
    execute pg_catalog.format('alter function %s owner to leasehold_owner', v_object);
  end loop;
end
$$;
