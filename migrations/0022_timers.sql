-- formerly 52b1e8b18add8e71f41226a067e5ca4151a553a08c04a1275f54cb11c1f871ae
-- Schedules that systemd timers fire, and schedules that somebody holds for a moment.
--
-- Who fires a schedule is declared: `apply` says 'timer' for those of a manifest without schedulers. Where timers fire,
-- "no scheduler is running" is no news, and a slot that passes unfired is. A schedule whose firing needs what an open
-- transaction holds is put off and not set aside: only after five minutes is that a problem of its own.

-- PostgreSQL 15.20, and what was released with it, refuses a column with a default while the body of an SQL function
-- uses the table's row type: for as long as that takes the function is another one.
create or replace function leasehold.schedule_facts(p_schedule leasehold.schedules) returns jsonb
  language plpgsql stable
as $$
begin
  return null;
end
$$;
alter table leasehold.schedules
  add column fired_by text collate "C" not null default 'scheduler',
  add column held_since timestamptz,
  add constraint schedule_fired_by_is_known check (fired_by in ('scheduler', 'timer'));
create or replace function leasehold.schedule_facts(p_schedule leasehold.schedules) returns jsonb
  language sql stable
  return pg_catalog.jsonb_build_object('name', (p_schedule).name, 'revision', (p_schedule).revision,
    'enabled', (p_schedule).enabled, 'cron', (p_schedule).cron, 'every_ms', pg_catalog.floor(extract(epoch from (p_schedule).every) * 1000)::bigint,
    'anchor', leasehold.epoch_ms((p_schedule).anchor), 'zone', (p_schedule).zone, 'catch_up', (p_schedule).catch_up,
    'jitter_ms', pg_catalog.floor(extract(epoch from (p_schedule).jitter) * 1000)::bigint,
    'next_slot', leasehold.epoch_ms((p_schedule).next_slot), 'since', leasehold.epoch_ms(least((p_schedule).since, leasehold.clock())));
comment on column leasehold.schedules.fired_by is 'Who is to fire it: scheduler, or timer (systemd, cron: leasehold schedules fire). Whoever comes first does; it decides what is an incident.';
comment on column leasehold.schedules.held_since is 'Since when another transaction has held what its firing needs; null when nothing does.';

-- Before each edit. A new timing (or switching on) begins now: no slot before it fires, and the next one is computed
-- anew. A slot that was due at that moment and had not fired is recorded as skipped, with the reason changed or
-- disabled; one row stands for everything from it until now. So is what may have come due before any scheduler had
-- computed it: for an interval that is counted, for an expression a minute must have begun. Unknown zone: 22023. Renaming: 0A000.
create or replace function leasehold.schedule_edited() returns trigger
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
    new.held_since := null;
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
    elsif old.enabled and old.next_slot is null then
      perform leasehold.note_uncomputed(old, case when v_switched then 'disabled' else 'changed' end);
    elsif new.enabled and v_switched then
      insert into leasehold.schedule_firings (schedule, slot, last_slot, outcome, reason, recorded_at, recorded_by)
      values (old.name, old.since, v_now, 'skipped', 'disabled', v_now, 'edit')
      on conflict on constraint slot_once_per_schedule do nothing;
    end if;
    new.since := v_now; new.next_slot := null; new.next_at := null; new.planned_at := null;
    new.problem := null; new.problem_at := null; new.held_since := null;
    new.revision := old.revision + 1;
  elsif new.catch_up <> old.catch_up then
    new.revision := old.revision + 1;
  end if;
  return new;
end
$$;

