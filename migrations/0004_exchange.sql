-- Exchange: a worker's one round trip. What ended is settled, what is free is filled, in one statement and one commit.
--
-- Guards: a lease is written about only by (task_id, fence, worker_id) of a worker that is alive, i.e. has not ended and
-- whose expires_at lies ahead of clock(). The worker row is share-locked, so nobody can declare the worker dead halfway.
-- Lock order inside a transaction: worker row → lease rows → key rows (skip locked) → waiting rows (skip locked) →
-- ready rows (skip locked). Nothing here waits for a submitter.

-- Raises LH004 unless each statement of this transaction sees what was committed before it. Functions that take a lock
-- and then look (counting a key, what a worker holds, who still writes) would decide on an old snapshot otherwise.
create function leasehold.require_read_committed(p_what text) returns void
  language plpgsql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  if pg_catalog.current_setting('transaction_isolation') <> 'read committed' then
    raise exception '% needs READ COMMITTED, not %', p_what, upper(pg_catalog.current_setting('transaction_isolation'))
      using errcode = 'LH004', hint = 'Begin the transaction with ISOLATION LEVEL READ COMMITTED.';
  end if;
end
$$;

-- The delay before attempt p_failures + 1: never shorter than p_min, never longer than p_max, its upper end doubling with
-- each failure, anywhere in the upper half of that. Counted in seconds, because a long interval times 2^40 is none.
create function leasehold.backoff(p_failures integer, p_min interval, p_max interval) returns interval
  language sql volatile parallel safe
  return (
    select (greatest(d.least_s, d.most_s / 2) + random() * (d.most_s - greatest(d.least_s, d.most_s / 2))) * interval '1 second'
    from (
      select extract(epoch from p_min)::float8 as least_s,
        least(extract(epoch from p_max)::float8, extract(epoch from p_min)::float8 * power(2, least(greatest(p_failures, 1), 40)))
          as most_s
    ) d);

-- What follows from the end of tasks, whatever table they came from: keys are freed, waiting neighbours and children
-- nudged, runs counted. Arrays run in parallel over the ended tasks; p_outcome is done, dead or cancelled.
-- Children learn of a bad end by the nudge: process_nudges cancels them. A transaction with an old snapshot (an operator
-- or a submitter outside READ COMMITTED) may not see all children; it nudges the ended tasks themselves, which pass it on.
create function leasehold.after_end(p_task_ids bigint[], p_outcome text) returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  delete from leasehold.task_keys k where k.task_id = any (p_task_ids);
  insert into leasehold.nudges (task_id, parent_id, stage)
  select d.child_id, d.parent_id, t.stage
  from leasehold.dependencies d join leasehold.tasks t on t.id = d.child_id
  where d.parent_id = any (p_task_ids);
  if pg_catalog.current_setting('transaction_isolation') <> 'read committed' then
    insert into leasehold.nudges (task_id, stage) select t.id, t.stage from leasehold.tasks t where t.id = any (p_task_ids);
  end if;
  insert into leasehold.run_ledger (run_id, stage, done, dead, cancelled)
  select t.run_id, t.stage,
    count(*) filter (where p_outcome = 'done'),
    count(*) filter (where p_outcome = 'dead'),
    count(*) filter (where p_outcome = 'cancelled')
  from leasehold.tasks t where t.id = any (p_task_ids) and t.run_id is not null
  group by 1, 2;
end
$$;

-- Whoever takes a task with a concurrency key out of ready or leases leaves this, so that the next one is admitted.
create function leasehold.nudge_keys(p_task_ids bigint[]) returns void
  language sql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  insert into leasehold.nudges (stage, concurrency_key)
  select distinct t.stage, t.concurrency_key
  from leasehold.tasks t where t.id = any (p_task_ids) and t.concurrency_key is not null
$$;

-- ------------------------------------------------------------------------------------------------- nudges
-- Acts on up to p_limit nudges of the stages: admits waiting tasks of a key up to its limit, frees children whose
-- parents are all done, cancels children of a parent that ended otherwise. Returns the number handled. A nudge whose
-- key or parent is being changed by another transaction stays for the next time; nothing here waits. Needs READ
-- COMMITTED (else LH004): counting a key must see what was committed before its lock was granted.
create function leasehold.process_nudges(p_stages text[], p_limit integer default 200) returns integer
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_nudge record;
  v_handled integer := 0;
  v_room integer;
  v_admitted text[] := '{}';
