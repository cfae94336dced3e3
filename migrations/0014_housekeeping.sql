-- formerly 058767d873cf023fb19437dc34f8ca7f34e3eef3049c4e14c898904c09e22e8e
-- Retention and housekeeping: what is kept how long, ranges of ids that turn over by time, duties that leave a trace.
--
-- History goes by dropping ranges (0002, 0003), one table for each transaction: a transaction that held `tasks` and asked
-- for `attempts` would meet exchanges that hold `attempts` and ask for `tasks`. Nobody waits for a lock here longer than
-- 0.2 s, so nobody stands behind one that waits for longer; what cannot be had now is tried again at the next turn.
-- A range goes when all its tasks have ended and the last of them ended long enough ago. One unfinished task keeps its
-- whole range, and `partitions.stays_because` says which; nothing is moved, because tasks are immutable.

-- ---------------------------------------------------------------------------------------------------- settings
create table leasehold.retention (
  only_row boolean primary key default true,
  keep_tasks interval default interval '30 days',
  keep_logs interval,
  rotate_every interval,
  range_ids bigint,
  keep_workers interval not null default interval '30 days',
  keep_incidents interval not null default interval '90 days',
  keep_monitors interval not null default interval '7 days',
  keep_firings interval not null default interval '90 days',
  constraint retention_is_one_row check (only_row),
  constraint retention_keeps_tasks_at_least_1_minute check (keep_tasks between interval '1 minute' and interval '100 years'),
  constraint retention_keeps_logs_at_least_1_minute check (keep_logs between interval '1 minute' and interval '100 years'),
  constraint retention_keeps_workers_at_least_1_day check (keep_workers between interval '1 day' and interval '100 years'),
  constraint retention_keeps_incidents_at_least_1_day check (keep_incidents between interval '1 day' and interval '100 years'),
  constraint retention_keeps_monitors_at_least_1_day check (keep_monitors between interval '1 day' and interval '100 years'),
  constraint retention_keeps_firings_at_least_1_day check (keep_firings between interval '1 day' and interval '100 years'),
  constraint retention_rotates_after_at_least_10_seconds check (rotate_every between interval '10 seconds' and interval '10 years'),
  -- Every claim's plan looks at every range: many of them make claims slow.
  constraint retention_needs_at_most_50_ranges check (rotate_every * 50 >= keep_tasks),
  constraint retention_range_is_1000_to_1000000000_ids check (range_ids between 1000 and 1000000000)
);
insert into leasehold.retention default values;
comment on table leasehold.retention is 'One row: how long history is kept. Changes take effect at the next turn of the duty "retention".';
comment on column leasehold.retention.keep_tasks is 'Ended tasks with everything of theirs, from the end of the last one of their range; null: for ever.';
comment on column leasehold.retention.keep_logs is 'Log lines and progress, where they are to go before their tasks; null: as long as the tasks.';
comment on column leasehold.retention.rotate_every is 'A range takes new tasks for so long; what is dropped may be older than keep_tasks by this. Null: a sixth of keep_tasks.';
comment on column leasehold.retention.range_ids is 'Ids of a range; null: by the rate of submission, at least ten million.';

alter table leasehold.partitions
  add column last_id bigint,
  add column last_ended_at timestamptz,
  add column logs_gone_at timestamptz,
  add column retired_at timestamptz,
  add column tried_at timestamptz,
  add column stays_because text;
comment on column leasehold.partitions.last_id is 'The last id drawn in it, once it is closed.';
comment on column leasehold.partitions.last_ended_at is 'When its last task ended, as of tried_at.';
comment on column leasehold.partitions.retired_at is 'Its tasks are gone; the other tables of the range follow one by one.';
comment on column leasehold.partitions.stays_because is 'Why retention could not drop it when it was tried last.';

-- Changes settings: {"keep_tasks": "14 days", "keep_logs": null}, by the names of the columns; what is not named stays.
-- Returns the settings as they are now. 22023: no such setting; 23514: out of bounds.
create function leasehold.set_retention(p_changes jsonb) returns leasehold.retention
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_known constant text[] := array['keep_tasks', 'keep_logs', 'rotate_every', 'range_ids', 'keep_workers',
    'keep_incidents', 'keep_monitors', 'keep_firings'];
  v_unknown text;
  v_rule text;
  v_new leasehold.retention;