-- Carries plans out: next_slot → the slot after it, with a task or a recorded skip for every slot between.
-- A plan: name, revision and expected (the next_slot it was made for; else it is refused), fire (slots), skip_first,
-- skip_last, skip_count, next, problem, held, extra (the firing lies outside of the slots). Times in milliseconds. A plan
-- that fires in the future, or whose schedule is locked by somebody, is refused as well: make it anew. held puts a
-- schedule off by 15 seconds, behind the others that are due: somebody holds what its firing needs. That passes; only
-- what has been held for five minutes becomes its problem.
-- p_by 'command' may fire disabled schedules too. Returns a row for each plan that was carried out, with what was
-- recorded; no row: it was refused. Locks: the schedules in order of their names, then task_keys, then firings.
-- Needs READ COMMITTED (else LH004): a firing that another transaction commits meanwhile must be seen. Joins look schedules
-- up by name: a few are due at a time, of however many there are.
create or replace function leasehold.advance_schedules(p_plans jsonb, p_by text default 'scheduler', p_scheduler uuid default null)
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
      and not exists (select from leasehold.schedule_firings f where f.schedule = w.name and f.slot = w.slot
        and (f.outcome = 'fired' or leasehold.believed(f.recorded_at, v_now) is not null))
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
      -- Skipped by a clock that was ahead: its time has come only now.
      on conflict on constraint slot_once_per_schedule do update set last_slot = null, slots = excluded.slots,
        outcome = excluded.outcome, reason = excluded.reason, task_id = excluded.task_id, due_at = excluded.due_at,
        recorded_at = excluded.recorded_at, recorded_by = excluded.recorded_by, scheduler_id = excluded.scheduler_id
      where f.outcome = 'skipped' and leasehold.believed(f.recorded_at, v_now) is null
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
    next_at = case
      when p.held is not null then v_now + interval '15 seconds'
      when s.enabled and p.problem is null then leasehold.schedule_due(s.name, to_timestamp(p.next / 1000.0), s.jitter)
      else v_now + interval '1 minute' end,
    planned_at = v_now,
    held_since = case when p.held is not null then coalesce(leasehold.believed(s.held_since, v_now), v_now) end,
    problem = left(x.problem, 1000), problem_at = case when x.problem is not null then v_now end
  from jsonb_to_recordset(p_plans) as p(name text, next bigint, problem text, held text)
  cross join lateral (
    select case when p.held is null then p.problem
      when (select leasehold.believed(y.held_since, v_now) from leasehold.schedules y where y.name = p.name)
        <= v_now - interval '5 minutes' then p.held end as problem) x
  where s.name = p.name and p.name = any (v_held);

  return query
  select h.name, coalesce(jsonb_agg(r.one) filter (where r.one is not null), '[]')
  from unnest(v_held) as h(name)
  left join jsonb_array_elements(coalesce(v_recorded, '[]') || coalesce(v_skipped, '[]')) as r(one)
    on r.one ->> 'schedule' = h.name
  group by h.name;
end
$$;

create or replace view leasehold.schedule_health as
select s.name as schedule,
  case
    when not s.enabled then 'disabled'
    when s.problem is not null then 'broken'
    when s.next_at < leasehold.clock() - interval '2 minutes' then 'late'
    when s.held_since < leasehold.clock() - interval '2 minutes' then 'late'
    when s.next_slot is null and s.fired_by = 'scheduler' and s.since < leasehold.clock() - interval '2 minutes' then 'late'
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
  s.problem, s.created_at, s.updated_at, s.fired_by
from leasehold.schedules s
left join lateral (
  select x.slot, x.last_slot, x.outcome, x.reason, x.task_id, x.recorded_at
  from leasehold.schedule_firings x where x.schedule = s.name order by x.slot desc limit 1) f on true;

