-- Workers: stages and workers are registered, beat, leave, and are released when they are dead.
--
-- Liveness belongs to the worker: one row update per beat renews all its leases. A worker is dead when expires_at lies
-- behind clock(); nothing is taken from it before a transaction has locked its row, seen that again, and marked it ended.

-- Creates or changes a stage's settings. Only what differs is written; an operator's pause stays. Null keeps a setting.
create function leasehold.register_stage(
  p_name text, p_priority integer default null, p_max_attempts integer default null, p_timeout interval default null,
  p_backoff_min interval default null, p_backoff_max interval default null, p_max_crashes integer default null,
  p_key_limit integer default null, p_expected_workers integer default null
) returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  insert into leasehold.stages (name) values (p_name) on conflict (name) do nothing;
  update leasehold.stages s set
    priority = coalesce(p_priority, s.priority), max_attempts = coalesce(p_max_attempts, s.max_attempts),
    timeout = coalesce(p_timeout, s.timeout), backoff_min = coalesce(p_backoff_min, s.backoff_min),
    backoff_max = coalesce(p_backoff_max, s.backoff_max), max_crashes = coalesce(p_max_crashes, s.max_crashes),
    key_limit = coalesce(p_key_limit, s.key_limit), expected_workers = coalesce(p_expected_workers, s.expected_workers)
  where s.name = p_name
    and (s.priority, s.max_attempts, s.timeout, s.backoff_min, s.backoff_max, s.max_crashes, s.key_limit, s.expected_workers)
      is distinct from
      (coalesce(p_priority, s.priority), coalesce(p_max_attempts, s.max_attempts), coalesce(p_timeout, s.timeout),
       coalesce(p_backoff_min, s.backoff_min), coalesce(p_backoff_max, s.backoff_max), coalesce(p_max_crashes, s.max_crashes),
       coalesce(p_key_limit, s.key_limit), coalesce(p_expected_workers, s.expected_workers));
end
$$;

-- Ends a worker and moves its leases on: p_reason 'lost' and 'superseded' count a crash for each task and put it into
-- the express lane, or into quarantine (dead) when it was one crash too many; other reasons release without counting.
-- The caller holds the worker row for update. Returns the tasks it held, in order of lease, and how they went on.
-- Needs READ COMMITTED (else LH004): what the worker claimed before its row was locked must be seen.
create function leasehold.end_worker(p_worker uuid, p_reason text)
  returns table (released bigint[], quarantined bigint[])
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_now timestamptz := leasehold.clock();
  v_crashed constant boolean := p_reason in ('lost', 'superseded');
  v_failures smallint[];
  v_crashes smallint[];
begin
  perform leasehold.require_read_committed('ending a worker');
  update leasehold.workers w set ended_at = v_now, end_reason = p_reason where w.id = p_worker and w.ended_at is null;
  delete from leasehold.sleepers z where z.worker_id = p_worker;
  delete from leasehold.revocations r where r.worker_id = p_worker;
  with gone as (
    delete from leasehold.leases l where l.worker_id = p_worker
    returning l.task_id, l.fence, l.leased_at, l.attempt, l.stage,
      (l.crashes + case when v_crashed then 1 else 0 end)::smallint as crashes
  ), judged as (
    select g.*, v_crashed and g.crashes >= s.max_crashes as dead
    from gone g join leasehold.stages s on s.name = g.stage
  ), recorded as (
    insert into leasehold.attempts (task_id, fence, worker_id, leased_at, ended_at, attempt, final, outcome, error)
    select task_id, fence, p_worker, leased_at, v_now, attempt, dead,
      case when dead then 'dead' when v_crashed then 'lost' else 'released' end,
      case
        when dead then jsonb_build_object('code', 'quarantined', 'message',
          'its worker died while holding it, ' || crashes || ' times; it was set aside so that it takes no more workers down')
        when v_crashed then jsonb_build_object('code', 'worker_' || p_reason, 'message', 'its worker ended: ' || p_reason)
      end
    from judged
  )
  select array_agg(task_id order by fence, task_id) filter (where not dead),
    array_agg((attempt - 1)::smallint order by fence, task_id) filter (where not dead),
    array_agg(crashes order by fence, task_id) filter (where not dead),
    array_agg(task_id order by fence, task_id) filter (where dead)
  into released, v_failures, v_crashes, quarantined from judged;
  if released is not null then
    perform leasehold.nudge_keys(released);
    perform leasehold.enter(released, v_failures, v_crashes, null, true);
  end if;
  if quarantined is not null then
    perform leasehold.nudge_keys(quarantined);
    perform leasehold.after_end(quarantined, 'dead');
  end if;
  return next;
