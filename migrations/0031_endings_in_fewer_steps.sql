-- Endings with something to say, as failures and results are, cost twice what they need: what follows from an end was looked
-- for also where nothing can follow, and a delay was drawn for tasks that get no further attempt.
create or replace function leasehold.settle_endings(p_worker uuid, p_endings jsonb) returns bigint[]
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_accepted bigint[];
  v_keyed bigint[];
  v_special boolean;
  v_done bigint[];
  v_dead bigint[];
  v_cancelled bigint[];
  v_again bigint[];
  v_again_failures smallint[];
  v_again_crashes smallint[];
  v_again_at timestamptz[];
begin
  with asked as materialized (
    select e.task_id, e.outcome, e.result, e.error,
      case when e.after_ms is not null then least(greatest(e.after_ms, 0), 2592000000)::bigint end as after_ms,
      coalesce(e.retryable, true) as retryable, f.rid
    from jsonb_to_recordset(p_endings) as e(
      task_id bigint, fence bigint, outcome text, result jsonb, error jsonb, after_ms numeric, retryable boolean)
    cross join lateral (
      select l.ctid as rid from leasehold.leases l
      where l.task_id = e.task_id and l.fence is not distinct from e.fence and l.worker_id is not distinct from p_worker
        and (l.deadline_at > v_now or e.outcome = 'fail')
      limit 1) f
    where e.outcome in ('done', 'fail', 'release', 'snooze', 'cancel')
  ), gone as (
    delete from leasehold.leases l where l.ctid = any (array(select a.rid from asked a))
    returning l.task_id, l.fence, l.leased_at, l.attempt, l.crashes, l.stage, l.run_id, l.key, l.concurrency_key
  ), ended as (
    select distinct on (g.task_id) g.*, a.outcome, a.result, a.error, a.after_ms, a.retryable
    from gone g join asked a on a.task_id = g.task_id
  ), judged as (
    select n.*, s.backoff_min, s.backoff_max,
      case n.outcome
        when 'done' then 'done'
        when 'cancel' then 'cancelled'
        when 'release' then 'released'
        when 'snooze' then 'snoozed'
        else case
          when n.retryable and n.attempt < coalesce(
            (select t.max_attempts from leasehold.tasks t where t.id = n.task_id), s.max_attempts) then 'retry'
          else 'dead'
        end
      end as ending
    from ended n join leasehold.stages s on s.name = n.stage
  ), recorded as (
    insert into leasehold.attempts (task_id, fence, worker_id, leased_at, ended_at, attempt, final, outcome, error, result)
    select task_id, fence, p_worker, leased_at, v_now, attempt, ending in ('done', 'dead', 'cancelled'), ending, error, result
    from judged
  )
  select array_agg(task_id),
    array_agg(task_id) filter (where concurrency_key is not null),
    count(run_id) + count(key) > 0,
    array_agg(task_id) filter (where ending = 'done'),
    array_agg(task_id) filter (where ending = 'dead'),
    array_agg(task_id) filter (where ending = 'cancelled'),
    array_agg(task_id order by task_id) filter (where ending in ('retry', 'released', 'snoozed')),
    array_agg((attempt - case when ending = 'retry' then 0 else 1 end)::smallint order by task_id)
      filter (where ending in ('retry', 'released', 'snoozed')),
    array_agg(crashes order by task_id) filter (where ending in ('retry', 'released', 'snoozed')),
    array_agg(
      case ending
        when 'released' then null
        when 'snoozed' then v_now + greatest(coalesce(after_ms, 1000), 1000) * interval '1 millisecond'
        else v_now + coalesce(after_ms * interval '1 millisecond', leasehold.backoff(attempt, backoff_min, backoff_max))
      end order by task_id) filter (where ending in ('retry', 'released', 'snoozed'))
  into v_accepted, v_keyed, v_special, v_done, v_dead, v_cancelled, v_again, v_again_failures, v_again_crashes, v_again_at
  from judged;
  if v_keyed is not null then
    perform leasehold.nudge_keys(v_keyed);
  end if;
  -- Without key, run and children nothing follows from an end; a transaction with an old snapshot may not see all children.
  if v_special
    or exists (select from leasehold.dependencies d where d.parent_id = any (v_accepted))
    or pg_catalog.current_setting('transaction_isolation') <> 'read committed'
  then
    if v_done is not null then
      perform leasehold.after_end(v_done, 'done');
    end if;
    if v_dead is not null then
      perform leasehold.after_end(v_dead, 'dead');
    end if;
    if v_cancelled is not null then
      perform leasehold.after_end(v_cancelled, 'cancelled');
    end if;
  end if;
  if v_again is not null then
    perform leasehold.enter(v_again, v_again_failures, v_again_crashes, v_again_at, false);
  end if;
  return v_accepted;
end
$$;
