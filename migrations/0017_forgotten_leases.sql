-- formerly 1da37b69b13bae75b5a4914c5686779d6c867fc6327569bdbb7a681cfe60a3a8
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

-- ------------------------------------------------------------------------------ a registration that is sent again
-- Registers a new incarnation of a slot and returns its id. An earlier incarnation that has not ended is superseded in
-- the same transaction: its tasks are free at once, and its writes are refused from then on.
-- p_meta may say under `schema` which migration is the newest that the program knows. A program that does not know the
-- last one which had to wait for older programs to end is refused (LH006) and takes no slot. Under `start` it may name
-- this start of its own: sent again because the answer was lost, the registration is the same one and renews it.
create or replace function leasehold.register_worker(
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
  v_needed text;
  v_start text;
begin
  foreach v_stage in array p_stages loop
    if not exists (select from leasehold.stages s where s.name = v_stage) then
      perform leasehold.raise_unknown_stage(v_stage);
    end if;
  end loop;
  -- Two processes that start the same slot at once take turns here.
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('leasehold slot ' || p_slot, 0));
  select w.id, w.meta ->> 'start' into superseded, v_start
  from leasehold.workers w where w.slot = p_slot and w.ended_at is null for update;
  v_now := leasehold.clock();
  if v_start = p_meta ->> 'start' then
    update leasehold.workers w set beat_at = v_now, loop_at = v_now, expires_at = v_now + w.ttl where w.id = superseded
    returning w.id, w.expires_at into worker_id, expires_at;
    superseded := null;
    return next;
    return;
  end if;
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
  -- After the insert: a migration that waits for older programs to end locks this table, and is seen from here on.
  if p_meta ->> 'schema' is not null then
    v_needed := leasehold.oldest_program();
    if (p_meta ->> 'schema') collate "C" < v_needed then
      raise exception 'this program knows the schema up to %, the database needs programs that know %', p_meta ->> 'schema', v_needed
        using errcode = 'LH006', hint = 'Deploy the newer program; an older one must not run here.';
    end if;
  end if;
  return next;
end
$$;

-- ------------------------------------------------------------- what workers in any language may send wrongly
-- Raises 22023 with the field's name and what it should be; for the verbs that are called one task at a time.
create function leasehold.refuse_field(p_verb text, p_field text, p_wanted text, p_given text) returns void
  language plpgsql immutable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  raise exception '%: % must be %, not %', p_verb, p_field, p_wanted, coalesce(left(p_given, 100), 'null')
    using errcode = 'invalid_parameter_value', hint = 'Correct ' || p_field || ' and call ' || p_verb || ' again; nothing was changed.';
end
$$;

-- The worker leaves in order: what it still holds is released without counting the attempt. False when it had ended.
create or replace function leasehold.leave(worker_id uuid, reason text default 'graceful-shutdown') returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  if reason is null or length(reason) not between 1 and 200 then
    perform leasehold.refuse_field('leave', 'reason', 'a text of 1 to 200 characters', reason);
  end if;
  perform from leasehold.workers w where w.id = leave.worker_id and w.ended_at is null for update;
  if not found then
    return false;
  end if;
  perform leasehold.end_worker(leave.worker_id,
    case when leave.reason in ('lost', 'superseded') then 'left' else leave.reason end);
  return true;
end
$$;

-- claim(worker, stage, limit): up to limit tasks of one stage. Zero rows: nothing to do, or the worker is not live.
-- Of cancelled tasks such a worker hears by heartbeat(). An unknown stage is LH001: nothing would ever come of it.
create or replace function leasehold.claim(worker_id uuid, stage text, max_tasks integer default 1)
  returns table (task_id bigint, fence bigint, attempt smallint, payload jsonb, extra jsonb)
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
begin
  if not exists (select from leasehold.stages s where s.name = claim.stage) then
    perform leasehold.raise_unknown_stage(claim.stage);
  end if;
  if max_tasks is null or max_tasks < 0 then
    perform leasehold.refuse_field('claim', 'max_tasks', 'a whole number from 0', max_tasks::text);
  end if;
  perform leasehold.promote_due(array[claim.stage]);
  return query
  select x.task_id, x.fence, x.attempt, x.payload::jsonb, x.extra::jsonb
  from leasehold.exchange(claim.worker_id, null, null, null, null, null, array[claim.stage], array[max_tasks], null, null, null) x
  where x.task_id is not null;
end
$$;

-- settle(worker, task, fence, outcome, …): true when accepted, false when the lease is gone (nothing changed).
-- outcome: done, fail, release, snooze, cancel, as in settle_endings. May run inside the worker's own transaction, so
-- that its effects and the settlement commit together.
create or replace function leasehold.settle(
  worker_id uuid, task_id bigint, fence bigint, outcome text, result jsonb default null, error jsonb default null,
  retry_after interval default null, retryable boolean default true, children jsonb default null
) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_receipt jsonb;
  v_wrong text;
