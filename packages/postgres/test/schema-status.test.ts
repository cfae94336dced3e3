/**
 * What a process finds when it checks the schema at its start: every way in which it can be wrong, and all that may
 * differ without being wrong.
 */
import { SchemaVersionError } from '@leasehold/queue'
import { assertSchema, migrate, schemaStatus } from '@leasehold/postgres'
import { beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { addMigrations, migrationFolder } from './migration-folder.ts'

const schema = `
  create schema leasehold;
  create type leasehold.mood as enum ('calm', 'hurried');
  create domain leasehold.level as int constraint level_is_a_digit check (value between 0 and 9);
  create table leasehold.item (
    id bigint generated always as identity primary key,
    level leasehold.level not null default 5,
    note text,
    constraint note_is_short check (length(note) < 100)
  ) partition by range (id);
  create index item_note on leasehold.item (note);
  create table leasehold.guarded (id int);
  alter table leasehold.guarded enable row level security;
  create policy even on leasehold.guarded using (id % 2 = 0);
  create view leasehold.short as select id, note from leasehold.item where length(note) < 10;
  create function leasehold.clock() returns timestamptz language sql return clock_timestamp();
  create function leasehold.twice(a int) returns int language sql set search_path = pg_catalog, pg_temp as 'select a * 2';
  create function leasehold.refuse() returns trigger language plpgsql as 'begin return null; end';
  create trigger item_refuse after insert on leasehold.item execute function leasehold.refuse();
  create sequence leasehold.fence;
`

let db: TestDatabase
let folder: string
beforeEach(async () => {
  db = await createTestDatabase({ empty: true })
  folder = await migrationFolder({ '0001_first.sql': schema })
  return () => db.drop()
})

test('a database that was never migrated is told apart and the error names the command', async () => {
  expect(await schemaStatus(db.pool, { folder })).toMatchObject({
    state: 'unmigrated',
    databaseVersion: null,
    programVersion: '0001_first',
    pending: ['0001_first'],
  })
  await expect(assertSchema(db.pool, { folder })).rejects.toThrow(/npx leasehold migrate/)
})

test('a migrated database passes', async () => {
  await migrate(db.pool, { folder })
  await assertSchema(db.pool, { folder })
  expect(await schemaStatus(db.pool, { folder })).toMatchObject({ state: 'current', objectsCompared: true })
})

test('a database behind and one ahead of the program are refused with both versions', async () => {
  await migrate(db.pool, { folder })
  await addMigrations(folder, { '0002_second.sql': '-- drain: made up\nselect 1;' })
  await expect(assertSchema(db.pool, { folder })).rejects.toMatchObject({
    code: 'SCHEMA_VERSION',
    problem: 'behind',
    databaseVersion: '0001_first',
    programVersion: '0002_second',
  })
  await migrate(db.pool, { folder })
  const older = await migrationFolder({ '0001_first.sql': schema })
  await expect(assertSchema(db.pool, { folder: older })).rejects.toMatchObject({ problem: 'ahead' })
})

test('a newer schema is good for an older program unless one of its files says -- drain at its head', async () => {
  await migrate(db.pool, { folder })
  await addMigrations(folder, {
    '0002_second.sql': '-- adds something\nselect 1;\n-- drain\n',
    '0003_third.sql': '-- and more\n\nselect 1;',
  })
  await migrate(db.pool, { folder })
  const older = await migrationFolder({ '0001_first.sql': schema })
  expect(await assertSchema(db.pool, { folder: older })).toMatchObject({
    state: 'current',
    databaseVersion: '0003_third',
    programVersion: '0001_first',
    newer: ['0002_second', '0003_third'],
  })
  expect(await migrate(db.pool, { folder: older })).toEqual({ applied: [], version: '0001_first' })
  await addMigrations(folder, { '0004_fourth.sql': '-- changes what a column means\n-- drain\n\nselect 1;' })
  await migrate(db.pool, { folder })
  await expect(assertSchema(db.pool, { folder: older })).rejects.toMatchObject({
    problem: 'ahead',
    differing: ['0004_fourth'],
  })
})

test('what was applied before this was kept counts as not good for older programs', async () => {
  await addMigrations(folder, { '0002_second.sql': 'select 1;' })
  await migrate(db.pool, { folder })
  await db.pool.query('alter table leasehold_migrations.checksums drop column drain_first')
  const older = await migrationFolder({ '0001_first.sql': schema })
  await expect(assertSchema(db.pool, { folder: older })).rejects.toMatchObject({ problem: 'ahead' })
  await addMigrations(folder, { '0003_third.sql': 'select 1;' })
  expect(await migrate(db.pool, { folder })).toMatchObject({ applied: ['0003_third'] })
  expect(await assertSchema(db.pool, { folder })).toMatchObject({ state: 'current', newer: [] })
})

test('an edited file is refused by name', async () => {
  await migrate(db.pool, { folder })
  await addMigrations(folder, { '0001_first.sql': `${schema}-- edited` })
  const refusal = assertSchema(db.pool, { folder })
  await expect(refusal).rejects.toBeInstanceOf(SchemaVersionError)
  await expect(refusal).rejects.toMatchObject({ problem: 'changed-file', differing: ['0001_first'] })
})

test.each([
  [
    "create or replace function leasehold.twice(a int) returns int language sql set search_path = pg_catalog, pg_temp as 'select a * 3'",
    'function leasehold.twice(a integer)',
  ],
  ['alter function leasehold.twice(int) reset search_path', 'function leasehold.twice(a integer)'],
  ['alter function leasehold.twice(int) security definer', 'function leasehold.twice(a integer)'],
  ['drop function leasehold.twice(int)', 'function leasehold.twice(a integer)'],
  ["create function leasehold.extra() returns int language sql as 'select 1'", 'function leasehold.extra()'],
  ['alter table leasehold.item alter column level set default 1', 'column leasehold.item.level'],
  ['alter table leasehold.item alter column level drop not null', 'column leasehold.item.level'],
  ['alter table leasehold.guarded add column extra int', 'column leasehold.guarded.extra'],
  ['alter table leasehold.item drop constraint note_is_short', 'constraint note_is_short on leasehold.item'],
  ['alter table leasehold.item disable trigger item_refuse', 'trigger item_refuse on leasehold.item'],
  ['drop index leasehold.item_note', 'index leasehold.item_note'],
  ['create unique index extra on leasehold.guarded (id)', 'unique index leasehold.extra'],
  ['create or replace view leasehold.short as select id, note from leasehold.item', 'view leasehold.short'],
  ['drop policy even on leasehold.guarded', 'policy even on leasehold.guarded'],
  ['alter table leasehold.guarded disable row level security', 'table leasehold.guarded'],
  ['alter sequence leasehold.fence cycle', 'sequence leasehold.fence'],
  ["alter type leasehold.mood add value 'idle'", 'type leasehold.mood'],
  ['alter domain leasehold.level drop constraint level_is_a_digit', 'type leasehold.level'],
])('is refused: %s', async (sql, object) => {
  await migrate(db.pool, { folder })
  await db.pool.query(sql)
  await expect(assertSchema(db.pool, { folder })).rejects.toMatchObject({
    problem: 'tampered',
    differing: [object],
  })
})

test('a table that a login named like the schema made there is named as a whole, with the way out', async () => {
  await migrate(db.pool, { folder })
  for (const name of ['orders', '"My Orders"']) {
    await db.pool.query(
      `create table leasehold.${name} (id serial primary key, note text unique check (note <> $$$$))`,
    )
    const refusal = assertSchema(db.pool, { folder })
    await expect(refusal).rejects.toMatchObject({
      problem: 'tampered',
      differing: [`table leasehold.${name} (added)`],
    })
    await expect(refusal).rejects.toThrow('alter table leasehold.NAME set schema public')
    await db.pool.query(`alter table leasehold.${name} set schema public`)
    await assertSchema(db.pool, { folder })
  }
  await db.pool.query('alter table leasehold.item enable row level security')
  await expect(assertSchema(db.pool, { folder })).rejects.not.toThrow('set schema public')
})

test('partitions, data, grants, tuning, a moved clock and an index or view of the operator are no tampering', async () => {
  await migrate(db.pool, { folder })
  await db.pool.query(`
    create table leasehold.item_1 partition of leasehold.item for values from (0) to (100);
    insert into leasehold.item (note) values ('a');
    grant select on leasehold.item to public;
    alter table leasehold.guarded set (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);
    create or replace function leasehold.clock() returns timestamptz language sql return clock_timestamp() + '1 hour';
    create index by_operator on leasehold.guarded (id);
    create view leasehold.by_operator_too as select 1 as one;
    analyze leasehold.item;
    select nextval('leasehold.fence');
  `)
  await assertSchema(db.pool, { folder })
})

test('the search_path of the session makes no difference', async () => {
  await migrate(db.pool, { folder })
  const client = await db.client()
  await client.query('set search_path = leasehold, pg_catalog')
  await assertSchema(client, { folder })
  expect((await client.query('show search_path')).rows).toEqual([{ search_path: 'leasehold, pg_catalog' }])
})

test('a role without any grant can check', async () => {
  await migrate(db.pool, { folder })
  const client = await db.client()
  const role = `checker_${db.name}`
  await client.query(`create role ${role}; set role ${role}`)
  await assertSchema(client, { folder })
  await client.query(`reset role; drop role ${role}`)
})

test('after a PostgreSQL major upgrade objects are not compared until migrate took a new fingerprint', async () => {
  await migrate(db.pool, { folder })
  await db.pool.query(
    'update leasehold_migrations.fingerprints set server_major = server_major - 1, objects = $1',
    ['{}'],
  )
  expect(await schemaStatus(db.pool, { folder })).toMatchObject({ state: 'current', objectsCompared: false })
  await migrate(db.pool, { folder })
  expect(await schemaStatus(db.pool, { folder })).toMatchObject({ state: 'current', objectsCompared: true })
})

test("the repository's own migrations pass on a test database with its movable clock", async () => {
  const cloned = await createTestDatabase()
  await assertSchema(cloned.pool)
  const before = await cloned.pool.query<{ clock: Date }>('select leasehold.clock()')
  await cloned.advance(3_600_000)
  const after = await cloned.pool.query<{ clock: Date }>('select leasehold.clock()')
  expect(Number(after.rows[0]?.clock) - Number(before.rows[0]?.clock)).toBeGreaterThanOrEqual(3_600_000)
  await assertSchema(cloned.pool)
  await cloned.drop()
})
