-- Leases that their worker has forgotten, and clear words for what workers in any language send wrongly.
--
-- A lease is forgotten when its worker does not run it and has said that its oldest lease is a younger one: nothing
-- that starts reading at oldest_fence (views, expire_deadlines) would ever see it, and the worker's beats would keep it.
-- Three things keep that from lasting: strays are given back or ended whatever their deadline says, by task and fence;
-- end_forgotten_leases looks below oldest_fence now and then; and invariant_violations shows what slipped through.

-- Gives back leases of a live worker that it knows nothing of: an exchange whose answer was lost on the way may have
-- claimed tasks which nobody runs, and the worker's beats would keep them leased. p_known and p_known_fences, in
-- parallel, are the leases the worker holds; without a fence (null) a task is known under whatever fence it has.
-- leases → ready without counting; past its deadline a lease takes only fail: then it is a failed attempt 'timeout',
-- as it would have been by expire_deadlines. The worker row is locked, not shared, so that an exchange of this worker
-- which is still under way ends first and what it claimed is seen; the caller starts none meanwhile. Returns the ids
-- taken from the worker, null when it is not live (nothing was looked at).
create function leasehold.return_strays(p_worker uuid, p_known bigint[], p_known_fences bigint[]) returns bigint[]
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
  select jsonb_agg(jsonb_build_object('task_id', l.task_id, 'fence', l.fence)
    -- What is nearly over could be over when it is settled.
    || case when l.deadline_at > leasehold.clock() + interval '1 second' then jsonb_build_object('outcome', 'release')
       else jsonb_build_object('outcome', 'fail', 'error', jsonb_build_object('code', 'timeout', 'message',
         'the answer to its claim was lost, and its timeout of ' || (l.deadline_at - l.leased_at)
         || ' was over before that was noticed')) end)
  into v_strays
  from leasehold.leases l
  where l.worker_id = p_worker and not exists (
    select from unnest(p_known, p_known_fences) as k(task_id, fence)
    where k.task_id = l.task_id and coalesce(k.fence, l.fence) = l.fence);
  return case when v_strays is null then '{}' else coalesce(leasehold.settle_endings(p_worker, v_strays), '{}') end;
end
$$;

-- The same for workers that name tasks only.
create or replace function leasehold.return_strays(p_worker uuid, p_known bigint[]) returns bigint[]
  language sql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select leasehold.return_strays(p_worker, p_known, null)
$$;

-- Leases which live workers cannot be holding: older than the oldest one they say they hold, or minutes past their
-- deadline although a monitor looks (with none, nobody ends them, and stage_health shows them still running).
create function leasehold.forgotten_leases()
  returns table (violation text, task_id bigint, stage text, detail text)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set enable_seqscan = off
as $$
  select 'lease that its worker has forgotten', l.task_id, l.stage,
    w.slot || ' says its oldest fence is ' || w.oldest_fence || ', this one is ' || l.fence
  from leasehold.workers w join leasehold.leases l on l.worker_id = w.id and l.fence < w.oldest_fence
  where w.ended_at is null
  union all
  select 'lease far past its deadline', l.task_id, l.stage,
    w.slot || ', by ' || date_trunc('second', leasehold.clock() - l.deadline_at)
  from leasehold.workers w join leasehold.leases l on l.worker_id = w.id and l.fence >= w.oldest_fence
  where w.ended_at is null and w.expires_at > leasehold.clock()
    and l.deadline_at < leasehold.clock() - interval '5 minutes'
    and leasehold.monitor_silence() < interval '3 minutes'
    and leasehold.release_grace_until(interval '3 minutes') < leasehold.clock()
$$;

-- Ends the forgotten leases of live workers whose deadline passed p_slack ago: a failed attempt 'timeout', retried or
-- dead like any other; the worker is told by a revocation. It walks what lies below oldest_fence, which an old snapshot
-- keeps long, so it is for every few minutes; expire_deadlines does what lies above. Returns the task ids. Zero rows: as
-- it should be. A worker that could not settle because the database was away gets a minute first.
create function leasehold.end_forgotten_leases(p_slack interval default interval '1 minute', p_limit integer default 500)
  returns bigint[]
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set enable_seqscan = off
as $$
declare
  v_lease record;
  v_ended bigint[] := '{}';
