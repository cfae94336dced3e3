/**
 * Servers of tests: on loopback, on a free port, never on one that was agreed upon.
 */
import { once } from 'node:events'
import type { Server } from 'node:net'

/** Starts a TCP or HTTP server on 127.0.0.1 and answers with the port it was given. */
export async function listenOnLoopback(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the server has no port')
  return address.port
}
