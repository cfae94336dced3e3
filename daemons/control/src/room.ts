/**
 * The HTTP server: five questions from outside, answered without changing anything.
 *
 * Fastify, because the pages and the trigger API come into the same server: routes, schemas and `inject` are theirs too.
 * Invariants: who has not the token, where there is one, learns nothing but that the process turns (/healthz); no body is
 * ever read; every refusal is `{ error: { code, message, hint } }`. What a stop does not see finished in 5 s it cuts.
 */
import { within } from '@leasehold/postgres'
import { ConfigError, LeaseholdError, describeError } from '@leasehold/queue'
import type { Logger } from '@leasehold/service'
import { fastify, type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import type { AddressInfo } from 'node:net'
import { bearerCheck, namesNoDomain } from './access.ts'
import { judge } from './health.ts'
import type { Metrics } from './metrics.ts'
import { clientProblem, problem } from './problems.ts'
import type { Source } from './source.ts'

export interface RoomOptions {
  /** An IP address. */
  readonly host: string
  /** 0: any free one. */
  readonly port: number
  /** Demanded of everybody; null: of nobody. */
  readonly token: string | null
  readonly source: Pick<Source, 'overview' | 'schema'>
  readonly metrics: Metrics
  readonly log: Pick<Logger, 'error'>
}

/** A server that listens. */
export interface Room {
  /** `127.0.0.1:7077`. */
  readonly address: string
  /** Answers to GET /metrics so far. */
  readonly scrapes: number
  /** Accepts nothing more, and finishes what is under way, for 5 s at most. Idempotent, never rejects. */
  close(): Promise<void>
}

const stopWithinMs = 5_000
/** Far more than watchers need, and far less than the files a process may open. */
const maxConnections = 256

/**
 * Listens. Throws LeaseholdError 'CANNOT_LISTEN' for an address that is taken or not (yet) this machine's, and ConfigError
 * for a port that this user may not have.
 */
export async function openRoom(options: RoomOptions): Promise<Room> {
  const { host, port } = options
  let scrapes = 0
  const server = buildServer(options, () => (scrapes += 1))
  await server.listen({ host, port }).catch((error: unknown) => {
    throw refusedAddress(error, host, port)
  })
  server.server.maxConnections = maxConnections
  const bound = server.server.address() as AddressInfo
  let closed: Promise<void> | null = null
  const close = async (): Promise<void> => {
    await within(stopWithinMs, server.close())
    server.server.closeAllConnections()
  }
  return {
    address: `${host.includes(':') ? `[${host}]` : host}:${bound.port}`,
    get scrapes() {
      return scrapes
    },
    close: () => (closed ??= close()),
  }
}

function buildServer(options: RoomOptions, onScrape: () => void): FastifyInstance {
  const { source, metrics, token, log } = options
  const server = fastify({
    // A request is a few lines; who sends more, or slowly, is nobody we wait for.
    http: { maxHeaderSize: 8_192, connectionsCheckingInterval: 1_000 },
    requestTimeout: 5_000,
    connectionTimeout: 30_000,
    keepAliveTimeout: 75_000,
    bodyLimit: 1,
    clientErrorHandler: (error, socket) => clientProblem(error, socket),
    frameworkErrors: (_error, _request, reply) => {
      const answer = reply as unknown as FastifyReply
      void answer.code(400).send(problem('BAD_REQUEST', 'The address of the request cannot be read.', known))
    },
  })
  const brings = token === null ? null : bearerCheck(token)
  endWithoutIdle(server)
  server.addHook('onRequest', (request, reply, done) => {
    reply.headers({ 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' })
    // A body is not read, so nothing can follow it.
    const body = hasBody(request)
    if (body) reply.header('connection', 'close')
    const { authorization, host } = request.headers
    const guarded = pathOf(request) !== '/healthz'
    if (guarded && brings?.(authorization) === false) unauthorized(reply)
    else if (guarded && brings === null && !namesNoDomain(host)) misdirected(reply)
    else if (request.is404) notFound(request, reply)
    else if (body) reply.code(413).send(problem('BODY_REFUSED', 'No request here has a body.', 'Send none.'))
    else done()
  })
  server.setNotFoundHandler(notFound)
  server.setErrorHandler((error, request, reply) => {
    const { code, message } = describeError(error)
    log.error({ event: 'control.request_failed', path: pathOf(request), code, message }, 'a request failed')
    return reply
      .code(500)
      .send(problem('UNEXPECTED', 'This request met a fault of the program.', 'Its log says more.'))
  })

  server.get('/healthz', () => ({ ok: true }))
  server.get('/readyz', async (_request, reply) => {
    const answer = await source.schema.get()
    if (answer.ok) return { ready: true, schema: answer.value.databaseVersion }
    const { code, message } = describeError(answer.error)
    return reply.code(503).send({ ready: false, reason: { code, message } })
  })
  server.get('/health', async (_request, reply) => {
    const health = judge(await source.overview.get())
    return reply.code(health.ok ? 200 : 503).send(health)
  })
  server.get('/metrics', async (_request, reply) => {
    const text = await metrics.render(await source.overview.get())
    onScrape()
    return reply.type(metrics.contentType).send(text)
  })
  return server
}

/** A stop waits for requests, not for connections: those that are kept, or have asked nothing yet, are closed. */
function endWithoutIdle(server: FastifyInstance): void {
  let underWay = 0
  let closing = false
  const endIdle = (): void => {
    if (closing && underWay === 0) server.server.closeAllConnections()
  }
  server.addHook('onRequest', async () => void (underWay += 1))
  server.addHook('onSend', async (_request, reply) => void (closing && reply.header('connection', 'close')))
  server.addHook('onResponse', async () => {
    underWay -= 1
    endIdle()
  })
  server.addHook('preClose', async () => {
    closing = true
    endIdle()
  })
}

const known = 'There are GET /metrics, /health, /readyz and /healthz (docs/control.md).'

function notFound(request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const path = pathOf(request)
  if (request.server.hasRoute({ method: 'GET', url: path })) {
    const message = `${request.method} is not answered here.`
    return reply
      .code(405)
      .header('allow', 'GET, HEAD')
      .send(problem('METHOD_NOT_ALLOWED', message, known))
  }
  return reply.code(404).send(problem('NOT_FOUND', 'There is nothing at this address.', known))
}

function unauthorized(reply: FastifyReply): FastifyReply {
  const hint = 'Send Authorization: Bearer and the token of LEASEHOLD_METRICS_TOKEN.'
  return reply
    .code(401)
    .header('www-authenticate', 'Bearer realm="leasehold"')
    .send(problem('UNAUTHORIZED', 'The bearer token is missing or wrong.', hint))
}

function misdirected(reply: FastifyReply): FastifyReply {
  const hint = 'Ask by IP address or as localhost, or set LEASEHOLD_METRICS_TOKEN and send it.'
  return reply.code(421).send(problem('WRONG_HOST', 'Without a token no other name is answered.', hint))
}

function pathOf(request: FastifyRequest): string {
  return request.url.split('?', 1)[0] ?? ''
}

function hasBody({ headers }: FastifyRequest): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) !== 0
}

function refusedAddress(error: unknown, host: string, port: number): unknown {
  const code = error instanceof Error && 'code' in error ? error.code : null
  const options = { cause: error }
  if (code === 'EADDRINUSE')
    return new LeaseholdError(
      'CANNOT_LISTEN',
      `Port ${port} of ${host} is taken by another process. End that one, or set LEASEHOLD_CONTROL_PORT to a free port.`,
      options,
    )
  if (code === 'EADDRNOTAVAIL')
    return new LeaseholdError(
      'CANNOT_LISTEN',
      `${host} is no address of this machine. Set LEASEHOLD_CONTROL_HOST to one that it has.`,
      options,
    )
  if (code === 'EACCES')
    return new ConfigError(
      [
        {
          name: 'LEASEHOLD_CONTROL_PORT',
          problem: `is ${port}, which this user may not listen on; use 1024 or more`,
        },
      ],
      options,
    )
  return error
}