begin
  perform leasehold.require_read_committed('process_nudges');
  for v_nudge in
    select n.id, n.stage, n.task_id, n.parent_id, n.concurrency_key from leasehold.nudges n
    where n.stage = any (p_stages) order by n.id limit p_limit for update skip locked
  loop
    if v_nudge.task_id is not null then
      continue when not leasehold.free_child(v_nudge.task_id, v_nudge.parent_id);
    else
      continue when not leasehold.lock_key(v_nudge.stage, v_nudge.concurrency_key);
      select s.key_limit
        - (select count(*) from leasehold.ready r where r.stage = v_nudge.stage and r.concurrency_key = v_nudge.concurrency_key)
        - (select count(*) from leasehold.leases l where l.stage = v_nudge.stage and l.concurrency_key = v_nudge.concurrency_key)
      into v_room from leasehold.stages s where s.name = v_nudge.stage;
      if v_room > 0 then
        with next as (
          select w.task_id from leasehold.waiting w
          where w.stage = v_nudge.stage and w.concurrency_key = v_nudge.concurrency_key and not w.for_parents
          order by w.lane desc, w.task_id limit v_room for update skip locked
        ), admitted as (
          delete from leasehold.waiting w using next where w.task_id = next.task_id
          returning w.task_id, w.lane, w.failures, w.crashes, w.stage, w.concurrency_key
        )
        insert into leasehold.ready (task_id, lane, failures, crashes, stage, concurrency_key)
        select task_id, lane, failures, crashes, stage, concurrency_key from admitted order by lane desc, task_id;
        if found then
          v_admitted := v_admitted || v_nudge.stage;
        end if;
      end if;
    end if;
    delete from leasehold.nudges n where n.id = v_nudge.id;
    v_handled := v_handled + 1;
  end loop;
  if cardinality(v_admitted) > 0 then
    perform leasehold.wake(v_admitted);
  end if;
  return v_handled;
end
$$;

-- Locks the row of a key until the transaction ends; false when another transaction has it. A key's first row is made
-- by one transaction at a time, told apart by an advisory lock that is only tried: two that insert the same keys in
-- different order would wait for each other.
create function leasehold.lock_key(p_stage text, p_key text) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  perform from leasehold.concurrency_keys k where k.stage = p_stage and k.concurrency_key = p_key for update skip locked;
  if found then
    return true;
  end if;
  if not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended('leasehold key ' || p_stage || ' ' || p_key, 0)) then
    return false;
  end if;
  insert into leasehold.concurrency_keys (stage, concurrency_key) values (p_stage, p_key) on conflict do nothing;
  perform from leasehold.concurrency_keys k where k.stage = p_stage and k.concurrency_key = p_key for update skip locked;
  return found;
end
$$;

-- Looks at one child because p_parent has ended, or, with null, at all its parents, as is done once after submission.
-- True when nothing more is to be done for this nudge: freed, cancelled, no longer waiting, or still waiting for parents
-- whose end will nudge again. False when the child or a parent is being changed right now: look again.
-- A parent may be ending in a transaction that cannot see the child's edges. So the first look share-locks each parent
-- that stands still: its end must wait for this transaction and will then see the edge.
-- A nudge for a task that has ended is one left by its own end (see after_end): its children are nudged now.
create function leasehold.free_child(p_child bigint, p_parent bigint) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_child record;
  v_parent bigint;
  v_outcome text;
  v_again boolean := false;
begin
  select w.* into v_child from leasehold.waiting w where w.task_id = p_child and w.for_parents for update skip locked;
  if not found then
    if exists (select from leasehold.waiting w where w.task_id = p_child and w.for_parents) then
      return false;
    end if;
    if p_parent is null and leasehold.final_outcome(p_child) is not null then
      insert into leasehold.nudges (task_id, parent_id, stage)
      select d.child_id, p_child, t.stage
      from leasehold.dependencies d join leasehold.tasks t on t.id = d.child_id where d.parent_id = p_child;
    end if;
    return true;
  end if;
  for v_parent in
    select d.parent_id from leasehold.dependencies d
    where d.child_id = p_child and (p_parent is null or d.parent_id = p_parent) order by d.parent_id
  loop
    v_outcome := leasehold.final_outcome(v_parent);
    if v_outcome in ('dead', 'cancelled') then
      return leasehold.end_unleased(p_child, 'cancelled',
        pg_catalog.jsonb_build_object('code', 'parent_failed', 'message', 'parent task ' || v_parent || ' ended ' || v_outcome,
          'parent', v_parent::text));
    elsif v_outcome = 'done' then
      delete from leasehold.dependencies d where d.parent_id = v_parent and d.child_id = p_child;
    elsif p_parent is null and not leasehold.stands_still(v_parent) then
      v_again := true;
    end if;
  end loop;
  if v_again or exists (select from leasehold.dependencies d where d.child_id = p_child) then
    return not v_again;
  end if;
  delete from leasehold.waiting w where w.task_id = p_child;
  perform leasehold.enter(array[p_child], array[v_child.failures], array[v_child.crashes],
    (select array[t.run_at] from leasehold.tasks t where t.id = p_child), false);
  return true;
