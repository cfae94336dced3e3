/**
 * How a request is refused: one form for all refusals, also of what is not even HTTP.
 */
import type { Socket } from 'node:net'

/** What every refusal says. */
export interface Problem {
  readonly error: { readonly code: string; readonly message: string; readonly hint: string }
}

export function problem(code: string, message: string, hint: string): Problem {
  return { error: { code, message, hint } }
}

const hint = 'Send an HTTP/1.1 request with a short address and few headers, at once.'

/** By the error's code: what cannot be parsed, is too large or came too slowly. */
const clientProblems: Readonly<Record<string, [status: string, body: Problem]>> = {
  HPE_HEADER_OVERFLOW: ['431 Request Header Fields Too Large', problem('TOO_LARGE', 'Address and headers are too long.', hint)], // prettier-ignore
  ERR_HTTP_REQUEST_TIMEOUT: ['408 Request Timeout', problem('TOO_SLOW', 'The request did not arrive in time.', hint)], // prettier-ignore
}
const unreadable: [status: string, body: Problem] = ['400 Bad Request', problem('BAD_REQUEST', 'This is no request that can be read.', hint)] // prettier-ignore

/** Answers on a connection whose request never became one, and ends it. */
export function clientProblem(error: { readonly code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) return
  const [status, body] = clientProblems[error.code ?? ''] ?? unreadable
  const text = JSON.stringify(body)
  const head = [`HTTP/1.1 ${status}`, 'content-type: application/json', `content-length: ${Buffer.byteLength(text)}`, 'connection: close'] // prettier-ignore
  socket.end(`${head.join('\r\n')}\r\n\r\n${text}`, () => socket.destroySoon())
}
