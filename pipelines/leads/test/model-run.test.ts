/**
 * Runs the pipeline with a model that speaks the provider's protocol: searching, scoring, busy, and away.
 */
import { getTask, runProgress } from '@leasehold/queue'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import type { TestDatabase } from '../../../test/harness/database.ts'
import {
  answering,
  failing,
  startModelServer,
  type ModelServer,
  type Scripted,
} from '../../../test/harness/model-server.ts'
import { startRun } from '../src/index.ts'
import { endOf, leadsDatabase, leadsOf, startWorker, type Worker } from './working.ts'

let database: TestDatabase
let models: ModelServer
let worker: Worker | null = null

beforeAll(async () => {
  database = await leadsDatabase()
})
beforeEach(async () => {
  models = await startModelServer()
})
afterEach(async () => {
  await worker?.stop()
  worker = null
  models.close()
})
afterAll(() => database.drop())

async function work(): Promise<void> {
  worker = await startWorker(database, { apiKey: 'made-up', modelUrl: models.url, fetchPages: false })
}

const found = (name: string, website: string) => ({
  name,
  website,
  city: 'Austin',
  state: 'TX',
  country: 'US',
  industry: 'Property management',
  description: null,
  phone: null,
  email: null,
  propertyManagementSystem: null,
})
const score = (points: number): Scripted =>
  answering({ score: points, signals: [{ name: 'fit', points, reason: 'made up' }] })

/** Answers by what is asked, whatever the order in which tasks ask. */
function answerEverything(companies: unknown[][]): Scripted[] {
  const portions = [...companies]
  const one: Scripted = (response, body) => {
    const asked = JSON.stringify(body)
    if (asked.includes('web_search')) answering({ companies: portions.shift() ?? [] })(response, body)
    else score(80)(response, body)
  }
  return Array.from({ length: 50 }, () => one)
}

test('without a directory the model searches until it finds nobody new, and scores what it found', async () => {
  models.script = answerEverything([
    [found('Acme', 'https://acme.example'), found('Beta', 'https://www.beta.example')],
    [found('Acme again', 'https://leasing.acme.example'), found('Gamma', 'https://gamma.example')],
  ])
  const { runId } = await startRun(database.pool, { city: 'Austin', kind: 'property management', target: 10 })
  await work()
  const status = await endOf(database, runId)
  expect(status).toMatchObject({ state: 'candidates used up', candidates: 3, duplicates: 1, leads: 3 })
  const leads = await leadsOf(database, runId)
  expect(leads.map((lead) => [lead.company, lead.score, lead.scoredBy])).toEqual([
    ['Acme', 80, 'model'],
    ['Beta', 80, 'model'],
    ['Gamma', 80, 'model'],
  ])
})

test('a rate limit puts the task aside without counting an attempt', async () => {
  models.script = [failing(429, 'rate_limit_error', { 'retry-after': '3600' })]
  const { runId, taskId } = await startRun(database.pool, { target: 1 })
  await work()
  await expect.poll(async () => (await getTask(database.pool, taskId))?.state).toBe('scheduled')
  models.script = answerEverything([[found('Acme', 'https://acme.example')]])
  await database.advance(3_600_000)
  await expect(endOf(database, runId)).resolves.toMatchObject({ leads: 1 })
  expect(await getTask(database.pool, taskId)).toMatchObject({ state: 'done', attempt: 1 })
})

test('a rate limit that does not pass keeps no run open: after a while it goes without the model and says so', async () => {
  models.script = Array.from({ length: 50 }, () => failing(429, 'rate_limit_error', { 'retry-after': '600' }))
  const { runId, taskId } = await startRun(database.pool, { target: 1 })
  await work()
  for (let look = 0; look < 2; look++) {
    await expect.poll(async () => (await getTask(database.pool, taskId))?.state).toBe('scheduled')
    const asked = models.script.length
    await database.advance(600_000)
    await expect.poll(() => models.script.length).toBeLessThan(asked)
  }
  const status = await endOf(database, runId)
  expect(status).toMatchObject({ state: 'candidates used up', notes: ['the model could not be reached'] })
  expect(await getTask(database.pool, taskId)).toMatchObject({ state: 'done', attempt: 1 })
})

test('a model that stays away fails no run: the last attempt goes without it and says so', async () => {
  models.script = []
  const { runId, taskId } = await startRun(database.pool, { target: 1 })
  await work()
  for (const attempt of [1, 2]) {
    await expect
      .poll(async () => ({ ...(await getTask(database.pool, taskId)) }))
      .toMatchObject({ state: 'scheduled', attempt })
    await database.advance(60_000)
  }
  const status = await endOf(database, runId)
  expect(status).toMatchObject({ state: 'candidates used up', notes: ['the model could not be reached'] })
  expect((await runProgress(database.pool, runId)).every((stage) => stage.dead === 0)).toBe(true)
})
