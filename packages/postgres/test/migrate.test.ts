/**
 * The migrator on a real server: order, atomicity, eight processes at once, patience, and what it refuses.
 */
import { LeaseholdError, SchemaVersionError } from '@leasehold/queue'
import { migrate } from '@leasehold/postgres'
import { createHash } from 'node:crypto'
import { beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { spawnProcess } from '../../../test/harness/processes.ts'
import { addMigrations, migrationFolder } from './migration-folder.ts'

const first = { '0001_first.sql': 'create schema leasehold; create table leasehold.t (id int primary key);' }
const second = { '0002_second.sql': 'alter table leasehold.t add column v text;' }

let db: TestDatabase
beforeEach(async () => {
  db = await createTestDatabase({ empty: true })
  return () => db.drop()
})

test('applies the files in order, once, and reports the version', async () => {
  const folder = await migrationFolder({ ...second, ...first, 'schema.sql': 'not applied' })
  expect(await migrate(db.pool, { folder })).toEqual({
    applied: ['0001_first', '0002_second'],
    version: '0002_second',
  })
  expect(await migrate(db.url, { folder })).toEqual({ applied: [], version: '0002_second' })
})

test('an empty folder is a database without a version', async () => {
  expect(await migrate(db.pool, { folder: await migrationFolder({}) })).toEqual({
    applied: [],
    version: null,
  })
})

test('eight processes that start at once on a fresh database apply each file exactly once', async () => {
  const files = {
    ...first,
    ...second,
    '0003_slow.sql': 'select pg_sleep(0.3); create table leasehold.slow ();',
  }
  const folder = await migrationFolder(files)
  const processes = Array.from({ length: 8 }, () =>
    spawnProcess({ script: 'packages/postgres/test/fixtures/migrate.ts', args: [db.url, folder] }),
  )
  const lines = await Promise.all(processes.map((p) => p.waitForLine(/^applied /, { timeoutMs: 60_000 })))
  expect(await Promise.all(processes.map((p) => p.exit))).toEqual(
    processes.map(() => ({ code: 0, signal: null })),
  )
  const applied = lines.flatMap((line) => line.match(/\d{4}_[a-z]+(?=")/g) ?? [])
  expect(applied.sort()).toEqual(['0001_first', '0002_second', '0003_slow'])
  expect(lines.every((line) => line.endsWith('0003_slow'))).toBe(true)
})

test('a file that fails leaves nothing of itself, keeps those before it, and names file and line', async () => {
  const folder = await migrationFolder({
    ...first,
    '0002_second.sql': 'create table leasehold.half ();\n\nselect no_such_column from leasehold.t;\n',
  })
  await expect(migrate(db.pool, { folder })).rejects.toThrow(
    /0002_second failed at line 3: column "no_such_column" does not exist/,
  )
  const { rows } = await db.pool.query(
    "select to_regclass('leasehold.t') is not null as t, to_regclass('leasehold.half') is not null as half",
  )
  expect(rows).toEqual([{ t: true, half: false }])
  await addMigrations(folder, second)
  expect((await migrate(db.pool, { folder })).applied).toEqual(['0002_second'])
})

test('a file that ends its transaction by itself is refused', async () => {
  const folder = await migrationFolder({
    '0001_first.sql': 'create schema leasehold; commit; begin; select 1;',
  })
  await expect(migrate(db.pool, { folder })).rejects.toThrow(/0001_first ends its transaction by itself/)
})

test('a value added to an enum in one file can be used in the next', async () => {
  const folder = await migrationFolder({
    '0001_first.sql': "create schema leasehold; create type leasehold.mood as enum ('calm');",
    '0002_second.sql': "alter type leasehold.mood add value 'hurried';",
    '0003_third.sql': "create table leasehold.t (mood leasehold.mood default 'hurried');",
  })
  expect((await migrate(db.pool, { folder })).applied).toHaveLength(3)
})

test('a process that migrates for too long is reported, not waited for without end', async () => {
  const other = await db.client()
  await other.query('begin; select pg_advisory_xact_lock(465524354917)')
  const folder = await migrationFolder(first)
  await expect(migrate(db.pool, { folder, waitMs: 50 })).rejects.toMatchObject({ code: 'MIGRATION_LOCKED' })
  await other.query('rollback')
  expect((await migrate(db.pool, { folder, waitMs: 50 })).applied).toEqual(['0001_first'])
})

test('a table lock that nobody gives up is reported, and the file can be applied later', async () => {
  const folder = await migrationFolder(first)
  await migrate(db.pool, { folder })
  await addMigrations(folder, second)
  const reader = await db.client()
  await reader.query('begin; select * from leasehold.t')
  await expect(migrate(db.pool, { folder, lockTimeoutMs: 50 })).rejects.toThrow(
    /0002_second waited too long for a table lock/,
  )
  await reader.query('rollback')
  expect((await migrate(db.pool, { folder })).applied).toEqual(['0002_second'])
})

test('a newer database that older programs cannot work with is refused, another one is left as it is', async () => {
  const folder = await migrationFolder({ ...first, ...second })
  await migrate(db.pool, { folder })
  const older = await migrationFolder(first)
  expect((await migrate(db.pool, { folder: older })).applied).toEqual([])
  await addMigrations(folder, { '0003_third.sql': '-- drain\ncreate table leasehold.u ();' })
  await migrate(db.pool, { folder })
  await expect(migrate(db.pool, { folder: older })).rejects.toMatchObject({
    problem: 'ahead',
    differing: ['0003_third'],
  })
})

test('an edited file and a late number are refused without a change', async () => {
  const folder = await migrationFolder({ ...first, ...second })
  await migrate(db.pool, { folder })
  const edited = await migrationFolder({
    ...first,
    '0002_second.sql': `${second['0002_second.sql']} -- edited`,
  })
  await expect(migrate(db.pool, { folder: edited })).rejects.toMatchObject({ problem: 'changed-file' })
  await addMigrations(folder, { '0001_a_late_one.sql': 'select 1;' })
  await expect(migrate(db.pool, { folder })).rejects.toThrow(/repeats the number 0001/)
})

test('a file whose number lies below what is applied is refused', async () => {
  const folder = await migrationFolder({ ...first, '0003_third.sql': 'create table leasehold.u ();' })
  await migrate(db.pool, { folder })
  await addMigrations(folder, second)
  await expect(migrate(db.pool, { folder })).rejects.toThrow(/0002_second sorts before 0003_third/)
})

test('line endings do not count as an edit', async () => {
  await migrate(db.pool, {
    folder: await migrationFolder({ '0001_a.sql': 'create schema leasehold;\nselect 1;\n' }),
  })
  const windows = await migrationFolder({ '0001_a.sql': 'create schema leasehold;\r\nselect 1;\r\n' })
  expect((await migrate(db.pool, { folder: windows })).applied).toEqual([])
})

test('a schema changed by hand is not built upon, and migrating again does not bless it', async () => {
  const folder = await migrationFolder(first)
  await migrate(db.pool, { folder })
  await db.pool.query('alter table leasehold.t add column by_hand int')
  await addMigrations(folder, second)
  for (let time = 1; time <= 2; time++) {
    const refusal = migrate(db.pool, { folder })
    await expect(refusal).rejects.toBeInstanceOf(SchemaVersionError)
    await expect(refusal).rejects.toMatchObject({
      problem: 'tampered',
      differing: ['column leasehold.t.by_hand'],
    })
  }
})

test('two sets of migrations live side by side with the same numbers', async () => {
  await migrate(db.pool, { folder: await migrationFolder(first) })
  const folder = await migrationFolder({
    '0001_shop.sql': 'create schema shop; create table shop.orders ();',
  })
  const set = { name: 'shop', schema: 'shop', folder }
  expect((await migrate(db.pool, { set })).applied).toEqual(['0001_shop'])
  expect((await migrate(db.pool, { set })).applied).toEqual([])
})

test.each([
  ['a name that is not numbered', { 'first.sql': 'select 1;' }, /not named NNNN_slug\.sql/],
  ['an empty file', { '0001_first.sql': ' \n' }, /is empty/],
])('refuses %s', async (_what, files, message) => {
  await expect(migrate(db.pool, { folder: await migrationFolder(files) })).rejects.toThrow(message)
})

test('a folder that is not there is an error with a code', async () => {
  await expect(migrate(db.pool, { folder: '/no/such/folder' })).rejects.toBeInstanceOf(LeaseholdError)
})

test('a mended file is accepted where its earlier text was applied, and no other text is', async () => {
  const early = {
    '0001_first.sql': 'create schema leasehold; create table leasehold.t (id int primary key);',
  }
  const digest = createHash('sha256').update(early['0001_first.sql']).digest('hex')
  const mended = `-- formerly ${digest}\n-- Why it had to be mended.\n${early['0001_first.sql']} -- mended`
  const folder = await migrationFolder(early)
  await migrate(db.pool, { folder })
  await addMigrations(folder, { '0001_first.sql': mended })
  expect(await migrate(db.pool, { folder })).toEqual({ applied: [], version: '0001_first' })

  const other = mended.replace(digest, createHash('sha256').update('another text').digest('hex'))
  await addMigrations(folder, { '0001_first.sql': other })
  await expect(migrate(db.pool, { folder })).rejects.toMatchObject({ problem: 'changed-file' })
  await addMigrations(folder, { '0001_first.sql': `create schema leasehold;\n-- formerly ${digest}\n` })
  await expect(migrate(db.pool, { folder })).rejects.toMatchObject({ problem: 'changed-file' })
  await addMigrations(folder, { '0001_first.sql': '-- formerly known\nselect 1;' })
  await expect(migrate(db.pool, { folder })).rejects.toThrow(
    'says "formerly known", which is no SHA-256 in hex',
  )
})
