-- A key limit that is changed counts at once, whoever changes it: a runner that starts, a manifest, or UPDATE by hand.
--
-- Lowered: what was admitted beyond the new limit and does not run yet goes back to waiting in the same transaction, the last
-- ones first. What runs goes on, so for a while more may run than the limit says; nothing of the key is admitted meanwhile.
-- Raised: what waits is admitted by the next claim, and not only when a task of its key ends.

alter table leasehold.stages add column key_limit_lowered_at timestamptz;
comment on column leasehold.stages.key_limit_lowered_at is 'When key_limit was lowered last. More tasks of a key may run than it says if they had begun before.';

-- Locks the row of a key until the transaction ends; false when another transaction has it, or changes the stage's limit. A
-- key's first row is made by one transaction at a time, told apart by an advisory lock that is only tried: two that insert
-- the same keys in different order would wait for each other. The limit is to be read after this: whoever admits tasks
-- shares a lock on the stage's limits to its end, and who changes it has that lock alone (key_limit_changes).
create or replace function leasehold.lock_key(p_stage text, p_key text) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  if not pg_catalog.pg_try_advisory_xact_lock_shared(pg_catalog.hashtextextended('leasehold key limit ' || p_stage, 0)) then
    return false;
  end if;
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

-- Before a stage's key_limit changes. Locks, in this order: the stage's row (the caller's update), its limits, ready rows
-- that are too many. It waits for transactions that have admitted tasks of the stage, or hold such a row; no verb that does
-- either waits for a stage's row or for a second ready row, so none of them waits for this one. From the moment it waits
-- nothing is admitted in this stage; claims of what is admitted go on. Needs READ COMMITTED (else LH004): what was admitted
-- before the lock was granted must be seen.
create function leasehold.key_limit_changes() returns trigger
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  -- Statistics may have been taken while the tables were empty.
  set enable_seqscan = off
as $$
declare
  v_surplus bigint;
  v_back bigint;
begin
  perform leasehold.require_read_committed('changing key_limit');
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('leasehold key limit ' || new.name, 0));
  if new.key_limit < old.key_limit then
    -- A row that was claimed, ended or put elsewhere in ready (run_now) while this waited for it did not go back: then what
    -- is there now is looked at again. Nothing is admitted meanwhile, so that comes to an end.
    loop
      with admitted as (
        -- First what runs, then in the order in which they would start.
        select null::tid as rid, true as runs, null::smallint as lane, null::bigint as position, l.concurrency_key
        from leasehold.leases l where l.stage = new.name and l.concurrency_key is not null
        union all
        select r.ctid, false, r.lane, r.position, r.concurrency_key
        from leasehold.ready r where r.stage = new.name and r.concurrency_key is not null
      ), surplus as materialized (
        select n.rid
        from (
          select a.rid, row_number() over (
            partition by a.concurrency_key order by a.runs desc, a.lane desc, a.position) as nr from admitted a
        ) n
        where n.nr > new.key_limit and n.rid is not null
      ), gone as (
        delete from leasehold.ready r where r.ctid = any (array(select s.rid from surplus s))
        returning r.task_id, r.failures, r.crashes, r.lane, r.stage, r.concurrency_key
      ), back as (
        insert into leasehold.waiting (task_id, failures, crashes, lane, for_parents, stage, concurrency_key, waiting_since)
        select g.task_id, g.failures, g.crashes, g.lane, false, g.stage, g.concurrency_key, v.now
        from gone g cross join (select leasehold.clock() as now) v
        returning 1
      )
      select (select count(*) from surplus), (select count(*) from back) into v_surplus, v_back;
      exit when v_back = v_surplus;
    end loop;
    -- After the last look: whatever was claimed before it has begun earlier.
    new.key_limit_lowered_at := leasehold.clock();
  else
    insert into leasehold.nudges (stage, concurrency_key)
    select distinct w.stage, w.concurrency_key from leasehold.waiting w where w.stage = new.name and not w.for_parents;
  end if;
  -- What could not be admitted meanwhile, or may be now.
  perform leasehold.wake(array[new.name]);
  return new;
end
$$;
create trigger key_limit_changes before update of key_limit on leasehold.stages
  for each row when (new.key_limit is distinct from old.key_limit) execute function leasehold.key_limit_changes();

-- As in 0028, but tasks that ran when their stage's key limit was lowered are no violation of the new one.
create or replace view leasehold.invariant_violations as
select 'ready row below its floor' as violation, b.task_id, b.stage, 'position ' || b.ready_position || ' < floor ' || b.floor as detail
from leasehold.below_floors() b
where not exists (select from leasehold.stragglers)
union all
-- "offset 0" keeps each of these questions from becoming a join.
select 'running and ready', l.task_id, l.stage, null from leasehold.workers w
join leasehold.leases l on l.worker_id = w.id and l.fence >= w.oldest_fence
where w.ended_at is null and exists (select from leasehold.ready r where r.task_id = l.task_id offset 0)
union all
select 'lease of an ended worker', l.task_id, l.stage, w.slot || ' ended ' || w.end_reason
from leasehold.workers w join leasehold.leases l on l.worker_id = w.id
where w.ended_at > leasehold.clock() - interval '1 hour'
union all
select f.violation, f.task_id, f.stage, f.detail from leasehold.forgotten_leases() f
union all
select 'more tasks of a key admitted than its limit', min(h.task_id), h.stage, h.concurrency_key || ': ' || count(*) || ' > ' || s.key_limit
from (
  select l.task_id, l.stage, l.concurrency_key, l.leased_at from leasehold.leases l where l.concurrency_key is not null
  union all
  select r.task_id, r.stage, r.concurrency_key, null from leasehold.ready r where r.concurrency_key is not null
) h join leasehold.stages s on s.name = h.stage
group by h.stage, h.concurrency_key, s.key_limit
having count(*) > greatest(s.key_limit, count(*) filter (where h.leased_at <= s.key_limit_lowered_at))
union all
select 'task in no state', t.id, t.stage, null
from (select x.id, x.stage from leasehold.tasks x order by x.id desc limit 200) t
where not exists (select from leasehold.ready r where r.task_id = t.id offset 0)
  and not exists (select from leasehold.leases l where l.task_id = t.id offset 0)
  and not exists (select from leasehold.scheduled d where d.task_id = t.id offset 0)
  and not exists (select from leasehold.waiting w where w.task_id = t.id offset 0)
  and leasehold.final_outcome(t.id) is null;

revoke all on function leasehold.key_limit_changes() from public;

do $$
begin
  if (select pg_get_userbyid(n.nspowner) <> 'leasehold_owner' from pg_catalog.pg_namespace n where n.nspname = 'leasehold') then
    return; -- 0010 has said so
  end if;
  alter function leasehold.key_limit_changes() owner to leasehold_owner;
end
$$;
