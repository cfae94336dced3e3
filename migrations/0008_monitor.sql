-- The monitor: what it notices, as incidents; what it has to tell, as alerts.
--
-- An incident is one condition about one subject, open until it is gone; a partial unique index makes it one however
-- many monitors look. An alert is one message about incidents, written in the transaction that opens them, so that no
-- crash loses it and two monitors send it once; graphile-worker delivers it. The monitor never waits for a mail server.
-- Which incidents deserve a message, and its words, are the monitor program's business (daemons/heartbeat-monitor).

create table leasehold.monitors (
  id uuid primary key,
  host text not null,
  pid integer,
  version text,
  interval_ms integer not null,
  started_at timestamptz not null,
  ticked_at timestamptz not null,
  ticks bigint not null default 0,
  stopped_at timestamptz,
  constraint monitor_interval_is_positive check (interval_ms > 0)
) with (fillfactor = 50);
comment on table leasehold.monitors is 'One row per monitor process; the newest ticked_at says whether anybody watches.';

create table leasehold.monitor_gaps (
  id bigint generated always as identity primary key,
  ended_at timestamptz not null,
  lasted interval not null
);
comment on table leasehold.monitor_gaps is 'Times in which nobody can say that workers were able to beat: no monitor ticked, or the one that did could not reach the database. See release_grace_until.';

create table leasehold.incidents (
  id bigint generated always as identity primary key,
  kind text collate "C" not null,
  subject text collate "C" not null,
  opened_at timestamptz not null,
  resolved_at timestamptz,
  summary text not null,
  details jsonb not null default '{}',
  constraint incident_kind_is_known check (kind in (
    'worker_dead', 'worker_wedged', 'stage_without_worker', 'workers_missing', 'task_quarantined', 'monitor_silent',
    'mail_undeliverable'))
);
create unique index one_open_incident_per_subject on leasehold.incidents (kind, subject) where resolved_at is null;
create index incidents_by_subject on leasehold.incidents (kind, subject);
create index incidents_by_time on leasehold.incidents (opened_at);

create table leasehold.alerts (
  id bigint generated always as identity primary key,
  channel text collate "C" not null default 'email',
  incident_ids bigint[] not null,
  subject text not null,
  body text not null,
  created_at timestamptz not null default leasehold.clock(),
  next_try_at timestamptz not null default leasehold.clock(),
  claimed_until timestamptz,
  sent_at timestamptz,
  tries integer not null default 0,
  last_error text,
  constraint alert_subject_is_one_line check (subject !~ '[[:cntrl:]]')
);
comment on table leasehold.alerts is 'The outbox: what was or will be sent, with the number of tries and the last error.';
comment on column leasehold.alerts.claimed_until is 'A sender has it in hand; when this has passed without a result, another may take it.';
create index alerts_unsent on leasehold.alerts (id) where sent_at is null;

-- Opens an incident unless it is open already. Returns its id when this call opened it, else null.
create function leasehold.open_incident(p_kind text, p_subject text, p_summary text, p_details jsonb default '{}')
  returns bigint
  language sql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  insert into leasehold.incidents (kind, subject, opened_at, summary, details)
  values (p_kind, p_subject, leasehold.clock(), p_summary, p_details)
  on conflict (kind, subject) where resolved_at is null do nothing
  returning id
$$;

-- The moment before which a worker with this TTL is not released: one TTL after the server started, and one TTL after
-- a gap in which a live worker may have expired. It beats three times per TTL, so a gap shorter than half of one
-- cannot have done that. Counted for each worker by its own TTL: a slow one does not hold up the others.
create function leasehold.release_grace_until(p_ttl interval) returns timestamptz
  language sql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select greatest(pg_catalog.pg_postmaster_start_time(),
    (select max(g.ended_at) from leasehold.monitor_gaps g where g.lasted >= p_ttl / 2)) + p_ttl
$$;

-- Registers or renews a monitor; the first statement of the transaction of its look, so that a look which fails does
-- not count as one. p_away: for how long this monitor could not reach the database before (0: it could). Returns how
-- long no monitor had looked (null: none ever did) and notes a gap where workers may not have been able to beat: after
-- two intervals without a look, or when this monitor was cut off and no other one looked meanwhile.
create function leasehold.monitor_beat(
  p_monitor uuid, p_host text, p_pid integer, p_version text, p_interval_ms integer, p_away interval default '0'
) returns interval
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_silent interval;
  v_gap interval;
