-- Clocks that were wrong for a while, and recoveries that were none.
--
-- A clock that is set ahead (a time server's mistake, a machine that wakes up) and then back leaves moments behind that
-- lie in the future. The rule, and its only home, is believed(): what was written as "now" is not believed while it lies
-- more than a minute ahead, what was planned (a claim, the next try) while it lies further ahead than anybody plans. A
-- moment that is not believed counts as none: what waits for it is due.
-- Liveness cannot wait for the next beat of somebody who is dead: mend_liveness() counts it from the moment at which a
-- monitor sees that the clock went back. And while the clock may be ahead, history must not go by its age: clock_doubt().
-- Not healed, because nobody can tell them from what was meant: retries and pauses that were planned meanwhile.
-- What is told of the work, and which tables are vacuumed, follow the rule in 0023, schedules in 0022, alerts in 0021.

-- p_at, or null when it lies more than p_ahead after p_now. Pinned by its body, not by settings, so that it is inlined.
create function leasehold.believed(p_at timestamptz, p_now timestamptz, p_ahead interval default interval '1 minute')
  returns timestamptz
  language sql stable parallel safe
  return case when p_at <= p_now + p_ahead then p_at end;
comment on function leasehold.believed(timestamptz, timestamptz, interval) is
  'A stored moment, or null when it lies so far ahead that a wrong clock must have written it.';

-- --------------------------------------------------------------------------------------------- who is alive
-- Brings what beats and ticks back from the future: workers, monitors and schedulers that have not ended count as seen
-- now, so that one which is gone is found dead after the usual time and not when the clock arrives there. Rows that
-- somebody holds are beating right now and left alone. Returns how many were mended; 0: the clock did not go back.
create function leasehold.mend_liveness() returns integer
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_mended integer;
  v_count integer;
begin
  update leasehold.workers w
  set beat_at = least(w.beat_at, v_now), loop_at = least(w.loop_at, v_now), expires_at = least(w.expires_at, v_now + w.ttl)
  where w.id = any (array(
    select x.id from leasehold.workers x
    where x.ended_at is null and (leasehold.believed(x.beat_at, v_now) is null or leasehold.believed(x.loop_at, v_now) is null)
    order by x.id for update skip locked));
  get diagnostics v_mended = row_count;
  update leasehold.monitors m set ticked_at = v_now, started_at = least(m.started_at, v_now)
  where m.id = any (array(
    select x.id from leasehold.monitors x
    where x.stopped_at is null and leasehold.believed(x.ticked_at, v_now) is null order by x.id for update skip locked));
  get diagnostics v_count = row_count;
  v_mended := v_mended + v_count;
  update leasehold.schedulers c set ticked_at = v_now, started_at = least(c.started_at, v_now)
  where c.id = any (array(
    select x.id from leasehold.schedulers x
    where x.stopped_at is null and leasehold.believed(x.ticked_at, v_now) is null order by x.id for update skip locked));
  get diagnostics v_count = row_count;
  return v_mended + v_count;
end
$$;

-- The moment before which a worker with this TTL is not released: one TTL after the server started, and one TTL after
-- a gap in which a live worker may have expired. It beats three times per TTL, so a gap shorter than half of one
-- cannot have done that. Counted for each worker by its own TTL: a slow one does not hold up the others.
create or replace function leasehold.release_grace_until(p_ttl interval) returns timestamptz
  language sql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select greatest('-infinity', leasehold.believed(pg_catalog.pg_postmaster_start_time(), c.now),
    (select max(leasehold.believed(g.ended_at, c.now)) from leasehold.monitor_gaps g where g.lasted >= p_ttl / 2)) + p_ttl
  from (select leasehold.clock() as now) c
$$;

-- Registers or renews a monitor; the first statement of the transaction of its look, so that a look which fails does
-- not count as one. p_away: for how long this monitor could not reach the database before (0: it could). Returns how
-- long no monitor had looked (null: none ever did) and notes a gap where workers may not have been able to beat: after
-- two intervals without a look, when this monitor was cut off and no other one looked meanwhile, or when the clock went
-- back: what beat and ticked is then brought back with it.
create or replace function leasehold.monitor_beat(
  p_monitor uuid, p_host text, p_pid integer, p_version text, p_interval_ms integer, p_away interval default '0'
) returns interval
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_silent interval;
  v_gap interval;
  v_went_back boolean;
begin
  v_went_back := leasehold.mend_liveness() > 0;
  select v_now - max(leasehold.believed(m.ticked_at, v_now)) into v_silent from leasehold.monitors m;
  v_gap := case
    when v_silent is null or v_went_back then interval '1 day' -- the longest TTL there is
    when v_silent > p_interval_ms * 2 * interval '1 millisecond' then v_silent
    else least(p_away, v_silent)
  end;
  if v_gap > interval '0' then
    insert into leasehold.monitor_gaps (ended_at, lasted) values (v_now, v_gap);
  end if;
  insert into leasehold.monitors as m (id, host, pid, version, interval_ms, started_at, ticked_at, ticks)
  values (p_monitor, p_host, p_pid, p_version, p_interval_ms, v_now, v_now, 1)
  on conflict (id) do update set ticked_at = v_now, ticks = m.ticks + 1, stopped_at = null;
  return v_silent;
end
$$;

-- How long no monitor has ticked; null when none ever did, as far as can be believed. Runners and views read it.
create or replace function leasehold.monitor_silence() returns interval
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select c.now - max(leasehold.believed(m.ticked_at, c.now))
  from (select leasehold.clock() as now) c left join leasehold.monitors m on true group by c.now
$$;

-- Counts the depths of every stage and keeps them: history for plots, and what stage_health shows where it stops
-- counting. Counts at most once in 50 seconds, and so seldom that it takes at most p_share of the time: on large queues
-- less often. Returns the time it took; null when it was too early.
create or replace function leasehold.sample_depths(p_share real default 0.02) returns interval
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_started timestamptz := clock_timestamp();
  v_last record;
begin
  select x.at, max(x.took) as took into v_last from leasehold.stage_samples x
  where x.at = (select max(y.at) from leasehold.stage_samples y where y.at <= v_now + interval '1 minute') group by 1;
  if v_now < v_last.at + greatest(interval '50 seconds', v_last.took / p_share) then
    return null;
  end if;
  with counted as materialized (
    select s.name, coalesce(r.n, 0) as ready, coalesce(d.n, 0) as scheduled, coalesce(w.n, 0) as waiting, coalesce(l.n, 0) as running
    from leasehold.stages s
    left join (select stage, count(*) n from leasehold.ready group by 1) r on r.stage = s.name
    left join (select stage, count(*) n from leasehold.scheduled group by 1) d on d.stage = s.name
    left join (select stage, count(*) n from leasehold.waiting group by 1) w on w.stage = s.name
    left join (select stage, count(*) n from leasehold.leases group by 1) l on l.stage = s.name
  )
  insert into leasehold.stage_samples (stage, at, ready, scheduled, waiting, running, took)
  select c.name, v_now, c.ready, c.scheduled, c.waiting, c.running, clock_timestamp() - v_started from counted c
  on conflict do nothing;
  delete from leasehold.stage_samples x where x.at < v_now - interval '7 days' or x.at > v_now + interval '1 minute';
  return clock_timestamp() - v_started;
end
$$;

-- ------------------------------------------------------------------------------------------------ schedules
-- Decided: a slot that a wrong clock fired ahead of its time has fired, and does not fire again. One that it skipped,
-- although its time is still to come, fires when that has come: the skip is replaced. What was planned, edited or set
-- aside in the future is looked at anew at the next turn, so no schedule waits for the clock to catch up. Firing itself,
-- and what is told of it, follow in 0022.

-- What a plan is made from.
create or replace function leasehold.schedule_facts(p_schedule leasehold.schedules) returns jsonb
  language sql stable
  return pg_catalog.jsonb_build_object('name', (p_schedule).name, 'revision', (p_schedule).revision,
    'enabled', (p_schedule).enabled, 'cron', (p_schedule).cron, 'every_ms', pg_catalog.floor(extract(epoch from (p_schedule).every) * 1000)::bigint,
    'anchor', leasehold.epoch_ms((p_schedule).anchor), 'zone', (p_schedule).zone, 'catch_up', (p_schedule).catch_up,
    'jitter_ms', pg_catalog.floor(extract(epoch from (p_schedule).jitter) * 1000)::bigint,
    'next_slot', leasehold.epoch_ms((p_schedule).next_slot), 'since', leasehold.epoch_ms(least((p_schedule).since, leasehold.clock())));

-- Records that a schedule goes on without what came due before any scheduler had computed it: one skip from the moment it
-- began until now. Nothing when no slot can lie between.
create function leasehold.note_uncomputed(p_schedule leasehold.schedules, p_reason text) returns void
  language sql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  insert into leasehold.schedule_firings (schedule, slot, last_slot, outcome, reason, recorded_at, recorded_by)
  select p_schedule.name, p_schedule.since, c.now, 'skipped', p_reason, c.now, 'edit'
  from (select leasehold.clock() as now) c
  where case when p_schedule.every is null then date_trunc('minute', c.now) > p_schedule.since
    else floor(extract(epoch from c.now - p_schedule.anchor) / extract(epoch from p_schedule.every))
       > floor(extract(epoch from p_schedule.since - p_schedule.anchor) / extract(epoch from p_schedule.every)) end
  on conflict on constraint slot_once_per_schedule do nothing
$$;

-- A schedule that is removed leaves a skip for what was due and had not fired, reason deleted.
create function leasehold.schedule_removed() returns trigger
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
begin
  if old.enabled and old.next_slot <= v_now then
    insert into leasehold.schedule_firings (schedule, slot, last_slot, outcome, reason, due_at, recorded_at, recorded_by)
    values (old.name, old.next_slot, v_now, 'skipped', 'deleted', old.next_at, v_now, 'edit')
    on conflict on constraint slot_once_per_schedule do nothing;
  elsif old.enabled and old.next_slot is null then
    perform leasehold.note_uncomputed(old, 'deleted');
  end if;
  return null;
end
$$;
create trigger schedule_removed after delete on leasehold.schedules
  for each row execute function leasehold.schedule_removed();
comment on column leasehold.schedule_firings.reason is 'Skipped: missed, changed, disabled, deleted, unknown_stage, key_held. Fired: null, stage_paused (the task waits), or extra (by hand, outside of the slots).';

-- One look of a scheduler: renews its row and returns what it has to plan, as JSON with times in milliseconds:
--   now; wait_ms until the next slot is due (null: none is); due: the schedules whose slot is due, that were never
--   computed, or (again, after ten minutes) whose problem may have gone. Ranges: three indexes, nothing else is read.
-- A schedule that was planned in the future is planned anew (anew = true): the clock has gone back since.
create or replace function leasehold.scheduler_tick(
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
     where s.enabled and s.next_slot is null and (s.problem is null
       or coalesce(leasehold.believed(s.problem_at, v_now), '-infinity') < v_now - interval '10 minutes')
     order by s.name limit p_limit)
    union all
    (select s, true from leasehold.schedules s -- as believed() has it, in the words of an index
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

-- --------------------------------------------------------------------------------------------- quiet duties

-- A turn of a duty begins. False: another process is at it since less than five minutes. Whoever began and did not say
-- how it ended within that time is taken for dead; duties that overlap do no harm, they only do the same twice.
create or replace function leasehold.begin_duty(p_duty text, p_schedule text, p_period interval, p_by text) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_next timestamptz := leasehold.next_turn(p_period);
begin
  insert into leasehold.housekeeping as h (duty, schedule, period, known_since, started_at, started_by, next_at, outcome, turns)
  values (p_duty, p_schedule, p_period, v_now, v_now, p_by, v_next, 'running', 1)
  on conflict (duty) do update set schedule = excluded.schedule, period = excluded.period, started_at = excluded.started_at,
    started_by = excluded.started_by, next_at = excluded.next_at, outcome = 'running', turns = h.turns + 1
  where h.outcome is distinct from 'running' or coalesce(leasehold.believed(h.started_at, v_now), '-infinity') < v_now - interval '5 minutes';
  return found;
end
$$;

-- Duties that have not succeeded for three of their periods and five minutes, although a monitor has been running for
-- all that time without a gap (without one its silence is the news). One that is an open incident stays one until it has
-- succeeded: a monitor that starts anew is no recovery.
create or replace function leasehold.overdue_housekeeping()
  returns table (kind text, subject text, summary text, details jsonb)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select 'housekeeping_overdue', h.duty,
    'housekeeping duty ' || h.duty || case when h.succeeded_at is null then ' has never succeeded'
      else ' has not succeeded for ' || date_trunc('second', c.now - h.succeeded_at)::text end,
    jsonb_build_object('duty', h.duty, 'schedule', h.schedule, 'succeeded_at', h.succeeded_at, 'started_at', h.started_at,
      'failures_in_a_row', h.failures_in_a_row, 'error', left(h.error, 500))
  from (select leasehold.clock() as now) c
  cross join leasehold.housekeeping h
  cross join lateral (select c.now - (h.period * 3 + interval '5 minutes') as moment) late
  where coalesce(greatest(leasehold.believed(h.succeeded_at, c.now), leasehold.believed(h.known_since, c.now)), '-infinity') < late.moment
    and (exists (select from leasehold.incidents i
        where i.kind = 'housekeeping_overdue' and i.subject = h.duty and i.resolved_at is null)
      or (not exists (select from leasehold.monitor_gaps g
          where g.ended_at > late.moment and leasehold.believed(g.ended_at, c.now) is not null)
        and exists (select from leasehold.monitors m where m.stopped_at is null and m.started_at < late.moment
          and m.ticked_at > c.now - greatest(interval '1 minute', m.interval_ms * 3 * interval '1 millisecond'))))
$$;

-- ------------------------------------------------------------------------------------------ dropping history
-- Why nothing may be dropped by its age right now, in words; null: nothing speaks against it. Evidence: the ticks of the
-- monitors. A clock that went ahead by more than a day between two of them (monitor_gaps has it, monitor_beat wrote it) is
-- not trusted with history for a day; nor is one by which no monitor has ticked for more than a day, because that may be
-- the leap itself, not seen yet. A pause of the monitors that was real looks the same and costs a day's delay. Databases
-- that no monitor has ever looked at are free to drop.
create function leasehold.clock_doubt() returns text
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select case
    when leasehold.monitor_silence() > interval '1 day' then 'by the clock no monitor has looked for '
      || date_trunc('second', leasehold.monitor_silence()) || ': it may be wrong; start a monitor, and history goes a day later'
    when g.ended_at is not null then 'the clock went ahead by ' || date_trunc('second', g.lasted) || ' at ' || date_trunc('second', g.ended_at)
      || ', or no monitor looked for so long: history stays until ' || date_trunc('second', g.ended_at + interval '1 day') end
  from (select leasehold.clock() as now) c
  left join lateral (
    select x.ended_at, x.lasted from leasehold.monitor_gaps x
    where x.lasted > interval '1 day' and x.ended_at > c.now - interval '1 day' and leasehold.believed(x.ended_at, c.now) is not null
    order by x.ended_at desc limit 1) g on true
$$;

-- Drops the tasks of one range that was closed before p_before, if none is unfinished and none ended at or after it.
-- Returns null when it was done (drop_leftovers does the rest), else the reason why the range stays, which is noted.
-- Needs READ COMMITTED (else LH004): a task may be reopened until the range is locked.
-- Guards: the only way back from ended is retry_task, which reads the task and writes an attempt. SHARE on the range's
-- attempts stops that write while they are read through (nothing else writes there); ACCESS EXCLUSIVE on tasks then waits
-- for everybody who has read them, and what was looked at is looked at again. Locks, in this order: the partitions
-- lock row, attempts of the range, tasks (parent before range: a claim takes them so), each for at most 0.2 s.
create or replace function leasehold.drop_range(p_first_id bigint, p_before timestamptz) returns text
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set lock_timeout = '200ms'
as $$
declare
  v_range leasehold.partitions;
  v_started timestamptz;
  v_reason text;
  v_last_ended timestamptz;
  v_doubt text;
begin
  perform leasehold.require_read_committed('drop_range');
  perform from leasehold.locks where name = 'partitions' for update skip locked;
  if not found then
    return 'another process makes or drops ranges right now';
  end if;
  select * into v_range from leasehold.partitions p where p.first_id = p_first_id;
  if not found or v_range.retired_at is not null then
    return 'there is no such range';
  elsif v_range.closed_at is null then
    return 'it takes new tasks';
  elsif v_range.closed_at >= p_before then
    return 'it took new tasks until ' || v_range.closed_at;
  elsif v_range.last_ended_at >= p_before then
    return 'its last task ended at ' || v_range.last_ended_at;
  end if;
  v_doubt := leasehold.clock_doubt();

  v_started := clock_timestamp();
  v_reason := coalesce(v_doubt, leasehold.range_holds(v_range.first_id, v_range.end_id));
  if v_reason is null and clock_timestamp() > v_started + interval '0.2 seconds' then
    -- The same look has to be taken while everybody waits.
    v_reason := 'looking for unfinished tasks takes too long: dead rows are in the way, see "oldest transaction" in database_health';
  end if;
  -- The range's own tables too: a vacuum that nothing may cancel (against wraparound) is not waited for with `tasks` locked.
  v_reason := coalesce(v_reason, leasehold.long_holders('leasehold.tasks'),
    leasehold.long_holders(('leasehold.tasks_' || v_range.first_id)::regclass),
    leasehold.long_holders(('leasehold.attempts_' || v_range.first_id)::regclass));
  if v_reason is null then
    begin
      execute pg_catalog.format('lock table leasehold.%I in share mode', 'attempts_' || v_range.first_id);
      execute pg_catalog.format('select max(ended_at) from leasehold.%I', 'attempts_' || v_range.first_id) into v_last_ended;
      if v_last_ended >= p_before then
        v_reason := 'its last task ended at ' || v_last_ended;
      else
        lock table only leasehold.tasks in access exclusive mode;
        v_reason := leasehold.range_holds(v_range.first_id, v_range.end_id);
        if v_reason is null then
          execute pg_catalog.format('drop table leasehold.%I', 'tasks_' || v_range.first_id);
        end if;
      end if;
    exception when lock_not_available then
      v_reason := 'others used its tables without a pause';
    end;
  end if;
  update leasehold.partitions p set stays_because = v_reason, tried_at = leasehold.clock(),
    last_ended_at = coalesce(v_last_ended, p.last_ended_at),
    retired_at = case when v_reason is null then leasehold.clock() end
  where p.first_id = v_range.first_id;
  return v_reason;
end
$$;

-- Who keeps a table of ours locked, in words; null: nobody for as long as 0.25 s. Transactions that stay open are seen by
-- looking twice; to wait for them with a lock request would make everybody else wait behind it.
create or replace function leasehold.long_holders(p_table regclass) returns text
  language plpgsql volatile security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_seen text[];
  v_pids text;
  v_vacuum boolean;
begin
  select array_agg(l.virtualtransaction) into v_seen from pg_catalog.pg_locks l
  where l.locktype = 'relation' and l.relation = p_table and l.granted and l.pid is distinct from pg_backend_pid()
    and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database());
  if v_seen is null then
    return null;
  end if;
  perform pg_catalog.pg_sleep(0.25);
  select string_agg(distinct coalesce(l.pid::text, 'prepared'), ', '), bool_or(l.mode = 'ShareUpdateExclusiveLock')
  into v_pids, v_vacuum from pg_catalog.pg_locks l
  where l.locktype = 'relation' and l.relation = p_table and l.granted and l.virtualtransaction = any (v_seen)
    and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database());
  return case when v_vacuum then 'a vacuum or other maintenance of' else 'a transaction that uses' end
    || ' leasehold.' || (select c.relname from pg_catalog.pg_class c where c.oid = p_table)
    || case when v_vacuum then ' goes on (pid ' else ' stays open (pid ' end || v_pids || ')';
