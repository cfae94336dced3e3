/**
 * Migrating as a login that owns its database and may create no roles: everything works without them, whether or not
 * another database of the cluster has made them meanwhile; and migrations/roles.sql makes up for all of it.
 *
 * Roles belong to a whole server, so this file starts one of its own; its tests run in their order.
 */
import { assertSchema, leaseholdMigrations, migrate, startEmbedded, stopEmbedded } from '@leasehold/postgres'
import { mkdtemp, readFile, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Client } from 'pg'
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { inDatabase } from '../../../test/harness/global-setup.ts'
import { migrationFolder } from './migration-folder.ts'

const { folder } = leaseholdMigrations
let dataDir: string
let adminUrl: string
/** Migrated to the end, and up to 0011, before any database of the server had the roles. */
let app: string
let halfway: string
beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'leasehold-roles-'))
  const { binDir } = inject('testServer')
  const server = await startEmbedded({ dataDir, ephemeral: true, ...(binDir && { binDir }) })
  adminUrl = inDatabase(server.url, 'postgres')
  await run(adminUrl, "create role plain login password 'made-up' nocreaterole nosuperuser")
  app = await plainDatabase('app')
  await migrate(app)
  halfway = await plainDatabase('halfway')
  const names = (await readdir(folder)).filter((name) => name < '0012')
  const texts = await Promise.all(names.map((name) => readFile(join(folder, name), 'utf8')))
  await migrate(halfway, {
    folder: await migrationFolder(Object.fromEntries(names.map((name, n) => [name, texts[n]!]))),
  })
})
afterAll(async () => {
  await stopEmbedded(dataDir)
  await rm(dataDir, { recursive: true, force: true })
})

async function run(url: string, sql: string): Promise<Record<string, unknown>[]> {
  const client = new Client({ connectionString: url })
  await client.connect()
  try {
    return (await client.query<Record<string, unknown>>(sql)).rows
  } finally {
    await client.end()
  }
}

/** A database of the login that may not create roles; as whom to connect. */
async function plainDatabase(name: string): Promise<string> {
  await run(adminUrl, `create database ${name} owner plain`)
  const url = new URL(inDatabase(adminUrl, name))
  url.username = 'plain'
  url.password = 'made-up'
  return url.href
}

async function adopt(url: string): Promise<void> {
  await run(url, await readFile(join(folder, 'roles.sql'), 'utf8'))
}

/** A task from its submission to its end, a look of a monitor, and what makes tables. */
const oneOfAll = `
  select leasehold.register_stage('work');
  insert into leasehold.tasks (stage) values ('work');
  create temp table w as select worker_id as id from leasehold.register_worker('s', array['work'], '1 minute', '20 s', 'h');
  create temp table c as select x.* from w cross join lateral leasehold.claim(w.id, 'work', 1) x;
  select leasehold.settle(w.id, c.task_id, c.fence, 'done') from w, c;
  select leasehold.leave(w.id) from w;
  select leasehold.ensure_partitions(3);
  select leasehold.monitor_beat('00000000-0000-4000-8000-000000000001', 'h', 1, '1', 1000);
  select leasehold.monitor_tick('1 minute', '1 minute')`

async function works(url: string): Promise<void> {
  const client = new Client({ connectionString: url })
  await client.connect()
  try {
    expect(await assertSchema(client)).toMatchObject({ state: 'current' })
    await client.query(oneOfAll)
    const { rows } = await client.query(
      `select (select count(*)::integer from leasehold.attempts where outcome = 'done') as done,
        (select count(*)::integer from leasehold.ready) as ready,
        (select count(*)::integer from leasehold.invariant_violations) as wrong`,
    )
    expect(rows).toMatchObject([{ ready: 0, wrong: 0 }])
    expect(rows[0].done).toBeGreaterThan(0)
  } finally {
    await client.end()
  }
}

/** Owner and grants of the schema and everything in it. */
const ownersAndGrants = `
  with object (title, owner, acl) as (
    select nspname::text, nspowner, nspacl from pg_namespace where nspname = 'leasehold'
    union all
    select c.oid::regclass::text, c.relowner, c.relacl from pg_class c
    where c.relnamespace = 'leasehold'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
    union all
    select a.attrelid::regclass || '.' || a.attname, c.relowner, a.attacl from pg_attribute a join pg_class c on c.oid = a.attrelid
    where c.relnamespace = 'leasehold'::regnamespace and a.attacl is not null
    union all
    select p.oid::regprocedure::text, p.proowner, p.proacl from pg_proc p where p.pronamespace = 'leasehold'::regnamespace
  )
  select o.title, o.owner::regrole::text as owner, (
    select string_agg(case a.grantee when 0 then 'public' else a.grantee::regrole::text end || ' ' || a.privilege_type, ', '
      order by a.grantee, a.privilege_type) from aclexplode(o.acl) a where a.grantee <> o.owner) as granted
  from object o where o.title not like '%\\_%0000%' order by 1`

test('a login that may not create roles migrates and works; roles.sql gives it the roles later', async () => {
  await works(app)
  const admin = inDatabase(adminUrl, 'app')
  const owners = await run(
    admin,
    "select distinct relowner::regrole::text as owner from pg_class where relnamespace = 'leasehold'::regnamespace",
  )
  expect(owners).toEqual([{ owner: 'plain' }])
  expect(await run(admin, "select from pg_roles where rolname ~ '^leasehold_'")).toEqual([])

  await adopt(admin)
  await adopt(admin)
  // As if an administrator had migrated from the start.
  await run(adminUrl, 'create database model')
  await migrate(inDatabase(adminUrl, 'model'))
  const model = await run(inDatabase(adminUrl, 'model'), ownersAndGrants)
  expect(await run(admin, ownersAndGrants)).toEqual(model)
  expect(model.length).toBeGreaterThan(200)
  await works(app)
  expect(await migrate(app)).toMatchObject({ applied: [] })
})

test('roles that another database has made in between change nothing for one that has none', async () => {
  // As it would be if an administrator had made them for another database: this login is no member of them.
  await run(adminUrl, 'revoke leasehold_owner from plain')
  expect((await migrate(halfway)).applied[0]).toBe('0012_scheduler')
  await works(halfway)
  const begun = await plainDatabase('begun')
  await migrate(begun)
  await works(begun)
})