begin
  select v_now - max(m.ticked_at) into v_silent from leasehold.monitors m;
  v_gap := case
    when v_silent is null then interval '1 day' -- the longest TTL there is
    when v_silent > p_interval_ms * 2 * interval '1 millisecond' then v_silent
    else least(p_away, v_silent)
  end;
  if v_gap > interval '0' then
    insert into leasehold.monitor_gaps (ended_at, lasted) values (v_now, v_gap);
  end if;
  insert into leasehold.monitors as m (id, host, pid, version, interval_ms, started_at, ticked_at, ticks)
  values (p_monitor, p_host, p_pid, p_version, p_interval_ms, v_now, v_now, 1)
  on conflict (id) do update set ticked_at = v_now, ticks = m.ticks + 1, stopped_at = null;
  return v_silent;
end
$$;

-- A monitor stops in order: its silence is no incident. False when it is not known.
create function leasehold.monitor_leave(p_monitor uuid) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  update leasehold.monitors m set stopped_at = leasehold.clock() where m.id = p_monitor;
  return found;
end
$$;

-- How long no monitor has ticked; null when none ever did. Runners and views read it.
create function leasehold.monitor_silence() returns interval
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select leasehold.clock() - max(m.ticked_at) from leasehold.monitors m
$$;

-- What is wrong right now, apart from what happens once (deaths, quarantines). p_wedge: how long a main loop may stand
-- still. p_lonely: how long a stage may have work and no live worker, or fewer than expected; a restart is shorter.
-- p_silent: the least silence of a monitor that counts. Reads the front of each lane only for stages without a worker.
create function leasehold.current_conditions(p_wedge interval, p_lonely interval, p_silent interval)
  returns table (kind text, subject text, summary text, details jsonb)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  with seen as (
    select w.*, w.ended_at is null and w.expires_at > leasehold.clock() as live
    from leasehold.workers w where w.ended_at is null or w.ended_at > leasehold.clock() - interval '1 day'
  ), by_stage as (
    select u.stage, count(*) filter (where w.live) as live_workers,
      count(distinct w.slot) filter (where w.live or coalesce(w.ended_at, w.expires_at) > leasehold.clock() - p_lonely)
        as recent_slots,
      -- A dead worker counts until it was released: its death is news of its own.
      max(coalesce(w.ended_at, w.expires_at)) as last_live, max(w.beat_at) as last_seen
    from seen w cross join lateral unnest(w.stages) as u(stage) group by 1
  ), stage_work as (
    select s.name, s.expected_workers, s.registered_at, b.last_live, b.last_seen,
      coalesce(b.live_workers, 0) as live_workers, coalesce(b.recent_slots, 0) as recent_slots,
      case when coalesce(b.live_workers, 0) = 0 then least(
        (select min(greatest(t.submitted_at, t.run_at)) from generate_series(0, 11) as g(lane)
         cross join lateral (
           select r.task_id from leasehold.ready r
           where r.stage = s.name and r.lane = g.lane::smallint
             and r.position >= coalesce((select f.floor from leasehold.floors f
               where f.stage = s.name and f.lane = g.lane::smallint order by f.floor desc limit 1), 0)
           order by r.position limit 1) first
         join leasehold.tasks t on t.id = first.task_id),
        (select n.run_at from leasehold.scheduled n where n.stage = s.name order by n.run_at limit 1),
        (select w.waiting_since from leasehold.waiting w where w.stage = s.name and not w.for_parents
         order by w.concurrency_key limit 1)
      ) end as oldest
    from leasehold.stages s left join by_stage b on b.stage = s.name
    where s.paused_until is null or s.paused_until <= leasehold.clock()
  ), lonely as (
    select s.* from stage_work s
    where s.live_workers = 0 and greatest(s.oldest, s.last_live) < leasehold.clock() - p_lonely and s.oldest is not null
  )
  -- The last beat tells how old the loop's turn was then; a worker that is silent as well is not wedged but about to be dead.
  select 'worker_wedged', w.id::text,
    'worker ' || w.slot || ' beats but its main loop has not turned for ' || date_trunc('second', w.beat_at - w.loop_at)::text,
    jsonb_build_object('worker_id', w.id, 'slot', w.slot, 'stages', w.stages, 'host', w.host, 'pid', w.pid,
      'loop_at', w.loop_at, 'stands_still_s', round(extract(epoch from w.beat_at - w.loop_at)::numeric, 1), 'running', w.running)
  from seen w where w.live and w.beat_at - w.loop_at > p_wedge
  union all
  select 'stage_without_worker', s.name,
    'stage ' || s.name || ' has work and no live worker',
    jsonb_build_object('stage', s.name, 'oldest', s.oldest, 'last_worker_seen', s.last_seen)
  from lonely s
  union all
  select 'workers_missing', s.name,
    'stage ' || s.name || ' has ' || s.live_workers || ' of ' || s.expected_workers || ' expected workers',
    jsonb_build_object('stage', s.name, 'live', s.live_workers, 'expected', s.expected_workers)
  from stage_work s
  where s.recent_slots < s.expected_workers and s.registered_at < leasehold.clock() - p_lonely
    and s.name not in (select l.name from lonely l)
  union all
  select 'monitor_silent', m.id::text,
    'monitor on ' || m.host || ' (pid ' || coalesce(m.pid::text, '?') || ') has not ticked for ' || date_trunc('second', leasehold.clock() - m.ticked_at)::text,
    jsonb_build_object('monitor_id', m.id, 'host', m.host, 'pid', m.pid, 'ticked_at', m.ticked_at, 'interval_ms', m.interval_ms)
  from leasehold.monitors m
  where m.stopped_at is null
    and m.ticked_at < leasehold.clock() - greatest(p_silent, m.interval_ms * 3 * interval '1 millisecond')
    and m.ticked_at > leasehold.clock() - interval '1 day'
    -- Started again on its host: that process watches in its place.
    and not exists (select from leasehold.monitors n where n.host = m.host and n.started_at > m.ticked_at)
