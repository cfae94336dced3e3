-- Views: what people read. Status is computed from freshness by the database clock, never from what was last reported.
-- None of them counts a large table: depths are counted to 1000 and taken from the monitor's last sample beyond.

-- Every state a task can be in, by id. Look tasks up by task_id; a scan over all tasks is a scan.
create view leasehold.task_status as
select t.id as task_id, t.stage,
  case
    when l.task_id is not null then 'running'
    when r.task_id is not null then 'ready'
    when s.task_id is not null then 'scheduled'
    when w.task_id is not null then 'waiting'
    when a.final then a.outcome
    else 'unknown'
  end as state,
  t.title, t.key, t.run_id, t.concurrency_key, t.submitted_at,
  case when s.task_id is not null then s.run_at else t.run_at end as run_at,
  coalesce(l.attempt, a.attempt, 0) as attempt,
  coalesce(t.max_attempts, g.max_attempts) as max_attempts,
  coalesce(l.crashes, r.crashes, s.crashes, w.crashes, 0) as crashes,
  l.worker_id, l.fence, l.leased_at, l.deadline_at,
  case when l.task_id is null and r.task_id is null and s.task_id is null and w.task_id is null then a.ended_at end as ended_at,
  case when l.task_id is null and r.task_id is null and s.task_id is null and w.task_id is null then a.result end as result,
  a.error as last_error,
  p.fraction as progress, p.message as progress_message, p.at as progress_at
from leasehold.tasks t
join leasehold.stages g on g.name = t.stage
left join leasehold.leases l on l.task_id = t.id
left join leasehold.ready r on r.task_id = t.id
left join leasehold.scheduled s on s.task_id = t.id
left join leasehold.waiting w on w.task_id = t.id
left join lateral (
  select x.final, x.outcome, x.attempt, x.ended_at, x.result, x.error
  from leasehold.attempts x where x.task_id = t.id order by x.fence desc limit 1) a on true
left join lateral (
  select x.fraction, x.message, x.at from leasehold.task_progress x where x.task_id = t.id order by x.at desc limit 1) p on true;
comment on view leasehold.task_status is 'One row per task: its state now, its worker while it runs, its result or last error. Filter by task_id or run_id.';

create view leasehold.active_leases as
select l.task_id, l.stage, w.slot, l.worker_id, w.host, w.pid, l.fence, l.attempt, l.leased_at,
  leasehold.clock() - l.leased_at as held, l.deadline_at, w.expires_at,
  case
    when w.expires_at <= leasehold.clock() then 'worker silent'
    when l.deadline_at <= leasehold.clock() then 'past deadline'
    else 'valid'
  end as validity,
  t.title, t.run_id
from leasehold.workers w
join leasehold.leases l on l.worker_id = w.id and l.fence >= w.oldest_fence
join leasehold.tasks t on t.id = l.task_id
where w.ended_at is null;
comment on view leasehold.active_leases is 'What runs now, on which worker, since when and until when.';

create view leasehold.worker_health as
select w.id as worker_id, w.slot, w.stages,
  case
    when w.expires_at <= leasehold.clock() then 'dead'
    when w.beat_at < leasehold.clock() - w.beat_interval * 2 then 'late'
    when w.beat_at - w.loop_at > greatest(w.beat_interval, interval '10 seconds') then 'wedged'
    when w.draining then 'draining'
    when held.n > 0 then 'working'
    else 'idle'
  end as status,
  held.n as running, w.concurrency, w.beat_at as last_seen, leasehold.clock() - w.beat_at as silent,
  w.expires_at, w.loop_at, w.started_at, leasehold.clock() - w.started_at as up, w.restarts, w.host, w.pid, w.version,
  w.drain_asked, w.meta
from leasehold.workers w
cross join lateral (
  select count(*)::integer as n from leasehold.leases l where l.worker_id = w.id and l.fence >= w.oldest_fence) held
where w.ended_at is null;
comment on view leasehold.worker_health is 'Every worker that has not ended: dead (lease over), wedged (beats, main loop stands still), late, draining, working or idle.';

create view leasehold.dead_workers as
select w.id as worker_id, w.slot, w.stages, w.host, w.pid, w.beat_at as last_seen, leasehold.clock() - w.beat_at as silent,
  w.ended_at, coalesce(w.end_reason, 'not released yet') as reason,
  case when w.ended_at is null then (select count(*) from leasehold.leases l where l.worker_id = w.id) else 0 end as still_holds