end
$$;

-- True when the unfinished task is in a state that nobody changes right now; until this transaction ends, nobody can.
create function leasehold.stands_still(p_task_id bigint) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  perform from leasehold.leases where task_id = p_task_id for key share skip locked;
  if found then return true; end if;
  perform from leasehold.ready where task_id = p_task_id for key share skip locked;
  if found then return true; end if;
  perform from leasehold.scheduled where task_id = p_task_id for key share skip locked;
  if found then return true; end if;
  perform from leasehold.waiting where task_id = p_task_id for key share skip locked;
  return found;
end
$$;

-- done, dead or cancelled when the task has ended, null while it has not (or never existed).
create function leasehold.final_outcome(p_task_id bigint) returns text
  language sql stable parallel safe
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select case when a.final then a.outcome end
  from leasehold.attempts a where a.task_id = p_task_id order by a.fence desc limit 1
$$;

-- Ends a task that is not leased: from ready, scheduled or waiting to ended. False when it stands in none of them.
create function leasehold.end_unleased(p_task_id bigint, p_outcome text, p_error jsonb) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_failures smallint;
begin
  delete from leasehold.ready where task_id = p_task_id returning failures into v_failures;
  if not found then
    delete from leasehold.scheduled where task_id = p_task_id returning failures into v_failures;
  end if;
  if v_failures is null then
    delete from leasehold.waiting where task_id = p_task_id returning failures into v_failures;
  end if;
  if v_failures is null then
    return false;
  end if;
  insert into leasehold.attempts (task_id, fence, ended_at, attempt, final, outcome, error)
  values (p_task_id, nextval('leasehold.fences'), leasehold.clock(), v_failures, true, p_outcome, p_error);
  delete from leasehold.dependencies d where d.child_id = p_task_id;
  perform leasehold.nudge_keys(array[p_task_id]);
  perform leasehold.after_end(array[p_task_id], p_outcome);
  return true;
end
$$;

-- ------------------------------------------------------------------------------------------------- settle
-- Ends leases that were not simply done. p_endings: a JSON array of
--   {task_id, fence, outcome: done|fail|release|snooze|cancel, result, error, after_ms (0 to 30 days), retryable}
-- leases → attempts, and further: done, cancel → ended; fail → scheduled (backoff, or after_ms) while attempts are
-- left and retryable is not false, else ended dead; release → ready without counting the attempt; snooze → scheduled
-- after_ms ahead without counting. Past its deadline a lease takes only fail. Returns the ids that were accepted; an
-- id that is missing was refused: its lease is gone, and nothing changed.
create function leasehold.settle_endings(p_worker uuid, p_endings jsonb) returns bigint[]
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_accepted bigint[];
  v_keyed bigint[];
  v_done bigint[];
  v_dead bigint[];
  v_cancelled bigint[];
  v_again bigint[];
  v_again_failures smallint[];
  v_again_crashes smallint[];
  v_again_at timestamptz[];