end
$$;

-- Drops one more table of a range whose tasks are gone. Returns its name; null: nothing is left, or it cannot be had now.
-- Crash-safe: what one call did stays done, the next one goes on. Locks: the partitions lock row, then one parent.
create or replace function leasehold.drop_leftovers() returns text
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set lock_timeout = '200ms'
as $$
declare
  v_range record;
  v_parent text;
  v_table text;
  v_reason text;
begin
  perform from leasehold.locks where name = 'partitions' for update skip locked;
  if not found then
    return null;
  end if;
  for v_range in select p.first_id from leasehold.partitions p where p.retired_at is not null order by p.first_id loop
    foreach v_parent in array array['attempts', 'task_progress', 'task_checkpoints', 'task_logs'] loop
      v_table := 'leasehold.' || v_parent || '_' || v_range.first_id;
      continue when to_regclass(v_table) is null;
      v_reason := coalesce(leasehold.long_holders(('leasehold.' || v_parent)::regclass), leasehold.long_holders(v_table::regclass));
      if v_reason is null then
        begin
          execute pg_catalog.format('lock table only leasehold.%I in access exclusive mode', v_parent);
          execute 'drop table ' || v_table;
        exception when lock_not_available then
          v_reason := 'others used its tables without a pause';
        end;
      end if;
      update leasehold.partitions p set stays_because = v_reason, tried_at = leasehold.clock() where p.first_id = v_range.first_id;
      return case when v_reason is null then v_table end;
    end loop;
    delete from leasehold.partitions p where p.first_id = v_range.first_id;
  end loop;
  return null;
