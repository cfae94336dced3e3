/**
 * A TCP proxy in front of the test server, to lose answers, to hold connections half-open and to cut them.
 *
 * What the database has done by then it has done; only the client does not hear of it.
 */
import { createServer, connect, type Server, type Socket } from 'node:net'
import { listenOnLoopback } from '../../../test/harness/loopback.ts'

interface Pair {
  readonly client: Socket
  readonly upstream: Socket
  mute: boolean
  /** What the client said first: user, database, application name. */
  greeting: string
  /** Answers that wait; null: they pass. */
  held: Buffer[] | null
}

/** A running proxy; `url` leads through it. */
export class Proxy {
  readonly url: string
  /** Connections that were made so far. */
  accepted = 0
  private readonly server: Server
  private readonly pairs = new Set<Pair>()
  private muteAll = false

  private constructor(server: Server, url: string) {
    this.server = server
    this.url = url
  }

  /** Starts one in front of the server of `url`. */
  static async to(url: string): Promise<Proxy> {
    const target = new URL(url)
    const server = createServer()
    const through = new URL(url)
    through.port = String(await listenOnLoopback(server))
    through.hostname = '127.0.0.1'
    const proxy = new Proxy(server, through.href)
    server.on('connection', (client) => proxy.join(client, Number(target.port), target.hostname))
    return proxy
  }

  private join(client: Socket, port: number, host: string): void {
    this.accepted += 1
    const upstream = connect(port, host)
    const pair: Pair = { client, upstream, mute: this.muteAll, greeting: '', held: null }
    this.pairs.add(pair)
    client.on('data', (data) => {
      if (pair.greeting === '') pair.greeting = data.toString('latin1')
      upstream.write(data)
    })
    upstream.on('data', (data) => {
      if (pair.held !== null) pair.held.push(data)
      else if (!pair.mute) client.write(data)
    })
    const end = (): void => {
      this.pairs.delete(pair)
      client.destroy()
      upstream.destroy()
    }
    for (const socket of [client, upstream]) socket.on('error', end).on('close', end)
  }

  /** From now on answers are swallowed on all connections there are, and with `newOnesToo` on those to come. */
  swallowAnswers(newOnesToo: boolean): void {
    this.muteAll = newOnesToo
    for (const pair of this.pairs) pair.mute = true
  }

  /** Keeps the answers on the connections there are of this application name; the result lets them go, or others instead. */
  holdAnswers(applicationName: string): (instead?: Buffer) => void {
    const held = [...this.pairs].filter((pair) => pair.greeting.includes(applicationName))
    if (held.length === 0) throw new Error(`no connection of ${applicationName}`)
    for (const pair of held) pair.held = []
    return (instead) => {
      for (const pair of held) {
        const answers = pair.held ?? []
        for (const data of instead && answers.length > 0 ? [instead] : answers) pair.client.write(data)
        pair.held = null
      }
    }
  }

  /** Cuts all connections; new ones work again. */
  cut(): void {
    this.muteAll = false
    for (const { client, upstream } of this.pairs) {
      client.destroy()
      upstream.destroy()
    }
  }

  async close(): Promise<void> {
    this.cut()
    await new Promise((closed) => this.server.close(closed))
  }
}
