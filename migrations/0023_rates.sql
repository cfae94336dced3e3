-- Rates: a limit on how many tasks of a stage start in a length of time, over all workers, slots and machines.
--
-- A token bucket on the database's clock, kept as one moment per stage (the generic cell rate algorithm): the arrival is
-- when the bucket will be full again. A start moves it ahead by per / tasks; starts are allowed while it lies less than
-- burst such steps ahead. So on average at most `tasks` start per `per`, and never more than tasks + burst in any window
-- of that length, by leased_at. A start is a claim: retries, suspects and run_now are starts too, and what is given back
-- without having begun keeps its start spent. Older programs' claims are counted like all others.

alter table leasehold.stages
  add column rate_tasks integer,
  add column rate_per interval,
  add column rate_burst integer,
  add constraint stage_rate_is_whole check (
    num_nulls(rate_tasks, rate_per, rate_burst) in (0, 3)),
  add constraint stage_rate_tasks_is_1_to_1000000 check (rate_tasks between 1 and 1000000),
  add constraint stage_rate_per_is_1_ms_to_1_day check (rate_per between interval '1 millisecond' and interval '1 day'),
  -- Of a wrong rate_tasks its own constraint speaks.
  add constraint stage_rate_burst_is_1_to_rate_tasks check (rate_burst between 1 and greatest(rate_tasks, 1));
comment on column leasehold.stages.rate_tasks is 'At most so many tasks start per rate_per, on average; null: no limit.';
comment on column leasehold.stages.rate_burst is 'So many may start at once after a pause; never more than rate_tasks + rate_burst start within rate_per.';

-- One row per stage that has, or had, a limit. The arrival is part of the key on purpose: a claim reads the newest entry of
-- the index, at its right edge, however many dead ones an old snapshot keeps behind it. A row that is updated in place
-- would be walked version by version.
create table leasehold.stage_rates (
  stage text collate "C" not null,
  arrival timestamptz not null,
  constraint rate_by_newest_arrival primary key (stage, arrival)
) with (vacuum_truncate = off);
comment on table leasehold.stage_rates is 'When the bucket of each stage with a rate limit is full again. What it says to people is in stage_health.';

-- A limit and its row come together, whoever sets it. The stage's row is locked, so two who set it make one row.
create function leasehold.rate_is_set() returns trigger
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  insert into leasehold.stage_rates (stage, arrival)
  select new.name, leasehold.clock() where not exists (select from leasehold.stage_rates x where x.stage = new.name);
  return null;
end
$$;
create trigger rate_is_set after insert or update of rate_tasks on leasehold.stages
  for each row when (new.rate_tasks is not null) execute function leasehold.rate_is_set();

-- ---------------------------------------------------------------------------------------------- the arithmetic
-- In whole microseconds, which is what moments have; rounded so that a start never comes too early. The products stay
-- below 1e17.

create function leasehold.microseconds(p_length interval) returns bigint
  language sql immutable parallel safe
  return (extract(epoch from p_length) * 1000000)::bigint;

-- The share of the time that belongs to so many starts.
create function leasehold.rate_span(p_tasks integer, p_per interval, p_starts integer) returns interval
  language sql immutable parallel safe
  return ((p_starts * leasehold.microseconds(p_per) + p_tasks - 1) / p_tasks) * interval '1 microsecond';

-- How many may start at p_at. An arrival beyond what starts can have made of it (the clock was set back, the limit was
-- changed) counts as an empty bucket.
create function leasehold.rate_starts(p_tasks integer, p_per interval, p_burst integer, p_arrival timestamptz, p_at timestamptz)
  returns integer
  language sql immutable parallel safe
  return greatest(0, p_burst - (greatest(0, leasehold.microseconds(
    least(p_arrival, p_at + leasehold.rate_span(p_tasks, p_per, p_burst)) - p_at)) * p_tasks
    + leasehold.microseconds(p_per) - 1) / leasehold.microseconds(p_per))::integer;

-- From when on one may start; at or before p_at: it may.
create function leasehold.rate_next(p_tasks integer, p_per interval, p_burst integer, p_arrival timestamptz, p_at timestamptz)
  returns timestamptz
  language sql immutable parallel safe
  return least(p_arrival, p_at + leasehold.rate_span(p_tasks, p_per, p_burst))
    - ((p_burst - 1) * leasehold.microseconds(p_per) / p_tasks) * interval '1 microsecond';