end
$$;

-- Empties log lines and progress of one range that was closed before p_before, if none of its tasks is unfinished and
-- none ended at or after it. Returns null when it was done, else the reason why not. The tasks stay, and so do their
-- checkpoints, which a retry needs. Locks: the two tables of the range alone, which no claim and no INSERT looks at.
create or replace function leasehold.drop_range_logs(p_first_id bigint, p_before timestamptz) returns text
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set lock_timeout = '200ms'
as $$
declare
  v_range leasehold.partitions;
  v_last_ended timestamptz;
  v_reason text;
begin
  perform leasehold.require_read_committed('drop_range_logs');
  perform from leasehold.locks where name = 'partitions' for update skip locked;
  if not found then
    return 'another process makes or drops ranges right now';
  end if;
  select * into v_range from leasehold.partitions p where p.first_id = p_first_id and p.retired_at is null;
  if not found or v_range.closed_at is null or v_range.closed_at >= p_before then
    return 'it is not closed for long enough';
  elsif leasehold.clock_doubt() is not null then
    return leasehold.clock_doubt();
  end if;
  v_last_ended := v_range.last_ended_at;
  if v_last_ended is null or v_last_ended < p_before then
    execute pg_catalog.format('select max(ended_at) from leasehold.%I', 'attempts_' || v_range.first_id) into v_last_ended;
  end if;
  if v_last_ended >= p_before then
    v_reason := 'its last task ended at ' || v_last_ended;
  else
    begin
      execute pg_catalog.format('lock table leasehold.%I, leasehold.%I in access exclusive mode',
        'task_logs_' || v_range.first_id, 'task_progress_' || v_range.first_id);
      v_reason := leasehold.range_holds(v_range.first_id, v_range.end_id);
      if v_reason is null then
        execute pg_catalog.format('truncate leasehold.%I, leasehold.%I',
          'task_logs_' || v_range.first_id, 'task_progress_' || v_range.first_id);
      end if;
    exception when lock_not_available then
      v_reason := 'others read its logs';
    end;
  end if;
  update leasehold.partitions p set last_ended_at = v_last_ended, tried_at = leasehold.clock(),
    logs_gone_at = case when v_reason is null then leasehold.clock() end
  where p.first_id = v_range.first_id;
  return v_reason;
