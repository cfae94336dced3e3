-- The tasks of one statement enter in the order of their ids. Without the order the join may hash them, when there are
-- more stages than new rows, and they entered the other way round. Sorting what is sorted costs next to nothing.

create or replace function leasehold.route_submitted() returns trigger
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_now timestamptz := leasehold.clock();
  v_total bigint;
  v_plain bigint;
  v_runs bigint;
  v_stage text;
  v_other_stage text;
begin
  insert into leasehold.ready (task_id, lane, stage)
  select n.id, coalesce(n.priority, s.priority), n.stage
  from new_tasks n join leasehold.stages s on s.name = n.stage
  where n.key is null and n.depends_on is null and n.concurrency_key is null
    and (n.run_at is null or n.run_at <= v_now)
  order by n.id;
  get diagnostics v_plain = row_count;

  select count(*), count(n.run_id), min(n.stage), max(n.stage) into v_total, v_runs, v_stage, v_other_stage from new_tasks n;
  if v_plain < v_total then
    perform leasehold.route_special(array_agg(n.id order by n.id)) from new_tasks n
    where n.key is not null or n.depends_on is not null or n.concurrency_key is not null or n.run_at > v_now
      or not exists (select from leasehold.stages s where s.name = n.stage);
  end if;
  if v_runs > 0 then
    insert into leasehold.run_ledger (run_id, stage, submitted)
    select n.run_id, n.stage, count(*) from new_tasks n where n.run_id is not null group by 1, 2;
  end if;
  if v_plain > 0 and v_stage = v_other_stage then
    if exists (select from leasehold.sleepers z where z.stage = v_stage and z.wake_until > v_now) then
      perform leasehold.wake(array[v_stage]);
    end if;
  elsif v_plain > 0 then
    perform leasehold.wake((select array_agg(distinct n.stage) from new_tasks n));
  end if;
  return null;
end
$$;