-- ------------------------------------------------------------------------------------------------ what claims ask
create function leasehold.has_ready(p_stage text) returns boolean
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select exists (
    select from generate_series(0, 11) as g(lane) cross join lateral (
      select from leasehold.ready r
      where r.stage = p_stage and r.lane = g.lane::smallint
        and r.position >= coalesce((select f.floor from leasehold.floors f
          where f.stage = p_stage and f.lane = g.lane::smallint order by f.floor desc limit 1), 0)
      order by r.position limit 1) one)
$$;

-- When a worker that may start nothing (more) should look again; null when no task waits for it. Of several starts that
-- come within a few milliseconds it takes those that half of the burst saves up for it, so that a fast limit does not
-- have all workers ask at every step.
create function leasehold.rate_look_at(p_stage text, p_tasks integer, p_per interval, p_burst integer, p_arrival timestamptz, p_at timestamptz)
  returns timestamptz
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select greatest(leasehold.rate_next(p_tasks, p_per, p_burst, p_arrival, p_at),
    p_at + least(interval '25 milliseconds',
      greatest(interval '5 milliseconds', leasehold.rate_span(p_tasks, p_per, (p_burst - 1) / 2))))
  where leasehold.has_ready(p_stage)
$$;

-- How many tasks of a stage with a limit may start now, at most p_most. Spends nothing: note_starts does, in the same
-- transaction, with the arrival and the moment that are returned here. When some may start, the stage's row is locked to
-- the end of the transaction; a look that finds nothing to start, or nothing to start with, locks and writes nothing.
-- Nothing here waits, so the order in which stages are named does not matter: where another session starts tasks of
-- the stage right now, none may start here for some milliseconds. look_at: when to look again; null: no task waits.
create function leasehold.may_start(
  p_stage text, p_most integer, out starts integer, out at timestamptz, out arrival timestamptz, out look_at timestamptz
)
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_rate record;
  v_latest timestamptz;
begin
  select s.rate_tasks as tasks, s.rate_per as per, s.rate_burst as burst, r.arrival into v_rate
  from leasehold.stages s
  cross join lateral (
    select x.arrival from leasehold.stage_rates x where x.stage = s.name order by x.arrival desc limit 1) r
  where s.name = p_stage and s.rate_tasks is not null;
  at := leasehold.clock();
  if not found then -- its limit has gone this very moment
    starts := p_most;
    return;
  end if;
  arrival := v_rate.arrival;
  starts := least(p_most, leasehold.rate_starts(v_rate.tasks, v_rate.per, v_rate.burst, arrival, at));
  v_latest := at + leasehold.rate_span(v_rate.tasks, v_rate.per, v_rate.burst);
  if starts > 0 or arrival > v_latest then
    if not leasehold.has_ready(p_stage) then
      starts := 0;
      return;
    end if;
    -- By its arrival: a row that was changed since it was read is another session's.
    perform from leasehold.stage_rates x where x.stage = p_stage and x.arrival = v_rate.arrival for update skip locked;
    if not found then
      starts := 0;
      -- Mostly a claim that commits in a moment. Where starts lie far apart it may as well be a transaction left open.
      look_at := at + least(interval '250 milliseconds',
        greatest(interval '10 milliseconds', leasehold.rate_span(v_rate.tasks, v_rate.per, 1) / 4));
      return;
    end if;
    at := leasehold.clock(); -- under the lock: from one holder to the next it never goes back by itself
    v_latest := at + leasehold.rate_span(v_rate.tasks, v_rate.per, v_rate.burst);
    if arrival > v_latest then
      -- The clock was set back, or the limit was a slower one: the stage goes on after one step, not when that time comes.
      update leasehold.stage_rates x set arrival = v_latest where x.stage = p_stage and x.arrival = v_rate.arrival;
      arrival := v_latest;
    end if;
    starts := least(p_most, leasehold.rate_starts(v_rate.tasks, v_rate.per, v_rate.burst, arrival, at));
  end if;
  if starts = 0 then
    look_at := leasehold.rate_look_at(p_stage, v_rate.tasks, v_rate.per, v_rate.burst, arrival, at);
  end if;
