/**
 * One HTTP exchange with an address that an operator configured: bounded in time and size, no redirect is followed.
 *
 * Invariant: it ends within `totalMs` whatever the other side does, and a failure's message holds a code and no address,
 * because addresses may hold secrets. What an answer means is the channel's business.
 */
import { describeError } from '@leasehold/queue'
import { oneLine } from '../plain-text.ts'
import { DeliveryError } from './channel.ts'

/** An answer; of its body the beginning. */
export interface Answer {
  readonly status: number
  readonly text: string
  /** What Retry-After said in seconds, as milliseconds; null when it said nothing. */
  readonly retryAfterMs: number | null
}

/** What is sent. */
export interface Question {
  readonly method: 'GET' | 'POST'
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  readonly totalMs?: number
}

const defaultTotalMs = 15_000
const maxAnswerBytes = 16_384

/** Asks once. Throws {@link DeliveryError} when there is no answer, doubtful when the question may have been heard. */
export async function exchange(url: URL, question: Question, signal: AbortSignal): Promise<Answer> {
  const { method, headers = {}, body = null, totalMs = defaultTotalMs } = question
  // Loaded with the first message by HTTP: most monitors only send mail. A deploy may have it away for a moment.
  const { Agent, request } = await import('undici').catch((error: unknown) => {
    throw new DeliveryError(`the HTTP client cannot be loaded: ${describeError(error).message}`, {
      doubtful: false,
    })
  })
  const agent = new Agent({ connections: 1, connect: { timeout: Math.min(5_000, totalMs) } })
  let connected = false
  agent.on('connect', () => (connected = true))
  const over = AbortSignal.timeout(totalMs)
  try {
    const answer = await request(url, {
      method,
      headers: { 'user-agent': 'leasehold', ...headers },
      body,
      dispatcher: agent,
      signal: AbortSignal.any([signal, over]),
    })
    const retryAfter = Number(answer.headers['retry-after'])
    return {
      status: answer.statusCode,
      text: await beginning(answer.body),
      retryAfterMs: retryAfter > 0 ? retryAfter * 1_000 : null,
    }
  } catch (error) {
    // Until there is a connection nothing can have been asked; afterwards nobody can tell how far it came.
    const doubtful = connected
    if (signal.aborted) throw new DeliveryError(describeError(signal.reason).message, { doubtful })
    if (over.aborted) throw new DeliveryError(`no answer within ${totalMs / 1_000} s`, { doubtful })
    throw new DeliveryError(`no connection: ${reason(error)}`, { doubtful })
  } finally {
    await agent.destroy().catch(() => {})
  }
}

async function beginning(body: AsyncIterable<Uint8Array>): Promise<string> {
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of body) {
    chunks.push(chunk)
    size += chunk.length
    if (size >= maxAnswerBytes) break
  }
  return Buffer.concat(chunks).subarray(0, maxAnswerBytes).toString('utf8')
}

/** The code of the failure, which names no address; else its class. */
function reason(error: unknown): string {
  const first: unknown = error instanceof AggregateError ? error.errors[0] : error
  if (!(first instanceof Error)) return 'unknown'
  return 'code' in first && typeof first.code === 'string' ? oneLine(first.code, 60) : first.name
}