$$;

-- Opens an incident for every worker of the last day that ended without leaving (whoever noticed: a monitor, a runner,
-- or its successor in the slot) and has none yet, and one for every task that was quarantined with it. Returns their
-- ids. What a worker held is read from the attempts that ended in the same instant, written by end_worker.
create function leasehold.open_deaths(p_limit integer default 1000) returns bigint[]
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_opened bigint[];
begin
  with died as materialized (
    select w.* from leasehold.workers w
    where w.ended_at > v_now - interval '1 day' and w.end_reason in ('lost', 'superseded')
      and not exists (select from leasehold.incidents i where i.kind = 'worker_dead' and i.subject = w.id::text)
    order by w.ended_at, w.id limit p_limit
  ), held as materialized (
    select d.id as worker_id, a.task_id, a.outcome = 'dead' as quarantined, t.stage, t.title, a.error
    from died d
    join leasehold.attempts a on a.ended_at = d.ended_at and a.worker_id = d.id and a.outcome in ('lost', 'dead')
    join leasehold.tasks t on t.id = a.task_id
  ), opened as (
    insert into leasehold.incidents (kind, subject, opened_at, summary, details)
    select 'worker_dead', d.id::text, v_now, 'worker ' || d.slot || ' died', jsonb_build_object(
      'worker_id', d.id, 'slot', d.slot, 'stages', d.stages, 'host', d.host, 'pid', d.pid, 'end', d.end_reason,
      'last_seen', d.beat_at, 'ended_at', d.ended_at, 'silent_s', round(extract(epoch from v_now - d.beat_at)::numeric, 1),
      'held', h.tasks, 'released_count', h.released, 'quarantined_count', h.quarantined,
      'unserved', (select coalesce(jsonb_agg(u.stage), '[]') from unnest(d.stages) as u(stage)
        where not exists (select from leasehold.workers w
          where w.ended_at is null and w.expires_at > v_now and u.stage = any (w.stages))))
    from died d cross join lateral (
      select count(*) filter (where not x.quarantined) as released, count(*) filter (where x.quarantined) as quarantined,
        coalesce(jsonb_agg(jsonb_build_object('task_id', x.task_id::text, 'stage', x.stage, 'title', left(x.title, 200),
          'quarantined', x.quarantined) order by x.task_id) filter (where x.nr <= 100), '[]') as tasks
      from (select h.*, row_number() over (order by h.quarantined desc, h.task_id) as nr
            from held h where h.worker_id = d.id) x) h
    on conflict (kind, subject) where resolved_at is null do nothing
    returning id
  ), quarantined as (
    insert into leasehold.incidents (kind, subject, opened_at, summary, details)
    select 'task_quarantined', h.task_id::text, v_now,
      'task ' || h.task_id || ' of stage ' || h.stage || ' killed its worker too often and was set aside',
      jsonb_build_object('task_id', h.task_id::text, 'stage', h.stage, 'title', left(h.title, 200), 'error', h.error)
    from held h where h.quarantined
    on conflict (kind, subject) where resolved_at is null do nothing
    returning id
  )
  select array_agg(x.id order by x.id) into v_opened from (select id from opened union all select id from quarantined) x;
  return coalesce(v_opened, '{}');
