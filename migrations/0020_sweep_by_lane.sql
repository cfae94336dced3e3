-- The look below the floors goes lane by lane, from the index, and not through all of `ready`: as a plain join it was
-- planned as a hash join with every waiting task (plans.test.ts keeps its buffers flat).

-- Ready rows that stand below the floor of their lane, from a position on. Empty unless a straggler left some.
create or replace function leasehold.below_floors(p_from bigint default 0)
  returns table (task_id bigint, stage text, lane smallint, ready_position bigint, floor bigint)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set enable_seqscan = off
as $$
  select r.task_id, s.name, l.lane::smallint, r.position, f.floor
  from leasehold.stages s cross join generate_series(0, 11) as l(lane)
  cross join lateral (
    select f.floor from leasehold.floors f where f.stage = s.name and f.lane = l.lane order by f.floor desc limit 1) f
  -- The order keeps this from becoming a join with all of ready.
  cross join lateral (
    select r.task_id, r.position from leasehold.ready r
    where r.stage = s.name and r.lane = l.lane and r.position >= p_from and r.position < f.floor order by r.position) r
$$;

-- For remembered submitters that have ended: re-queues at the tail what they left below the floors.
create or replace function leasehold.collect_stragglers() returns integer
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set enable_seqscan = off
as $$
declare
  v_straggler record;
  v_requeued integer := 0;
  v_count integer;
begin
  for v_straggler in
    select g.* from leasehold.stragglers g
    where not exists (select from leasehold.ready_writers() w where w.xid = g.xid)
  loop
    perform pg_current_xact_id();
    with below as (
      select r.rid
      from leasehold.stages s cross join generate_series(0, 11) as l(lane)
      cross join lateral (
        select f.floor from leasehold.floors f where f.stage = s.name and f.lane = l.lane order by f.floor desc limit 1) f
      cross join lateral (
        select r.ctid as rid from leasehold.ready r
        where r.stage = s.name and r.lane = l.lane
          and r.position >= v_straggler.from_position and r.position < f.floor
        order by r.position for update skip locked) r
    ), gone as (
      delete from leasehold.ready r where r.ctid = any (array(select b.rid from below b))
      returning r.position, r.task_id, r.lane, r.failures, r.crashes, r.stage, r.concurrency_key
    )
    insert into leasehold.ready (task_id, lane, failures, crashes, stage, concurrency_key)
    select task_id, lane, failures, crashes, stage, concurrency_key from gone order by position;
    get diagnostics v_count = row_count;
    v_requeued := v_requeued + v_count;
    -- A row that somebody had locked was passed over: then once more next time.
    delete from leasehold.stragglers g where g.xid = v_straggler.xid
      and not exists (select from leasehold.below_floors(v_straggler.from_position));
  end loop;
  return v_requeued;
end
$$;
