-- Operator verbs: cancel, retry, run now, pause, resume, explain.
--
-- Each works from any state and says what it did. A task that moves between two tables while a verb looks for it is
-- looked for again; nothing is assumed from an earlier look.

-- Ends a task in whatever state it is. Running: its lease is taken away, so the worker's later writes are refused, and
-- the worker is told by its next exchange or beat. True when this call ended it, false when it had ended. LH002: no such task.
create function leasehold.cancel_task(task_id bigint, reason text default null) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_error jsonb := jsonb_build_object('code', 'cancelled', 'message', coalesce(left(cancel_task.reason, 1000), 'cancelled by an operator'));
  v_lease record;
begin
  for i in 1 .. 20 loop
    if leasehold.end_unleased(cancel_task.task_id, 'cancelled', v_error) then
      perform leasehold.process_nudges_if_allowed(cancel_task.task_id);
      return true;
    end if;
    delete from leasehold.leases l where l.task_id = cancel_task.task_id
    returning l.task_id, l.fence, l.worker_id, l.leased_at, l.attempt into v_lease;
    if found then
      insert into leasehold.attempts (task_id, fence, worker_id, leased_at, ended_at, attempt, final, outcome, error)
      values (v_lease.task_id, v_lease.fence, v_lease.worker_id, v_lease.leased_at, leasehold.clock(), v_lease.attempt, true,
        'cancelled', v_error);
      insert into leasehold.revocations (worker_id, fence, task_id, reason)
      values (v_lease.worker_id, v_lease.fence, v_lease.task_id, 'cancelled') on conflict do nothing;
      perform leasehold.nudge_keys(array[cancel_task.task_id]);
      perform leasehold.after_end(array[cancel_task.task_id], 'cancelled');
      perform leasehold.wake((select w.stages from leasehold.workers w where w.id = v_lease.worker_id));
      perform leasehold.process_nudges_if_allowed(cancel_task.task_id);
      return true;
    end if;
    if leasehold.final_outcome(cancel_task.task_id) is not null then
      return false;
    end if;
    if not exists (select from leasehold.tasks t where t.id = cancel_task.task_id) then
      raise exception 'task % does not exist', cancel_task.task_id using errcode = 'LH002',
        hint = 'It may have been dropped by retention.';
    end if;
  end loop;
  raise exception 'task % kept moving; try again', cancel_task.task_id using errcode = 'serialization_failure';
end
$$;

-- Cancelled parents cancel their children right away where that is possible (READ COMMITTED); elsewhere the next
-- claim or monitor tick does it.
create function leasehold.process_nudges_if_allowed(p_task_id bigint) returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  if pg_catalog.current_setting('transaction_isolation') = 'read committed' then
    for i in 1 .. 100 loop
      exit when leasehold.process_nudges(array(select distinct n.stage from leasehold.nudges n)) = 0;
    end loop;
  end if;
end
$$;

-- Gives a dead or cancelled task a new life with all its attempts: ended → ready (or waiting for its key, or for parents
-- that are unfinished). True when it was reopened, false when it is unfinished or done. Its history stays. 23505 when
-- another task holds its key, LH005 when a parent ended without being done: that one has to be retried first. Needs READ
-- COMMITTED (else LH004). Parents that retention has dropped had ended and count as done.
create function leasehold.retry_task(task_id bigint) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_task leasehold.tasks;
  v_outcome text;
  v_holder bigint;
  v_parent bigint;