end
$$;

-- One look of the monitor: releases dead workers and overdue leases, opens and resolves incidents. One monitor looks at
-- a time; another gets looked = false at once. Releasing stops after p_budget with unfinished = true: look again.
-- Returns the incidents this call opened and resolved; ids of incidents and tasks are texts.
create function leasehold.monitor_tick(
  p_wedge interval, p_lonely interval, p_silent interval default '30 seconds', p_budget interval default '10 seconds'
) returns table (looked boolean, unfinished boolean, opened jsonb, resolved jsonb)
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_now timestamptz := leasehold.clock();
  v_started timestamptz := clock_timestamp();
  v_opened bigint[];
  v_gone bigint[];
  v_conditions jsonb;
  v_count integer;
begin
  opened := '[]'; resolved := '[]'; unfinished := false;
  perform from leasehold.locks where name = 'monitor' for update skip locked;
  looked := found;
  if not looked then
    return next;
    return;
  end if;

  loop
    select count(*) into v_count from leasehold.release_dead_workers(50);
    exit when v_count < 50;
    unfinished := clock_timestamp() > v_started + p_budget;
    exit when unfinished;
  end loop;
  -- A worker that could not settle because the database was away gets a minute to do so.
  if leasehold.release_grace_until(interval '1 minute') < v_now then
    perform leasehold.expire_deadlines();
  end if;
  perform leasehold.process_nudges(array(select s.name from leasehold.stages s), 1000);

  v_opened := leasehold.open_deaths();
  select coalesce(jsonb_agg(to_jsonb(c)), '[]') into v_conditions
  from leasehold.current_conditions(p_wedge, p_lonely, p_silent) c;
  v_opened := v_opened || array(
    select o.id from (
      select leasehold.open_incident(c.kind, c.subject, c.summary, c.details) as id
      from jsonb_to_recordset(v_conditions) as c(kind text, subject text, summary text, details jsonb)) o
    where o.id is not null);

  with gone as (
    update leasehold.incidents i set resolved_at = v_now
    where i.resolved_at is null and not i.id = any (v_opened) and case i.kind
      -- A death is over when its slot lives again, or each of its stages has a live worker, or after a day.
      when 'worker_dead' then
        exists (select from leasehold.workers w
          where w.slot = i.details ->> 'slot' and w.ended_at is null and w.expires_at > v_now)
        or not exists (select from jsonb_array_elements_text(i.details -> 'stages') as u(stage)
          where not exists (select from leasehold.workers w
            where w.ended_at is null and w.expires_at > v_now and u.stage = any (w.stages)))
        or i.opened_at < v_now - interval '1 day'
      when 'task_quarantined' then coalesce(leasehold.final_outcome(i.subject::bigint), '') <> 'dead'
      when 'mail_undeliverable' then not exists (select from leasehold.alerts a where a.sent_at is null and a.tries > 0)
      else not exists (
        select from jsonb_to_recordset(v_conditions) as c(kind text, subject text) where c.kind = i.kind and c.subject = i.subject)
    end
    returning i.id
  )
  select array_agg(g.id) into v_gone from gone g;

  select coalesce(jsonb_agg(to_jsonb(i) || jsonb_build_object('id', i.id::text) order by i.id), '[]') into opened
  from leasehold.incidents i where i.id = any (v_opened);
  select coalesce(jsonb_agg(to_jsonb(i) || jsonb_build_object('id', i.id::text) order by i.id), '[]') into resolved
  from leasehold.incidents i where i.id = any (v_gone);
  return next;
end
$$;