from leasehold.workers w
where (w.ended_at is null and w.expires_at <= leasehold.clock())
  or (w.end_reason in ('lost', 'superseded') and w.ended_at > leasehold.clock() - interval '7 days')
order by w.beat_at desc;
comment on view leasehold.dead_workers is 'Workers that stopped beating: those still to be released first seen here, and the released ones of the last week.';

create view leasehold.stage_health as
select s.name as stage,
  case
    when s.paused_until > leasehold.clock() then 'paused'
    when live.n = 0 and (ready.n > 0 or due.n > 0) then 'no worker'
    when live.n = 0 then 'no worker, no work'
    when live.n < s.expected_workers then 'workers missing'
    when leases.n > 0 then 'working'
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
  s.paused_until, sample.at as sampled_at
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
  select p.ready, p.scheduled, p.waiting, p.at from leasehold.stage_samples p where p.stage = s.name order by p.at desc limit 1) sample on true;
comment on view leasehold.stage_health is 'Every stage with its workers and depths; depths above 1000 are the monitor''s last sample (exact = false).';

create view leasehold.run_progress as
select l.run_id, l.stage, sum(l.submitted)::bigint as submitted, sum(l.done)::bigint as done, sum(l.dead)::bigint as dead,
  sum(l.cancelled)::bigint as cancelled,
  (sum(l.submitted) - sum(l.done) - sum(l.dead) - sum(l.cancelled))::bigint as open
from leasehold.run_ledger l
group by l.run_id, l.stage;
comment on view leasehold.run_progress is 'Tasks of each run by stage: submitted, ended by outcome, still open. Filter by run_id.';

create view leasehold.recent_failures as
select a.ended_at, a.task_id, t.stage, a.outcome, a.attempt, a.error ->> 'code' as code, left(a.error ->> 'message', 500) as message,
  t.run_id, t.title, w.slot, a.worker_id, a.final
from leasehold.attempts a
join leasehold.tasks t on t.id = a.task_id
left join leasehold.workers w on w.id = a.worker_id
where a.outcome in ('dead', 'retry', 'lost') and a.ended_at > leasehold.clock() - interval '7 days'
order by a.ended_at desc
limit 1000;
comment on view leasehold.recent_failures is 'The last 1000 failed attempts of the week, newest first: dead, to be retried, or lost with their worker.';

create view leasehold.open_incidents as
select i.id, i.kind, i.subject, i.summary, i.opened_at, leasehold.clock() - i.opened_at as open_for, i.details
from leasehold.incidents i
where i.resolved_at is null
order by i.opened_at;
comment on view leasehold.open_incidents is 'What is wrong now and was noticed by a monitor.';

create view leasehold.database_health as
select c.name, c.status, c.value, c.advice
from (
  select 'monitor' as name,
    case when leasehold.monitor_silence() is null then 'bad'
      when leasehold.monitor_silence() > (select greatest(interval '3 minutes', max(m.interval_ms) * 3 * interval '1 millisecond') from leasehold.monitors m) then 'bad'
      else 'ok' end as status,
    coalesce('last looked ' || date_trunc('second', leasehold.monitor_silence())::text || ' ago', 'never looked') as value,
    'Start one: npx leasehold monitor. Without it nobody is told of dead workers.' as advice
  union all
  select 'unsent alerts', case when count(*) = 0 then 'ok' else 'bad' end, count(*)::text, 'See leasehold.alerts.last_error; check SMTP_*.'
  from leasehold.alerts a where a.sent_at is null and a.created_at < leasehold.clock() - interval '2 minutes'
  union all
  select 'oldest transaction', case when max(leasehold.clock() - a.xact_start) > interval '10 minutes' then 'warn' else 'ok' end,
    coalesce(date_trunc('second', max(leasehold.clock() - a.xact_start))::text, 'none'),
    'A long transaction keeps dead rows of every table. Claims do not slow down here, other queries do. See pg_stat_activity.'
  from pg_catalog.pg_stat_activity a where a.datname = current_database() and a.pid <> pg_backend_pid() and a.backend_type = 'client backend'
  union all
  select 'submitters held open', case when count(*) > 0 then 'warn' else 'ok' end, count(*)::text,
    'A transaction that inserted tasks stays open; its tasks are invisible until it commits.'
  from leasehold.stragglers
  union all
  select 'notify queue', case when pg_catalog.pg_notification_queue_usage() > 0.25 then 'warn' else 'ok' end,
    round((pg_catalog.pg_notification_queue_usage() * 100)::numeric, 1)::text || ' %',
    'A session that listens and stays in a transaction keeps it; above 25 % workers are polled instead of woken.'
  union all
  select 'dead rows', case when sum(u.n_dead_tup) > 5000000 then 'warn' else 'ok' end, coalesce(sum(u.n_dead_tup), 0)::text,
    'ready and leases are vacuumed less than they churn: look for old transactions, lower autovacuum_naptime.'
  from pg_catalog.pg_stat_user_tables u where u.schemaname = 'leasehold' and u.relname in ('ready', 'leases', 'scheduled', 'waiting')
  union all
  select 'id partitions ahead', case when count(*) < 1 then 'warn' else 'ok' end, count(*)::text,
    'select leasehold.ensure_partitions(); a running monitor does it.'
  from leasehold.partitions p where p.first_id > coalesce((select q.last_value from pg_catalog.pg_sequences q
    where q.schemaname = 'leasehold' and q.sequencename = 'tasks_id_seq'), 0)
  union all
  select 'transaction id age', case when age(d.datfrozenxid) > 1000000000 then 'warn' else 'ok' end, age(d.datfrozenxid)::text,
    'Autovacuum has to freeze this database soon.'
  from pg_catalog.pg_database d where d.datname = current_database()
) c;
comment on view leasehold.database_health is 'Checks of the database and of the watchers themselves: ok, warn or bad, with advice.';

