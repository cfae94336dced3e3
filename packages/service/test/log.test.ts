/**
 * The log's lines: their shape, and what never appears in them.
 */
import { createLogger } from '@leasehold/service'
import { expect, test } from 'vitest'

function capture(level = 'info'): {
  log: ReturnType<typeof createLogger>
  lines: () => Record<string, unknown>[]
  text: () => string
} {
  let text = ''
  const log = createLogger({ level, name: 'test', destination: { write: (line) => void (text += line) } })
  const lines = (): Record<string, unknown>[] =>
    text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
  return { log, lines, text: () => text }
}

test('a line is one JSON object with level, time, role, process and facts', () => {
  const { log, lines } = capture()
  log.info({ event: 'lease.lost', taskId: '9007199254740993' }, 'lease lost')
  expect(lines()).toEqual([
    {
      level: 'info',
      time: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
      name: 'test',
      pid: process.pid,
      event: 'lease.lost',
      taskId: '9007199254740993',
      msg: 'lease lost',
    },
  ])
})

test('passwords, tokens, keys and headers are hidden, also inside nested objects', () => {
  const { log, text } = capture()
  log.info({ password: 'hunter2', smtp: { password: 'hunter2' }, headers: { authorization: 'hunter2' } }, 'x')
  log.info(
    { a: { b: { token: 'hunter2', apiKey: 'hunter2' } }, connectionString: 'hunter2', secret: 'hunter2' },
    'x',
  )
  expect(text()).not.toContain('hunter2')
})

test('the password inside an address is hidden wherever the address stands', () => {
  const { log, text } = capture()
  const url = 'postgres://worker:hunter2@db.example:5432/queue'
  const error = Object.assign(new Error(`cannot parse ${url}`), { input: url })
  log.error({ err: error, url }, `no way to ${url}`)
  expect(text()).not.toContain('hunter2')
  expect(text()).toContain('postgres://worker:***@db.example:5432/queue')
})

test('a level below the chosen one is silent', () => {
  const { log, text } = capture('warn')
  log.info('quiet')
  expect(text()).toBe('')
})