end
$$;

-- Deletes ended tasks that stand in the default partition (nobody had made their range) and ended before p_before, at
-- most p_limit: there is no range to drop. Returns how many; null when they cannot be had now, to be tried again.
-- None while the clock is in doubt. Guard: everybody who may need one of them reads it first, and is waited for or kept out by the lock on that partition.
create or replace function leasehold.delete_strays(p_before timestamptz, p_limit integer default 1000) returns integer
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set lock_timeout = '200ms'
as $$
declare
  v_ids bigint[];
begin
  perform leasehold.require_read_committed('delete_strays');
  if leasehold.clock_doubt() is not null then
    return 0;
  end if;
  -- Chosen while nobody waits; what they are is looked at again below, under the lock.
  select array_agg(x.id) into v_ids from (
    select t.id from leasehold.tasks_default t
    cross join lateral (
      select a.final, a.ended_at from leasehold.attempts a where a.task_id = t.id order by a.fence desc limit 1) e
    where e.final and e.ended_at < p_before limit p_limit) x;
  if v_ids is null then
    return 0;
  end if;
  if leasehold.long_holders('leasehold.tasks_default') is not null then
    return null;
  end if;
  begin
    lock table leasehold.tasks_default in access exclusive mode;
  exception when lock_not_available then
    return null;
  end;
  select array_agg(x.id) into v_ids from (
    select t.id from leasehold.tasks_default t
    cross join lateral (
      select a.final, a.ended_at from leasehold.attempts a where a.task_id = t.id order by a.fence desc limit 1) e
    where t.id = any (v_ids) and e.final and e.ended_at < p_before
      and not exists (select from leasehold.dependencies d where d.parent_id = t.id)) x;
  delete from leasehold.tasks_default t where t.id = any (v_ids);
  delete from leasehold.attempts_default a where a.task_id = any (v_ids);
  delete from leasehold.task_progress_default g where g.task_id = any (v_ids);
  delete from leasehold.task_checkpoints_default c where c.task_id = any (v_ids);
  delete from leasehold.task_logs_default l where l.task_id = any (v_ids);
  return coalesce(cardinality(v_ids), 0);
