/**
 * The provider's SDK as we use it: no environment, no logging, bounded waits; and its errors in our own words.
 *
 * The SDK retries what is worth it (429, 529, 5xx, lost connections) a few times, obeying the pause the service asks for. A pause
 * beyond `maxWaitMs` is not slept through: the reply is marked not to be retried, and becomes a ModelBusyError that carries it.
 */
import { Anthropic, AnthropicError, APIConnectionError, APIError } from '@anthropic-ai/sdk'
import { ModelBusyError, ModelRefusedError } from './model-errors.ts'

/**
 * `baseUrl` defaults to the provider's. `maxRetries` (2) bounds the SDK's own retries, `maxWaitMs` (5,000) each pause between them,
 * `timeoutMs` (120,000) the wait for the beginning of an answer. `signal` ends every question.
 */
export type ClientOptions = {
  readonly apiKey: string
  readonly baseUrl?: string
  readonly maxRetries?: number
  readonly maxWaitMs?: number
  readonly timeoutMs?: number
  readonly signal?: AbortSignal
}

const BASE_URL = 'https://api.anthropic.com'
const DEFAULT_RETRY_AFTER_MS = 15_000
const MAX_RETRY_AFTER_MS = 3_600_000

/** Makes the SDK's client. */
export function openClient(options: ClientOptions): Anthropic {
  const maxWaitMs = options.maxWaitMs ?? 5_000
  return new Anthropic({
    apiKey: options.apiKey,
    authToken: null,
    webhookKey: null,
    baseURL: options.baseUrl ?? BASE_URL,
    maxRetries: options.maxRetries ?? 2,
    timeout: options.timeoutMs ?? 120_000,
    logLevel: 'off',
    openTelemetry: false,
    fetch: async (input, init) => {
      const response = await fetch(input, init)
      const pauseMs = response.ok ? null : retryAfterMs(response.headers)
      if (pauseMs === null || pauseMs <= maxWaitMs) return response
      const headers = new Headers(response.headers)
      headers.set('x-should-retry', 'false')
      return new Response(response.body, {
        status: response.status,
        statusText: response.statusText,
        headers,
      })
    },
  })
}

/** The pause a reply asks for in ms (`retry-after-ms`, `retry-after` in seconds or as a date); null when it asks for none. */
function retryAfterMs(headers: Headers): number | null {
  const ms = Number.parseFloat(headers.get('retry-after-ms') ?? '')
  if (Number.isFinite(ms)) return Math.max(0, ms)
  const text = headers.get('retry-after')
  if (text === null) return null
  const seconds = Number(text)
  const pause = Number.isFinite(seconds) ? seconds * 1000 : Date.parse(text) - Date.now()
  return Number.isFinite(pause) ? Math.max(0, pause) : null
}

/** An SDK error in our words. `cutStream`: the answer had begun and broke off, which the SDK does not retry. */
export function modelError(error: unknown): { readonly error: unknown; readonly cutStream: boolean } {
  if (error instanceof APIConnectionError) {
    return { error: new ModelBusyError(DEFAULT_RETRY_AFTER_MS, null, { cause: error }), cutStream: false }
  }
  if (error instanceof APIError) {
    const status: number | undefined = error.status
    // An `error` event inside the stream has no status; the service sends it when it is overloaded midway.
    if (status === undefined)
      return { error: new ModelBusyError(DEFAULT_RETRY_AFTER_MS, null, { cause: error }), cutStream: true }
    if (status === 429 || status >= 500 || status === 408 || status === 409) {
      const asked = error.headers === undefined ? null : retryAfterMs(error.headers)
      const pause = Math.min(asked ?? DEFAULT_RETRY_AFTER_MS, MAX_RETRY_AFTER_MS)
      return { error: new ModelBusyError(pause, status, { cause: error }), cutStream: false }
    }
    return {
      error: new ModelRefusedError(status, error.apiMessage ?? 'no explanation', { cause: error }),
      cutStream: false,
    }
  }
  if (error instanceof AnthropicError) {
    return { error: new ModelBusyError(DEFAULT_RETRY_AFTER_MS, null, { cause: error }), cutStream: true }
  }
  return { error, cutStream: false }
}
