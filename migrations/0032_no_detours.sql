-- Plans that were made while tables were empty, and machine code for plans that look dear.
--
-- A session keeps the plans of what it calls. One that began with an empty database read the growing tables from end to end
-- until autovacuum had counted them: with every submission that has a key, and for each task that was looked at for
-- violations, which took seconds. What looks tasks up one by one says so now, as exchange does. And up to PostgreSQL 17 a plan
-- that may not scan and has to counts as so dear that it is compiled to machine code, where the server can: tens of
-- milliseconds for a look at a table of three rows.

-- The look for violations, as a function, because a view cannot say how it is to be carried out. Each row is one, and there
-- should be none.
create function leasehold.violations() returns table (violation text, task_id bigint, stage text, detail text)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set enable_seqscan = off
  -- A bitmap is made of dead entries too, and they are many; a scan of the index leaves marks by which the next passes them.
  set enable_bitmapscan = off
as $$
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
    and leasehold.final_outcome(t.id) is null
$$;
create or replace view leasehold.invariant_violations as
select v.violation, v.task_id, v.stage collate "C" as stage, v.detail collate "C" as detail from leasehold.violations() v;

do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid::regprocedure from pg_catalog.pg_proc p
    where p.pronamespace = 'leasehold'::regnamespace and p.proname in (
      'submit', 'route_special', 'settle_endings', 'write_notes', 'return_strays', 'free_child', 'final_outcome',
      'end_unleased', 'end_worker', 'cancel_task', 'retry_task', 'run_now', 'explain_task')
  loop
    execute pg_catalog.format('alter function %s set enable_seqscan = off', v_function);
    execute pg_catalog.format('alter function %s set enable_bitmapscan = off', v_function);
  end loop;
  for v_function in
    select p.oid::regprocedure from pg_catalog.pg_proc p
    where p.pronamespace = 'leasehold'::regnamespace and 'enable_seqscan=off' = any (p.proconfig)
  loop
    execute pg_catalog.format('alter function %s set jit = off', v_function);
  end loop;
end
$$;

-- Handles what was nudged in these stages, from this nudge on: free children whose parents have ended, admit waiting tasks
-- whose key has room. Returns how many were handled; what another transaction holds stays for later. Needs READ COMMITTED.
create function leasehold.process_nudges(p_stages text[], p_limit integer, p_from bigint) returns integer
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
as $$
declare
  v_nudge record;
  v_seen bigint[] := '{}';
  v_handled integer := 0;
  v_room integer;
  v_admitted text[] := '{}';
begin
  perform leasehold.require_read_committed('process_nudges');
  for v_nudge in
    -- Stage by stage, so that the first ones are found without reading all the others.
    select n.id, n.stage, n.task_id, n.parent_id, n.concurrency_key
    from (select distinct unnest(p_stages) as name) s
    cross join lateral (
      select n.* from leasehold.nudges n
      where n.stage = s.name and n.id >= p_from order by n.id limit p_limit for update skip locked) n
    order by n.id limit p_limit
  loop
    v_seen := v_seen || v_nudge.id;
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
  -- What is stuck goes to the end, so that it never keeps the rest from being looked at.
  if cardinality(v_seen) >= p_limit and v_handled < p_limit then
    with stuck as (
      delete from leasehold.nudges n where n.id = any (v_seen)
      returning n.id, n.task_id, n.parent_id, n.stage, n.concurrency_key
    )
    insert into leasehold.nudges (task_id, parent_id, stage, concurrency_key)
    select s.task_id, s.parent_id, s.stage, s.concurrency_key from stuck s
    group by s.task_id, s.parent_id, s.stage, s.concurrency_key order by min(s.id);
  end if;
  if cardinality(v_admitted) > 0 then
    perform leasehold.wake(v_admitted);
  end if;
  return v_handled;
end
$$;

create or replace function leasehold.process_nudges(p_stages text[], p_limit integer default 200) returns integer
  language sql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select leasehold.process_nudges(p_stages, p_limit, 0)
$$;

-- What a verb that an operator called has set off, at once; what others have left for the next claim or tick stays there:
-- an operator waited for all of it.
create or replace function leasehold.process_nudges_if_allowed(p_task_id bigint) returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_from bigint;
begin
  if pg_catalog.current_setting('transaction_isolation') <> 'read committed' then
    return;
  end if;
  -- Its children have been nudged once; its key's newest nudge is the one that is meant.
  select least(min(n.id) filter (where n.parent_id = p_task_id), max(n.id) filter (where n.concurrency_key is not null))
  into v_from from leasehold.nudges n
  where n.parent_id = p_task_id
    or (n.stage, n.concurrency_key) = (select t.stage, t.concurrency_key from leasehold.tasks t where t.id = p_task_id);
  if v_from is null then
    return;
  end if;
  for i in 1 .. 100 loop
    exit when leasehold.process_nudges(
      array(select distinct n.stage from leasehold.nudges n where n.id >= v_from), 200, v_from) = 0;
  end loop;
end
$$;

-- ------------------------------------------------------------------------------------------------------- grants
revoke all on function leasehold.violations(), leasehold.process_nudges(text[], integer, bigint) from public;

do $$
begin
  if (select pg_get_userbyid(n.nspowner) <> 'leasehold_owner' from pg_catalog.pg_namespace n where n.nspname = 'leasehold') then
    return; -- 0010 has said so
  end if;
  alter function leasehold.violations() owner to leasehold_owner;
  alter function leasehold.process_nudges(text[], integer, bigint) owner to leasehold_owner;
  grant execute on function leasehold.violations() to leasehold_observer;
end
$$;