begin
  select k into v_unknown from jsonb_object_keys(p_changes) k where not k = any (v_known) limit 1;
  if found then
    raise exception 'retention has no setting %', quote_literal(v_unknown) using errcode = 'invalid_parameter_value',
      hint = 'There are ' || array_to_string(v_known, ', ') || '.';
  end if;
  select * into v_new from leasehold.retention for update;
  v_new := jsonb_populate_record(v_new, p_changes);
  update leasehold.retention r set keep_tasks = v_new.keep_tasks, keep_logs = v_new.keep_logs,
    rotate_every = v_new.rotate_every, range_ids = v_new.range_ids, keep_workers = v_new.keep_workers,
    keep_incidents = v_new.keep_incidents, keep_monitors = v_new.keep_monitors, keep_firings = v_new.keep_firings;
  return v_new;
exception when check_violation then
  -- The constraint's name is the rule, in words.
  get stacked diagnostics v_rule = constraint_name;
  raise exception '%, so % is refused', replace(v_rule, '_', ' '), p_changes
    using errcode = 'check_violation', constraint = v_rule;
end
$$;

-- How long a range takes new tasks before the next one does; null: until it is full.
create function leasehold.range_span() returns interval
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select coalesce(r.rotate_every, case when r.keep_tasks is not null then greatest(r.keep_tasks / 6, interval '1 minute') end)
  from leasehold.retention r
$$;

-- --------------------------------------------------------------------------------------------- ranges ahead
-- Ids drawn in a second since the newest range was opened that is open for a minute at least.
create function leasehold.id_rate() returns double precision
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select coalesce((
    select sum(coalesce(p.last_id, least(s.last_value, p.end_id)) - p.first_id) / extract(epoch from leasehold.clock() - since.opened_at)
    from leasehold.partitions p cross join leasehold.tasks_id_seq s
    where p.first_id >= since.first_id and p.first_id <= s.last_value), 0)
  from (select 1) one
  left join lateral (
    select n.first_id, n.opened_at from leasehold.partitions n
    where n.opened_at <= leasehold.clock() - interval '1 minute' order by n.first_id desc limit 1) since on true
$$;

-- How many ids the next range gets: what two spans (or two weeks) are likely to draw, in whole tens of millions.
create function leasehold.next_range_size() returns bigint
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select coalesce(r.range_ids, least(100, greatest(1, ceil(leasehold.id_rate()
    * 2 * extract(epoch from coalesce(leasehold.range_span(), interval '7 days')) / leasehold.partition_size()
  )))::bigint * leasehold.partition_size())
  from leasehold.retention r
$$;

-- Makes ranges until p_ahead of them, and ids for three minutes at the present rate, lie beyond the last id in use; at most
-- twenty a call. Notes which ranges ids have reached and left. Idempotent; one caller at a time, others return 0.
-- Returns the number of ranges made. Tables are made aside and attached, which open submitters do not hold up. Locks: the
-- partitions lock row, then the default partitions in the order in which an exchange comes by them; what reads them
-- through a generic plan (every claim) waits for a moment. 55P03 when they cannot be had in 0.2 s: try again.
create or replace function leasehold.ensure_partitions(p_ahead integer default 2) returns integer
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set lock_timeout = '200ms'
as $$
declare
  v_tables constant text[] := array['task_logs', 'task_progress', 'task_checkpoints', 'attempts', 'tasks'];
  v_now timestamptz := leasehold.clock();
  v_last_id bigint;
  v_used boolean;
  v_first bigint;
  v_size bigint;
  v_ranges integer;
  v_ids bigint;
  v_wanted double precision;
  v_made bigint[] := '{}';
  v_ends bigint[] := '{}';
  v_table text;
