/**
 * Several daemons as children of one terminal: started, prefixed, restarted when they die, drained in order.
 *
 * Invariant: when `ended` settles, no child is left. Children have sessions of their own, so that Ctrl-C reaches this
 * process alone and each child is asked once to drain; when this process is killed, they drain by themselves
 * (end-with-parent.ts). A wrong configuration (exit code 2) is never restarted. Production has systemd for all this.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import type { Environment } from '@leasehold/service'
import { exitCodes } from '../exit-codes.ts'
import type { Terminal } from '../terminal/terminal.ts'
import { definedOnly, nodeArguments } from './become.ts'
import { readableLine } from './log-lines.ts'

/** One daemon to keep running. */
export interface Member {
  /** Shown before each of its lines. */
  readonly name: string
  readonly entry: URL
  readonly args: readonly string[]
  /** Beside the fleet's environment. */
  readonly env?: Environment
  /** The working directory; default: this process's. */
  readonly directory?: string
}

/** How a member is doing. */
export interface MemberState {
  readonly name: string
  /** Null between two lives, and when it has ended for good. */
  readonly pid: number | null
  readonly startedAt: Date | null
  /** It has said that it works: a worker beats, a monitor or a scheduler has looked, the control service has read. */
  readonly ready: boolean
  readonly restarts: number
  /** How its last life ended; null: it has had one only. */
  readonly lastEnd: string | null
  /** Lives that ended without having been asked to. */
  readonly failures: number
}

export interface FleetOptions {
  readonly terminal: Terminal
  readonly environment: Environment
  /** Start a member that died again, after 1 s, 2 s … 30 s. */
  readonly restart: boolean
  /** Names are padded to this many characters. */
  readonly nameWidth: number
  /** Where each member's own lines go, as they are; default: readably to the terminal. */
  readonly lines?: (member: Member, line: string) => void
}

const colours = ['cyan', 'magenta', 'blue', 'yellow', 'green'] as const
const healthyAfterMs = 60_000
const endWithParent = new URL(
  import.meta.url.endsWith('.ts') ? './end-with-parent.ts' : './end-with-parent.js',
  import.meta.url,
).href

/** A running group of daemons. */
export class Fleet {
  /** Settles when every member has ended for good: true when one of them was wrongly configured. */
  readonly ended: Promise<boolean>
  private readonly options: FleetOptions
  private readonly running = new Map<Member, ChildProcess>()
  private readonly states = new Map<Member, MemberState>()
  private readonly stopping = new AbortController()
  private misconfigured = false

  constructor(members: readonly Member[], options: FleetOptions) {
    this.options = options
    const lives = members.map((member, index) => this.keep(member, colours[index % colours.length] ?? 'cyan'))
    this.ended = Promise.all(lives).then(() => this.misconfigured)
  }

  /** Asks every member to end: the first call to drain, the second to stop now. */
  stop(): void {
    this.stopping.abort()
    for (const child of this.running.values()) child.kill('SIGTERM')
  }

  /** Every member, in the order in which they were given. */
  get members(): MemberState[] {
    return [...this.states.values()]
  }

  /** Runs one member until it has ended for good. */
  private async keep(member: Member, colour: (typeof colours)[number]): Promise<void> {
    const { terminal, restart, nameWidth } = this.options
    const prefix = `${terminal.paint(colour, member.name.padEnd(nameWidth))} | `
    let pauseMs = 1_000
    const unborn = { pid: null, startedAt: null, ready: false, restarts: -1, lastEnd: null, failures: 0 }
    this.states.set(member, { name: member.name, ...unborn })
    for (;;) {
      const startedAt = performance.now()
      const { code, how } = await this.runOnce(member, prefix)
      const asked = this.stopping.signal.aborted && (code === 0 || code === null)
      const failures = (this.states.get(member)?.failures ?? 0) + (asked ? 0 : 1)
      this.note(member, { pid: null, startedAt: null, ready: false, lastEnd: how, failures })
      if (performance.now() - startedAt > healthyAfterMs) pauseMs = 1_000
      if (code === exitCodes.usage) {
        this.misconfigured = true
        terminal.out(`${prefix}is wrongly configured; everything stops`)
        this.stop()
        return
      }
      if (this.stopping.signal.aborted || code === 0) {
        terminal.out(`${prefix}ended`)
        return
      }
      if (code === exitCodes.slotTaken) {
        // Started again it would take the slot back, and what both hold would die with each turn until it is quarantined.
        terminal.out(`${prefix}its slot was taken by another process, which works on; this one stays down`)
        return
      }
      if (!restart) {
        terminal.out(`${prefix}${how} and stays down`)
        return
      }
      terminal.out(`${prefix}${how}; it is started again in ${pauseMs / 1_000} s`)
      await delay(pauseMs, undefined, { signal: this.stopping.signal }).catch(() => {})
      if (this.stopping.signal.aborted) return
      pauseMs = Math.min(pauseMs * 2, 30_000)
    }
  }

  private note(member: Member, news: Partial<MemberState>): void {
    const state = this.states.get(member)
    if (state !== undefined) this.states.set(member, { ...state, ...news })
  }

  private async runOnce(member: Member, prefix: string): Promise<{ code: number | null; how: string }> {
    const { terminal, environment } = this.options
    const args = ['--import', endWithParent, ...nodeArguments(member.entry), ...member.args]
    const child = spawn(process.execPath, args, {
      env: definedOnly({ ...environment, ...member.env }),
      ...(member.directory === undefined ? {} : { cwd: member.directory }),
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      detached: true,
    })
    this.running.set(member, child)
    const end = new Promise<{ code: number | null; how: string }>((ended) => {
      child.once('error', (error) => ended({ code: null, how: `cannot be started: ${error.message}` }))
      child.once('close', (code, signal) =>
        ended({ code, how: signal === null ? `ended with code ${code}` : `was ended by ${signal}` }),
      )
    })
    if (child.pid !== undefined) terminal.out(`${prefix}started, pid ${child.pid}`)
    const restarts = (this.states.get(member)?.restarts ?? -1) + 1
    this.note(member, { pid: child.pid ?? null, startedAt: new Date(), restarts })
    child.on('message', (word) => {
      if (word === 'ready') this.note(member, { ready: true })
    })
    const show = (line: string): void => {
      if (this.options.lines !== undefined) this.options.lines(member, line)
      else terminal.out(`${prefix}${readableLine(terminal, line)}`)
    }
    await Promise.all([eachLine(child.stdout, show), eachLine(child.stderr, show), end])
    this.running.delete(member)
    return end
  }
}

async function eachLine(stream: Readable | null, show: (line: string) => void): Promise<void> {
  if (stream === null) return
  for await (const line of createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY })) show(line)
}