begin
  with asked as materialized (
    select e.task_id, e.outcome, e.result, e.error,
      case when e.after_ms is not null then least(greatest(e.after_ms, 0), 2592000000)::bigint end as after_ms,
      coalesce(e.retryable, true) as retryable, f.rid
    from jsonb_to_recordset(p_endings) as e(
      task_id bigint, fence bigint, outcome text, result jsonb, error jsonb, after_ms numeric, retryable boolean)
    cross join lateral (
      select l.ctid as rid from leasehold.leases l
      where l.task_id = e.task_id and l.fence is not distinct from e.fence and l.worker_id is not distinct from p_worker
        and (l.deadline_at > v_now or e.outcome = 'fail')
      limit 1) f
    where e.outcome in ('done', 'fail', 'release', 'snooze', 'cancel')
  ), gone as (
    delete from leasehold.leases l where l.ctid = any (array(select a.rid from asked a))
    returning l.task_id, l.fence, l.leased_at, l.attempt, l.crashes, l.concurrency_key
  ), ended as (
    select distinct on (g.task_id) g.*, a.outcome, a.result, a.error, a.after_ms, a.retryable
    from gone g join asked a on a.task_id = g.task_id
  ), judged as (
    select n.*,
      case n.outcome
        when 'done' then 'done'
        when 'cancel' then 'cancelled'
        when 'release' then 'released'
        when 'snooze' then 'snoozed'
        else case when n.retryable and n.attempt < coalesce(t.max_attempts, s.max_attempts) then 'retry' else 'dead' end
      end as ending,
      case n.outcome
        when 'release' then null
        when 'snooze' then v_now + greatest(coalesce(n.after_ms, 1000), 1000) * interval '1 millisecond'
        else v_now + coalesce(n.after_ms * interval '1 millisecond',
          leasehold.backoff(n.attempt, s.backoff_min, s.backoff_max))
      end as again_at
    from ended n
    cross join lateral (select t.stage, t.max_attempts from leasehold.tasks t where t.id = n.task_id limit 1) t
    join leasehold.stages s on s.name = t.stage
  ), recorded as (
    insert into leasehold.attempts (task_id, fence, worker_id, leased_at, ended_at, attempt, final, outcome, error, result)
    select task_id, fence, p_worker, leased_at, v_now, attempt, ending in ('done', 'dead', 'cancelled'), ending, error, result
    from judged
  )
  select array_agg(task_id),
    array_agg(task_id) filter (where concurrency_key is not null),
    array_agg(task_id) filter (where ending = 'done'),
    array_agg(task_id) filter (where ending = 'dead'),
    array_agg(task_id) filter (where ending = 'cancelled'),
    array_agg(task_id order by task_id) filter (where ending in ('retry', 'released', 'snoozed')),
    array_agg((attempt - case when ending = 'retry' then 0 else 1 end)::smallint order by task_id)
      filter (where ending in ('retry', 'released', 'snoozed')),
    array_agg(crashes order by task_id) filter (where ending in ('retry', 'released', 'snoozed')),
    array_agg(again_at order by task_id) filter (where ending in ('retry', 'released', 'snoozed'))
  into v_accepted, v_keyed, v_done, v_dead, v_cancelled, v_again, v_again_failures, v_again_crashes, v_again_at
  from judged;
  if v_keyed is not null then
    perform leasehold.nudge_keys(v_keyed);
  end if;
  if v_done is not null then
    perform leasehold.after_end(v_done, 'done');
  end if;
  if v_dead is not null then
    perform leasehold.after_end(v_dead, 'dead');
  end if;
  if v_cancelled is not null then
    perform leasehold.after_end(v_cancelled, 'cancelled');
  end if;
  if v_again is not null then
    perform leasehold.enter(v_again, v_again_failures, v_again_crashes, v_again_at, false);
  end if;
  return v_accepted;
end
$$;

-- --------------------------------------------------------------------------------------------------- claim
-- What a claimed task has beside its payload, as JSON text; null when there is nothing.
create function leasehold.task_extra(p_task leasehold.tasks, p_crashes smallint) returns text
  language sql stable parallel safe
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select jsonb_strip_nulls(jsonb_build_object(
    'run_id', p_task.run_id, 'key', p_task.key, 'title', p_task.title, 'meta', p_task.meta,
    'priority', p_task.priority, 'concurrency_key', p_task.concurrency_key, 'max_attempts', p_task.max_attempts,
    'timeout_ms', (extract(epoch from p_task.timeout) * 1000)::bigint, 'crashes', nullif(p_crashes, 0)))::text
$$;

-- Moves up to p_limit tasks per stage whose run_at has come from scheduled on. Returns how many moved.
create function leasehold.promote_due(p_stages text[], p_limit integer default 500) returns integer
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_moved integer := 0;
  v_stage text;
  v_express boolean;
  v_ids bigint[];
  v_failures smallint[];
  v_crashes smallint[];
begin
  foreach v_stage in array p_stages loop
    for v_express, v_ids, v_failures, v_crashes in
      with due as (
        select s.task_id from leasehold.scheduled s
        where s.stage = v_stage and s.run_at <= v_now order by s.run_at limit p_limit for update skip locked
      ), gone as (
        delete from leasehold.scheduled s using due where s.task_id = due.task_id
        returning s.task_id, s.run_at, s.failures, s.crashes, s.express
      )
      select g.express, array_agg(g.task_id order by g.run_at, g.task_id), array_agg(g.failures order by g.run_at, g.task_id),
        array_agg(g.crashes order by g.run_at, g.task_id)
      from gone g group by g.express
    loop
      perform leasehold.enter(v_ids, v_failures, v_crashes, null, v_express);
      v_moved := v_moved + cardinality(v_ids);
    end loop;
  end loop;
  return v_moved;
end
$$;

