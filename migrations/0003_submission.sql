-- Submission: partitions to insert into, the trigger that routes what was inserted, and submit() for key conflicts.

-- ------------------------------------------------------------------------------------------------ partitions
-- Ranges of ids, 10 million each, made ahead. A default partition keeps submission possible even if nobody has made
-- the next range for 20 million tasks; ensure_partitions() then goes on behind what the default holds.
create function leasehold.partition_size() returns bigint
  language sql immutable parallel safe
  return 10000000::bigint;

create table leasehold.tasks_default partition of leasehold.tasks default;
create table leasehold.attempts_default partition of leasehold.attempts default;
create table leasehold.task_progress_default partition of leasehold.task_progress default;
create table leasehold.task_checkpoints_default partition of leasehold.task_checkpoints default;
create table leasehold.task_logs_default partition of leasehold.task_logs default;

-- Makes ranges until p_ahead of them lie beyond the last id in use. Idempotent; one caller at a time, others return 0.
-- Returns the number of ranges made. Locks: the partitions lock row, then the parents, while a range is made. A submitter
-- that keeps its transaction open would make it wait, and everybody else behind it: 55P03 instead, to be tried again.
create function leasehold.ensure_partitions(p_ahead integer default 2) returns integer
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set lock_timeout = '200ms'
as $$
declare
  v_size constant bigint := leasehold.partition_size();
  v_last_id bigint;
  v_end bigint;
  v_made integer := 0;
  v_table text;
begin
  perform from leasehold.locks where name = 'partitions' for update skip locked;
  if not found then
    return 0;
  end if;
  select last_value into v_last_id from leasehold.tasks_id_seq; -- or the next one, right after a jump
  select coalesce(max(end_id), 0) into v_end from leasehold.partitions;
  if v_last_id >= v_end and v_end > 0 then
    -- The ranges ran out and rows went to the default partition: go on behind them, never below.
    v_end := (v_last_id / v_size + 1) * v_size;
  end if;
  while v_end < (v_last_id / v_size + 1 + p_ahead) * v_size loop
    foreach v_table in array array['tasks', 'attempts', 'task_progress', 'task_checkpoints', 'task_logs'] loop
      execute pg_catalog.format(
        'create table leasehold.%I partition of leasehold.%I for values from (%s) to (%s)',
        v_table || '_' || v_end, v_table, v_end, v_end + v_size);
    end loop;
    insert into leasehold.partitions (first_id, end_id) values (v_end, v_end + v_size);
    v_end := v_end + v_size;
    v_made := v_made + 1;
  end loop;
  return v_made;
end
$$;

-- Starts a new range although the old one is not full, so that retention by age works on a small queue too: ids jump to
-- the next range. The lock on the sequence waits for open submitters and keeps new ones out for the moment it takes,
-- so no id can be drawn between reading and jumping. Returns the first id of the open range; null when no range lies
-- ahead or another process is at it; 55P03 when a submitter keeps its transaction open, to be tried again.
create function leasehold.rotate_partitions() returns bigint
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
  update leasehold.partitions set closed_at = leasehold.clock() where closed_at is null and end_id <= v_next;
  update leasehold.partitions set opened_at = leasehold.clock() where first_id = v_next and opened_at is null;
  perform pg_catalog.setval('leasehold.tasks_id_seq', v_next, false);
  return v_next;
end
$$;

-- True while a range is needed: a task of it is unfinished, is waited for by a child that has not heard of its end yet,
-- or ended at or after p_before.
create function leasehold.range_is_needed(p_first bigint, p_end bigint, p_before timestamptz) returns boolean
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select exists (select from leasehold.ready where task_id >= p_first and task_id < p_end)
    or exists (select from leasehold.scheduled where task_id >= p_first and task_id < p_end)
    or exists (select from leasehold.waiting where task_id >= p_first and task_id < p_end)
    or exists (select from leasehold.leases where task_id >= p_first and task_id < p_end)
    or exists (select from leasehold.dependencies where parent_id >= p_first and parent_id < p_end)
    or exists (select from leasehold.attempts where task_id >= p_first and task_id < p_end and ended_at >= p_before)
