-- What a task has beside its payload is put together inside the claim, instead of by a call for each task. A body that was
-- resolved when it was written needs no search_path of its own, and only without one it is made part of the statement.
create or replace function leasehold.task_extra(p_task leasehold.tasks, p_crashes smallint) returns text
  language sql stable parallel safe
  return jsonb_strip_nulls(jsonb_build_object(
    'run_id', p_task.run_id, 'key', p_task.key, 'title', p_task.title, 'meta', p_task.meta,
    'priority', p_task.priority, 'concurrency_key', p_task.concurrency_key, 'max_attempts', p_task.max_attempts,
    'timeout_ms', (extract(epoch from p_task.timeout) * 1000)::bigint, 'crashes', nullif(p_crashes, 0)))::text;
