-- The monitor: what it notices, as incidents; what it has to tell, as alerts.
--
-- An incident is one condition about one subject, open until it is gone; a partial unique index makes it one however
-- many monitors look. An alert is one message about incidents, written in the transaction that opens them, so that no
-- crash loses it; graphile-worker delivers it with retries. The monitor never waits for a mail server.

create table leasehold.monitors (
  id uuid primary key,
  host text not null,
  pid integer,
  version text,
  interval_ms integer not null,
  started_at timestamptz not null,
  ticked_at timestamptz not null,
  ticks bigint not null default 0
) with (fillfactor = 50);
comment on table leasehold.monitors is 'One row per monitor process; the newest ticked_at says whether anybody watches.';

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
create index incidents_by_time on leasehold.incidents (opened_at);

create table leasehold.alerts (
  id bigint generated always as identity primary key,
  channel text collate "C" not null default 'email',
  incident_ids bigint[] not null,
  subject text not null,
  body text not null,
  created_at timestamptz not null default leasehold.clock(),
  sent_at timestamptz,
  tries integer not null default 0,
  last_error text,
  constraint alert_subject_is_one_line check (subject !~ '[\n\r]')
);
comment on table leasehold.alerts is 'The outbox: what was or will be sent, with the number of tries and the last error.';
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

-- Registers or renews a monitor. Returns how long before no monitor had ticked (null: never).
create function leasehold.monitor_beat(p_monitor uuid, p_host text, p_pid integer, p_version text, p_interval_ms integer)
  returns interval
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_silent interval;
begin
  select v_now - max(m.ticked_at) into v_silent from leasehold.monitors m;
  insert into leasehold.monitors as m (id, host, pid, version, interval_ms, started_at, ticked_at, ticks)
  values (p_monitor, p_host, p_pid, p_version, p_interval_ms, v_now, v_now, 1)
  on conflict (id) do update set ticked_at = v_now, ticks = m.ticks + 1;
  delete from leasehold.monitors m where m.ticked_at < v_now - interval '7 days';
  return v_silent;
end
$$;

-- How long no monitor has ticked; null when none ever did. Runners and views read it.
create function leasehold.monitor_silence() returns interval
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select leasehold.clock() - max(m.ticked_at) from leasehold.monitors m
$$;

-- What is wrong right now, apart from deaths (those are events, opened where workers are released). p_wedge: how long a
-- main loop may stand still. p_lonely: how long a stage may have work and no live worker. p_silent: how long without a tick.
create function leasehold.current_conditions(p_wedge interval, p_lonely interval, p_silent interval)
  returns table (kind text, subject text, summary text, details jsonb)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  with live as (
    select w.* from leasehold.workers w where w.ended_at is null and w.expires_at > leasehold.clock()
  ), stage_work as (
    select s.name, s.expected_workers,
      (select count(*) from live w where s.name = any (w.stages)) as live_workers,
      least(
        (select t.submitted_at from leasehold.ready r join leasehold.tasks t on t.id = r.task_id
         where r.stage = s.name order by r.lane desc, r.position limit 1),
        (select n.run_at from leasehold.scheduled n where n.stage = s.name order by n.run_at limit 1),
        (select min(q.waiting_since) from (
           select w.waiting_since from leasehold.waiting w where w.stage = s.name and not w.for_parents limit 1) q)
      ) as oldest,
      (select max(w.beat_at) from leasehold.workers w where s.name = any (w.stages)) as last_seen
    from leasehold.stages s
    where s.paused_until is null or s.paused_until <= leasehold.clock()
  )
  select 'worker_wedged', w.id::text,
    'worker ' || w.slot || ' beats but its main loop has not turned for '
      || date_trunc('second', leasehold.clock() - w.loop_at)::text,
    jsonb_build_object('worker_id', w.id, 'slot', w.slot, 'stages', w.stages, 'host', w.host, 'pid', w.pid, 'loop_at', w.loop_at)
  from live w where w.loop_at < leasehold.clock() - p_wedge
  union all
  select 'stage_without_worker', s.name,
    'stage ' || s.name || ' has work and no live worker',
    jsonb_build_object('stage', s.name, 'oldest', s.oldest, 'last_worker_seen', s.last_seen)
  from stage_work s where s.live_workers = 0 and s.oldest < leasehold.clock() - p_lonely
  union all
  select 'workers_missing', s.name,
    'stage ' || s.name || ' has ' || s.live_workers || ' of ' || s.expected_workers || ' expected workers',
    jsonb_build_object('stage', s.name, 'live', s.live_workers, 'expected', s.expected_workers)
  from stage_work s where s.live_workers < s.expected_workers and not (s.live_workers = 0 and coalesce(s.oldest < leasehold.clock() - p_lonely, false))
  union all
  select 'monitor_silent', m.id::text,
    'monitor on ' || m.host || ' (pid ' || coalesce(m.pid::text, '?') || ') has not ticked for ' || date_trunc('second', leasehold.clock() - m.ticked_at)::text,
    jsonb_build_object('monitor_id', m.id, 'host', m.host, 'ticked_at', m.ticked_at)
  from leasehold.monitors m
  where m.ticked_at < leasehold.clock() - greatest(p_silent, m.interval_ms * 3 * interval '1 millisecond')
    and m.ticked_at > leasehold.clock() - interval '1 day'
    and not exists (select from leasehold.monitors n where n.host = m.host and n.started_at > m.started_at)
