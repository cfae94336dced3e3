/**
 * A server on loopback that speaks the provider's messages protocol, for tests: server-sent events, statuses, pauses, cuts.
 *
 * Each request takes the next scripted reply; `requests` holds the bodies that came. A request beyond the script is answered with status 500.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { listenOnLoopback } from './loopback.ts'

/** What the server does with one request. */
export type Scripted = (response: ServerResponse, body: Record<string, unknown>) => void

/** A running server. `script` is consumed from its front. */
export type ModelServer = {
  url: string
  script: Scripted[]
  requests: Record<string, unknown>[]
  arrived(count: number): Promise<void>
  close(): void
}

export async function startModelServer(): Promise<ModelServer> {
  const waiting: { count: number; resolve: () => void }[] = []
  const server = createServer((request, response) => {
    void handle(request, response)
  })
  const port = await listenOnLoopback(server)
  const model: ModelServer = {
    url: `http://127.0.0.1:${port}`,
    script: [],
    requests: [],
    arrived(count) {
      const { promise, resolve } = Promise.withResolvers<void>()
      waiting.push({ count, resolve })
      return promise
    },
    close() {
      server.closeAllConnections()
      server.close()
    },
  }
  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = []
    for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk)
    const body: Record<string, unknown> = JSON.parse(Buffer.concat(chunks).toString())
    model.requests.push(body)
    for (const waiter of waiting) if (model.requests.length >= waiter.count) waiter.resolve()
    const next = model.script.shift()
    if (next === undefined) failing(500, 'api_error')(response, body)
    else next(response, body)
  }
  return model
}

/** A reply with the pieces of content given, as a stream of events. */
export function streaming(content: readonly Block[], stopReason: string): Scripted {
  return (response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.end(events(content, stopReason).join(''))
  }
}

/** A reply that calls the answer tool with `input`; a string is sent as raw JSON text, be it valid or not. */
export function answering(input: unknown, stopReason = 'tool_use'): Scripted {
  return streaming(
    [{ type: 'tool_use', name: 'answer', json: typeof input === 'string' ? input : JSON.stringify(input) }],
    stopReason,
  )
}

/** A stream that breaks off after the first `keep` events. */
export function cut(content: readonly Block[], keep: number, how: 'socket' | 'end' = 'socket'): Scripted {
  return (response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(events(content, 'tool_use').slice(0, keep).join(''), () => {
      if (how === 'socket') response.destroy()
      else response.end()
    })
  }
}

/** An error reply. */
export function failing(status: number, type: string, headers: Record<string, string> = {}): Scripted {
  return (response) => {
    response.writeHead(status, { 'content-type': 'application/json', ...headers })
    response.end(JSON.stringify({ type: 'error', error: { type, message: `made up ${type}` } }))
  }
}

/** A stream whose first event is an error, as the service sends when it is overloaded midway. */
export function failingMidway(type: string): Scripted {
  return (response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.end(event('error', { type: 'error', error: { type, message: `made up ${type}` } }))
  }
}

/** A piece of content: text, a call of a tool, or a search the service ran itself. */
export type Block =
  | { type: 'text'; text: string }
  | { type: 'tool_use'; name: string; json: string }
  | { type: 'server_tool_use'; name: string; json: string }

function events(content: readonly Block[], stopReason: string): string[] {
  const searches = content.filter((block) => block.type === 'server_tool_use').length
  const message = {
    id: 'msg_made_up',
    type: 'message',
    role: 'assistant',
    model: 'made-up',
    content: [],
    stop_reason: null,
    stop_sequence: null,
    usage: { input_tokens: 100, output_tokens: 1 },
  }
  const usage = {
    output_tokens: 20,
    ...(searches === 0 ? {} : { server_tool_use: { web_search_requests: searches } }),
  }
  return [
    event('message_start', { type: 'message_start', message }),
    event('ping', { type: 'ping' }),
    ...content.flatMap((block, index) => blockEvents(block, index)),
    event('message_delta', {
      type: 'message_delta',
      delta: { stop_reason: stopReason, stop_sequence: null },
      usage,
    }),
    event('message_stop', { type: 'message_stop' }),
  ]
}

function blockEvents(block: Block, index: number): string[] {
  const start =
    block.type === 'text'
      ? { type: 'text', text: '' }
      : { type: block.type, id: `call_${index}`, name: block.name, input: {} }
  const text = block.type === 'text' ? block.text : block.json
  // Two deltas, so that nothing relies on an answer coming in one piece.
  const half = Math.floor(text.length / 2)
  const deltas = [text.slice(0, half), text.slice(half)].map((piece) =>
    event('content_block_delta', {
      type: 'content_block_delta',
      index,
      delta:
        block.type === 'text'
          ? { type: 'text_delta', text: piece }
          : { type: 'input_json_delta', partial_json: piece },
    }),
  )
  return [
    event('content_block_start', { type: 'content_block_start', index, content_block: start }),
    ...deltas,
    event('content_block_stop', { type: 'content_block_stop', index }),
  ]
}

function event(name: string, data: unknown): string {
  return `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`
}