-- What is wrong with schedules right now; kind schedule_missed. A schedule counts as late five minutes after its slot,
-- and not for the first time in the minute after an outage, in which the schedulers come back too; what is an open
-- incident already stays one until its cause is gone. Without a live scheduler one condition
-- stands for all schedules but those that timers or a command fire: these are judged each by itself. One whose next slot
-- nobody has computed since its last edit is told as that: five minutes after the edit, a day and an hour after it where
-- timers fire, whose next firing computes it.
create or replace function leasehold.late_schedules() returns table (kind text, subject text, summary text, details jsonb)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  with scheduler as (
    select bool_or(h.status = 'live') as live, max(h.last_seen) as last_seen from leasehold.scheduler_health h
  ), settled as (
    select leasehold.release_grace_until(interval '1 minute') < leasehold.clock() as yes
  ), open as (
    select i.subject from leasehold.incidents i where i.kind = 'schedule_missed' and i.resolved_at is null
  ), enabled as (
    select s.*, f.outcome, f.reason, f.slot, f.recorded_by,
      case
        when s.next_slot is not null then s.next_at < leasehold.clock() - interval '5 minutes'
        when s.fired_by = 'timer' then s.since < leasehold.clock() - interval '25 hours'
        else s.since < leasehold.clock() - interval '5 minutes'
      end as late
    from leasehold.schedules s
    left join lateral (
      select x.outcome, x.reason, x.slot, x.recorded_by from leasehold.schedule_firings x
      where x.schedule = s.name and x.recorded_by <> 'edit' order by x.slot desc limit 1) f on true
    where s.enabled
  ), orphaned as (
    select e.* from enabled e
    where not coalesce((select live from scheduler), false) and e.fired_by = 'scheduler' and e.recorded_by is distinct from 'command'
  )
  select 'schedule_missed', 'scheduler',
    'no scheduler is running: ' || count(*) || case when count(*) = 1 then ' schedule waits' else ' schedules wait' end,
    jsonb_build_object('problem', 'no_scheduler', 'schedules', count(*), 'late', count(*) filter (where o.late),
      'last_seen', (select last_seen from scheduler), 'first', (array_agg(o.name order by o.next_at, o.name))[1:20])
  from orphaned o
  where (o.since < leasehold.clock() - interval '2 minutes' and (select yes from settled)) or 'scheduler' in (select subject from open)
  having count(*) > 0
  union all
  select 'schedule_missed', e.name, x.summary,
    jsonb_build_object('problem', x.problem, 'schedule', e.name, 'stage', e.stage, 'slot', coalesce(e.next_slot, e.slot),
      'due_at', e.next_at, 'late_s', case when e.late then round(extract(epoch from leasehold.clock() - coalesce(e.next_at, e.since))::numeric, 1) end,
      'reason', coalesce(e.problem, case when x.problem = 'unplanned' then
        'leasehold apply computes it; for a schedule that no manifest keeps: leasehold schedules disable ' || e.name || ', then enable' end))
  from enabled e
  cross join lateral (
    select 'cannot_fire' as problem, 'schedule ' || e.name || ' cannot fire: ' || left(e.problem, 300) as summary
    where e.problem is not null
    union all
    select case when e.next_slot is null then 'unplanned' else 'late' end,
      case when e.next_slot is null
        then 'nobody has computed when schedule ' || e.name || ' fires next, since it was changed at '
          || to_char(e.since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"')
        else 'schedule ' || e.name || ' should have fired at '
          || to_char(e.next_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"') || ' and did not' end
    where e.problem is null and e.late and (e.name in (select subject from open)
      or ((select yes from settled) and not exists (select from orphaned o where o.name = e.name)))
    union all
    select 'unknown_stage', 'schedule ' || e.name || ' fires for stage ' || e.stage || ', which is not known'
    where e.problem is null and e.reason = 'unknown_stage'
      and not exists (select from leasehold.stages t where t.name = e.stage)
    limit 1
  ) x
$$;

-- Removes what is older than p_keep (31 days at least: so far back slots can be fired by hand), at most p_limit rows; the
-- last row of each schedule stays, those of a removed one go. Schedulers long gone go too. Returns the number of firings
-- removed: call it until that is below p_limit.
create or replace function leasehold.trim_schedule_firings(p_keep interval default '90 days', p_limit integer default 10000) returns integer
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
      -- One step in the index for each; as a join it would compare all rows of a schedule with each other.
      and (x.slot < (select n.slot from leasehold.schedule_firings n where n.schedule = x.schedule order by n.slot desc limit 1)
        or not exists (select from leasehold.schedules s where s.name = x.schedule))
    order by x.recorded_at limit p_limit));
  get diagnostics v_removed = row_count;
  return v_removed;
end
$$;

do $$
begin
  if (select pg_get_userbyid(n.nspowner) <> 'leasehold_owner' from pg_catalog.pg_namespace n where n.nspname = 'leasehold') then
    return; -- 0010 has said so
  end if;
  grant insert (fired_by), update (fired_by) on leasehold.schedules to leasehold_operator;
end
$$;