end
$$;

-- Spends what was started, after may_start in the same transaction. p_cut: the limit let fewer start than there were
-- places for. Returns when to look again; null: not cut short, or no task waits.
create function leasehold.note_starts(p_stage text, p_arrival timestamptz, p_at timestamptz, p_starts integer, p_cut boolean)
  returns timestamptz
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_rate record;
begin
  update leasehold.stage_rates x
  set arrival = greatest(p_arrival, p_at) + leasehold.rate_span(s.rate_tasks, s.rate_per, p_starts)
  from leasehold.stages s
  where s.name = p_stage and s.rate_tasks is not null and x.stage = p_stage and x.arrival = p_arrival
  returning s.rate_tasks as tasks, s.rate_per as per, s.rate_burst as burst, x.arrival into v_rate;
  if not found or not p_cut then
    return null;
  end if;
  return leasehold.rate_look_at(p_stage, v_rate.tasks, v_rate.per, v_rate.burst, v_rate.arrival, p_at);
end
$$;

-- Whether what waits in a stage waits for its limit and for nothing else: a live worker is there, and what the limit lets
-- start is started. A few seconds are not counted: workers may look a little late.
create function leasehold.is_held_by_rate(p_stage text) returns boolean
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select exists (
    select from leasehold.stages s
    cross join lateral (
      select x.arrival from leasehold.stage_rates x where x.stage = s.name order by x.arrival desc limit 1) r
    where s.name = p_stage and s.rate_tasks is not null
      and leasehold.rate_next(s.rate_tasks, s.rate_per, s.rate_burst, r.arrival, leasehold.clock())
        > leasehold.clock() - interval '10 seconds'
      and exists (select from leasehold.workers w
        where w.ended_at is null and w.expires_at > leasehold.clock() and s.name = any (w.stages)
          and not w.draining and not w.drain_asked
          -- With every place taken it is the places that are too few.
          and w.concurrency > (select count(*) from leasehold.leases l where l.worker_id = w.id and l.fence >= w.oldest_fence)))
$$;

-- Creates or changes a stage's settings. Only what differs is written; an operator's pause stays. Null keeps a setting: a
-- program that knows nothing of rates leaves them as they are. p_rate_tasks => 0 removes the limit; with a limit p_rate_per
-- is needed, and p_rate_burst is what may start in one second, at least 1, unless it is given.
drop function leasehold.register_stage(text, integer, integer, interval, interval, interval, integer, integer, integer);
create function leasehold.register_stage(
  p_name text, p_priority integer default null, p_max_attempts integer default null, p_timeout interval default null,
  p_backoff_min interval default null, p_backoff_max interval default null, p_max_crashes integer default null,
  p_key_limit integer default null, p_expected_workers integer default null,
  p_rate_tasks integer default null, p_rate_per interval default null, p_rate_burst integer default null
) returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_keep constant boolean := p_rate_tasks is null;
  v_burst integer := p_rate_burst;