end
$$;

-- Registers a new incarnation of a slot and returns its id. An earlier incarnation that has not ended is superseded in
-- the same transaction: its tasks are free at once, and its writes are refused from then on.
create function leasehold.register_worker(
  p_slot text, p_stages text[], p_ttl interval, p_beat_interval interval, p_host text, p_pid integer default null,
  p_version text default null, p_concurrency integer default 1, p_meta jsonb default null
) returns table (worker_id uuid, expires_at timestamptz, superseded uuid, released bigint[], quarantined bigint[])
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_restarts integer;
  v_stage text;
begin
  foreach v_stage in array p_stages loop
    if not exists (select from leasehold.stages s where s.name = v_stage) then
      perform leasehold.raise_unknown_stage(v_stage);
    end if;
  end loop;
  -- Two processes that start the same slot at once take turns here.
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('leasehold slot ' || p_slot, 0));
  select w.id into superseded from leasehold.workers w where w.slot = p_slot and w.ended_at is null for update;
  if superseded is not null then
    select e.released, e.quarantined into released, quarantined from leasehold.end_worker(superseded, 'superseded') e;
  end if;
  select w.restarts + 1 into v_restarts from leasehold.workers w where w.slot = p_slot order by w.started_at desc limit 1;
  v_now := leasehold.clock();
  worker_id := pg_catalog.gen_random_uuid();
  expires_at := v_now + p_ttl;
  insert into leasehold.workers (
    id, slot, stages, host, pid, version, concurrency, restarts, meta, ttl, beat_interval,
    started_at, beat_at, expires_at, loop_at)
  values (
    worker_id, p_slot, p_stages, p_host, p_pid, p_version, p_concurrency, coalesce(v_restarts, 0), p_meta, p_ttl,
    p_beat_interval, v_now, v_now, expires_at, v_now);
  return next;
end
$$;

-- One beat: renews the worker and with it all its leases. p_loop_age_ms is how long ago its main loop last turned;
-- p_renew false reports without renewing (a loop that is wedged). An ended worker is never revived; an expired one that
-- nobody has released is. state: live, ended, unknown. revoked: leases it must stop working on.
create function leasehold.heartbeat(
  worker_id uuid, loop_age_ms bigint default 0, oldest_fence bigint default null, running integer default null,
  draining boolean default null, renew boolean default true, meta jsonb default null
) returns table (state text, reason text, expires_at timestamptz, drain boolean, revoked jsonb)
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_now timestamptz := leasehold.clock();
begin
  update leasehold.workers w set
    beat_at = v_now,
    expires_at = case when heartbeat.renew then v_now + w.ttl else w.expires_at end,
    loop_at = greatest(w.loop_at, v_now - greatest(heartbeat.loop_age_ms, 0) * interval '1 millisecond'),
    oldest_fence = coalesce(heartbeat.oldest_fence, w.oldest_fence),
    running = coalesce(heartbeat.running, w.running),
    draining = coalesce(heartbeat.draining, w.draining),
    meta = coalesce(heartbeat.meta, w.meta)
  where w.id = heartbeat.worker_id and w.ended_at is null
  returning 'live', null, w.expires_at, w.drain_asked into state, reason, expires_at, drain;
  if not found then
    select 'ended', w.end_reason, w.expires_at, false into state, reason, expires_at, drain
    from leasehold.workers w where w.id = heartbeat.worker_id;
    if not found then
      state := 'unknown';
    end if;
  elsif exists (select from leasehold.revocations r where r.worker_id = heartbeat.worker_id) then
    revoked := leasehold.take_revocations(heartbeat.worker_id);
  end if;
  return next;
end
$$;

-- The worker leaves in order: what it still holds is released without counting the attempt. False when it had ended.
create function leasehold.leave(worker_id uuid, reason text default 'graceful-shutdown') returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  perform from leasehold.workers w where w.id = leave.worker_id and w.ended_at is null for update;
  if not found then
    return false;
  end if;
  perform leasehold.end_worker(leave.worker_id,
    case when leave.reason in ('lost', 'superseded') then 'left' else leave.reason end);
  return true;