-- Must be empty at all times. Cheap: it proves what can be seen from the small tables and from the newest tasks;
-- leasehold.audit() walks everything.
create view leasehold.invariant_violations as
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
comment on view leasehold.invariant_violations is 'Must be empty at all times. Anything here is a bug: please report it with the row.';

-- The whole of it: every task stands in exactly one state or has ended, keys and edges belong to unfinished tasks. A scan.
create function leasehold.audit() returns table (violation text, task_id bigint, detail text)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  with state as (
    select r.task_id, 'ready' as state from leasehold.ready r
    union all select l.task_id, 'running' from leasehold.leases l
    union all select d.task_id, 'scheduled' from leasehold.scheduled d
    union all select w.task_id, 'waiting' from leasehold.waiting w
  ), last_attempt as (
    select distinct on (a.task_id) a.task_id, a.final from leasehold.attempts a order by a.task_id, a.fence desc
  )
  select 'task in several states', s.task_id, string_agg(s.state, ', ') from state s group by s.task_id having count(*) > 1
  union all
  select 'task in no state and not ended', t.id, null from leasehold.tasks t
  left join state s on s.task_id = t.id left join last_attempt a on a.task_id = t.id
  where s.task_id is null and not coalesce(a.final, false)
  union all
  select 'ended task in a state', s.task_id, s.state from state s join last_attempt a on a.task_id = s.task_id where a.final
  union all
  select 'state without a task', s.task_id, s.state from state s left join leasehold.tasks t on t.id = s.task_id where t.id is null
  union all
  select 'key of an ended task', k.task_id, k.key from leasehold.task_keys k left join state s on s.task_id = k.task_id where s.task_id is null
  union all
  select 'unfinished task without its key', t.id, t.key from leasehold.tasks t join state s on s.task_id = t.id
  left join leasehold.task_keys k on k.task_id = t.id where t.key is not null and k.task_id is null
  union all
  select 'edge of a task that does not wait', d.child_id, 'parent ' || d.parent_id from leasehold.dependencies d
  left join leasehold.waiting w on w.task_id = d.child_id and w.for_parents where w.task_id is null
  union all
  select 'two ends without a reopening between', x.task_id, null from (
    select a.task_id, a.final, lag(a.final) over (partition by a.task_id order by a.fence) as before from leasehold.attempts a) x
  where x.final and x.before
  union all
  select 'run counts differ', null, c.run_id || ' / ' || c.stage || ': open ' || c.open || ', counted ' || c.counted from (
    select p.run_id, p.stage, p.open, (select count(*) from leasehold.tasks t join state s on s.task_id = t.id
      where t.run_id = p.run_id and t.stage = p.stage) as counted
    from leasehold.run_progress p) c where c.open <> c.counted
  union all
  select v.violation, v.task_id, v.detail from leasehold.invariant_violations v
$$;
