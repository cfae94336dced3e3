-- formerly e101b6e3fe7ad769bb1a3653453dc547048d5631c213ed88da6332260343637b
-- Schema, roles and the clock.
--
-- leasehold is a database program: tables hold the state, functions are the only way to move it, views are the only
-- thing a person has to read. The files of this folder, in order:
--   0001 schema, roles, clock            0006 operator verbs: cancel, retry, run_now, pause, explain
--   0002 tables: one per state           0007 floors: why claims do not rot
--   0003 submission: the INSERT trigger  0008 the monitor: incidents and alerts
--   0004 exchange: settle and claim      0009 views
--   0005 workers: register, beat, release  0010 grants
--
-- A task's life:
--   INSERT ─► tasks ─┬─► ready ──claim──► leases ──settle──► attempts (final)
--                    ├─► scheduled (run_at in the future; a retry waits here too)
--                    └─► waiting (parents open, or its concurrency key is at its limit)
-- `tasks` and `attempts` are only ever inserted into. A transition is `delete … returning` from one state table that
-- feeds `insert` into the next, in one transaction; so a task is in exactly one state table or it has ended.
--
-- Roles are cluster-wide and without login: a login role is made a member of what it needs. Where the migrating user
-- may not create roles they are left out with a notice; roles.sql makes up for it at any later time.

do $$
declare
  v_role text;
begin
  foreach v_role in array array[
    'leasehold_owner', 'leasehold_submitter', 'leasehold_worker', 'leasehold_observer', 'leasehold_operator'
  ] loop
    if not exists (select from pg_catalog.pg_roles where rolname = v_role) then
      begin
        execute pg_catalog.format('create role %I nologin', v_role);
      exception
        when duplicate_object or unique_violation then null; -- another database of this cluster migrates right now
        when insufficient_privilege then
          raise notice 'role % was not created: % may not create roles', v_role, current_user
            using hint = 'Nothing needs them as long as one login does everything. To have them, run migrations/roles.sql as an administrator when this is done.';
      end;
    end if;
  end loop;
end
$$;

create schema leasehold;
comment on schema leasehold is 'Leasehold work queue. Insert into leasehold.tasks to submit; read the views; never update tables by hand.';

-- The only source of time. Leases are judged by this clock and by no worker's. Test databases replace this one
-- function (and nothing else) to move time; production has no switch for it.
-- Not pinned by search_path on purpose: a function with settings cannot be inlined, and the body is parsed once here.
create function leasehold.clock() returns timestamptz
  language sql volatile parallel safe
  return pg_catalog.clock_timestamp();
comment on function leasehold.clock() is 'The database clock that judges every lease, deadline and schedule.';