end
$$;

-- Gives back leases of a live worker that it knows nothing of: an exchange whose answer was lost on the way may have
-- claimed tasks which nobody runs, and the worker's beats would keep them leased. p_known are all tasks the worker holds.
-- leases → ready without counting. The worker row is locked, not shared, so that an exchange of this worker which is
-- still under way ends first and what it claimed is seen; the caller starts none meanwhile. Returns the ids given back,
-- null when the worker is not live (nothing was looked at). Past its deadline a lease is left to expire_deadlines.
create function leasehold.return_strays(p_worker uuid, p_known bigint[]) returns bigint[]
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_strays jsonb;
begin
  perform from leasehold.workers w
  where w.id = p_worker and w.ended_at is null and w.expires_at > leasehold.clock() for update;
  if not found then
    return null;
  end if;
  select jsonb_agg(jsonb_build_object('task_id', l.task_id, 'fence', l.fence, 'outcome', 'release')) into v_strays
  from leasehold.leases l
  where l.worker_id = p_worker and not exists (select from unnest(p_known) as k(task_id) where k.task_id = l.task_id);
  return case when v_strays is null then '{}' else coalesce(leasehold.settle_endings(p_worker, v_strays), '{}') end;
end
$$;

-- Releases dead workers, at most p_limit a call: locks the row (passing over locked ones: a worker in an exchange is
-- alive), sees expiry again under the lock, ends the worker and moves its tasks on. Idempotent and safe in parallel.
create function leasehold.release_dead_workers(p_limit integer default 100)
  returns table (worker_id uuid, slot text, stages text[], host text, pid integer, started_at timestamptz,
    beat_at timestamptz, silent interval, released bigint[], quarantined bigint[])
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_worker record;
begin
  for v_worker in
    select w.* from leasehold.workers w
    where w.ended_at is null and w.expires_at < leasehold.clock()
      and leasehold.release_grace_until(w.ttl) < leasehold.clock()
    order by w.expires_at limit p_limit for update skip locked
  loop
    worker_id := v_worker.id; slot := v_worker.slot; stages := v_worker.stages; host := v_worker.host;
    pid := v_worker.pid; started_at := v_worker.started_at; beat_at := v_worker.beat_at;
    silent := leasehold.clock() - v_worker.beat_at;
    select e.released, e.quarantined into released, quarantined from leasehold.end_worker(v_worker.id, 'lost') e;
    return next;
  end loop;
end
$$;

-- Ends leases of live workers whose deadline passed p_slack ago and which their worker has not settled: a failed
-- attempt 'timeout', retried or dead like any other; the worker is told by a revocation. Returns the task ids.
create function leasehold.expire_deadlines(p_slack interval default interval '5 seconds', p_limit integer default 500)
  returns bigint[]
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set enable_seqscan = off
as $$
declare
  v_lease record;
  v_ended bigint[] := '{}';
begin
  for v_lease in
    select l.task_id, l.fence, l.worker_id, l.deadline_at - l.leased_at as timeout
    from leasehold.workers w
    join leasehold.leases l on l.worker_id = w.id and l.fence >= w.oldest_fence
    where w.ended_at is null and l.deadline_at < leasehold.clock() - p_slack
    limit p_limit for update of l skip locked
  loop
    perform leasehold.settle_endings(v_lease.worker_id, jsonb_build_array(jsonb_build_object(
      'task_id', v_lease.task_id, 'fence', v_lease.fence, 'outcome', 'fail',
      'error', jsonb_build_object('code', 'timeout', 'message', 'not finished within ' || v_lease.timeout
        || '; its worker did not stop it'))));
    insert into leasehold.revocations (worker_id, fence, task_id, reason)
    values (v_lease.worker_id, v_lease.fence, v_lease.task_id, 'deadline') on conflict do nothing;
    v_ended := v_ended || v_lease.task_id;
  end loop;
  return v_ended;
end
$$;

-- Asks the live worker of a slot to drain: it claims nothing more, finishes and leaves. False when no such worker lives.
create function leasehold.drain_slot(slot text) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  update leasehold.workers w set drain_asked = true where w.slot = drain_slot.slot and w.ended_at is null;
  return found;
end
$$;