begin
  if leasehold.release_grace_until(interval '1 minute') > leasehold.clock() then
    return v_ended;
  end if;
  for v_lease in
    select l.task_id, l.fence, l.worker_id, l.deadline_at - l.leased_at as timeout
    from leasehold.workers w
    join leasehold.leases l on l.worker_id = w.id and l.fence < w.oldest_fence
    where w.ended_at is null and l.deadline_at < leasehold.clock() - p_slack
    limit p_limit for update of l skip locked
  loop
    perform leasehold.settle_endings(v_lease.worker_id, jsonb_build_array(jsonb_build_object(
      'task_id', v_lease.task_id, 'fence', v_lease.fence, 'outcome', 'fail',
      'error', jsonb_build_object('code', 'timeout', 'message', 'not finished within ' || v_lease.timeout
        || '; its worker had forgotten it'))));
    insert into leasehold.revocations (worker_id, fence, task_id, reason)
    values (v_lease.worker_id, v_lease.fence, v_lease.task_id, 'deadline') on conflict do nothing;
    v_ended := v_ended || v_lease.task_id;
  end loop;
  return v_ended;
end
$$;

create or replace view leasehold.invariant_violations as
select 'ready row below its floor' as violation, b.task_id, b.stage, 'position ' || b.ready_position || ' < floor ' || b.floor as detail
from leasehold.below_floors() b
where not exists (select from leasehold.stragglers)
union all
select 'running and ready', l.task_id, l.stage, null from leasehold.workers w
join leasehold.leases l on l.worker_id = w.id and l.fence >= w.oldest_fence
join leasehold.ready r on r.task_id = l.task_id where w.ended_at is null
union all
select 'lease of an ended worker', l.task_id, l.stage, w.slot || ' ended ' || w.end_reason
from leasehold.workers w join leasehold.leases l on l.worker_id = w.id
where w.ended_at > leasehold.clock() - interval '1 hour'
union all
select f.violation, f.task_id, f.stage, f.detail from leasehold.forgotten_leases() f
union all
select 'more tasks of a key admitted than its limit', min(h.task_id), h.stage, h.concurrency_key || ': ' || count(*) || ' > ' || s.key_limit
from (
  select l.task_id, l.stage, l.concurrency_key from leasehold.leases l where l.concurrency_key is not null
  union all
  select r.task_id, r.stage, r.concurrency_key from leasehold.ready r where r.concurrency_key is not null
) h join leasehold.stages s on s.name = h.stage
group by h.stage, h.concurrency_key, s.key_limit having count(*) > s.key_limit
union all
select 'task in no state', t.id, t.stage, null
from (select x.id, x.stage from leasehold.tasks x order by x.id desc limit 200) t
where not exists (select from leasehold.ready r where r.task_id = t.id)
  and not exists (select from leasehold.leases l where l.task_id = t.id)
  and not exists (select from leasehold.scheduled d where d.task_id = t.id)
  and not exists (select from leasehold.waiting w where w.task_id = t.id)
  and leasehold.final_outcome(t.id) is null;

-- ------------------------------------------------------------------------------------------------------- grants
revoke all on function leasehold.return_strays(uuid, bigint[], bigint[]), leasehold.forgotten_leases(),
  leasehold.end_forgotten_leases(interval, integer) from public;

do $$
declare
  v_signature regprocedure;
begin
  if (select count(*) from pg_catalog.pg_roles where rolname in ('leasehold_owner', 'leasehold_observer', 'leasehold_worker')) < 3 then
    return; -- 0010 has said so
  end if;
  grant execute on function leasehold.return_strays(uuid, bigint[], bigint[]) to leasehold_worker;
  grant execute on function leasehold.forgotten_leases() to leasehold_observer;
  for v_signature in
    select p.oid::regprocedure from pg_catalog.pg_proc p
    where p.pronamespace = 'leasehold'::regnamespace and p.proowner <> 'leasehold_owner'::regrole
  loop
    execute pg_catalog.format('alter function %s owner to leasehold_owner', v_signature);
  end loop;
end
$$;
