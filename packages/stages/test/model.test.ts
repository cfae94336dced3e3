/**
 * Holds the model client against a server that speaks the provider's protocol: good answers, misfits, pauses, overload, cuts.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { ModelAnswerInvalidError, ModelBusyError, ModelRefusedError } from '../src/model-errors.ts'
import { openModel, type ModelOptions } from '../src/model.ts'
import {
  answering,
  cut,
  failing,
  failingMidway,
  startModelServer,
  streaming,
  type ModelServer,
} from '../../../test/harness/model-server.ts'

let server: ModelServer

beforeEach(async () => {
  server = await startModelServer()
})
afterEach(() => server.close())

const schema = z.object({
  companies: z.array(z.object({ name: z.string().min(1), score: z.int().min(0).max(100) })),
})
const good = { companies: [{ name: 'Acme', score: 70 }] }
const question = { system: 'You judge companies.', prompt: 'Judge Acme.', schema }

const open = (options: Partial<ModelOptions> = {}) =>
  openModel({ apiKey: 'made-up-key', baseUrl: server.url, maxRetries: 1, ...options })

describe('an answer', () => {
  test('is streamed, checked by the schema, and its cost is told', async () => {
    server.script = [answering(good)]
    await expect(open().ask(question)).resolves.toEqual({
      value: good,
      usage: { requests: 1, inputTokens: 100, outputTokens: 20, webSearches: 0 },
    })
    expect(server.requests[0]).toMatchObject({
      model: 'claude-sonnet-5-5',
      stream: true,
      max_tokens: 8192,
      tool_choice: { type: 'auto' },
      tools: [{ name: 'answer', input_schema: { type: 'object', required: ['companies'] } }],
    })
  })

  test('after a web search comes when the model is ready, also when the service pauses in between', async () => {
    const search = {
      type: 'server_tool_use',
      name: 'web_search',
      json: '{"query":"property managers austin"}',
    } as const
    server.script = [streaming([search], 'pause_turn'), answering(good)]
    const { usage } = await open().ask({ ...question, webSearch: { maxUses: 3 } })
    expect(usage).toEqual({ requests: 2, inputTokens: 200, outputTokens: 40, webSearches: 1 })
    expect(server.requests[0]).toMatchObject({
      tool_choice: { type: 'auto' },
      tools: [{ name: 'answer' }, { type: 'web_search_20250305', name: 'web_search', max_uses: 3 }],
    })
    expect(server.requests[1]).toMatchObject({ messages: [{ role: 'user' }, { role: 'assistant' }] })
  })

  test.each([
    ['a misfit', answering({ companies: [{ name: '', score: 700 }] }), /companies\.0\.score/],
    ['broken JSON', answering('{"companies": [{"name"'), /companies|answer/],
    ['mere text', streaming([{ type: 'text', text: 'Acme is fine.' }], 'end_turn'), /was not called/],
  ])('%s is sent back once with what is wrong', async (_, bad, complaint) => {
    server.script = [bad, answering(good)]
    await expect(open().ask(question)).resolves.toMatchObject({ value: good, usage: { requests: 2 } })
    expect(JSON.stringify(server.requests[1])).toMatch(complaint)
    expect(server.requests[1]).toMatchObject({ messages: [{}, { role: 'assistant' }, { role: 'user' }] })
  })

  test('that misfits twice is an error with the issues', async () => {
    server.script = [answering({ companies: 'none' }), answering({})]
    const asking = open().ask(question)
    await expect(asking).rejects.toBeInstanceOf(ModelAnswerInvalidError)
    await expect(asking).rejects.toMatchObject({
      code: 'MODEL_ANSWER_INVALID',
      reason: 'does not fit the schema',
      issues: [/companies/],
    })
    expect(server.requests).toHaveLength(2)
  })

  test.each([
    ['cut off', answering('{"companies": [{"na', 'max_tokens')],
    ['refused to answer', streaming([{ type: 'text', text: 'No.' }], 'refusal')],
  ] as const)('that is %s is not asked for again', async (reason, reply) => {
    server.script = [reply]
    await expect(open().ask(question)).rejects.toMatchObject({ code: 'MODEL_ANSWER_INVALID', reason })
    expect(server.requests).toHaveLength(1)
  })
})

describe('a busy service', () => {
  test('that asks for a short pause is asked again after it', async () => {
    server.script = [failing(429, 'rate_limit_error', { 'retry-after-ms': '1' }), answering(good)]
    await expect(open().ask(question)).resolves.toMatchObject({ value: good })
  })

  test('that asks for a long pause is an error at once, with that pause', async () => {
    server.script = [failing(429, 'rate_limit_error', { 'retry-after': '90' }), answering(good)]
    const asking = open().ask(question)
    await expect(asking).rejects.toBeInstanceOf(ModelBusyError)
    await expect(asking).rejects.toMatchObject({ code: 'MODEL_BUSY', status: 429, retryAfterMs: 90_000 })
    expect(server.requests).toHaveLength(1)
  })

  test('that stays overloaded is an error after the bounded retries', async () => {
    const overloaded = failing(529, 'overloaded_error', { 'retry-after-ms': '1' })
    server.script = [overloaded, overloaded, answering(good)]
    await expect(open().ask(question)).rejects.toMatchObject({
      code: 'MODEL_BUSY',
      status: 529,
      retryAfterMs: 1,
    })
    expect(server.requests).toHaveLength(2)
  })

  test('that is overloaded midway is asked again, then an error', async () => {
    server.script = [failingMidway('overloaded_error'), answering(good)]
    await expect(open().ask(question)).resolves.toMatchObject({ value: good })
    server.script = [failingMidway('overloaded_error'), failingMidway('overloaded_error')]
    await expect(open().ask(question)).rejects.toMatchObject({ code: 'MODEL_BUSY', status: null })
  })

  test.each(['socket', 'end'] as const)(
    'whose stream is cut by %s is asked again, then an error',
    async (how) => {
      const block = { type: 'tool_use', name: 'answer', json: JSON.stringify(good) } as const
      server.script = [cut([block], 4, how), answering(good)]
      await expect(open().ask(question)).resolves.toMatchObject({ value: good })
      server.script = [cut([block], 4, how), cut([block], 1, how)]
      await expect(open().ask(question)).rejects.toMatchObject({ code: 'MODEL_BUSY', status: null })
    },
  )

  test('that is not there is an error to come back from', async () => {
    const { url } = server
    server.close()
    await expect(open({ baseUrl: url, maxRetries: 0 }).ask(question)).rejects.toMatchObject({
      code: 'MODEL_BUSY',
      status: null,
    })
  })
})

test.each([
  [401, 'authentication_error', /ANTHROPIC_API_KEY/],
  [400, 'invalid_request_error', /made up invalid_request_error/],
  [404, 'not_found_error', /model name/],
])('status %i is not asked again and says what to check', async (status, type, message) => {
  server.script = [failing(status, type), answering(good)]
  const asking = open().ask(question)
  await expect(asking).rejects.toBeInstanceOf(ModelRefusedError)
  await expect(asking).rejects.toThrow(message)
  expect(server.requests).toHaveLength(1)
})

test.each(['question', 'model'] as const)(
  'the signal of the %s ends a question with its reason',
  async (whose) => {
    server.script = [() => undefined]
    const abort = new AbortController()
    const arrived = server.arrived(1)
    const asking =
      whose === 'model'
        ? open({ signal: abort.signal }).ask(question)
        : open().ask({ ...question, signal: abort.signal })
    await arrived
    abort.abort(new Error('lease lost'))
    await expect(asking).rejects.toThrow('lease lost')
  },
)

test('a question needs a schema of an object', async () => {
  await expect(open().ask({ ...question, schema: z.string() })).rejects.toThrow(TypeError)
})