end
$$;

-- What retention would do now, range by range, without doing it. action: drop, drop logs, keep, or dropping (its tasks
-- are gone, the rest follows). tasks is the planner's figure, bytes the exact size of all five tables. Reads through the
-- attempts of the ranges that are old enough.
create or replace function leasehold.retention_plan()
  returns table (first_id bigint, end_id bigint, opened_at timestamptz, closed_at timestamptz, tasks bigint, bytes bigint,
    action text, reason text, due_at timestamptz)
  language plpgsql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_settings leasehold.retention;
  v_now timestamptz := leasehold.clock();
  v_range leasehold.partitions;
  v_ended timestamptz;
  v_doubt text := leasehold.clock_doubt();
begin
  select * into v_settings from leasehold.retention;
  for v_range in select p.* from leasehold.partitions p order by p.first_id loop
    first_id := v_range.first_id; end_id := v_range.end_id;
    opened_at := v_range.opened_at; closed_at := v_range.closed_at;
    due_at := v_range.closed_at + v_settings.keep_tasks;
    select coalesce(sum(greatest(c.reltuples, pg_stat_get_live_tuples(c.oid), 0)) filter (where c.relname like 'tasks\_%'), 0)::bigint,
      coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
    into tasks, bytes
    from unnest(array['tasks', 'attempts', 'task_progress', 'task_checkpoints', 'task_logs']) as n(name)
    join pg_class c on c.oid = to_regclass('leasehold.' || n.name || '_' || v_range.first_id);
    action := 'keep';
    if v_range.retired_at is not null then
      action := 'dropping'; reason := coalesce(v_range.stays_because, 'its tasks are gone, the other tables follow');
    elsif v_range.opened_at is null then
      reason := 'ids have not reached it';
    elsif v_range.closed_at is null then
      reason := 'it takes new tasks';
    else
      reason := leasehold.range_holds(v_range.first_id, v_range.end_id);
      if reason is null and v_range.closed_at < v_now - least(v_settings.keep_tasks, v_settings.keep_logs) then
        v_ended := v_range.last_ended_at;
        if coalesce(v_ended < v_now - least(v_settings.keep_tasks, v_settings.keep_logs), true) then
          execute pg_catalog.format('select max(ended_at) from leasehold.%I', 'attempts_' || v_range.first_id) into v_ended;
        end if;
        due_at := greatest(v_range.closed_at, v_ended) + v_settings.keep_tasks;
        if v_doubt is not null then
          reason := case when due_at <= v_now then v_doubt end;
        elsif due_at <= v_now then
          action := 'drop';
        elsif v_range.logs_gone_at is null and greatest(v_range.closed_at, v_ended) + v_settings.keep_logs <= v_now then
          action := 'drop logs';
        end if;
      end if;
      if action <> 'drop' then
        reason := coalesce(reason, case when due_at is null then 'tasks are kept for ever' else 'its tasks are kept until ' || due_at end);
      end if;
    end if;
    return next;
  end loop;