$$;

-- One look of the monitor: releases dead workers and overdue leases, opens and resolves incidents. The caller passes
-- p_release false while a grace runs (after its own gap). One monitor looks at a time; another gets looked = false at
-- once. Returns the incidents this call opened and resolved, and the dead workers with what they held.
create function leasehold.monitor_tick(p_release boolean, p_wedge interval, p_lonely interval, p_silent interval)
  returns table (looked boolean, dead_workers jsonb, opened jsonb, resolved jsonb)
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_worker record;
  v_now timestamptz := leasehold.clock();
  v_opened bigint[] := '{}';
  v_conditions jsonb;
  v_id bigint;
begin
  perform from leasehold.locks where name = 'monitor' for update skip locked;
  if not found then
    return query select false, '[]'::jsonb, '[]'::jsonb, '[]'::jsonb;
    return;
  end if;

  if p_release then
    for v_worker in select * from leasehold.release_dead_workers(1000) loop
      v_id := leasehold.open_incident('worker_dead', v_worker.worker_id::text,
        'worker ' || v_worker.slot || ' died', jsonb_build_object(
          'worker_id', v_worker.worker_id, 'slot', v_worker.slot, 'stages', v_worker.stages, 'host', v_worker.host,
          'pid', v_worker.pid, 'last_seen', v_worker.beat_at, 'silent_s', round(extract(epoch from v_worker.silent)::numeric, 1),
          'released', coalesce(to_jsonb(v_worker.released[1:100]), '[]'), 'released_count', coalesce(cardinality(v_worker.released), 0),
          'quarantined', coalesce(to_jsonb(v_worker.quarantined[1:100]), '[]')));
      if v_id is not null then
        v_opened := v_opened || v_id;
      end if;
    end loop;
    perform leasehold.expire_deadlines();
  end if;
  perform leasehold.process_nudges(array(select s.name from leasehold.stages s), 1000);

  -- Workers that a runner released or a successor superseded were not seen dying here: they get their incident too.
  for v_worker in
    select w.* from leasehold.workers w
    where w.ended_at > v_now - interval '1 day' and w.end_reason = 'lost'
      and not exists (select from leasehold.incidents i where i.kind = 'worker_dead' and i.subject = w.id::text)
  loop
    v_id := leasehold.open_incident('worker_dead', v_worker.id::text, 'worker ' || v_worker.slot || ' died',
      (select jsonb_build_object(
        'worker_id', v_worker.id, 'slot', v_worker.slot, 'stages', v_worker.stages, 'host', v_worker.host, 'pid', v_worker.pid,
        'last_seen', v_worker.beat_at, 'silent_s', round(extract(epoch from v_worker.ended_at - v_worker.beat_at)::numeric, 1),
        'released', coalesce(jsonb_agg(a.task_id) filter (where a.outcome = 'lost'), '[]'),
        'released_count', count(*) filter (where a.outcome = 'lost'),
        'quarantined', coalesce(jsonb_agg(a.task_id) filter (where a.outcome = 'dead'), '[]'))
       from (select a.task_id, a.outcome from leasehold.attempts a
             where a.ended_at >= v_worker.ended_at and a.ended_at <= v_worker.ended_at + interval '1 second'
               and a.worker_id = v_worker.id and a.outcome in ('lost', 'dead') limit 100) a));
    if v_id is not null then
      v_opened := v_opened || v_id;
    end if;
  end loop;

  for v_worker in
    select a.task_id, t.stage, a.error from leasehold.attempts a join leasehold.tasks t on t.id = a.task_id
    where a.outcome = 'dead' and a.ended_at > v_now - interval '1 day' and a.error ->> 'code' = 'quarantined'
      and not exists (select from leasehold.incidents i where i.kind = 'task_quarantined' and i.subject = a.task_id::text)
  loop
    v_id := leasehold.open_incident('task_quarantined', v_worker.task_id::text,
      'task ' || v_worker.task_id || ' of stage ' || v_worker.stage || ' killed its worker too often and was set aside',
      jsonb_build_object('task_id', v_worker.task_id, 'stage', v_worker.stage, 'error', v_worker.error));
    if v_id is not null then
      v_opened := v_opened || v_id;
    end if;
  end loop;

  select coalesce(jsonb_agg(to_jsonb(c)), '[]') into v_conditions
  from leasehold.current_conditions(p_wedge, p_lonely, p_silent) c;
  for v_worker in
    select * from jsonb_to_recordset(v_conditions) as c(kind text, subject text, summary text, details jsonb)
  loop
    v_id := leasehold.open_incident(v_worker.kind, v_worker.subject, v_worker.summary, v_worker.details);
    if v_id is not null then
      v_opened := v_opened || v_id;
    end if;
  end loop;

  return query
  with gone as (
    update leasehold.incidents i set resolved_at = v_now
    where i.resolved_at is null and not i.id = any (v_opened) and case i.kind
      -- A death is over when its slot lives again, or its stages have other live workers, or after a day.
      when 'worker_dead' then
        exists (select from leasehold.workers w where w.ended_at is null and w.expires_at > v_now
          and (w.slot = i.details ->> 'slot' or w.stages @> array(select jsonb_array_elements_text(i.details -> 'stages'))))
        or i.opened_at < v_now - interval '1 day'
      when 'task_quarantined' then coalesce(leasehold.final_outcome(i.subject::bigint), '') <> 'dead'
      when 'mail_undeliverable' then not exists (select from leasehold.alerts a where a.sent_at is null and a.tries > 0)
      else not exists (
        select from jsonb_to_recordset(v_conditions) as c(kind text, subject text) where c.kind = i.kind and c.subject = i.subject)
    end
    returning i.*
  )
  select true,
    coalesce((select jsonb_agg(i.details || jsonb_build_object('incident_id', i.id) order by i.id)
      from leasehold.incidents i where i.id = any (v_opened) and i.kind = 'worker_dead'), '[]'),
    coalesce((select jsonb_agg(to_jsonb(i) order by i.id) from leasehold.incidents i where i.id = any (v_opened)), '[]'),
    coalesce((select jsonb_agg(to_jsonb(g) order by g.id) from gone g), '[]');