$$;

-- Drops the ranges that were closed before p_before and in which no task is unfinished. Returns the dropped first ids.
-- Locks: the partitions lock row, then the range itself and each parent while it goes (brief; 55P03 after lock_timeout).
-- Needs READ COMMITTED (else LH004): a task may be reopened until the range is locked.
create function leasehold.drop_partitions(p_before timestamptz) returns bigint[]
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set lock_timeout = '2s'
as $$
declare
  v_range record;
  v_table text;
  v_dropped bigint[] := '{}';
begin
  perform leasehold.require_read_committed('drop_partitions');
  perform from leasehold.locks where name = 'partitions' for update skip locked;
  if not found then
    return v_dropped;
  end if;
  for v_range in
    select first_id, end_id from leasehold.partitions where closed_at < p_before order by first_id
  loop
    -- New rows can no longer appear below the range: ids were allocated past it before closed_at. Submitters that
    -- were still open then hold locks on tasks, which the drop below waits for.
    continue when leasehold.range_is_needed(v_range.first_id, v_range.end_id, p_before);
    execute pg_catalog.format('lock table leasehold.%I, leasehold.%I in access exclusive mode',
      'tasks_' || v_range.first_id, 'attempts_' || v_range.first_id);
    continue when leasehold.range_is_needed(v_range.first_id, v_range.end_id, p_before);
    foreach v_table in array array['tasks', 'attempts', 'task_progress', 'task_checkpoints', 'task_logs'] loop
      execute pg_catalog.format('drop table leasehold.%I', v_table || '_' || v_range.first_id);
    end loop;
    delete from leasehold.partitions where first_id = v_range.first_id;
    v_dropped := v_dropped || v_range.first_id;
  end loop;
  return v_dropped;
end
$$;

select leasehold.ensure_partitions();
update leasehold.partitions set opened_at = leasehold.clock() where first_id = 0;

