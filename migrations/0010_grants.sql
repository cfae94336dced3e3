-- formerly ffbb00cb047679d7d396b406c5208aad725f494b16a15ae0cb2c93d6fcb17d3f
-- Grants. Everything belongs to leasehold_owner where that role exists and the migrating login is a member of it; else to
-- that login, and nothing is granted: roles.sql, run by an administrator, makes up for it. PUBLIC gets nothing but what is
-- named here. Later files ask to whom the schema belongs, not which roles exist: another database may have made these.
--   leasehold_submitter  insert into tasks (its contract columns), submit(), look up status
--   leasehold_worker     submitter + register, exchange, claim, settle, heartbeat, release …, no table writes
--   leasehold_observer   read the views
--   leasehold_operator   observer + submitter + cancel, retry, run_now, pause, resume, drain
--   leasehold_owner      owns the schema; the monitor and migrations run as it or as a member of it

revoke all on all functions in schema leasehold from public;

do $$
declare
  v_object record;
  v_views constant text := 'leasehold.task_status, leasehold.active_leases, leasehold.worker_health, leasehold.dead_workers, '
    'leasehold.stage_health, leasehold.run_progress, leasehold.recent_failures, leasehold.open_incidents, '
    'leasehold.database_health, leasehold.invariant_violations';
begin
  if (select count(*) from pg_catalog.pg_roles where rolname in (
    'leasehold_owner', 'leasehold_submitter', 'leasehold_worker', 'leasehold_observer', 'leasehold_operator')
    and (rolname <> 'leasehold_owner' or pg_has_role(oid, 'member'))) < 5 then
    raise notice 'the leasehold roles are missing, or % is no member of leasehold_owner: nothing was granted', current_user
      using hint = 'The owner of the schema can do everything as it is. For the roles run migrations/roles.sql as an administrator.';
    return;
  end if;

  grant usage on schema leasehold to leasehold_submitter, leasehold_worker, leasehold_observer, leasehold_operator;
  grant execute on function leasehold.clock() to public;

  grant insert (stage, payload, priority, run_at, key, run_id, title, max_attempts, timeout, depends_on, concurrency_key, meta),
    select (id) on leasehold.tasks to leasehold_submitter;
  execute 'grant execute on function leasehold.submit to leasehold_submitter';
  grant select on leasehold.task_status, leasehold.run_progress to leasehold_submitter;

  for v_object in
    select p.oid::regprocedure as signature from pg_catalog.pg_proc p
    where p.pronamespace = 'leasehold'::regnamespace and p.proname in (
      'exchange', 'claim', 'settle', 'release', 'heartbeat', 'leave', 'register_worker', 'register_stage', 'write_notes',
      'return_strays', 'release_dead_workers', 'advance_floors', 'monitor_silence', 'process_nudges', 'promote_due')
  loop
    execute pg_catalog.format('grant execute on function %s to leasehold_worker', v_object.signature);
  end loop;
  grant select on leasehold.task_checkpoints to leasehold_worker;
  grant leasehold_submitter to leasehold_worker;

  execute 'grant select on ' || v_views || ', leasehold.stages, leasehold.task_logs, leasehold.stage_samples, leasehold.alerts, '
    'leasehold.incidents, leasehold.attempts, leasehold.monitors, leasehold.ready, leasehold.scheduled, leasehold.waiting '
    'to leasehold_observer';
  for v_object in
    select p.oid::regprocedure as signature from pg_catalog.pg_proc p
    where p.pronamespace = 'leasehold'::regnamespace and p.proname in (
      'explain_task', 'monitor_silence', 'below_floors', 'final_outcome')
  loop
    execute pg_catalog.format('grant execute on function %s to leasehold_observer, leasehold_submitter', v_object.signature);
  end loop;

  grant leasehold_observer, leasehold_submitter to leasehold_operator;
  for v_object in
    select p.oid::regprocedure as signature from pg_catalog.pg_proc p
    where p.pronamespace = 'leasehold'::regnamespace and p.proname in (
      'cancel_task', 'retry_task', 'run_now', 'pause_stage', 'resume_stage', 'drain_slot', 'audit')
  loop
    execute pg_catalog.format('grant execute on function %s to leasehold_operator', v_object.signature);
  end loop;

  grant leasehold_observer, leasehold_operator, leasehold_submitter, leasehold_worker to leasehold_owner;
  alter schema leasehold owner to leasehold_owner;
  for v_object in
    select case when c.relkind = 'v' then 'view' when c.relkind = 'S' then 'sequence' else 'table' end as kind, c.oid::regclass as name
    from pg_catalog.pg_class c
    where c.relnamespace = 'leasehold'::regnamespace and (c.relkind in ('r', 'p', 'v')
      or (c.relkind = 'S' and not exists (select from pg_catalog.pg_depend d
        where d.objid = c.oid and d.classid = 'pg_class'::regclass and d.deptype in ('a', 'i') and d.refobjsubid > 0)))
  loop
    execute pg_catalog.format('alter %s %s owner to leasehold_owner', v_object.kind, v_object.name);
  end loop;
  for v_object in select p.oid::regprocedure as signature from pg_catalog.pg_proc p where p.pronamespace = 'leasehold'::regnamespace loop
    execute pg_catalog.format('alter function %s owner to leasehold_owner', v_object.signature);
  end loop;
end
$$;