begin
  perform from leasehold.locks where name = 'partitions' for update skip locked;
  if not found then
    return 0;
  end if;
  select last_value, is_called into v_last_id, v_used from leasehold.tasks_id_seq;
  update leasehold.partitions p set opened_at = v_now where p.opened_at is null and v_used and p.first_id <= v_last_id;
  update leasehold.partitions p set closed_at = v_now, last_id = p.end_id - 1
  where p.closed_at is null and p.end_id <= v_last_id;

  select count(*), coalesce(sum(p.end_id - p.first_id), 0) into v_ranges, v_ids
  from leasehold.partitions p where p.first_id > v_last_id;
  v_wanted := leasehold.id_rate() * 180;
  v_size := leasehold.next_range_size();
  select coalesce(max(p.end_id), 0) into v_first from leasehold.partitions p;
  if v_last_id >= v_first and v_first > 0 then
    -- The ranges ran out and rows went to the default partition: go on behind them with room to spare, never below.
    v_first := ((v_last_id + 1000000) / leasehold.partition_size() + 1) * leasehold.partition_size();
  end if;
  while (v_ranges < p_ahead or v_ids < v_wanted or v_first <= v_last_id) and cardinality(v_made) < 20 loop
    v_made := v_made || v_first;
    v_ends := v_ends || (v_first + v_size);
    foreach v_table in array v_tables loop
      execute pg_catalog.format('create table leasehold.%I (like leasehold.%I including constraints)', v_table || '_' || v_first, v_table);
    end loop;
    insert into leasehold.partitions (first_id, end_id, opened_at)
    values (v_first, v_first + v_size, case when v_used and v_first <= v_last_id then v_now end);
    if v_first > v_last_id then
      v_ranges := v_ranges + 1;
      v_ids := v_ids + v_size;
    end if;
    v_first := v_first + v_size;
  end loop;
  if cardinality(v_made) = 0 then
    return 0;
  end if;
  foreach v_table in array v_tables loop
    execute pg_catalog.format('lock table leasehold.%I in access exclusive mode', v_table || '_default');
  end loop;
  foreach v_table in array v_tables loop
    for i in 1 .. cardinality(v_made) loop
      execute pg_catalog.format('alter table leasehold.%I attach partition leasehold.%I for values from (%s) to (%s)',
        v_table, v_table || '_' || v_made[i], v_made[i], v_ends[i]);
    end loop;
  end loop;
  return cardinality(v_made);
end
$$;

-- True when ids should jump to the next range: the open one has taken tasks for a span, or they stand in no range at all.
create function leasehold.rotation_is_due() returns boolean
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select case
    when p.first_id is null then exists (select from leasehold.partitions n where n.first_id > s.last_value)
    else s.is_called and p.opened_at <= leasehold.clock() - leasehold.range_span()
  end is true
  from leasehold.tasks_id_seq s
  left join leasehold.partitions p on p.first_id <= s.last_value and p.end_id > s.last_value
$$;

-- Starts a new range although the old one is not full, so that retention by age works on a small queue too: ids jump to
-- the next range. The lock on the sequence waits for open submitters and keeps new ones out for the moment it takes,
-- so no id can be drawn between reading and jumping. Returns the first id of the open range; null when no range lies
-- ahead or another process is at it; 55P03 when a submitter keeps its transaction open, to be tried again.
create or replace function leasehold.rotate_partitions() returns bigint
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set lock_timeout = '200ms'
as $$
declare
  v_last_id bigint;
  v_next bigint;
begin
  perform from leasehold.locks where name = 'partitions' for update skip locked;
  if not found then
    return null;
  end if;
  alter sequence leasehold.tasks_id_seq no cycle; -- takes the lock that nextval() waits for
  select last_value into v_last_id from leasehold.tasks_id_seq;
  select min(first_id) into v_next from leasehold.partitions where first_id > v_last_id;
  if v_next is null then
    return null;
  end if;
  update leasehold.partitions p set closed_at = leasehold.clock(), last_id = least(v_last_id, p.end_id - 1)
  where p.closed_at is null and p.end_id <= v_next;
  update leasehold.partitions set opened_at = leasehold.clock() where first_id = v_next and opened_at is null;
  perform pg_catalog.setval('leasehold.tasks_id_seq', v_next, false);
  return v_next;
end
$$;

-- --------------------------------------------------------------------------------------------- dropping ranges
drop function leasehold.drop_partitions(timestamptz);
drop function leasehold.range_is_needed(bigint, bigint, timestamptz);

-- What of a range is unfinished, in words; null: nothing. Looks at the tables of states only, by their keys.
create function leasehold.range_holds(p_first bigint, p_end bigint) returns text
  language plpgsql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
