-- Floors: where claims start, so that they never walk what an old snapshot keeps from being cleaned away.
--
-- A tick remembers S, the last position drawn, and then X, its own fresh xid. A position is drawn only by a transaction
-- that already has an xid and holds the RowExclusiveLock on ready. So once no transaction with an xid below X holds that
-- lock, every position up to S is settled: committed and visible, or gone. The floor of a lane may then rise to its
-- smallest live position up to S, or to S + 1. (pg_snapshot_xmax is no such bound: transactions without a snapshot in
-- common may hold smaller xids. Measured before this was written: 2 of 6133 tasks were stranded with it.)
-- Long readers, and long writers of other tables, do not delay this. A submitter that keeps its transaction open is
-- waited for a few seconds, then passed and remembered: when it ends, what it left below a floor is re-queued once.

-- The xids (extended with the epoch) of transactions that hold a writer's lock on ready, except our own.
create function leasehold.ready_writers() returns table (xid xid8)
  language sql volatile security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  -- pg_locks shows 32 bits. They lie within 2^31 of our own xid, before or after it.
  with our as (select pg_current_xact_id()::text::bigint as xid)
  select ((o.xid + (t.transactionid::text::bigint - o.xid % 4294967296 + 6442450944) % 4294967296 - 2147483648)::text)::xid8
  from pg_locks r
  join pg_locks t on t.virtualtransaction = r.virtualtransaction and t.locktype = 'transactionid'
    and t.mode = 'ExclusiveLock' and t.granted
  cross join our o
  where r.locktype = 'relation' and r.relation = 'leasehold.ready'::regclass and r.granted
    and r.database = (select d.oid from pg_database d where d.datname = current_database())
    and r.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    and t.transactionid::text::bigint <> o.xid % 4294967296
$$;

-- Moves floors. Bounded work; one caller at a time, others return null at once. Returns the number of floors raised.
-- Must be the first thing its transaction writes: X has to be drawn after S was read, or it bounds nothing. Needs READ
-- COMMITTED (else LH004): live positions must be looked for after the last writer was seen to be gone.
-- p_patience: how long a submitter that keeps its transaction open is waited for. p_step: floors rise by at least this.
create function leasehold.advance_floors(p_patience interval default interval '3 seconds', p_step bigint default 500)
  returns integer
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set enable_seqscan = off
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_probe record;
  v_last_position bigint;
  v_xid xid8;
  v_holder record;
  v_lane record;
  v_floor bigint;
  v_drained boolean;
  v_raised integer := 0;
  v_passed_to bigint;
begin
  perform leasehold.require_read_committed('advance_floors');
  if pg_current_xact_id_if_assigned() is not null then
    raise exception 'advance_floors must run in a transaction of its own' using errcode = 'active_sql_transaction';
  end if;
  -- A sequence that was never used shows its first value as the last one.
  select case when is_called then last_value else 0 end into v_last_position from leasehold.ready_position_seq;
  v_xid := pg_current_xact_id();
  perform from leasehold.locks where name = 'floors' for update skip locked;
  if not found then
    return null;
  end if;

  perform leasehold.collect_stragglers();

  select p.* into v_probe from leasehold.floor_probes p order by p.id desc limit 1;
  if v_probe.id is null or v_probe.passed or v_probe.server_started_at <> pg_postmaster_start_time()
    or v_probe.below_xid > v_xid
  then
    insert into leasehold.floor_probes (last_position, below_xid, taken_at, server_started_at, passed)
    values (v_last_position, v_xid, v_now, pg_postmaster_start_time(), false);
    return 0;
  end if;

  select coalesce(max(p.last_position), 0) into v_passed_to from leasehold.floor_probes p
  where p.passed and p.id < v_probe.id;
  for v_holder in
    select w.xid from leasehold.ready_writers() w
    where w.xid < v_probe.below_xid and not exists (select from leasehold.stragglers g where g.xid = w.xid)
  loop
    if v_probe.taken_at > v_now - p_patience then
      return 0;
    end if;
    insert into leasehold.stragglers (xid, from_position, noted_at) values (v_holder.xid, v_passed_to + 1, v_now)
    on conflict do nothing;
  end loop;

  for v_lane in
    select s.name as stage, l.lane::smallint as lane, f.floor, f.drained
    from leasehold.stages s cross join generate_series(0, 11) as l(lane)
    left join lateral (
      select f.floor, f.drained from leasehold.floors f
      where f.stage = s.name and f.lane = l.lane order by f.floor desc limit 1) f on true
  loop
    select r.position into v_floor from leasehold.ready r
    where r.stage = v_lane.stage and r.lane = v_lane.lane and r.position >= coalesce(v_lane.floor, 0)
    order by r.position limit 1;
    -- A lane in which nobody ever saw a task needs no floor; one that was and is empty hardly a new one.
    continue when v_floor is null and v_lane.floor is null;
    v_drained := v_floor is null or v_floor > v_probe.last_position;
    v_floor := least(coalesce(v_floor, v_probe.last_position + 1), v_probe.last_position + 1);
    if v_floor >= coalesce(v_lane.floor, 0) + (case when v_drained and v_lane.drained then 100000 else p_step end) then
      insert into leasehold.floors (stage, lane, floor, drained) values (v_lane.stage, v_lane.lane, v_floor, v_drained);
      delete from leasehold.floors f where f.stage = v_lane.stage and f.lane = v_lane.lane and f.floor < v_lane.floor;
      v_raised := v_raised + 1;
    end if;
  end loop;
  insert into leasehold.floor_probes (last_position, below_xid, taken_at, server_started_at, passed) values
    (v_probe.last_position, v_probe.below_xid, v_now, pg_postmaster_start_time(), true),
    (v_last_position, v_xid, v_now, pg_postmaster_start_time(), false);
  delete from leasehold.floor_probes p where p.id <= v_probe.id;
  return v_raised;
end
$$;

-- Ready rows that stand below the floor of their lane, from a position on. Empty unless a straggler left some.
create function leasehold.below_floors(p_from bigint default 0)
  returns table (task_id bigint, stage text, lane smallint, ready_position bigint, floor bigint)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set enable_seqscan = off
as $$
  select r.task_id, s.name, l.lane::smallint, r.position, f.floor
  from leasehold.stages s cross join generate_series(0, 11) as l(lane)
  cross join lateral (
    select f.floor from leasehold.floors f where f.stage = s.name and f.lane = l.lane order by f.floor desc limit 1) f
  join leasehold.ready r on r.stage = s.name and r.lane = l.lane and r.position >= p_from and r.position < f.floor
$$;

-- For remembered submitters that have ended: re-queues at the tail what they left below the floors.
create function leasehold.collect_stragglers() returns integer
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
      select r.ctid as rid
      from leasehold.stages s cross join generate_series(0, 11) as l(lane)
      cross join lateral (
        select f.floor from leasehold.floors f where f.stage = s.name and f.lane = l.lane order by f.floor desc limit 1) f
      join leasehold.ready r on r.stage = s.name and r.lane = l.lane
        and r.position >= v_straggler.from_position and r.position < f.floor
      for update of r skip locked
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
