/**
 * migrations/roles.sql: the roles and all grants, for a database that was migrated where they could not be created.
 *
 * Invariant: after it every object has the owner and the grants it would have if the migrations had made them. The grants
 * are taken from a freshly migrated database, so a new migration cannot be forgotten. Comparing is check-schema.mjs.
 */

const handOver = `-- The five roles and what they may do, for a database whose migrating login could not create them (0010 says so).
-- Run it as a superuser, on the database, with every migration of this release applied:
--   psql --single-transaction --set ON_ERROR_STOP=1 --file migrations/roles.sql "$DATABASE_URL"
-- It creates roles that are missing, hands the schema to leasehold_owner, makes the login that owned it before a member of
-- that role (so that it can go on as it did, migrations included), and grants. It may be run again. Generated, never
-- edited: \`npm run check -- --write-schema\` rewrites it.
do $$
declare
  v_before constant name := (select pg_get_userbyid(n.nspowner) from pg_catalog.pg_namespace n where n.nspname = 'leasehold');
  v_role text;
  v_object record;
begin
  if v_before is null then
    raise exception 'there is no schema leasehold in database %', current_database()
      using hint = 'Migrate first: npx leasehold migrate.';
  end if;
  foreach v_role in array array[
    'leasehold_owner', 'leasehold_submitter', 'leasehold_worker', 'leasehold_observer', 'leasehold_operator'
  ] loop
    if not exists (select from pg_catalog.pg_roles where rolname = v_role) then
      execute pg_catalog.format('create role %I nologin', v_role);
    end if;
  end loop;
  grant leasehold_submitter to leasehold_worker;
  grant leasehold_observer, leasehold_submitter to leasehold_operator;
  grant leasehold_observer, leasehold_operator, leasehold_submitter, leasehold_worker to leasehold_owner;
  if v_before <> 'leasehold_owner' then
    execute pg_catalog.format('grant leasehold_owner to %I', v_before);
  end if;
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

`

/** The file's text; `grants` are the statements of dump-schema.mjs. */
export function rolesScript(grants) {
  return `${handOver}${grants.join('\n')}\n`
}
