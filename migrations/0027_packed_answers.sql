-- A batch of tasks that were never tried comes in one row, for programs that ask for it: sending, receiving and parsing
-- a row for each of them cost more than the payloads.
--
-- exchange(… p_packed): as in 0023, but with p_packed such tasks come as
--   task_id null, fence and stage of all, attempt 1, payload: JSON array of their payloads,
--   extra: {"task_ids": ["1", …], "extras": [{…} or null, …]}, the second left out when none has any.
-- Longer tasks, and a whole batch in which one was tried before, have a row each, as ever, and the receipt is the last row:
-- task_id and stage null. Without p_packed, and through the signature that programs of older versions call, all tasks have.
--
-- Where tasks of several priorities were picked, the receipt names them in the order in which they are to start: "order".
create function leasehold.exchange(
  p_worker uuid, p_done_ids bigint[], p_done_fences bigint[], p_endings jsonb, p_children jsonb, p_notes jsonb,
  p_stages text[], p_limits integer[], p_run_id text, p_promote boolean, p_wake_ms integer, p_packed boolean
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
  v_mixed boolean;
  v_order bigint[];
  v_again boolean := true;
  v_first bigint;
  v_last bigint;
  v_fence bigint;
  v_one_fence bigint;
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
    -- that they are hashed once; as a join they would be compared each with each by a plan made for a few. Leases of one
    -- claim have one fence, and then there is nothing to compare but that.
    if p_done_fences[1] = all (p_done_fences) and cardinality(p_done_fences) = cardinality(p_done_ids) then
      v_one_fence := p_done_fences[1];
    end if;
    with ended as (
      delete from leasehold.leases l
      where l.task_id = any (p_done_ids) and l.deadline_at > v_now
        and l.worker_id is not distinct from p_worker -- not "=": the plan must go by task, never by worker
        and case when v_one_fence is not null then l.fence = v_one_fence when (l.task_id, l.fence) in (
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
          select array_agg(p.rid), array_agg(p.task_id), min(p.task_id), max(p.task_id), bool_or(p.again),
            min(p.lane) <> max(p.lane)
          into v_picked, v_ids, v_first, v_last, v_again, v_mixed
          from (
            select c.rid, c.task_id, c.again, lanes.lane
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
          if v_mixed then
            v_order := v_order || v_ids;
          end if;
          if not v_locked then
            perform from leasehold.workers w
            where w.id = p_worker and w.ended_at is null and w.expires_at > leasehold.clock() for key share;
            exit when not found; -- declared dead since the look began: what was picked stays where it is
            v_locked := true;
          end if;
          v_fence := nextval('leasehold.fences');
          if p_packed and not v_again then
            -- Nothing was tried before: all but the payloads is known, or the same for all of them. One row for the batch
            -- instead of one for each task; what is long goes by itself, so that no text outgrows what a text may be.
            return query
            with taken as (
              delete from leasehold.ready r where r.ctid = any (v_picked)
            ), claimed as materialized (
              select t.*, octet_length(t.payload) + coalesce(octet_length(t.extra), 0) <= 10000 as short
              from (
                select x.id, x.run_id, x.key, x.concurrency_key, x.timeout, x.payload::text as payload,
                  case when x.run_id is null and x.key is null and x.title is null and x.meta is null and x.timeout is null
                      and x.max_attempts is null and x.concurrency_key is null
                    then null else leasehold.task_extra(x, 0::smallint) end as extra
                from leasehold.tasks x where x.id = any (v_ids) and x.id between v_first and v_last) t
            ), leased as (
              insert into leasehold.leases (
                task_id, fence, worker_id, leased_at, deadline_at, attempt, crashes, stage, run_id, key, concurrency_key)
              select c.id, v_fence, p_worker, v_now, v_now + coalesce(c.timeout, v_stage.timeout), 1, 0,
                v_stage.name, c.run_id, c.key, c.concurrency_key
              from claimed c
            )
            select null::bigint, v_fence, v_stage.name, 1::smallint, '[' || string_agg(c.payload, ',') || ']',
              '{"task_ids":["' || string_agg(c.id::text, '","') || '"]'
                || case when count(c.extra) = 0 then '' else ',"extras":[' || string_agg(coalesce(c.extra, 'null'), ',') || ']' end
                || '}'
            from claimed c where c.short having count(*) > 0
            union all
            select c.id, v_fence, v_stage.name, 1::smallint, c.payload, c.extra from claimed c where not c.short;
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
  if v_order is not null then
    v_receipt := v_receipt || jsonb_build_object('order', v_order::text[]);
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

create or replace function leasehold.exchange(
  p_worker uuid, p_done_ids bigint[], p_done_fences bigint[], p_endings jsonb, p_children jsonb, p_notes jsonb,
  p_stages text[], p_limits integer[], p_run_id text, p_promote boolean, p_wake_ms integer
) returns table (task_id bigint, fence bigint, stage text, attempt smallint, payload text, extra text)
  language sql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select * from leasehold.exchange(
    p_worker, p_done_ids, p_done_fences, p_endings, p_children, p_notes, p_stages, p_limits, p_run_id, p_promote, p_wake_ms, false)
$$;

revoke all on function leasehold.exchange(
  uuid, bigint[], bigint[], jsonb, jsonb, jsonb, text[], integer[], text, boolean, integer, boolean) from public;

do $$
begin
  if (select pg_get_userbyid(n.nspowner) <> 'leasehold_owner' from pg_catalog.pg_namespace n where n.nspname = 'leasehold') then
    return; -- 0010 has said so
  end if;
  alter function leasehold.exchange(
    uuid, bigint[], bigint[], jsonb, jsonb, jsonb, text[], integer[], text, boolean, integer, boolean) owner to leasehold_owner;
  grant execute on function leasehold.exchange(
    uuid, bigint[], bigint[], jsonb, jsonb, jsonb, text[], integer[], text, boolean, integer, boolean) to leasehold_worker;
end
$$;