-- Counts the depths of every stage and keeps them: history for plots, and what stage_health shows where it stops
-- counting. Counts at most once in 50 seconds, and so seldom that it takes at most p_share of the time: on large queues
-- less often. Returns the time it took; null when it was too early.
create function leasehold.sample_depths(p_share real default 0.02) returns interval
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_started timestamptz := clock_timestamp();
  v_last record;
begin
  select x.at, max(x.took) as took into v_last from leasehold.stage_samples x
  where x.at = (select max(y.at) from leasehold.stage_samples y) group by 1;
  if v_now < v_last.at + greatest(interval '50 seconds', v_last.took / p_share) then
    return null;
  end if;
  with counted as materialized (
    select s.name, coalesce(r.n, 0) as ready, coalesce(d.n, 0) as scheduled, coalesce(w.n, 0) as waiting, coalesce(l.n, 0) as running
    from leasehold.stages s
    left join (select stage, count(*) n from leasehold.ready group by 1) r on r.stage = s.name
    left join (select stage, count(*) n from leasehold.scheduled group by 1) d on d.stage = s.name
    left join (select stage, count(*) n from leasehold.waiting group by 1) w on w.stage = s.name
    left join (select stage, count(*) n from leasehold.leases group by 1) l on l.stage = s.name
  )
  insert into leasehold.stage_samples (stage, at, ready, scheduled, waiting, running, took)
  select c.name, v_now, c.ready, c.scheduled, c.waiting, c.running, clock_timestamp() - v_started from counted c
  on conflict do nothing;
  delete from leasehold.stage_samples x where x.at < v_now - interval '7 days';
  return clock_timestamp() - v_started;
end
$$;

-- Merges ledger entries of runs that have gathered many. Sums stay what they are.
create function leasehold.compact_run_ledger(p_limit integer default 20000) returns integer
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_merged integer;
begin
  with many as (
    select run_id, stage from leasehold.run_ledger group by 1, 2 having count(*) > 50 limit 100
  ), taken as (
    select l.ctid as rid from leasehold.run_ledger l join many m on m.run_id = l.run_id and m.stage = l.stage
    limit p_limit for update of l skip locked
  ), gone as (
    delete from leasehold.run_ledger l where l.ctid = any (array(select t.rid from taken t))
    returning l.run_id, l.stage, l.submitted, l.done, l.dead, l.cancelled
  ), merged as (
    insert into leasehold.run_ledger (run_id, stage, submitted, done, dead, cancelled)
    select run_id, stage, sum(submitted), sum(done), sum(dead), sum(cancelled) from gone group by 1, 2
  )
  select count(*) into v_merged from gone;
  return v_merged;
end
$$;

-- Housekeeping that is cheap enough for every few minutes: key rows nobody needs, workers long gone.
create function leasehold.tidy() returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  with idle as (
    select k.ctid as rid from leasehold.concurrency_keys k
    where not exists (select from leasehold.ready r where r.stage = k.stage and r.concurrency_key = k.concurrency_key)
      and not exists (select from leasehold.leases l where l.stage = k.stage and l.concurrency_key = k.concurrency_key)
      and not exists (select from leasehold.waiting w where w.stage = k.stage and w.concurrency_key = k.concurrency_key and not w.for_parents)
      and not exists (select from leasehold.nudges n where n.stage = k.stage and n.concurrency_key = k.concurrency_key)
    limit 10000 for update skip locked
  )
  delete from leasehold.concurrency_keys k where k.ctid = any (array(select i.rid from idle i));
  delete from leasehold.workers w where w.ended_at < leasehold.clock() - interval '30 days';
  -- Left by a cancel that met the end of its worker: nobody will read them.
  delete from leasehold.revocations r
  where not exists (select from leasehold.workers w where w.id = r.worker_id and w.ended_at is null);
  delete from leasehold.sleepers z where z.wake_until < leasehold.clock() - interval '1 hour';
  delete from leasehold.incidents i where i.resolved_at < leasehold.clock() - interval '90 days';
  delete from leasehold.alerts a where a.created_at < leasehold.clock() - interval '90 days';
  delete from leasehold.monitors m where m.ticked_at < leasehold.clock() - interval '7 days';
  delete from leasehold.monitor_gaps g where g.ended_at < leasehold.clock() - interval '7 days';
end
$$;