as $$
declare
  v_count bigint;
  v_oldest bigint;
begin
  select count(*), min(x.task_id) into v_count, v_oldest
  from (
    (select r.task_id from leasehold.ready r where r.task_id >= p_first and r.task_id < p_end order by 1 limit 1001)
    union all
    (select s.task_id from leasehold.scheduled s where s.task_id >= p_first and s.task_id < p_end order by 1 limit 1001)
    union all
    (select w.task_id from leasehold.waiting w where w.task_id >= p_first and w.task_id < p_end order by 1 limit 1001)
    union all
    (select l.task_id from leasehold.leases l where l.task_id >= p_first and l.task_id < p_end order by 1 limit 1001)) x;
  if v_count > 0 then
    return case when v_count > 1000 then 'more than 1000' else v_count::text end
      || case v_count when 1 then ' task of it is unfinished: ' else ' tasks of it are unfinished, the oldest is ' end || v_oldest;
  end if;
  select d.parent_id into v_oldest from leasehold.dependencies d
  where d.parent_id >= p_first and d.parent_id < p_end order by d.parent_id limit 1;
  return 'a child of task ' || v_oldest || ' has not heard of its end yet';
end
$$;

-- Who keeps a table of ours locked, in words; null: nobody for as long as 0.25 s. Transactions that stay open are seen by
-- looking twice; to wait for them with a lock request would make everybody else wait behind it.
create function leasehold.long_holders(p_table regclass) returns text
  language plpgsql volatile security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_seen text[];
  v_pids text;
begin
  select array_agg(l.virtualtransaction) into v_seen from pg_catalog.pg_locks l
  where l.locktype = 'relation' and l.relation = p_table and l.granted and l.pid is distinct from pg_backend_pid()
    and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database());
  if v_seen is null then
    return null;
  end if;
  perform pg_catalog.pg_sleep(0.25);
  select string_agg(distinct coalesce(l.pid::text, 'prepared'), ', ') into v_pids from pg_catalog.pg_locks l
  where l.locktype = 'relation' and l.relation = p_table and l.granted and l.virtualtransaction = any (v_seen)
    and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database());
  return 'a transaction that uses leasehold.' || (select c.relname from pg_catalog.pg_class c where c.oid = p_table)
    || ' stays open (pid ' || v_pids || ')';
end
$$;

-- Drops the tasks of one range that was closed before p_before, if none is unfinished and none ended at or after it.
-- Returns null when it was done (drop_leftovers does the rest), else the reason why the range stays, which is noted.
-- Needs READ COMMITTED (else LH004): a task may be reopened until the range is locked.
-- Guards: the only way back from ended is retry_task, which reads the task and writes an attempt. SHARE on the range's
-- attempts stops that write while they are read through (nothing else writes there); ACCESS EXCLUSIVE on tasks then waits
-- for everybody who has read them, and what was looked at is looked at again. Locks, in this order: the partitions
-- lock row, attempts of the range, tasks (parent before range: a claim takes them so), each for at most 0.2 s.
create function leasehold.drop_range(p_first_id bigint, p_before timestamptz) returns text
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set lock_timeout = '200ms'
as $$
declare
  v_range leasehold.partitions;
  v_started timestamptz;
  v_reason text;
  v_last_ended timestamptz;
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

  v_started := clock_timestamp();
  v_reason := leasehold.range_holds(v_range.first_id, v_range.end_id);
  if v_reason is null and clock_timestamp() > v_started + interval '0.2 seconds' then
    -- The same look has to be taken while everybody waits.
    v_reason := 'looking for unfinished tasks takes too long: dead rows are in the way, see "oldest transaction" in database_health';
  end if;
  v_reason := coalesce(v_reason, leasehold.long_holders('leasehold.tasks'));
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

-- Drops one more table of a range whose tasks are gone. Returns its name; null: nothing is left, or it cannot be had now.
-- Crash-safe: what one call did stays done, the next one goes on. Locks: the partitions lock row, then one parent.
create function leasehold.drop_leftovers() returns text
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
      v_reason := leasehold.long_holders(('leasehold.' || v_parent)::regclass);
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
create function leasehold.drop_range_logs(p_first_id bigint, p_before timestamptz) returns text
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
-- Guard: everybody who may need one of them reads it first, and is waited for or kept out by the lock on that partition.
create function leasehold.delete_strays(p_before timestamptz, p_limit integer default 1000) returns integer
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set lock_timeout = '200ms'
as $$
declare
  v_ids bigint[];