begin
  if outcome is null or outcome not in ('done', 'fail', 'release', 'snooze', 'cancel') then
    perform leasehold.refuse_field('settle', 'outcome', 'done, fail, release, snooze or cancel', quote_literal(outcome));
  end if;
  if worker_id is null or task_id is null or fence is null then
    v_wrong := case when worker_id is null then 'worker_id' when task_id is null then 'task_id' else 'fence' end;
    perform leasehold.refuse_field('settle', v_wrong, 'what claim() or register_worker() returned', null);
  end if;
  if jsonb_typeof(error) not in ('object', 'null') then
    perform leasehold.refuse_field('settle', 'error', 'an object, {"code": …, "message": …}', error::text);
  end if;
  if jsonb_typeof(children) not in ('array', 'null') then
    perform leasehold.refuse_field('settle', 'children', 'an array of objects, [{"stage": …, "payload": …}]', children::text);
  elsif jsonb_typeof(children) = 'array' then
    select c.child::text into v_wrong from jsonb_array_elements(children) as c(child)
    where jsonb_typeof(c.child) <> 'object' or jsonb_typeof(c.child -> 'stage') is distinct from 'string' limit 1;
    if found then
      perform leasehold.refuse_field('settle', 'each of children', 'an object with a stage, {"stage": …, "payload": …}', v_wrong);
    end if;
  end if;
  select x.extra::jsonb into v_receipt
  from leasehold.exchange(worker_id, null, null,
    jsonb_build_array(jsonb_strip_nulls(jsonb_build_object('task_id', task_id, 'fence', fence, 'outcome', outcome,
      'after_ms', (extract(epoch from retry_after) * 1000)::bigint, 'retryable', retryable))
      || case when result is null then '{}' else jsonb_build_object('result', result) end
      || case when error is null then '{}' else jsonb_build_object('error', error) end),
    case when jsonb_typeof(children) = 'array' then
      (select jsonb_agg(c || jsonb_build_object('parent_id', settle.task_id)) from jsonb_array_elements(children) c) end,
    null, null, null, null, null, null) x
  where x.task_id is null;
  return v_receipt ->> 'worker' = 'live' and not (v_receipt ? 'refused');
end
$$;

-- Logs, progress and checkpoints of leases whose worker is live; others are dropped. Past its deadline a lease may still
-- say why. Returns the number written. Worker and leases are share-locked, so that nothing is written after a release.
-- A note that says neither what it is nor whose is 22023, and none of them is written.
create or replace function leasehold.write_notes(p_worker uuid, p_notes jsonb) returns integer
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_written integer;
  v_wrong record;
begin
  if jsonb_typeof(p_notes) <> 'array' then
    perform leasehold.refuse_field('write_notes', 'p_notes', 'an array of objects', p_notes::text);
  end if;
  select e.note, case
      when jsonb_typeof(e.note) <> 'object' then 'each note'
      when (e.note ->> 'kind') in ('log', 'progress', 'checkpoint') is not true then 'kind'
      when e.note ->> 'task_id' is null then 'task_id'
      when e.note ->> 'fence' is null then 'fence'
      when e.note ->> 'kind' = 'checkpoint' and e.note ->> 'name' is null then 'name'
    end as field into v_wrong
  from jsonb_array_elements(p_notes) as e(note)
  where jsonb_typeof(e.note) <> 'object' or (e.note ->> 'kind') in ('log', 'progress', 'checkpoint') is not true
    or e.note ->> 'task_id' is null or e.note ->> 'fence' is null
    or (e.note ->> 'kind' = 'checkpoint' and e.note ->> 'name' is null)
  limit 1;
  if found then
    perform leasehold.refuse_field('write_notes', v_wrong.field, case v_wrong.field
      when 'each note' then 'an object' when 'kind' then 'log, progress or checkpoint'
      when 'name' then 'the name of the checkpoint' else 'what claim() returned' end,
      case when v_wrong.field = 'each note' then v_wrong.note::text else v_wrong.note ->> v_wrong.field end);
  end if;
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

-- ------------------------------------------------------------------------------------------------------- grants
revoke all on function leasehold.return_strays(uuid, bigint[], bigint[]), leasehold.forgotten_leases(),
  leasehold.end_forgotten_leases(interval, integer), leasehold.refuse_field(text, text, text, text) from public;

do $$
declare
  v_signature regprocedure;
begin
  if (select pg_get_userbyid(n.nspowner) <> 'leasehold_owner' from pg_catalog.pg_namespace n where n.nspname = 'leasehold') then
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
