-- The look for violations asks about each running task, and about each of the newest, one by one. While statistics call
-- leases a large table, as after a burst, a join was planned as a hash of all of ready: seconds in front of a million tasks.
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
  select l.task_id, l.stage, l.concurrency_key from leasehold.leases l where l.concurrency_key is not null
  union all
  select r.task_id, r.stage, r.concurrency_key from leasehold.ready r where r.concurrency_key is not null
) h join leasehold.stages s on s.name = h.stage
group by h.stage, h.concurrency_key, s.key_limit having count(*) > s.key_limit
union all
select 'task in no state', t.id, t.stage, null
from (select x.id, x.stage from leasehold.tasks x order by x.id desc limit 200) t
where not exists (select from leasehold.ready r where r.task_id = t.id offset 0)
  and not exists (select from leasehold.leases l where l.task_id = t.id offset 0)
  and not exists (select from leasehold.scheduled d where d.task_id = t.id offset 0)
  and not exists (select from leasehold.waiting w where w.task_id = t.id offset 0)
  and leasehold.final_outcome(t.id) is null;