begin
  perform leasehold.require_read_committed('delete_strays');
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
create function leasehold.retention_plan()
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
        if due_at <= v_now then
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

-- ------------------------------------------------------------------------------------------------ the small tables
-- Deletes at most p_limit rows of each kind that are older than retention says, and key rows nobody needs. Returns how
-- many went, by table; tables of which nothing went are left out.
create function leasehold.tidy_rows(p_limit integer default 10000) returns jsonb
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
  delete from leasehold.workers w where w.ctid = any (array(
    select x.ctid from leasehold.workers x where x.ended_at < v_now - v_settings.keep_workers limit p_limit));
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('workers', v_count);
  -- Left by a cancel that met the end of its worker: nobody will read them.
  delete from leasehold.revocations r
  where not exists (select from leasehold.workers w where w.id = r.worker_id and w.ended_at is null);
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('revocations', v_count);
  delete from leasehold.sleepers z where z.wake_until < v_now - interval '1 hour';
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('sleepers', v_count);
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

-- The same, for monitors of the version before.
create or replace function leasehold.tidy() returns void
  language sql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select leasehold.tidy_rows()
$$;

-- Deletes the counts of runs none of whose tasks is left, at most p_limit runs, from p_after on. Returns how many went
-- and the last run looked at (null: that was the end). An entry that is not committed yet is not seen and stays, and a
-- run that is open by its counts stays in any case.
create function leasehold.forget_runs(p_after text default '', p_limit integer default 1000)
  returns table (forgotten integer, looked_to text)
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_runs text[];
begin
  with recursive run as (
    (select l.run_id, 1 as nr from leasehold.run_ledger l where l.run_id > p_after order by l.run_id limit 1)
    union all
    select n.run_id, run.nr + 1 from run cross join lateral (
      select l.run_id from leasehold.run_ledger l where l.run_id > run.run_id order by l.run_id limit 1) n
    where run.nr < p_limit
  )
  select array_agg(run.run_id) filter (where not exists (select from leasehold.tasks t where t.run_id = run.run_id)
      and (select sum(l.submitted) - sum(l.done) - sum(l.dead) - sum(l.cancelled) from leasehold.run_ledger l
        where l.run_id = run.run_id) = 0),
    case when count(*) = p_limit then max(run.run_id) end
  into v_runs, looked_to from run;
  delete from leasehold.run_ledger l where l.run_id = any (v_runs);
  forgotten := coalesce(cardinality(v_runs), 0);
  return next;
end
$$;

-- Tables that churn and that autovacuum does not keep up with: to be vacuumed, the worst first. Zero rows: none.
create function leasehold.tables_to_vacuum() returns table (name text, dead bigint)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select u.relname::text, u.n_dead_tup
  from pg_catalog.pg_stat_user_tables u
  where u.schemaname = 'leasehold' and u.n_dead_tup > greatest(20000, u.n_live_tup)
    and u.relname in ('ready', 'leases', 'scheduled', 'waiting', 'nudges', 'task_keys', 'dependencies', 'concurrency_keys',
      'sleepers', 'workers', 'revocations', 'run_ledger', 'floors', 'floor_probes', 'stage_samples')
    and coalesce(greatest(u.last_vacuum, u.last_autovacuum), '-infinity') < pg_catalog.clock_timestamp() - interval '3 minutes'
  order by u.n_dead_tup desc
$$;

-- ------------------------------------------------------------------------------------------------------- duties
create table leasehold.housekeeping (
  duty text collate "C" primary key,
  schedule text not null,
  period interval not null,
  known_since timestamptz not null,
  started_at timestamptz,
  started_by text,
  ended_at timestamptz,
  succeeded_at timestamptz,
  next_at timestamptz,
  outcome text collate "C",
  did jsonb,
  error text,
  turns bigint not null default 0,
  failures_in_a_row integer not null default 0,
  constraint duty_name_is_plain check (duty ~ '^[a-z][a-z_]{0,47}$'),
  constraint duty_period_is_positive check (period > interval '0'),
  constraint duty_outcome_is_known check (outcome in ('running', 'done', 'failed'))
) with (fillfactor = 50);
comment on table leasehold.housekeeping is 'The quiet duties of the monitor: when each ran last, how it ended, what it did in numbers, when it is due again.';