begin
  perform leasehold.require_read_committed('retry_task');
  select t.* into v_task from leasehold.tasks t where t.id = retry_task.task_id;
  if not found then
    raise exception 'task % does not exist', retry_task.task_id using errcode = 'LH002',
      hint = 'It may have been dropped by retention.';
  end if;
  -- Two operators may press the button at once: the second waits here and then sees the task unfinished.
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('leasehold retry', retry_task.task_id));
  v_outcome := leasehold.final_outcome(retry_task.task_id);
  if v_outcome is null or v_outcome = 'done' then
    return false;
  end if;
  select p.id into v_parent from unnest(v_task.depends_on) as p(id)
  where leasehold.final_outcome(p.id) in ('dead', 'cancelled') order by p.id limit 1;
  if found then
    raise exception 'task % cannot be retried: its parent task % ended %', v_task.id, v_parent, leasehold.final_outcome(v_parent)
      using errcode = 'LH005', hint = 'Retry the parent first: select leasehold.retry_task(' || v_parent || ').';
  end if;
  if v_task.key is not null then
    insert into leasehold.task_keys (stage, key, task_id) values (v_task.stage, v_task.key, v_task.id)
    on conflict on constraint key_once_per_unfinished_task do nothing;
    if not found then
      select k.task_id into v_holder from leasehold.task_keys k where k.stage = v_task.stage and k.key = v_task.key;
      raise exception 'task % cannot be retried: task % holds its key %', v_task.id, v_holder, quote_literal(v_task.key)
        using errcode = 'unique_violation', constraint = 'key_once_per_unfinished_task',
          hint = 'Cancel the other task first, or leave this one ended.';
    end if;
  end if;
  insert into leasehold.attempts (task_id, fence, ended_at, attempt, final, outcome)
  values (v_task.id, nextval('leasehold.fences'), leasehold.clock(), 0, false, 'reopened');
  if v_task.run_id is not null then
    insert into leasehold.run_ledger (run_id, stage, dead, cancelled)
    values (v_task.run_id, v_task.stage, case when v_outcome = 'dead' then -1 else 0 end,
      case when v_outcome = 'cancelled' then -1 else 0 end);
  end if;
  insert into leasehold.dependencies (parent_id, child_id)
  select distinct p.id, v_task.id from unnest(v_task.depends_on) as p(id)
  where leasehold.final_outcome(p.id) is null and exists (select from leasehold.tasks t where t.id = p.id);
  if found then
    -- As at submission: the nudge makes sure that a parent which ends right now is not missed.
    insert into leasehold.waiting (task_id, lane, for_parents, stage, concurrency_key, waiting_since)
    select v_task.id, coalesce(v_task.priority, s.priority), true, v_task.stage, v_task.concurrency_key, leasehold.clock()
    from leasehold.stages s where s.name = v_task.stage;
    insert into leasehold.nudges (task_id, stage) values (v_task.id, v_task.stage);
    perform leasehold.wake(array[v_task.stage]);
  else
    perform leasehold.enter(array[v_task.id], array[0]::smallint[], array[0]::smallint[], null, false);
  end if;
  return true;
end
$$;

-- Starts a task as soon as a worker is free: scheduled → ready, and ahead of the priorities (express lane). True when
-- it was moved, false when it runs or has ended. LH005: it waits for parents or its key, which this cannot lift.
create function leasehold.run_now(task_id bigint) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_failures smallint;
  v_crashes smallint;
  v_key text;
  v_stage text;
  v_lane smallint;
begin
  for i in 1 .. 20 loop
    delete from leasehold.scheduled s where s.task_id = run_now.task_id returning s.failures, s.crashes into v_failures, v_crashes;
    if found then
      perform leasehold.enter(array[run_now.task_id], array[v_failures], array[v_crashes], null, true);
      return true;
    end if;
    delete from leasehold.ready r where r.task_id = run_now.task_id
    returning r.failures, r.crashes, r.concurrency_key, r.stage, r.lane into v_failures, v_crashes, v_key, v_stage, v_lane;
    if found then
      -- It keeps the place its concurrency key has given it.
      insert into leasehold.ready (task_id, lane, failures, crashes, stage, concurrency_key)
      values (run_now.task_id, greatest(v_lane, 10::smallint), v_failures, v_crashes, v_stage, v_key);
      perform leasehold.wake(array[v_stage]);
      return true;
    end if;
    if exists (select from leasehold.waiting w where w.task_id = run_now.task_id) then
      raise exception 'task % cannot run now: %', run_now.task_id, (select e.reason from leasehold.explain_task(run_now.task_id) e)
        using errcode = 'LH005', hint = 'See leasehold.explain_task(id) for what holds it.';
    end if;
    if exists (select from leasehold.leases l where l.task_id = run_now.task_id)
      or leasehold.final_outcome(run_now.task_id) is not null then
      return false;
    end if;
    if not exists (select from leasehold.tasks t where t.id = run_now.task_id) then
      raise exception 'task % does not exist', run_now.task_id using errcode = 'LH002',
        hint = 'It may have been dropped by retention.';
    end if;
  end loop;
  raise exception 'task % kept moving; try again', run_now.task_id using errcode = 'serialization_failure';
end
$$;

-- Nothing of the stage is claimed before p_until (null: until resumed). What runs goes on.
create function leasehold.pause_stage(name text, until timestamptz default null) returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  if pause_stage.until <= leasehold.clock() then
    raise exception 'cannot pause until %: that moment has passed', pause_stage.until using errcode = 'invalid_parameter_value';
  end if;
  update leasehold.stages s set paused_until = coalesce(pause_stage.until, 'infinity') where s.name = pause_stage.name;
  if not found then
    perform leasehold.raise_unknown_stage(pause_stage.name);
  end if;
