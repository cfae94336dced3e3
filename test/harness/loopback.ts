/**
 * Servers of tests: on loopback, on a free port, never on one that was agreed upon.
 */
import { once } from 'node:events'
import { type Server, createServer } from 'node:net'

/** Starts a TCP or HTTP server on 127.0.0.1 and answers with the port it was given. */
export async function listenOnLoopback(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the server has no port')
  return address.port
}

/**
 * A free port for a server that is to be away for a while, or for a program that is started on it: below those which the
 * system hands out to whoever asks for any, so that nobody else is given it while nobody listens.
 */
export async function keepablePort(): Promise<number> {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000)
    const probe = createServer()
    try {
      probe.listen(port, '127.0.0.1')
      await once(probe, 'listening')
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE') continue
      throw error
    }
    await new Promise((closed) => probe.close(closed))
    return port
  }
}