-- The next moment that is a whole number of periods, as a crontab in UTC counts them.
create function leasehold.next_turn(p_period interval) returns timestamptz
  language sql volatile
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select to_timestamp(((floor(extract(epoch from leasehold.clock()) / extract(epoch from p_period)) + 1)
    * extract(epoch from p_period))::float8)
$$;

-- A turn of a duty begins. False: another process is at it since less than five minutes. Whoever began and did not say
-- how it ended within that time is taken for dead; duties that overlap do no harm, they only do the same twice.
create function leasehold.begin_duty(p_duty text, p_schedule text, p_period interval, p_by text) returns boolean
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
  where h.outcome is distinct from 'running' or h.started_at < v_now - interval '5 minutes';
  return found;
end
$$;

-- A turn ended: p_error null when it succeeded, p_did what it did in numbers. Zero effect when somebody else has begun since.
create function leasehold.end_duty(p_duty text, p_by text, p_did jsonb, p_error text default null) returns void
  language sql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  update leasehold.housekeeping h set ended_at = leasehold.clock(), did = p_did, error = p_error,
    outcome = case when p_error is null then 'done' else 'failed' end,
    succeeded_at = case when p_error is null then leasehold.clock() else h.succeeded_at end,
    failures_in_a_row = case when p_error is null then 0 else h.failures_in_a_row + 1 end
  where h.duty = p_duty and h.started_by = p_by and h.outcome = 'running'
$$;

-- A monitor says which duties there are, [{duty, schedule, period_ms}], so that one that never ran is missed. Others go.
create function leasehold.register_duties(p_duties jsonb) returns void
  language sql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  delete from leasehold.housekeeping h
  where h.duty not in (select d.duty from jsonb_to_recordset(p_duties) as d(duty text));
  insert into leasehold.housekeeping as h (duty, schedule, period, known_since, next_at)
  select d.duty, d.schedule, d.period_ms * interval '1 millisecond', leasehold.clock(),
    leasehold.next_turn(d.period_ms * interval '1 millisecond')
  from jsonb_to_recordset(p_duties) as d(duty text, schedule text, period_ms bigint)
  on conflict (duty) do update set schedule = excluded.schedule, period = excluded.period
  where (h.schedule, h.period) is distinct from (excluded.schedule, excluded.period)
$$;

-- Duties that have not succeeded for three of their periods and five minutes, although a monitor has been running for
-- all that time without a gap. Without one its silence is the news.
create function leasehold.overdue_housekeeping()
  returns table (kind text, subject text, summary text, details jsonb)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select 'housekeeping_overdue', h.duty,
    'housekeeping duty ' || h.duty || case when h.succeeded_at is null then ' has never succeeded'
      else ' has not succeeded for ' || date_trunc('second', leasehold.clock() - h.succeeded_at)::text end,
    jsonb_build_object('duty', h.duty, 'schedule', h.schedule, 'succeeded_at', h.succeeded_at, 'started_at', h.started_at,
      'failures_in_a_row', h.failures_in_a_row, 'error', left(h.error, 500))
  from leasehold.housekeeping h cross join lateral (select leasehold.clock() - (h.period * 3 + interval '5 minutes') as moment) late
  where greatest(h.succeeded_at, h.known_since) < late.moment
    and not exists (select from leasehold.monitor_gaps g where g.ended_at > late.moment)
    and exists (select from leasehold.monitors m where m.stopped_at is null and m.started_at < late.moment
      and m.ticked_at > leasehold.clock() - greatest(interval '1 minute', m.interval_ms * 3 * interval '1 millisecond'))
$$;