end
$$;

create function leasehold.resume_stage(name text) returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  update leasehold.stages s set paused_until = null where s.name = resume_stage.name;
  if not found then
    perform leasehold.raise_unknown_stage(resume_stage.name);
  end if;
  perform leasehold.wake(array[resume_stage.name]);
end
$$;

-- Why is this task not running? One row: its state, the one reason that holds it back, and what to do about it.
create function leasehold.explain_task(task_id bigint)
  returns table (state text, reason_code text, reason text, next_step text, details jsonb)
  language plpgsql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_now timestamptz := leasehold.clock();
  v_task leasehold.tasks;
  v_stage leasehold.stages;
  v_row record;
  v_last record;
  v_live integer;
  v_free integer;
  v_ahead bigint;
begin
  select t.* into v_task from leasehold.tasks t where t.id = explain_task.task_id;
  if not found then
    return query select 'unknown', 'no_such_task', 'There is no task ' || explain_task.task_id || '.',
      'Check the id; a task older than the retention period has been dropped.', null::jsonb;
    return;
  end if;
  select s.* into v_stage from leasehold.stages s where s.name = v_task.stage;
  select a.* into v_last from leasehold.attempts a where a.task_id = v_task.id order by a.fence desc limit 1;

  select l.*, w.slot, w.host, w.pid, w.expires_at, w.ended_at into v_row
  from leasehold.leases l left join leasehold.workers w on w.id = l.worker_id where l.task_id = v_task.id;
  if found then
    if v_row.ended_at is not null or v_row.expires_at <= v_now then
      return query select 'running', 'worker_silent',
        'Its worker ' || coalesce(v_row.slot, v_row.worker_id::text) || ' stopped beating; the lease ran out at ' || v_row.expires_at || '.',
        'The heartbeat monitor or another runner releases it at its next look; if none runs, start one: npx leasehold monitor.',
        jsonb_build_object('worker_id', v_row.worker_id, 'expired_at', v_row.expires_at);
    else
      return query select 'running', 'running',
        'It runs on ' || v_row.slot || ' (host ' || v_row.host || ', pid ' || coalesce(v_row.pid::text, '?') || ') since ' || v_row.leased_at
          || ', attempt ' || v_row.attempt || ', until at most ' || v_row.deadline_at || '.',
        'Nothing to do. To stop it: select leasehold.cancel_task(' || v_task.id || ').',
        jsonb_build_object('worker_id', v_row.worker_id, 'slot', v_row.slot, 'attempt', v_row.attempt, 'deadline_at', v_row.deadline_at);
    end if;
    return;
  end if;

  select w.* into v_row from leasehold.waiting w where w.task_id = v_task.id;
  if found then
    if v_row.for_parents then
      return query select 'waiting', 'parents_open',
        'It waits for ' || count(*) || ' parent task(s): ' || string_agg(d.parent_id::text, ', ' order by d.parent_id) || '.',
        'See why the first parent does not end: select * from leasehold.explain_task(' || min(d.parent_id) || ').',
        jsonb_build_object('parents', jsonb_agg(d.parent_id order by d.parent_id))
      from leasehold.dependencies d where d.child_id = v_task.id;
    else
      return query select 'waiting', 'concurrency_key',
        'Its concurrency key ' || quote_literal(v_task.concurrency_key) || ' allows ' || v_stage.key_limit
          || ' task(s) at once and is taken by ' || coalesce(string_agg(h.id::text, ', ' order by h.id), 'none (the next claim admits it)') || '.',
        coalesce('See what holds the key: select * from leasehold.explain_task(' || min(h.id) || ').',
          'Start a worker for stage ' || quote_literal(v_task.stage) || ' if none is alive.'),
        jsonb_build_object('concurrency_key', v_task.concurrency_key, 'limit', v_stage.key_limit,
          'holders', coalesce(jsonb_agg(h.id order by h.id) filter (where h.id is not null), '[]'))
      from (
        select l.task_id as id from leasehold.leases l where l.stage = v_task.stage and l.concurrency_key = v_task.concurrency_key
        union all
        select r.task_id from leasehold.ready r where r.stage = v_task.stage and r.concurrency_key = v_task.concurrency_key
      ) h;
    end if;
    return;
  end if;

  select s.* into v_row from leasehold.scheduled s where s.task_id = v_task.id;
  if found and v_row.run_at > v_now then
    if v_last.outcome = 'retry' then
      return query select 'scheduled', 'backoff',
        'Attempt ' || v_last.attempt || ' failed (' || coalesce(left(v_last.error ->> 'message', 200), 'no message') || '); it is tried again at ' || v_row.run_at || '.',
        'Wait, or start it now: select leasehold.run_now(' || v_task.id || ').',
        jsonb_build_object('run_at', v_row.run_at, 'failures', v_row.failures, 'error', v_last.error);
    else
      return query select 'scheduled', case when v_last.outcome = 'snoozed' then 'snoozed' else 'run_at' end,
        case when v_last.outcome = 'snoozed' then 'Its handler put it off until ' else 'It is to start at ' end || v_row.run_at || '.',
        'Wait, or start it now: select leasehold.run_now(' || v_task.id || ').',
        jsonb_build_object('run_at', v_row.run_at);
    end if;
    return;
  end if;

  if v_last.final then
    return query select v_last.outcome,
      case when v_last.outcome = 'dead' then coalesce(v_last.error ->> 'code', 'failed') else v_last.outcome end,
      case v_last.outcome
        when 'done' then 'It was done at ' || v_last.ended_at || '.'
        when 'dead' then 'It died at ' || v_last.ended_at || ' after attempt ' || v_last.attempt || ': '
          || coalesce(left(v_last.error ->> 'message', 500), 'no message') || '.'
        else 'It was cancelled at ' || v_last.ended_at || ': ' || coalesce(left(v_last.error ->> 'message', 500), 'no reason given') || '.'
      end,
      case v_last.outcome when 'done' then 'Nothing to do.'
        else 'Mend the cause, then: select leasehold.retry_task(' || v_task.id || ').' end,
      jsonb_build_object('ended_at', v_last.ended_at, 'attempt', v_last.attempt, 'error', v_last.error);
    return;
  end if;

  select r.* into v_row from leasehold.ready r where r.task_id = v_task.id;
  if v_stage.paused_until > v_now then
    return query select 'ready', 'stage_paused',
      'Stage ' || quote_literal(v_task.stage) || ' is paused ' || case when v_stage.paused_until = 'infinity' then 'until it is resumed.' else 'until ' || v_stage.paused_until || '.' end,
      'Resume it: select leasehold.resume_stage(' || quote_literal(v_task.stage) || ').',
      jsonb_build_object('paused_until', v_stage.paused_until);
    return;
  end if;
  select count(*), coalesce(sum(greatest(w.concurrency - w.running, 0)) filter (where not w.draining and not w.drain_asked), 0)
  into v_live, v_free
  from leasehold.workers w
  where w.ended_at is null and w.expires_at > v_now and v_task.stage = any (w.stages);
  if v_live = 0 then
    return query select 'ready', 'no_live_worker',
      'No live worker serves stage ' || quote_literal(v_task.stage) || '.',
      'Start one: npx leasehold runner --stage ' || v_task.stage || '. Earlier ones: select * from leasehold.dead_workers.',
      jsonb_build_object('last_seen', (select max(w.beat_at) from leasehold.workers w where v_task.stage = any (w.stages)));
    return;
  end if;
  select count(*) into v_ahead from (
    select from leasehold.ready r
    where r.stage = v_task.stage and (r.lane > v_row.lane or (r.lane = v_row.lane and r.position < v_row.position)) limit 10001
  ) a;
  return query select 'ready', case when v_free = 0 then 'workers_busy' when v_ahead > 0 then 'others_ahead' else 'about_to_start' end,
    case
      when v_free = 0 then 'All ' || v_live || ' live worker(s) of its stage are full; '
        || case when v_ahead > 10000 then 'more than 10000' else v_ahead::text end || ' task(s) stand before it.'
      when v_ahead > 0 then case when v_ahead > 10000 then 'More than 10000' else v_ahead::text end || ' task(s) stand before it in its lane or in higher ones.'
      else 'It is next; a worker claims it at its next poll.'
    end,
    case when v_free = 0 then 'Wait, add workers, or put it first: select leasehold.run_now(' || v_task.id || ').'
      else 'Wait, or put it first: select leasehold.run_now(' || v_task.id || ').' end,
    jsonb_build_object('live_workers', v_live, 'free_slots', v_free, 'ahead', v_ahead, 'lane', v_row.lane);
end
$$;
