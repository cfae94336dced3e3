/**
 * The network between a monitor and its database, which a test may cut and mend.
 */
import { once } from 'node:events'
import { type Server, type Socket, connect, createServer } from 'node:net'
import { keepablePort } from '../../../test/harness/loopback.ts'

/** A TCP proxy on loopback in front of one server. */
export class Proxy {
  private readonly sockets = new Set<Socket>()
  private readonly target: URL
  private server: Server | null = null
  private port = 0

  constructor(url: string) {
    this.target = new URL(url)
  }

  /** Starts it; answers the address that leads through it. */
  async start(): Promise<string> {
    await this.mend()
    const through = new URL(this.target)
    through.host = `127.0.0.1:${this.port}`
    return through.href
  }

  /** Ends every connection and takes no new one. */
  async cut(): Promise<void> {
    const { server } = this
    this.server = null
    if (server === null) return
    const closed = once(server, 'close')
    server.close()
    for (const socket of this.sockets) socket.destroy()
    await closed
  }

  /** Takes connections again, on the same port. */
  async mend(): Promise<void> {
    const server = createServer((inner) => {
      const outer = connect(Number(this.target.port), this.target.hostname)
      for (const [one, other] of [
        [inner, outer],
        [outer, inner],
      ] as const) {
        this.sockets.add(one)
        one.on('error', () => {})
        one.once('close', () => {
          this.sockets.delete(one)
          other.destroy()
        })
        one.pipe(other)
      }
    })
    if (this.port === 0) this.port = await keepablePort()
    server.listen(this.port, '127.0.0.1')
    await once(server, 'listening')
    this.server = server
  }
}