-- ------------------------------------------------------------------------------------------------------- health
-- Size for people: 8192 bytes are '8192 bytes', 3 GB are '3072 MB'. Checks of what is stored; rows of database_health.
create function leasehold.storage_health() returns table (name text, status text, value text, advice text)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  with relation as materialized (
    select coalesce(i.inhparent, c.oid)::regclass as base, sum(pg_total_relation_size(c.oid)) as bytes
    from pg_class c left join pg_inherits i on i.inhrelid = c.oid
    where c.relnamespace = 'leasehold'::regnamespace and c.relkind = 'r' group by 1
  ), churning as materialized (
    select u.relname::text as relname, u.n_dead_tup as dead, u.n_live_tup as live, pg_total_relation_size(u.relid) as bytes
    from pg_stat_user_tables u
    where u.schemaname = 'leasehold' and u.relname in ('ready', 'leases', 'scheduled', 'waiting', 'nudges', 'task_keys', 'workers',
      'sleepers', 'run_ledger', 'floors')
  ), waiting_ranges as materialized (
    select p.*, p.closed_at + r.keep_tasks as due_at
    from leasehold.partitions p cross join leasehold.retention r where p.closed_at is not null
  )
  select 'largest tables', 'ok',
    (select string_agg(replace(x.base::text, 'leasehold.', '') || ' ' || pg_size_pretty(x.bytes), ', ' order by x.bytes desc)
     from (select * from relation order by bytes desc limit 4) x),
    'With all partitions and indexes. How long history is kept: npx leasehold retention.'
  union all
  select 'dead share', case when coalesce(bool_or(c.bytes > 268435456 and c.dead > 4 * c.live), false) then 'warn' else 'ok' end,
    coalesce(string_agg(c.relname || ' ' || round(100.0 * c.dead / (c.dead + c.live)) || ' % of '
      || pg_size_pretty(c.bytes), ', ' order by c.dead desc) filter (where c.dead > 1000), 'nothing worth telling'),
    'Vacuum does not keep up, or may not: look for old transactions, then for autovacuum_max_workers and its cost limit.'
  from churning c
  union all
  select 'oldest range', 'ok',
    coalesce((select 'ids from ' || p.first_id || ', taken since ' || date_trunc('second', p.opened_at) from leasehold.partitions p
      where p.opened_at is not null order by p.first_id limit 1), 'none'),
    'All ranges and what becomes of them: npx leasehold retention plan.'
  union all
  select 'tasks outside of ranges', case when x.n > 0 then 'warn' else 'ok' end, case when x.n > 1000 then 'more than 1000' else x.n::text end,
    'The ranges had run out. Nothing is lost; ended ones go by and by. See npx leasehold housekeeping for why.'
  from (select count(*) as n from (select from leasehold.tasks_default limit 1001) y) x
  union all
  select 'retention lag',
    case when min(w.due_at) < leasehold.clock() - greatest(interval '1 hour', (select r.keep_tasks / 4 from leasehold.retention r))
      then 'warn' else 'ok' end,
    coalesce((select 'ids from ' || v.first_id || ' stay since ' || date_trunc('second', v.due_at) || ': '
        || coalesce(v.stays_because, 'not tried yet')
      from waiting_ranges v where v.due_at < leasehold.clock() order by v.first_id limit 1), 'none'),
    'End or cancel what is unfinished in it, or wait: npx leasehold retention plan.'
  from waiting_ranges w
  union all
  select 'housekeeping', case when count(*) > 0 then 'bad' else 'ok' end,
    coalesce(string_agg(o.subject, ', ' order by o.subject) || ' overdue', 'on time'),
    'What failed: npx leasehold housekeeping.'
  from leasehold.overdue_housekeeping() o
$$;