-- ------------------------------------------------------------------------------------------------- wake-up
-- Wakes the workers of these stages that sleep. NOTIFY takes a database-wide lock at commit, so it is sent only while
-- somebody asked to be woken, without payload, and not when the notify queue is filling (a full queue would fail the
-- submitter's commit). Polling is the truth; this is a hint.
create function leasehold.wake(p_stages text[]) returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  perform pg_catalog.pg_notify('leasehold:' || s.stage, '')
  from (
    select distinct z.stage from leasehold.sleepers z
    where z.stage = any (p_stages) and z.wake_until > leasehold.clock()) s
  where pg_catalog.pg_notification_queue_usage() < 0.25;
end
$$;

-- ---------------------------------------------------------------------------------------------- near names
-- Edit distance, for the message of an error only.
create function leasehold.edit_distance(p_a text, p_b text) returns integer
  language plpgsql immutable parallel safe
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_previous integer[];
  v_current integer[];
begin
  select array_agg(i) into v_previous from generate_series(0, length(p_b)) i;
  for i in 1 .. length(p_a) loop
    v_current := array[i];
    for j in 1 .. length(p_b) loop
      v_current := v_current || least(
        v_previous[j + 1] + 1, v_current[j] + 1,
        v_previous[j] + case when substr(p_a, i, 1) = substr(p_b, j, 1) then 0 else 1 end);
    end loop;
    v_previous := v_current;
  end loop;
  return v_previous[length(p_b) + 1];
end
$$;

-- Raises LH001 (unknown stage) with the nearest known names.
create function leasehold.raise_unknown_stage(p_stage text) returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_near text;
begin
  select string_agg(quote_literal(n.name), ', ' order by n.distance, n.name) into v_near
  from (
    select s.name, leasehold.edit_distance(coalesce(left(p_stage, 48), ''), s.name) as distance
    from leasehold.stages s order by 2, 1 limit 3
  ) n;
  raise exception 'unknown stage %', coalesce(quote_literal(left(p_stage, 100)), 'null')
    using errcode = 'LH001',
      hint = coalesce('Known stages with near names: ' || v_near || '.', 'No stage is known yet.')
        || ' A runner registers its stages when it starts; by hand: insert into leasehold.stages (name) values (…).';
end
$$;

-- --------------------------------------------------------------------------------------------------- entry
-- The one way into ready, scheduled or waiting for tasks that are in no state table: from submission (slow path),
-- retry, release, snooze, a due time, freed parents, an operator. Arrays run in parallel; p_run_ats null means now,
-- p_express puts what may run now into the express lane. Tasks with a concurrency key go to waiting and leave a
-- nudge: only a claim admits them, under the lock of their key. Does not look at parents: that is done when they end.
-- Locks nothing but what it inserts. Forces an xid first: floors rely on a position being drawn after it.
create function leasehold.enter(
  p_task_ids bigint[], p_failures smallint[], p_crashes smallint[], p_run_ats timestamptz[], p_express boolean
) returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_woken text[];
begin
  perform pg_catalog.pg_current_xact_id();
  with entering as materialized (
    select t.id, t.stage, t.concurrency_key, e.failures, e.crashes, e.run_at,
      (case
        when e.crashes > 0 and e.crashes >= s.max_crashes - 1 then 11
        when p_express then 10
        else coalesce(t.priority, s.priority)
      end)::smallint as lane,
      coalesce(e.run_at > v_now, false) as later
    from unnest(p_task_ids, p_failures, p_crashes, p_run_ats) with ordinality
      as e(task_id, failures, crashes, run_at, nr)
    cross join lateral (
      select t.id, t.stage, t.priority, t.concurrency_key from leasehold.tasks t where t.id = e.task_id limit 1) t
    join leasehold.stages s on s.name = t.stage
    order by e.nr
  ), into_scheduled as (
    insert into leasehold.scheduled (run_at, task_id, failures, crashes, express, stage)
    select run_at, id, failures, crashes, p_express, stage from entering where later
  ), into_waiting as (
    insert into leasehold.waiting (task_id, failures, crashes, lane, for_parents, stage, concurrency_key, waiting_since)
    select id, failures, crashes, lane, false, stage, concurrency_key, v_now
    from entering where not later and concurrency_key is not null
  ), nudged as (
    insert into leasehold.nudges (stage, concurrency_key)
    select distinct stage, concurrency_key from entering where not later and concurrency_key is not null
  ), into_ready as (
    insert into leasehold.ready (task_id, lane, failures, crashes, stage)
    select id, lane, failures, crashes, stage from entering where not later and concurrency_key is null
  )
  select array_agg(distinct stage) into v_woken from entering where not later;
  if v_woken is not null then
    perform leasehold.wake(v_woken);
  end if;
end
$$;

-- --------------------------------------------------------------------------------------------- the trigger
-- After each INSERT statement on tasks. Plain tasks (no key, parents, concurrency key or future run_at) go to ready in
-- one statement; the rest takes the slow path below it. Unknown stage: LH001. Missing or younger parent: LH003.
-- Duplicate key: 23505. Everything happens in the submitter's transaction or not at all.
create function leasehold.route_submitted() returns trigger
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_total bigint;
  v_plain bigint;
  v_runs bigint;
  v_stage text;
  v_other_stage text;
begin
  insert into leasehold.ready (task_id, lane, stage)
  select n.id, coalesce(n.priority, s.priority), n.stage
  from new_tasks n join leasehold.stages s on s.name = n.stage
  where n.key is null and n.depends_on is null and n.concurrency_key is null
    and (n.run_at is null or n.run_at <= v_now);
  get diagnostics v_plain = row_count;

  select count(*), count(n.run_id), min(n.stage), max(n.stage) into v_total, v_runs, v_stage, v_other_stage from new_tasks n;
  if v_plain < v_total then
    perform leasehold.route_special(array_agg(n.id order by n.id)) from new_tasks n
    where n.key is not null or n.depends_on is not null or n.concurrency_key is not null or n.run_at > v_now
      or not exists (select from leasehold.stages s where s.name = n.stage);
  end if;
  if v_runs > 0 then
    insert into leasehold.run_ledger (run_id, stage, submitted)
    select n.run_id, n.stage, count(*) from new_tasks n where n.run_id is not null group by 1, 2;
  end if;
  if v_plain > 0 and v_stage = v_other_stage then
    if exists (select from leasehold.sleepers z where z.stage = v_stage and z.wake_until > v_now) then
      perform leasehold.wake(array[v_stage]);
    end if;
  elsif v_plain > 0 then
    perform leasehold.wake((select array_agg(distinct n.stage) from new_tasks n));
  end if;
  return null;
end
$$;

-- The slow path of submission, for the ids that are not plain.
create function leasehold.route_special(p_ids bigint[]) returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_row record;
  v_simple bigint[];
begin
  for v_row in
    select t.stage from leasehold.tasks t
    where t.id = any (p_ids) and not exists (select from leasehold.stages s where s.name = t.stage) limit 1
  loop
    perform leasehold.raise_unknown_stage(v_row.stage);
  end loop;

  -- Keys: submit() has already taken the row for its own id; any other holder is a conflict.
  insert into leasehold.task_keys (stage, key, task_id)
  select t.stage, t.key, t.id from leasehold.tasks t where t.id = any (p_ids) and t.key is not null order by t.stage, t.key
  on conflict (stage, key) do nothing;
  for v_row in
    select t.stage, t.key, k.task_id from leasehold.tasks t
    left join leasehold.task_keys k on k.stage = t.stage and k.key = t.key
    where t.id = any (p_ids) and t.key is not null and k.task_id is distinct from t.id limit 1
  loop
    raise exception 'stage % already has an unfinished task with key %', quote_literal(v_row.stage), quote_literal(v_row.key)
      using errcode = 'unique_violation', constraint = 'key_once_per_unfinished_task',
        detail = coalesce('It is task ' || v_row.task_id || '.', 'It is in the same statement.'),
        hint = 'Use leasehold.submit(…, on_key_conflict => ''keep'') to get the existing task''s id instead.';
  end loop;

  -- Parents: must be visible tasks older than the child, so a cycle cannot be written down.
  for v_row in
    select t.id, p.parent_id, p.parent_id >= t.id as not_older
    from leasehold.tasks t cross join lateral unnest(t.depends_on) as p(parent_id)
    where t.id = any (p_ids)
      and (p.parent_id is null or p.parent_id >= t.id or not exists (select from leasehold.tasks x where x.id = p.parent_id))
    limit 1
  loop
    if v_row.not_older then
      raise exception 'task % cannot depend on task %: a parent must be submitted before its child', v_row.id, v_row.parent_id
        using errcode = 'LH003', hint = 'This rule is what keeps dependencies free of cycles.';
    end if;
    raise exception 'parent task % does not exist', coalesce(v_row.parent_id::text, 'null')
      using errcode = 'LH003', hint = 'Submit the parent first, in this transaction or in one that has committed.';
  end loop;
  insert into leasehold.dependencies (parent_id, child_id)
  select distinct p.parent_id, t.id
  from leasehold.tasks t cross join lateral unnest(t.depends_on) as p(parent_id)
  where t.id = any (p_ids);
  insert into leasehold.waiting (task_id, lane, for_parents, stage, concurrency_key, waiting_since)
  select t.id, coalesce(t.priority, s.priority), true, t.stage, t.concurrency_key, v_now
  from leasehold.tasks t join leasehold.stages s on s.name = t.stage
  where t.id = any (p_ids) and cardinality(t.depends_on) > 0;
  -- A parent may be ending right now in a transaction that cannot see these edges: so each child is looked at again.
  insert into leasehold.nudges (task_id, stage)
  select t.id, t.stage from leasehold.tasks t where t.id = any (p_ids) and cardinality(t.depends_on) > 0;

  select array_agg(t.id order by t.id) into v_simple from leasehold.tasks t
  where t.id = any (p_ids) and coalesce(cardinality(t.depends_on), 0) = 0;
  if v_simple is not null then
    perform leasehold.enter(
      v_simple, array_fill(0::smallint, array[cardinality(v_simple)]), array_fill(0::smallint, array[cardinality(v_simple)]),
      (select array_agg(t.run_at order by t.id) from leasehold.tasks t where t.id = any (v_simple)), false);
  end if;
  perform leasehold.wake((select array_agg(distinct t.stage) from leasehold.tasks t where t.id = any (p_ids)));
end
$$;

create trigger route_submitted
  after insert on leasehold.tasks
  referencing new table as new_tasks
  for each statement execute function leasehold.route_submitted();

-- ------------------------------------------------------------------------------------------------ submit()
-- Submits one task and returns its id. on_key_conflict: 'error' (23505), 'keep' (returns the unfinished task that
-- holds the key, whatever its payload), 'replace' (cancels that task and submits this one; while it is running: 55006).
create function leasehold.submit(
  stage text, payload jsonb default '{}', priority integer default null, run_at timestamptz default null,
  key text default null, run_id text default null, title text default null, max_attempts integer default null,
  timeout interval default null, depends_on bigint[] default null, concurrency_key text default null,
  meta jsonb default null, on_key_conflict text default 'error'
) returns bigint
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_id bigint;
  v_holder bigint;
begin
  if submit.on_key_conflict is null or submit.on_key_conflict not in ('error', 'keep', 'replace') then
    raise exception 'on_key_conflict must be error, keep or replace, not %', coalesce(quote_literal(submit.on_key_conflict), 'null')
      using errcode = 'invalid_parameter_value';
  end if;
  if submit.payload is null then
    raise exception 'payload must not be null' using errcode = 'not_null_violation', hint = 'Use ''{}'' for none.';
  end if;
  if not exists (select from leasehold.stages s where s.name = submit.stage) then
    perform leasehold.raise_unknown_stage(submit.stage);
  end if;
  v_id := nextval('leasehold.tasks_id_seq');
  if submit.key is not null and submit.on_key_conflict <> 'error' then
    loop
      -- Waits for a submitter that has inserted the same key and not yet committed.
      insert into leasehold.task_keys (stage, key, task_id) values (submit.stage, submit.key, v_id)
      on conflict on constraint key_once_per_unfinished_task do nothing;
      exit when found;
      select k.task_id into v_holder from leasehold.task_keys k where k.stage = submit.stage and k.key = submit.key;
      continue when not found;
      if submit.on_key_conflict = 'keep' then
        return v_holder;
      end if;
      -- Only where no lease is: a task that is claimed meanwhile is never cancelled to run beside its own replacement.
      if leasehold.end_unleased(v_holder, 'cancelled',
        jsonb_build_object('code', 'replaced', 'message', 'replaced by task ' || v_id)) then
        perform leasehold.process_nudges_if_allowed(v_holder);
      elsif exists (select from leasehold.leases l where l.task_id = v_holder) then
        raise exception 'task % holds key % of stage % and is running', v_holder, quote_literal(submit.key), quote_literal(submit.stage)
          using errcode = 'object_in_use', hint = 'Cancel it first, or submit with on_key_conflict => ''keep''.';
      end if;
    end loop;
  end if;
  insert into leasehold.tasks (
    id, stage, payload, priority, run_at, key, run_id, title, max_attempts, timeout, depends_on, concurrency_key, meta)
  overriding system value
  values (
    v_id, submit.stage, submit.payload, submit.priority, submit.run_at, submit.key, submit.run_id, submit.title,
    submit.max_attempts, submit.timeout, submit.depends_on, submit.concurrency_key, submit.meta);
  return v_id;
end
$$;
comment on function leasehold.submit is 'Submits one task; returns its id, or the id of the task that already holds the key.';