begin
  if (coalesce(p_rate_tasks, 0) = 0 and (p_rate_per is not null or p_rate_burst is not null))
    or (p_rate_tasks <> 0 and p_rate_per is null)
  then
    raise exception 'stage %: the rate limit is not whole: p_rate_tasks %, p_rate_per %, p_rate_burst %', p_name,
      coalesce(p_rate_tasks::text, 'null'), coalesce(p_rate_per::text, 'null'), coalesce(p_rate_burst::text, 'null')
      using errcode = 'invalid_parameter_value',
        hint = 'For example p_rate_tasks => 60, p_rate_per => ''1 minute'' (and p_rate_burst); p_rate_tasks => 0 alone removes the limit, none of the three keeps it.';
  end if;
  if v_burst is null then
    v_burst := case when p_rate_tasks > 0 and p_rate_per >= interval '1 millisecond'
      then least(p_rate_tasks, ceil(p_rate_tasks / extract(epoch from p_rate_per))) else 1 end;
  end if;
  insert into leasehold.stages (name) values (p_name) on conflict (name) do nothing;
  update leasehold.stages s set
    priority = coalesce(p_priority, s.priority), max_attempts = coalesce(p_max_attempts, s.max_attempts),
    timeout = coalesce(p_timeout, s.timeout), backoff_min = coalesce(p_backoff_min, s.backoff_min),
    backoff_max = coalesce(p_backoff_max, s.backoff_max), max_crashes = coalesce(p_max_crashes, s.max_crashes),
    key_limit = coalesce(p_key_limit, s.key_limit), expected_workers = coalesce(p_expected_workers, s.expected_workers),
    rate_tasks = case when v_keep then s.rate_tasks else nullif(p_rate_tasks, 0) end,
    rate_per = case when v_keep then s.rate_per else p_rate_per end,
    rate_burst = case when v_keep then s.rate_burst when p_rate_tasks <> 0 then v_burst end
  where s.name = p_name
    and (s.priority, s.max_attempts, s.timeout, s.backoff_min, s.backoff_max, s.max_crashes, s.key_limit, s.expected_workers,
      s.rate_tasks, s.rate_per, s.rate_burst)
      is distinct from
      (coalesce(p_priority, s.priority), coalesce(p_max_attempts, s.max_attempts), coalesce(p_timeout, s.timeout),
       coalesce(p_backoff_min, s.backoff_min), coalesce(p_backoff_max, s.backoff_max), coalesce(p_max_crashes, s.max_crashes),
       coalesce(p_key_limit, s.key_limit), coalesce(p_expected_workers, s.expected_workers),
       case when v_keep then s.rate_tasks else nullif(p_rate_tasks, 0) end,
       case when v_keep then s.rate_per else p_rate_per end,
       case when v_keep then s.rate_burst when p_rate_tasks <> 0 then v_burst end);
end
$$;