create or replace view leasehold.database_health as
select c.name, c.status, c.value, c.advice
from (
  select 'monitor' as name,
    case when leasehold.monitor_silence() is null then 'bad'
      when leasehold.monitor_silence() > (select greatest(interval '3 minutes', max(m.interval_ms) * 3 * interval '1 millisecond') from leasehold.monitors m) then 'bad'
      else 'ok' end as status,
    coalesce('last looked ' || date_trunc('second', leasehold.monitor_silence())::text || ' ago', 'never looked') as value,
    'Start one: npx leasehold monitor. Without it nobody is told of dead workers.' as advice
  union all
  select 'unsent alerts', case when count(*) = 0 then 'ok' else 'bad' end, count(*)::text, 'See leasehold.alerts.last_error; check SMTP_*.'
  from leasehold.alerts a where a.sent_at is null and a.created_at < leasehold.clock() - interval '2 minutes'
  union all
  select 'oldest transaction', case when max(leasehold.clock() - a.xact_start) > interval '10 minutes' then 'warn' else 'ok' end,
    coalesce(date_trunc('second', max(leasehold.clock() - a.xact_start))::text, 'none'),
    'A long transaction keeps dead rows of every table. Claims do not slow down here, other queries do. See pg_stat_activity.'
  from pg_catalog.pg_stat_activity a where a.datname = current_database() and a.pid <> pg_backend_pid() and a.backend_type = 'client backend'
  union all
  select 'submitters held open', case when count(*) > 0 then 'warn' else 'ok' end, count(*)::text,
    'A transaction that inserted tasks stays open; its tasks are invisible until it commits.'
  from leasehold.stragglers
  union all
  select 'notify queue', case when pg_catalog.pg_notification_queue_usage() > 0.25 then 'warn' else 'ok' end,
    round((pg_catalog.pg_notification_queue_usage() * 100)::numeric, 1)::text || ' %',
    'A session that listens and stays in a transaction keeps it; above 25 % workers are polled instead of woken.'
  union all
  select 'dead rows', case when sum(u.n_dead_tup) > 5000000 then 'warn' else 'ok' end, coalesce(sum(u.n_dead_tup), 0)::text,
    'ready and leases are vacuumed less than they churn: look for old transactions, lower autovacuum_naptime.'
  from pg_catalog.pg_stat_user_tables u where u.schemaname = 'leasehold' and u.relname in ('ready', 'leases', 'scheduled', 'waiting')
  union all
  select 'id partitions ahead', case when count(*) < 1 then 'warn' else 'ok' end, count(*)::text,
    'npx leasehold housekeeping run partitions; a running monitor does it.'
  from leasehold.partitions p where p.first_id > (select q.last_value from leasehold.tasks_id_seq q)
  union all
  select 'transaction id age', case when age(d.datfrozenxid) > 1000000000 then 'warn' else 'ok' end, age(d.datfrozenxid)::text,
    'Autovacuum has to freeze this database soon.'
  from pg_catalog.pg_database d where d.datname = current_database()
  union all
  select s.name, s.status, s.value, s.advice from leasehold.storage_health() s
) c;

-- ------------------------------------------------------------------------------------------------------- grants
-- Observers see settings, duties and the plan; what changes or drops anything is the owner's.
revoke all on function leasehold.set_retention(jsonb), leasehold.range_span(), leasehold.id_rate(), leasehold.next_range_size(),
  leasehold.rotation_is_due(), leasehold.range_holds(bigint, bigint), leasehold.long_holders(regclass),
  leasehold.drop_range(bigint, timestamptz), leasehold.drop_leftovers(), leasehold.drop_range_logs(bigint, timestamptz),
  leasehold.delete_strays(timestamptz, integer), leasehold.retention_plan(), leasehold.tidy_rows(integer),
  leasehold.forget_runs(text, integer), leasehold.tables_to_vacuum(), leasehold.next_turn(interval), leasehold.begin_duty(text, text, interval, text),
  leasehold.end_duty(text, text, jsonb, text), leasehold.register_duties(jsonb), leasehold.overdue_housekeeping(),
  leasehold.storage_health() from public;

do $$
declare
  v_signature regprocedure;
begin
  if (select pg_get_userbyid(n.nspowner) <> 'leasehold_owner' from pg_catalog.pg_namespace n where n.nspname = 'leasehold') then
    return; -- 0010 has said so
  end if;
  grant select on leasehold.retention, leasehold.housekeeping, leasehold.partitions to leasehold_observer;
  grant execute on function leasehold.retention_plan(), leasehold.overdue_housekeeping(), leasehold.storage_health(),
    leasehold.range_span() to leasehold_observer;
  alter table leasehold.retention owner to leasehold_owner;
  alter table leasehold.housekeeping owner to leasehold_owner;
  for v_signature in
    select p.oid::regprocedure from pg_catalog.pg_proc p
    where p.pronamespace = 'leasehold'::regnamespace and p.proowner <> 'leasehold_owner'::regrole
  loop
    execute pg_catalog.format('alter function %s owner to leasehold_owner', v_signature);
  end loop;
end
$$;
