/**
 * What a daemon's start waits for, and what it does not. Whole daemons are started in test/every-daemon.test.ts.
 */
import { type ReadyOptions, withReadyDatabase } from '@leasehold/postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'

let db: TestDatabase
beforeAll(async () => {
  db = await createTestDatabase()
})
afterAll(() => db.drop())

const nowhere = 'postgres://nobody@127.0.0.1:1/nowhere'

function options(databaseUrl: string, more: Partial<ReadyOptions> = {}): ReadyOptions {
  return {
    databaseUrl,
    dataDir: '/nowhere',
    applicationName: 'test start',
    stop: new AbortController().signal,
    onWaiting: (error) => expect.unreachable(String(error)),
    onNewer: () => expect.unreachable(),
    ...more,
  }
}

test('the work is given the address and the schema, and what it throws is passed on', async () => {
  await withReadyDatabase(options(db.url), ({ url, schema }) => {
    expect(url).toBe(db.url)
    expect(schema).toMatchObject({ state: 'current', newer: [] })
    return Promise.resolve()
  })
  const broken = withReadyDatabase(options(db.url), () => Promise.reject(new Error('broken')))
  await expect(broken).rejects.toThrow('broken')
})

test.each([
  ['a password that is wrong', { password: 'made-up' }, '28P01', /authentication failed/],
  ['a database that does not exist', { pathname: '/nowhere' }, '3D000', /does not exist/],
])('%s is final', async (_what, part, code, message) => {
  const url = Object.assign(new URL(db.url), part).href
  const started = withReadyDatabase(options(url), () => expect.unreachable())
  await expect(started).rejects.toMatchObject({ code, message: expect.stringMatching(message) })
})

test('an outage is told once and waited out until told to stop, and then the work is left out', async () => {
  const stopping = new AbortController()
  const waited: unknown[] = []
  const onWaiting = (error: unknown): void => {
    waited.push(error)
    stopping.abort()
  }
  await withReadyDatabase(options(nowhere, { stop: stopping.signal, onWaiting }), () => expect.unreachable())
  expect(waited).toMatchObject([{ code: 'ECONNREFUSED' }])
})