-- The exchange as in 0016; between the pause and the claim it now asks for a stage's rate, where there is one. The receipt
-- then names the stages that are held by it although tasks are ready, and due_in_ms says when the first of them may go on.
-- Locks, in this order: the worker (shared), what is settled and nudged, then stage by stage its row in stage_rates and its
-- ready tasks, passing over what others hold.
create or replace function leasehold.exchange(
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
  v_special boolean;
  v_nudged boolean := false;
  v_ended bigint[];
  v_refused bigint[];
  v_receipt jsonb := '{"worker": "live"}';
  v_stage record;
  v_due timestamptz;
  v_lanes smallint[];
  v_left integer;
  v_picked tid[];
  v_ids bigint[];
  v_again boolean := true;
  v_first bigint;
  v_last bigint;
  v_fence bigint;
  v_rate record;
  v_held text[];
  v_look_at timestamptz;
begin
  if pg_catalog.current_setting('transaction_isolation') <> 'read committed' then
    perform leasehold.require_read_committed('exchange');
  end if;
  -- The lock keeps anybody from declaring the worker dead halfway. A mere look takes it only when it finds something:
  -- an idle worker's looks write nothing and wait for no disk.
  if v_locked then
    select w.expires_at, w.ended_at, w.end_reason, w.drain_asked,
      exists (select from leasehold.revocations r where r.worker_id = w.id) as revoked,
      exists (select from leasehold.nudges n where n.stage = any (p_stages)) as nudged into v_worker
    from leasehold.workers w where w.id = p_worker for key share;
  else
    select w.expires_at, w.ended_at, w.end_reason, w.drain_asked,
      exists (select from leasehold.revocations r where r.worker_id = w.id) as revoked,
      exists (select from leasehold.nudges n where n.stage = any (p_stages)) as nudged into v_worker
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
    -- Done without a result, the hot path: one walk of the index over the ids. The pairs are compared inside a case, so
    -- that they are hashed once; as a join they would be compared each with each by a plan made for a few.
    with ended as (
      delete from leasehold.leases l
      where l.task_id = any (p_done_ids) and l.deadline_at > v_now
        and l.worker_id is not distinct from p_worker -- not "=": the plan must go by task, never by worker
        and case when (l.task_id, l.fence) in (
          select d.task_id, d.fence from unnest(p_done_ids, p_done_fences) as d(task_id, fence)) then true else false end
      returning l.task_id, l.fence, l.leased_at, l.attempt, l.run_id, l.key, l.concurrency_key
    ), recorded as (
      insert into leasehold.attempts (task_id, fence, worker_id, leased_at, ended_at, attempt, final, outcome)
      select task_id, fence, p_worker, leased_at, v_now, attempt, true, 'done' from ended
    )
    select array_agg(e.task_id), array_agg(e.task_id) filter (where e.concurrency_key is not null),
      count(e.run_id) + count(e.key) > 0
        or exists (select from leasehold.dependencies d where d.parent_id = any (p_done_ids))
    into v_accepted, v_keyed, v_special from ended e;
    if v_keyed is not null then
      perform leasehold.nudge_keys(v_keyed);
    end if;
    if v_special then
      perform leasehold.after_end(v_accepted, 'done');
    end if;
    v_nudged := v_keyed is not null or v_special;
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
    -- Nudges that stood there when the exchange began, or that it may have left itself. Acting on them may leave new ones
    -- (a freed child with a key, children of a cancelled child): a few rounds.
    if v_worker.nudged or ((v_nudged or p_endings is not null or p_children is not null)
      and exists (select from leasehold.nudges n where n.stage = any (p_stages)))
    then
      for i in 1 .. 5 loop
        exit when leasehold.process_nudges(p_stages) not between 1 and 199;
      end loop;
    end if;
    for v_stage in
      select w.name, w.free, s.timeout, s.rate_tasks is not null as limited,
        exists (select from leasehold.ready r where r.stage = w.name and r.lane = 11) as has_suspects
      from unnest(p_stages, p_limits) with ordinality as w(name, free, nr)
      join leasehold.stages s on s.name = w.name
      where w.free > 0 and (s.paused_until is null or s.paused_until <= v_now)
      order by w.nr
    loop
      v_left := v_stage.free;
      if v_stage.limited then
        select * into v_rate from leasehold.may_start(v_stage.name, v_left);
        if v_rate.starts = 0 then
          if v_rate.look_at is not null and p_run_id is null then
            v_held := v_held || v_stage.name;
            v_look_at := least(v_look_at, v_rate.look_at);
          end if;
          continue;
        end if;
        v_left := v_rate.starts;
        v_now := v_rate.at; -- the limit counts these starts at this moment, so their leases must say the same
      end if;
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
          select array_agg(p.rid), array_agg(p.task_id), min(p.task_id), max(p.task_id), bool_or(p.again)
          into v_picked, v_ids, v_first, v_last, v_again
          from (
            select c.rid, c.task_id, c.again
            from unnest(v_lanes) as lanes(lane)
            cross join lateral (
              select r.ctid as rid, r.task_id, r.failures + r.crashes > 0 as again from leasehold.ready r
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
          if not v_again then
            return query
            with taken as (
              delete from leasehold.ready r where r.ctid = any (v_picked)
            ), claimed as materialized (
              select x.id, x.run_id, x.key, x.concurrency_key, x.timeout, x.payload::text as payload,
                case when x.run_id is null and x.key is null and x.title is null and x.meta is null and x.timeout is null
                    and x.max_attempts is null and x.concurrency_key is null
                  then null else leasehold.task_extra(x, 0::smallint) end as extra
              from leasehold.tasks x where x.id = any (v_ids) and x.id between v_first and v_last
            ), leased as (
              insert into leasehold.leases (
                task_id, fence, worker_id, leased_at, deadline_at, attempt, crashes, stage, run_id, key, concurrency_key)
              select c.id, v_fence, p_worker, v_now, v_now + coalesce(c.timeout, v_stage.timeout), 1, 0,
                v_stage.name, c.run_id, c.key, c.concurrency_key
              from claimed c
            )
            select c.id, v_fence, v_stage.name, 1::smallint, c.payload, c.extra from claimed c;
          else
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
          end if;
          v_left := v_left - cardinality(v_picked);
        end if;
        exit when v_lanes[1] <> 11 or v_left <= 0;
        v_lanes := array[10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0];
      end loop;
      if v_stage.limited then
        if v_left < v_rate.starts then
          v_rate.look_at := leasehold.note_starts(v_stage.name, v_rate.arrival, v_rate.at, v_rate.starts - v_left,
            v_left = 0 and v_rate.starts < v_stage.free);
          if v_rate.look_at is not null and p_run_id is null then
            v_held := v_held || v_stage.name;
            v_look_at := least(v_look_at, v_rate.look_at);
          end if;
        end if;
      end if;
    end loop;
    -- Nobody is woken for a stage that its rate holds back: each submission would call workers that may start nothing.
    if v_held is not null then
      delete from leasehold.sleepers z
      where z.worker_id = p_worker and z.stage = any (array(
        select y.stage from leasehold.sleepers y
        where y.worker_id = p_worker and y.stage = any (v_held) for update skip locked));
    end if;
    if p_wake_ms is not null then
      insert into leasehold.sleepers as z (stage, worker_id, wake_until)
      select distinct name, p_worker, v_now + p_wake_ms * interval '1 millisecond' from unnest(p_stages) as name
      where name <> all (coalesce(v_held, '{}'))
      on conflict (stage, worker_id) do update set wake_until = excluded.wake_until;
    end if;
    if p_promote or p_endings is not null then -- what was put off in this exchange has a due time too
      select min(n.run_at) into v_due from unnest(p_stages) as name
      cross join lateral (
        select s.run_at from leasehold.scheduled s where s.stage = name order by s.run_at limit 1) n;
    end if;
  end if;

  if cardinality(v_refused) > 0 then
    v_receipt := v_receipt || jsonb_build_object('refused', v_refused::text[]);
  end if;
  if v_held is not null then
    v_receipt := v_receipt || jsonb_build_object('held', v_held);
    v_due := least(v_due, v_look_at);
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

-- ---------------------------------------------------------------------------------------- what people are told
-- As in 0009, with the limit and the next start at its end: null without a limit, or when a task may start now.
create or replace view leasehold.stage_health as
select s.name as stage,
  case
    when s.paused_until > leasehold.clock() then 'paused'
    when live.n = 0 and (ready.n > 0 or due.n > 0) then 'no worker'
    when live.n = 0 then 'no worker, no work'
    when live.n < s.expected_workers then 'workers missing'
    when leases.n > 0 then 'working'
    when ready.n > 0 and rate.next_start_at > leasehold.clock() then 'rate limited'
    when ready.n > 0 then 'waiting for workers'
    else 'idle'
  end as status,
  live.n as live_workers, s.expected_workers,
  case when ready.n > 1000 then greatest(ready.n, coalesce(sample.ready, 0)) else ready.n end as ready,
  leases.n as running,
  case when later.n > 1000 then greatest(later.n, coalesce(sample.scheduled, 0)) else later.n end as scheduled,
  case when held.n > 1000 then greatest(held.n, coalesce(sample.waiting, 0)) else held.n end as waiting,
  ready.n <= 1000 and later.n <= 1000 and held.n <= 1000 as exact,
  leasehold.clock() - (
    select t.submitted_at from leasehold.ready r join leasehold.tasks t on t.id = r.task_id
    where r.stage = s.name and r.lane = (
        select r2.lane from leasehold.ready r2 where r2.stage = s.name order by r2.lane limit 1)
      and r.position >= coalesce((select f.floor from leasehold.floors f
        where f.stage = s.name and f.lane = r.lane order by f.floor desc limit 1), 0)
    order by r.position limit 1) as oldest_ready,
  s.paused_until, sample.at as sampled_at, s.rate_tasks, s.rate_per, s.rate_burst,
  case when rate.next_start_at > leasehold.clock() then rate.next_start_at end as next_start_at
from leasehold.stages s
cross join lateral (
  select count(*) as n from leasehold.workers w
  where w.ended_at is null and w.expires_at > leasehold.clock() and s.name = any (w.stages)) live
cross join lateral (
  select count(*) as n from (
    select from generate_series(0, 11) as g(lane) cross join lateral (
      select r.position from leasehold.ready r where r.stage = s.name and r.lane = g.lane::smallint
        and r.position >= coalesce((select f.floor from leasehold.floors f
          where f.stage = s.name and f.lane = g.lane::smallint order by f.floor desc limit 1), 0)
      order by r.position limit 1001) one
    limit 1001) x) ready
cross join lateral (
  select count(*) as n from leasehold.workers w
  join leasehold.leases l on l.worker_id = w.id and l.fence >= w.oldest_fence
  where w.ended_at is null and l.stage = s.name) leases
cross join lateral (
  select count(*) as n from (select from leasehold.scheduled d where d.stage = s.name order by d.run_at limit 1001) x) later
cross join lateral (
  select count(*) as n from (
    select from leasehold.scheduled d where d.stage = s.name and d.run_at <= leasehold.clock() order by d.run_at limit 1) x) due
cross join lateral (select count(*) as n from (select from leasehold.waiting w where w.stage = s.name limit 1001) x) held
left join lateral (
  select p.ready, p.scheduled, p.waiting, p.at from leasehold.stage_samples p where p.stage = s.name order by p.at desc limit 1) sample on true
left join lateral (
  select leasehold.rate_next(s.rate_tasks, s.rate_per, s.rate_burst, x.arrival, leasehold.clock()) as next_start_at
  from leasehold.stage_rates x where x.stage = s.name and s.rate_tasks is not null
  order by x.arrival desc limit 1) rate on true;

-- As in 0006, with one reason more.
create or replace function leasehold.explain_task(task_id bigint)
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
  v_next timestamptz;
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
  -- With a free place and more before it than the limit lets start now, it is the limit that holds it back.
  if v_stage.rate_tasks is not null and v_free > 0 then
    select leasehold.rate_next(v_stage.rate_tasks, v_stage.rate_per, v_stage.rate_burst, x.arrival, v_now) into v_next
    from leasehold.stage_rates x
    where x.stage = v_stage.name and v_ahead >= leasehold.rate_starts(
      v_stage.rate_tasks, v_stage.rate_per, v_stage.rate_burst, x.arrival, v_now)
    order by x.arrival desc limit 1;
    if found then
      v_next := greatest(v_next, v_now);
      return query select 'ready', 'rate_limited',
        'Its stage''s rate limit: ' || v_stage.rate_tasks || case when v_stage.rate_tasks = 1 then ' start per ' else ' starts per ' end
          || v_stage.rate_per || ' (burst ' || v_stage.rate_burst
          || '); next start at ' || v_next || '; '
          || case when v_ahead > 10000 then 'more than 10000' else v_ahead::text end || ' ready task(s) in front.',
        case when v_ahead = 0 then 'Wait, or raise the limit (limits.rate) and start the stage''s workers again.'
          else 'Wait, raise the limit (limits.rate) and start the stage''s workers again, or put it first: select leasehold.run_now('
            || v_task.id || ').' end,
        jsonb_build_object('tasks', v_stage.rate_tasks, 'per', v_stage.rate_per, 'burst', v_stage.rate_burst,
          'next_start_at', v_next, 'ahead', v_ahead, 'lane', v_row.lane,
          'starts_about', v_next + v_ahead * (v_stage.rate_per / v_stage.rate_tasks));
      return;
    end if;
  end if;
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

-- What is wrong with the work right now: stages whose tasks end dead, and stages that are later than they may be. A stage
-- that is late because of its rate limit, and of nothing else, is as slow as somebody wants it to be.
-- Reads at most the 5000 newest failed attempts of an hour (index attempts_failed_by_time), and the front of each lane
-- of stages with a limit. A stage stops failing when no task of it has ended dead for an hour; what was quarantined has
-- an incident of its own.
create or replace function leasehold.work_conditions()
  returns table (kind text, subject text, summary text, details jsonb)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  with failed as (
    select a.task_id, a.outcome, a.ended_at, a.error from leasehold.attempts a
    -- The moment once, in a subquery: the clock is volatile, and a filter would walk the whole history of failures.
    where a.outcome in ('dead', 'retry', 'lost') and a.ended_at > (select leasehold.clock() - interval '1 hour')
      and a.ended_at <= (select leasehold.clock() + interval '1 minute')
    order by a.ended_at desc limit 5000
  ), dead as (
    select t.stage, count(*) as n, max(f.ended_at) as last_at,
      (array_agg(jsonb_build_object('task_id', t.id::text, 'title', left(t.title, 200), 'error', left(f.error ->> 'message', 500))
        order by f.ended_at desc))[1] as last
    from failed f join leasehold.tasks t on t.id = f.task_id
    where f.outcome = 'dead' and f.error ->> 'code' is distinct from 'quarantined'
    group by t.stage
  ), late as (
    select b.stage, b.older_than, leasehold.clock() - (
      select min(greatest(t.submitted_at, t.run_at)) from generate_series(0, 11) as g(lane)
      cross join lateral (
        select r.task_id from leasehold.ready r
        where r.stage = b.stage and r.lane = g.lane::smallint
          and r.position >= coalesce((select f.floor from leasehold.floors f
            where f.stage = b.stage and f.lane = g.lane::smallint order by f.floor desc limit 1), 0)
        order by r.position limit 1) first
      join leasehold.tasks t on t.id = first.task_id) as age
    from leasehold.backlog_limits b
    where not exists (select from leasehold.stages s where s.name = b.stage and s.paused_until > leasehold.clock())
      and not leasehold.is_held_by_rate(b.stage)
  )
  select 'tasks_failing', d.stage, 'tasks of stage ' || d.stage || ' end dead',
    jsonb_build_object('stage', d.stage, 'dead', d.n, 'last_at', d.last_at, 'last', d.last)
  from dead d
  union all
  select 'backlog_old', l.stage,
    'the oldest ready task of stage ' || l.stage || ' is older than ' || l.older_than::text,
    jsonb_build_object('stage', l.stage, 'age_s', round(extract(epoch from l.age)::numeric, 1),
      'limit_s', round(extract(epoch from l.older_than)::numeric, 1))
  from late l where l.age > l.older_than
$$;

-- Tables that churn and that autovacuum does not keep up with: to be vacuumed, the worst first. Zero rows: none.
create or replace function leasehold.tables_to_vacuum() returns table (name text, dead bigint)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select u.relname::text, u.n_dead_tup
  from pg_catalog.pg_stat_user_tables u
  where u.schemaname = 'leasehold' and u.n_dead_tup > greatest(20000, u.n_live_tup)
    and u.relname in ('ready', 'leases', 'scheduled', 'waiting', 'nudges', 'task_keys', 'dependencies', 'concurrency_keys',
      'sleepers', 'workers', 'revocations', 'run_ledger', 'floors', 'floor_probes', 'stage_samples',
      'stage_rates')
    and coalesce(greatest(leasehold.believed(u.last_vacuum, clock_timestamp()), leasehold.believed(u.last_autovacuum, clock_timestamp())),
      '-infinity') < clock_timestamp() - interval '3 minutes'
  order by u.n_dead_tup desc
$$;

revoke all on function leasehold.rate_is_set(), leasehold.microseconds(interval), leasehold.rate_span(integer, interval, integer),
  leasehold.rate_starts(integer, interval, integer, timestamptz, timestamptz),
  leasehold.rate_next(integer, interval, integer, timestamptz, timestamptz), leasehold.has_ready(text),
  leasehold.rate_look_at(text, integer, interval, integer, timestamptz, timestamptz), leasehold.may_start(text, integer),
  leasehold.note_starts(text, timestamptz, timestamptz, integer, boolean), leasehold.is_held_by_rate(text),
  leasehold.register_stage(text, integer, integer, interval, interval, interval, integer, integer, integer, integer, interval, integer)
  from public;

do $$
declare
  v_object record;
begin
  if (select pg_get_userbyid(n.nspowner) <> 'leasehold_owner' from pg_catalog.pg_namespace n where n.nspname = 'leasehold') then
    return; -- 0010 has said so
  end if;
  alter table leasehold.stage_rates owner to leasehold_owner;
  for v_object in
    select p.oid::regprocedure as signature, p.proname as name from pg_catalog.pg_proc p
    where p.pronamespace = 'leasehold'::regnamespace and p.proname in ('rate_is_set', 'microseconds', 'rate_span',
      'rate_starts', 'rate_next', 'has_ready', 'rate_look_at', 'may_start', 'note_starts', 'is_held_by_rate', 'register_stage')
  loop
    execute pg_catalog.format('alter function %s owner to leasehold_owner', v_object.signature);
    if v_object.name = 'register_stage' then
      execute pg_catalog.format('grant execute on function %s to leasehold_worker', v_object.signature);
    elsif v_object.name in ('microseconds', 'rate_span', 'rate_next') then
      -- stage_health calls them in the name of whoever reads it.
      execute pg_catalog.format('grant execute on function %s to leasehold_observer', v_object.signature);
    end if;
  end loop;
end
$$;