end
$$;

-- Deletes at most p_limit rows of each kind that are older than retention says, and key rows nobody needs. Returns how
-- many went, by table; tables of which nothing went are left out.
create or replace function leasehold.tidy_rows(p_limit integer default 10000) returns jsonb
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_settings leasehold.retention;
  v_now timestamptz := leasehold.clock();
  v_gone jsonb := '{}';
  v_count bigint;
begin
  select * into v_settings from leasehold.retention;
  with idle as (
    select k.ctid as rid from leasehold.concurrency_keys k
    where not exists (select from leasehold.ready r where r.stage = k.stage and r.concurrency_key = k.concurrency_key)
      and not exists (select from leasehold.leases l where l.stage = k.stage and l.concurrency_key = k.concurrency_key)
      and not exists (select from leasehold.waiting w where w.stage = k.stage and w.concurrency_key = k.concurrency_key and not w.for_parents)
      and not exists (select from leasehold.nudges n where n.stage = k.stage and n.concurrency_key = k.concurrency_key)
    limit p_limit for update skip locked
  )
  delete from leasehold.concurrency_keys k where k.ctid = any (array(select i.rid from idle i));
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('concurrency_keys', v_count);
  -- Left by a cancel that met the end of its worker: nobody will read them.
  delete from leasehold.revocations r
  where not exists (select from leasehold.workers w where w.id = r.worker_id and w.ended_at is null);
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('revocations', v_count);
  delete from leasehold.sleepers z where z.wake_until < v_now - interval '1 hour';
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('sleepers', v_count);
  -- What goes by its age stays while the clock is in doubt.
  if leasehold.clock_doubt() is not null then
    return (select coalesce(jsonb_object_agg(e.key, e.value), '{}') from jsonb_each(v_gone) e where e.value <> '0');
  end if;
  delete from leasehold.workers w where w.ctid = any (array(
    select x.ctid from leasehold.workers x where x.ended_at < v_now - v_settings.keep_workers limit p_limit));
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('workers', v_count);
  delete from leasehold.alerts a where a.ctid = any (array(
    select x.ctid from leasehold.alerts x where x.created_at < v_now - v_settings.keep_incidents limit p_limit));
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('alerts', v_count);
  delete from leasehold.incidents i where i.ctid = any (array(
    select x.ctid from leasehold.incidents x where x.resolved_at < v_now - v_settings.keep_incidents limit p_limit));
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('incidents', v_count);
  delete from leasehold.monitors m where m.ticked_at < v_now - v_settings.keep_monitors;
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('monitors', v_count);
  delete from leasehold.monitor_gaps g where g.ended_at < v_now - v_settings.keep_monitors;
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('monitor_gaps', v_count);
  if to_regproc('leasehold.trim_schedule_firings') is not null then
    execute 'select leasehold.trim_schedule_firings($1, $2)' into v_count using v_settings.keep_firings, p_limit;
    v_gone := v_gone || jsonb_build_object('schedule_firings', v_count);
  end if;
  return (select coalesce(jsonb_object_agg(e.key, e.value), '{}') from jsonb_each(v_gone) e where e.value <> '0');
end
$$;

-- ------------------------------------------------------------------------------------------------------- grants
revoke all on function leasehold.believed(timestamptz, timestamptz, interval), leasehold.mend_liveness(),
  leasehold.note_uncomputed(leasehold.schedules, text), leasehold.schedule_removed(), leasehold.clock_doubt() from public;

do $$
declare
  v_signature regprocedure;
begin
  if (select pg_get_userbyid(n.nspowner) <> 'leasehold_owner' from pg_catalog.pg_namespace n where n.nspname = 'leasehold') then
    return; -- 0010 has said so
  end if;
  grant execute on function leasehold.clock_doubt() to leasehold_observer;
  for v_signature in
    select p.oid::regprocedure from pg_catalog.pg_proc p
    where p.pronamespace = 'leasehold'::regnamespace and p.proowner <> 'leasehold_owner'::regrole
  loop
    execute pg_catalog.format('alter function %s owner to leasehold_owner', v_signature);
  end loop;
end
$$;