end
$$;

-- Counts the depths of every stage and keeps them: history for plots, and what stage_health shows where it stops
-- counting. Returns the time it took, so that the caller can do it less often on large queues.
create function leasehold.sample_depths() returns interval
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_started timestamptz := clock_timestamp();
begin
  insert into leasehold.stage_samples (stage, at, ready, scheduled, waiting, running, took)
  select s.name, leasehold.clock(), coalesce(r.n, 0), coalesce(d.n, 0), coalesce(w.n, 0), coalesce(l.n, 0),
    clock_timestamp() - v_started
  from leasehold.stages s
  left join (select stage, count(*) n from leasehold.ready group by 1) r on r.stage = s.name
  left join (select stage, count(*) n from leasehold.scheduled group by 1) d on d.stage = s.name
  left join (select stage, count(*) n from leasehold.waiting group by 1) w on w.stage = s.name
  left join (select stage, count(*) n from leasehold.leases group by 1) l on l.stage = s.name
  on conflict do nothing;
  delete from leasehold.stage_samples x where x.at < leasehold.clock() - interval '7 days';
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
  delete from leasehold.sleepers z where z.wake_until < leasehold.clock() - interval '1 hour';
  delete from leasehold.incidents i where i.resolved_at < leasehold.clock() - interval '90 days';
  delete from leasehold.alerts a where a.sent_at < leasehold.clock() - interval '90 days';
end
$$;
