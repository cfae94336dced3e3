/**
 * Each channel against the real thing on this machine: HTTP servers that speak the protocol, programs that run.
 */
import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { type IncomingMessage, type ServerResponse, createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { listenOnLoopback } from '../../../test/harness/loopback.ts'
import type { Delivery } from '../src/channels/channel.ts'
import { commandChannel } from '../src/channels/command.ts'
import { cut, telegramChannel } from '../src/channels/telegram.ts'
import { webhookChannel } from '../src/channels/webhook.ts'

const token = '4711:made-up-token'
const never = new AbortController().signal
const delivery: Delivery = {
  subject: 'Leasehold: 1 worker died',
  body: 'DEAD  verify@1\n',
  database: 'shop',
  alerts: [
    {
      id: '7',
      purpose: 'alert',
      subject: 'Leasehold: 1 worker died',
      createdAt: new Date('2027-03-01T09:00:00Z'),
      incidents: [
        {
          id: '3',
          kind: 'worker_dead',
          subject: 'w',
          summary: 'worker verify@1 died',
          opened_at: '2027-03-01T09:00:00Z',
          resolved_at: null,
        },
      ],
    },
  ],
}

interface Heard {
  readonly path: string
  readonly headers: IncomingMessage['headers']
  readonly body: string
}

/** A server that answers as told and remembers what it heard. */
async function server(answer: (response: ServerResponse) => void): Promise<{ url: string; heard: Heard[] }> {
  const heard: Heard[] = []
  const http = createServer((request, response) => {
    let body = ''
    request.setEncoding('utf8').on('data', (chunk: string) => (body += chunk))
    request.on('end', () => {
      heard.push({ path: request.url ?? '', headers: request.headers, body })
      answer(response)
    })
  })
  const port = await listenOnLoopback(http)
  onTestFinished(async () => {
    http.closeAllConnections()
    http.close()
    await once(http, 'close')
  })
  return { url: `http://127.0.0.1:${port}`, heard }
}

function says(status: number, body: object, headers: Record<string, string> = {}) {
  return (response: ServerResponse): void =>
    void response
      .writeHead(status, { 'content-type': 'application/json', ...headers })
      .end(JSON.stringify(body))
}

test('telegram: a delivery is one sendMessage of the bot to the chat, as plain text', async () => {
  const { url, heard } = await server(says(200, { ok: true, result: {} }))
  expect(
    await telegramChannel({ token, chatId: '-1001', baseUrl: `${url}/` }).send(delivery, never),
  ).toBeNull()
  expect(heard[0]?.path).toBe(`/bot${token}/sendMessage`)
  expect(JSON.parse(heard[0]!.body)).toEqual({
    chat_id: '-1001',
    text: 'Leasehold: 1 worker died\n\nDEAD  verify@1\n',
    link_preview_options: { is_disabled: true },
  })
})

test('telegram: what is too long is cut within 4096 units, at whole characters, and says where the rest is', () => {
  const text = cut('👷'.repeat(3_000))
  expect(text.length).toBeLessThanOrEqual(4_096)
  expect(text.isWellFormed()).toBe(true)
  expect(text).toContain('npx leasehold alerts list --full')
  expect(cut('x'.repeat(4_096))).toHaveLength(4_096)
})

test.each([
  [429, { ok: false, description: 'Too Many Requests', parameters: { retry_after: 17 } }, false, 17_000],
  [429, { ok: false, description: 'x', parameters: { retry_after: 999_999 } }, false, 3_600_000],
  [400, { ok: false, description: 'Bad Request: chat not found' }, true, null],
  [401, { ok: false, description: `Unauthorized ${token}` }, true, null],
  [403, { ok: false, description: 'Forbidden: bot was blocked by the user' }, true, null],
  [302, { ok: false }, true, null],
  [500, { ok: false }, false, null],
  [200, { ok: false, description: 'odd' }, false, null],
])('telegram: %i %j is refused for good: %s, left alone for: %s', async (status, body, refused, aloneMs) => {
  const { url } = await server(says(status, body))
  const sent = telegramChannel({ token, chatId: '1', baseUrl: url }).send(delivery, never)
  const error = await sent.catch((caught: unknown) => caught)
  expect(error).toMatchObject({ refused, aloneMs })
  expect(String(error)).not.toContain(token)
})

test('a server that is not there is tried again, and no message holds the address', async () => {
  const sent = telegramChannel({ token, chatId: '1', baseUrl: 'http://127.0.0.1:1' }).send(delivery, never)
  await expect(sent).rejects.toMatchObject({ refused: false, message: 'no connection: ECONNREFUSED' })
  const hook = webhookChannel({ url: 'http://127.0.0.1:1/secret-path', secret: null }).send(delivery, never)
  await expect(hook).rejects.toMatchObject({ message: 'no connection: ECONNREFUSED' })
})

test('webhook: the JSON says what happened, and its signature is that of the bytes', async () => {
  const { url, heard } = await server(says(204, {}))
  const secret = 'made up for this test'
  expect(await webhookChannel({ url: `${url}/hook?x=1`, secret }).send(delivery, never)).toBeNull()
  const { path, headers, body } = heard[0]!
  expect(path).toBe('/hook?x=1')
  expect(headers['x-leasehold-signature']).toBe(
    `sha256=${createHmac('sha256', secret).update(body).digest('hex')}`,
  )
  expect(headers['x-leasehold-delivery']).toBe(`7-${Date.parse('2027-03-01T09:00:00Z')}`)
  expect(JSON.parse(body)).toEqual({
    subject: delivery.subject,
    text: delivery.body,
    database: 'shop',
    sent_at: expect.any(String),
    alerts: [
      {
        id: '7',
        purpose: 'alert',
        subject: delivery.subject,
        created_at: '2027-03-01T09:00:00.000Z',
        incidents: delivery.alerts[0]!.incidents,
      },
    ],
  })
})

test('webhook: without a secret nothing is signed', async () => {
  const { url, heard } = await server(says(200, {}))
  await webhookChannel({ url, secret: null }).send(delivery, never)
  expect(heard[0]!.headers).not.toHaveProperty('x-leasehold-signature')
})

test.each([
  [500, {}, false, null],
  [503, { 'retry-after': '30' }, false, 30_000],
  [429, {}, false, null],
  [400, {}, true, null],
  [410, {}, true, null],
  [302, { location: 'http://127.0.0.1:1/' }, true, null],
])('webhook: %i %j is refused for good: %s', async (status, headers, refused, aloneMs) => {
  const { url, heard } = await server(says(status, {}, headers))
  await expect(webhookChannel({ url, secret: null }).send(delivery, never)).rejects.toMatchObject({
    refused,
    aloneMs,
  })
  expect(heard).toHaveLength(1)
})

test('webhook: a server that never answers is let go when the monitor stops', async () => {
  const stop = new AbortController()
  const { url } = await server(() => stop.abort(new Error('stopped')))
  await expect(webhookChannel({ url, secret: null }).send(delivery, stop.signal)).rejects.toThrow('stopped')
})

async function script(text: string): Promise<{ path: string; folder: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'leasehold-hook-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  const path = join(folder, 'hook.sh')
  await writeFile(path, `#!/bin/sh\n${text}\n`, { mode: 0o755 })
  return { path, folder }
}

test('command: the program reads JSON, sees its arguments as they are and none of our secrets', async () => {
  const { path, folder } = await script(
    'cat > "$1/stdin"; printf "%s\\n" "$2" > "$1/argument"; env > "$1/env"',
  )
  process.env['LEASEHOLD_TEST_SECRET'] = 'canary'
  onTestFinished(() => void delete process.env['LEASEHOLD_TEST_SECRET'])
  const hook = commandChannel({ argv: [path, folder, '$(id); "x"'], env: { PATH: process.env['PATH']! } })
  expect(await hook.send(delivery, never)).toBeNull()
  expect(JSON.parse(await readFile(join(folder, 'stdin'), 'utf8'))).toMatchObject({
    subject: delivery.subject,
  })
  expect(await readFile(join(folder, 'argument'), 'utf8')).toBe('$(id); "x"\n')
  expect(await readFile(join(folder, 'env'), 'utf8')).not.toContain('canary')
})

test('command: an exit code other than 0 is tried again, with what the program said', async () => {
  const { path } = await script('echo "pager is out of order" >&2; exit 3')
  await expect(commandChannel({ argv: [path], env: {} }).send(delivery, never)).rejects.toMatchObject({
    refused: false,
    message: 'the command ended with 3: pager is out of order',
  })
})

test('command: a program that is not there is an error and no crash', async () => {
  await expect(commandChannel({ argv: ['/no/such/hook'], env: {} }).send(delivery, never)).rejects.toThrow(
    /cannot be started: .*ENOENT/,
  )
})

test('command: when its time is up the whole group is gone, also what ignores SIGTERM', async () => {
  const { path, folder } = await script(
    'trap "" TERM; sleep 600 & echo $! > "$1/child"; echo $$ > "$1/self"; wait; sleep 600',
  )
  const hook = commandChannel({ argv: [path, folder], env: { PATH: process.env['PATH']! }, timeoutMs: 500 })
  await expect(hook.send(delivery, never)).rejects.toThrow(/took longer than 0.5 s/)
  for (const file of ['self', 'child']) {
    const pid = Number(await readFile(join(folder, file), 'utf8'))
    await expect.poll(() => isAlive(pid)).toBe(false)
  }
})

/** A zombie is dead; that nobody has reaped it is its new parent's business. */
async function isAlive(pid: number): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => ') Z')
  return !/\) [ZX]/.test(stat)
}