-- ------------------------------------------------------------------------------------------- the exchange
-- p_done_*: leases that were done without a result. p_endings: all other ends (settle_endings). p_children: tasks that
-- handlers submit, [{parent_id, parent_fence, stage, payload, …}]: inserted only for parents whose end was accepted.
-- p_notes: [{task_id, fence, kind: log|progress|checkpoint, …}], written while the lease holds, before it is settled.
-- p_stages, p_limits: how many to claim of each stage. p_run_id: only tasks of this run. p_promote: look for due tasks;
-- null: the caller reads no receipt (a settlement beside the worker's loop): revocations are left for who does.
-- p_wake_ms: null leaves it; > 0: wake me within that time when work is submitted; 0: I am busy, send nothing.
-- Returns the claimed tasks, and last one row without task_id whose extra holds the receipt as JSON:
--   {worker: live|expired|ended|unknown, reason, refused: [task ids], revoked: [{task_id, fence, reason}], due_in_ms, drain}
-- with ids as strings, which no JSON reader rounds.
-- A worker that is not live settles and claims nothing; expired it may beat and try again, ended it must not.
create function leasehold.exchange(
  p_worker uuid, p_done_ids bigint[], p_done_fences bigint[], p_endings jsonb, p_children jsonb, p_notes jsonb,
  p_stages text[], p_limits integer[], p_run_id text, p_promote boolean, p_wake_ms integer
) returns table (task_id bigint, fence bigint, stage text, attempt smallint, payload text, extra text)
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  -- For everything below: plans are made once, and never flip to scans while tables look empty.
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_worker record;
  v_locked boolean := p_done_ids is not null or p_endings is not null or p_notes is not null;
  v_accepted bigint[];
  v_keyed bigint[];
  v_special bigint;
  v_ended bigint[];
  v_refused bigint[];
  v_receipt jsonb := '{"worker": "live"}';
  v_stage record;
  v_due timestamptz;
  v_lanes smallint[];
  v_left integer;
  v_picked tid[];
  v_first bigint;
  v_last bigint;
  v_fence bigint;
begin
  if pg_catalog.current_setting('transaction_isolation') <> 'read committed' then
    perform leasehold.require_read_committed('exchange');
  end if;
  -- The lock keeps anybody from declaring the worker dead halfway. A mere look takes it only when it finds something:
  -- an idle worker's looks write nothing and wait for no disk.
  if v_locked then
    select w.expires_at, w.ended_at, w.end_reason, w.drain_asked,
      exists (select from leasehold.revocations r where r.worker_id = w.id) as revoked into v_worker
    from leasehold.workers w where w.id = p_worker for key share;
  else
    select w.expires_at, w.ended_at, w.end_reason, w.drain_asked,
      exists (select from leasehold.revocations r where r.worker_id = w.id) as revoked into v_worker
    from leasehold.workers w where w.id = p_worker;
  end if;
  v_now := leasehold.clock(); -- after the lock: waiting for it may have taken the rest of the lease
  if not found or v_worker.ended_at is not null or v_worker.expires_at <= v_now then
    extra := leasehold.receipt_of_the_dead(v_worker.expires_at, v_worker.ended_at, v_worker.end_reason, p_done_ids, p_endings);
    return next;
    return;
  end if;

  if p_notes is not null then
    perform leasehold.write_notes(p_worker, p_notes);
  end if;
  if p_done_ids is not null then
    -- Done without a result, the hot path. Looked up one by one (lateral, limit): joined freely, a plan made while leases
    -- looked empty would walk all leases for each, and settling a batch would cost its square.
    with found as materialized (
      select f.rid
      from unnest(p_done_ids, p_done_fences) as d(task_id, fence)
      cross join lateral (
        select l.ctid as rid from leasehold.leases l
        where l.task_id = d.task_id and l.fence is not distinct from d.fence and l.deadline_at > v_now
          and l.worker_id is not distinct from p_worker -- neither by "=": the plan must go by task, never by worker or fence
        limit 1) f
    ), ended as (
      delete from leasehold.leases l where l.ctid = any (array(select f.rid from found f))
      returning l.task_id, l.fence, l.leased_at, l.attempt, l.run_id, l.key, l.concurrency_key
    ), recorded as (
      insert into leasehold.attempts (task_id, fence, worker_id, leased_at, ended_at, attempt, final, outcome)
      select task_id, fence, p_worker, leased_at, v_now, attempt, true, 'done' from ended
    )
    select array_agg(e.task_id), array_agg(e.task_id) filter (where e.concurrency_key is not null),
      count(e.run_id) + count(e.key)
    into v_accepted, v_keyed, v_special from ended e;
    if v_keyed is not null then
      perform leasehold.nudge_keys(v_keyed);
    end if;
    if v_special > 0 or exists (select from leasehold.dependencies d where d.parent_id = any (v_accepted)) then
      perform leasehold.after_end(v_accepted, 'done');
    end if;
    if cardinality(v_accepted) is distinct from cardinality(p_done_ids) then
      v_refused := array(select unnest(p_done_ids) except select unnest(v_accepted));
    end if;
  end if;
  if p_endings is not null then
    v_ended := leasehold.settle_endings(p_worker, p_endings);
    v_accepted := v_accepted || v_ended;
    v_refused := v_refused || array(
      select (e ->> 'task_id')::bigint from jsonb_array_elements(p_endings) e except select unnest(v_ended));
  end if;
  if p_children is not null then
    perform leasehold.submit_children(p_children, v_accepted);
  end if;

  if p_stages is not null then
    if p_promote then
      perform leasehold.promote_due(p_stages);
    end if;
    -- Acting on nudges may leave new ones (a freed child with a key, children of a cancelled child): a few rounds.
    for i in 1 .. 5 loop
      exit when not exists (select from leasehold.nudges n where n.stage = any (p_stages));
      exit when leasehold.process_nudges(p_stages) not between 1 and 199;
    end loop;
    for v_stage in
      select w.name, w.free, s.timeout,
        exists (select from leasehold.ready r where r.stage = w.name and r.lane = 11) as has_suspects
      from unnest(p_stages, p_limits) with ordinality as w(name, free, nr)
      join leasehold.stages s on s.name = w.name
      where w.free > 0 and (s.paused_until is null or s.paused_until <= v_now)
      order by w.nr
    loop
      v_left := v_stage.free;
      v_lanes := array[10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0];
      if v_stage.has_suspects then
        -- A suspect goes alone: one at a time per worker, so its neighbours in a crash are never suspects too. A worker may
        -- have two exchanges under way: the one that gets this lock looks and claims, the other passes suspects over.
        perform from leasehold.workers w where w.id = p_worker for no key update skip locked;
        if found and not exists (select from leasehold.leases l join leasehold.stages g on g.name = l.stage
          where l.worker_id = p_worker and l.crashes > 0 and l.crashes >= g.max_crashes - 1)
        then
          v_lanes := array[11];
        end if;
      end if;
      loop
        -- Lanes from high to low, each from its floor, in order of position, passing over rows that others hold.
        if p_run_id is null then
          select array_agg(p.rid), min(p.task_id), max(p.task_id) into v_picked, v_first, v_last
          from (
            select c.rid, c.task_id
            from unnest(v_lanes) as lanes(lane)
            cross join lateral (
              select r.ctid as rid, r.task_id from leasehold.ready r
              where r.stage = v_stage.name and r.lane = lanes.lane
                and r.position >= coalesce((
                  select f.floor from leasehold.floors f
                  where f.stage = v_stage.name and f.lane = lanes.lane order by f.floor desc limit 1), 0)
              order by r.position limit v_left for update skip locked
            ) c
            limit case when v_lanes[1] = 11 then 1 else v_left end) p;
        else
          -- Restricted to one run: a debugging mode, which may walk past the tasks of other runs.
          select array_agg(p.rid), min(p.task_id), max(p.task_id) into v_picked, v_first, v_last
          from (
            select c.rid, c.task_id
            from unnest(v_lanes) as lanes(lane)
            cross join lateral (
              select r.ctid as rid, r.task_id from leasehold.ready r
              where r.stage = v_stage.name and r.lane = lanes.lane
                and exists (select from leasehold.tasks t where t.id = r.task_id and t.run_id = p_run_id)
              order by r.position limit v_left for update skip locked
            ) c
            limit case when v_lanes[1] = 11 then 1 else v_left end) p;
        end if;
        if v_picked is not null then
          if not v_locked then
            perform from leasehold.workers w
            where w.id = p_worker and w.ended_at is null and w.expires_at > leasehold.clock() for key share;
            exit when not found; -- declared dead since the look began: what was picked stays where it is
            v_locked := true;
          end if;
          v_fence := nextval('leasehold.fences');
          return query
          with taken as (
            delete from leasehold.ready r where r.ctid = any (v_picked)
            returning r.task_id, r.failures, r.crashes, r.concurrency_key
          ), claimed as materialized (
            select t.id, k.failures, k.crashes, k.concurrency_key, t.run_id, t.key, t.timeout, t.payload, t.extra
            from taken k
            cross join lateral (
              select x.id, x.run_id, x.key, x.timeout, x.payload::text as payload,
                case when x.run_id is null and x.key is null and x.title is null and x.meta is null and x.timeout is null
                    and x.max_attempts is null and x.concurrency_key is null and k.crashes = 0
                  then null else leasehold.task_extra(x, k.crashes) end as extra
              -- The bounds let the executor leave all other partitions alone from the start.
              from leasehold.tasks x where x.id = k.task_id and x.id between v_first and v_last limit 1) t
          ), leased as (
            insert into leasehold.leases (
              task_id, fence, worker_id, leased_at, deadline_at, attempt, crashes, stage, run_id, key, concurrency_key)
            select c.id, v_fence, p_worker, v_now, v_now + coalesce(c.timeout, v_stage.timeout), c.failures + 1, c.crashes,
              v_stage.name, c.run_id, c.key, c.concurrency_key
            from claimed c
          )
          select c.id, v_fence, v_stage.name, (c.failures + 1)::smallint, c.payload, c.extra from claimed c;
          v_left := v_left - cardinality(v_picked);
        end if;
        exit when v_lanes[1] <> 11 or v_left <= 0;
        v_lanes := array[10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0];
      end loop;
    end loop;
    if p_wake_ms is not null then
      insert into leasehold.sleepers as z (stage, worker_id, wake_until)
      select distinct name, p_worker, v_now + p_wake_ms * interval '1 millisecond' from unnest(p_stages) as name
      on conflict (stage, worker_id) do update set wake_until = excluded.wake_until;
    end if;
    if p_promote then
      select min(n.run_at) into v_due from unnest(p_stages) as name
      cross join lateral (
        select s.run_at from leasehold.scheduled s where s.stage = name order by s.run_at limit 1) n;
    end if;
  end if;

  if cardinality(v_refused) > 0 then
    v_receipt := v_receipt || jsonb_build_object('refused', v_refused::text[]);
  end if;
  if v_due is not null then
    v_receipt := v_receipt || jsonb_build_object('due_in_ms', greatest(0, ceil(extract(epoch from v_due - leasehold.clock()) * 1000)));
  end if;
  if v_worker.drain_asked then
    v_receipt := v_receipt || jsonb_build_object('drain', true);
  end if;
  if p_promote is not null and v_worker.revoked then
    v_receipt := v_receipt || jsonb_build_object('revoked', leasehold.take_revocations(p_worker));
  end if;
  extra := v_receipt::text;
  return next;
end
$$;

-- The receipt of a worker that is not live: everything it brought is refused.
create function leasehold.receipt_of_the_dead(
  p_expires_at timestamptz, p_ended_at timestamptz, p_reason text, p_done_ids bigint[], p_endings jsonb
) returns text
  language sql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select jsonb_build_object(
    'worker', case when p_ended_at is not null then 'ended' when p_expires_at is null then 'unknown' else 'expired' end,
    'reason', p_reason,
    'refused', coalesce(to_jsonb(p_done_ids::text[]), '[]')
      || coalesce((select jsonb_agg(e ->> 'task_id') from jsonb_array_elements(p_endings) e), '[]'))::text
$$;

create function leasehold.take_revocations(p_worker uuid) returns jsonb
  language sql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  with taken as (delete from leasehold.revocations r where r.worker_id = p_worker returning r.task_id, r.fence, r.reason)
  select coalesce(jsonb_agg(jsonb_build_object('task_id', task_id::text, 'fence', fence::text, 'reason', reason)), '[]') from taken
$$;

-- Tasks that handlers submitted, for parents that were settled in this transaction. The priority, run and other
-- fields are the child's own; run_id falls back to the parent's.
create function leasehold.submit_children(p_children jsonb, p_parents bigint[]) returns void
  language sql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  insert into leasehold.tasks (
    stage, payload, priority, run_at, key, run_id, title, max_attempts, timeout, depends_on, concurrency_key, meta)
  select c.stage, coalesce(e.child -> 'payload', '{}'), c.priority, c.run_at, c.key, coalesce(c.run_id, p.run_id), c.title,
    c.max_attempts, c.timeout_ms * interval '1 millisecond', c.depends_on, c.concurrency_key, c.meta
  from jsonb_array_elements(p_children) with ordinality as e(child, nr)
  cross join lateral jsonb_to_record(e.child) as c(
    parent_id bigint, stage text, priority smallint, run_at timestamptz, key text, run_id text, title text,
    max_attempts smallint, timeout_ms bigint, depends_on bigint[], concurrency_key text, meta jsonb)
  join leasehold.tasks p on p.id = c.parent_id
  where c.parent_id = any (p_parents)
  order by e.nr
$$;

-- Logs, progress and checkpoints of leases whose worker is live; others are dropped. Past its deadline a lease may still
-- say why. Returns the number written. Worker and leases are share-locked, so that nothing is written after a release.
create function leasehold.write_notes(p_worker uuid, p_notes jsonb) returns integer
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_written integer;
begin
  perform from leasehold.workers w
  where w.id = p_worker and w.ended_at is null and w.expires_at > v_now for key share;
  if not found then
    return 0;
  end if;
  with noted as materialized (
    select n.*, e.nr
    from jsonb_array_elements(p_notes) with ordinality as e(note, nr)
    cross join lateral jsonb_to_record(e.note) as n(
      task_id bigint, fence bigint, kind text, level text, message text, fields jsonb, fraction real, name text,
      value jsonb, at_ms_ago bigint)
    cross join lateral (
      select from leasehold.leases l
      where l.task_id = n.task_id and l.fence is not distinct from n.fence and l.worker_id is not distinct from p_worker
      limit 1 for key share) held
  ), logs as (
    insert into leasehold.task_logs (task_id, fence, at, level, message, fields)
    select task_id, fence, v_now - coalesce(at_ms_ago, 0) * interval '1 millisecond', coalesce(level, 'info'),
      coalesce(message, ''), fields
    from noted where kind = 'log' order by nr
  ), progress as (
    insert into leasehold.task_progress (task_id, at, fence, fraction, message)
    select distinct on (task_id) task_id, v_now, fence, fraction, message
    from noted where kind = 'progress' order by task_id, nr desc
    on conflict do nothing
  ), checkpoints as (
    insert into leasehold.task_checkpoints (task_id, name, fence, at, value)
    select task_id, name, fence, v_now, value from noted where kind = 'checkpoint'
    on conflict (task_id, name) do nothing
  )
  select count(*) into v_written from noted;
  return v_written;
end
$$;

-- ----------------------------------------------------------------- the same, one verb at a time, for any language
-- claim(worker, stage, limit): up to limit tasks of one stage. Zero rows: nothing to do, or the worker is not live.
-- Of cancelled tasks such a worker hears by heartbeat().
create function leasehold.claim(worker_id uuid, stage text, max_tasks integer default 1)
  returns table (task_id bigint, fence bigint, attempt smallint, payload jsonb, extra jsonb)
  language sql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select leasehold.promote_due(array[claim.stage]);
  select x.task_id, x.fence, x.attempt, x.payload::jsonb, x.extra::jsonb
  from leasehold.exchange(claim.worker_id, null, null, null, null, null,
    array[claim.stage], array[greatest(claim.max_tasks, 0)], null, null, null) x
  where x.task_id is not null
$$;

-- settle(worker, task, fence, outcome, …): true when accepted, false when the lease is gone (nothing changed).
-- outcome: done, fail, release, snooze, cancel, as in settle_endings. May run inside the worker's own transaction, so
-- that its effects and the settlement commit together.
create function leasehold.settle(
  worker_id uuid, task_id bigint, fence bigint, outcome text, result jsonb default null, error jsonb default null,
  retry_after interval default null, retryable boolean default true, children jsonb default null
) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_receipt jsonb;
begin
  if outcome is null or outcome not in ('done', 'fail', 'release', 'snooze', 'cancel') then
    raise exception 'outcome must be done, fail, release, snooze or cancel, not %', coalesce(quote_literal(outcome), 'null')
      using errcode = 'invalid_parameter_value';
  end if;
  select x.extra::jsonb into v_receipt
  from leasehold.exchange(worker_id, null, null,
    jsonb_build_array(jsonb_strip_nulls(jsonb_build_object('task_id', task_id, 'fence', fence, 'outcome', outcome,
      'after_ms', (extract(epoch from retry_after) * 1000)::bigint, 'retryable', retryable))
      || case when result is null then '{}' else jsonb_build_object('result', result) end
      || case when error is null then '{}' else jsonb_build_object('error', error) end),
    (select jsonb_agg(c || jsonb_build_object('parent_id', settle.task_id)) from jsonb_array_elements(children) c),
    null, null, null, null, null, null) x
  where x.task_id is null;
  return v_receipt ->> 'worker' = 'live' and not (v_receipt ? 'refused');
end
$$;

-- release(worker, task, fence): gives the task back without counting the attempt. True when accepted.
create function leasehold.release(worker_id uuid, task_id bigint, fence bigint) returns boolean
  language sql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select leasehold.settle(release.worker_id, release.task_id, release.fence, 'release')
$$;
