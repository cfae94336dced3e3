/**
 * The worker processes of one measurement, as the measuring process sees them: started, told to begin, counted, stopped.
 *
 * Invariant: when they stop, every task number below the submitted ones was seen by exactly one handler, or this throws.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { add, type Histogram, newHistogram } from './histogram.ts'

/** How each process is set up. */
export interface WorkerSettings {
  readonly process: number
  /** Workers in this process. */
  readonly slots: number
  /** Handlers at once of each worker. */
  readonly concurrency: number
}

export type FromParent = { readonly kind: 'go' | 'release' | 'latency' | 'stop' }

export type ToParent =
  | { readonly kind: 'ready' | 'working' }
  | { readonly kind: 'count'; readonly entered: number; readonly ended: number }
  | { readonly kind: 'latency'; readonly histogram: Histogram }
  | { readonly kind: 'report'; readonly report: Report }

/** What a process knows at its end. */
export interface Report {
  readonly entered: number
  readonly ended: number
  /** Handlers entered for a task number that this process had seen before. */
  readonly twice: number
  /** A bit for each task number, base64. */
  readonly seen: string
}

/** Started processes. */
export interface Workers {
  readonly pids: readonly number[]
  /** Handlers entered and ended so far; the count is at most some milliseconds old. */
  readonly entered: number
  readonly ended: number
  /** Starts to work; resolves when all processes do. */
  go(): Promise<void>
  /** Lets the handlers end that wait for it. */
  release(): void
  /** Stops all processes where they are, and lets them go on: nothing they have is lost, but they take no CPU meanwhile. */
  holdStill(): void
  goOn(): void
  /** Latencies since the last time this was asked. */
  latency(): Promise<Histogram>
  /** Resolves when `reached` holds; it is asked at each count. */
  until(reached: () => boolean): Promise<void>
  /**
   * Stops them. `submitted`: each number below it must have been seen once; null: seen at most once. Throws otherwise.
   * Returns how many handlers were entered.
   */
  stop(submitted: number | null): Promise<number>
}

const program = fileURLToPath(new URL('./worker-process.ts', import.meta.url))

/** Starts `processes` processes and waits until they have loaded everything. Nothing works yet. */
export async function startWorkers(
  system: string,
  url: string,
  { processes, slots, concurrency }: { processes: number; slots: number; concurrency: number },
): Promise<Workers> {
  const members = Array.from(
    { length: processes },
    (_, i) => new Member(system, url, { process: i, slots, concurrency }),
  )
  await Promise.all(members.map((member) => member.next('ready')))
  const sum = (of: (member: Member) => number) => members.reduce((total, member) => total + of(member), 0)
  return {
    pids: members.map((member) => member.child.pid!),
    get entered() {
      return sum((member) => member.entered)
    },
    get ended() {
      return sum((member) => member.ended)
    },
    async go() {
      await Promise.all(members.map((member) => member.ask('go', 'working')))
    },
    release() {
      for (const member of members) member.tell('release')
    },
    holdStill() {
      for (const { child } of members) child.kill('SIGSTOP')
    },
    goOn() {
      for (const { child } of members) child.kill('SIGCONT')
    },
    async latency() {
      const all = newHistogram()
      for (const answer of await Promise.all(members.map((member) => member.ask('latency', 'latency'))))
        add(all, answer.histogram)
      return all
    },
    async until(reached) {
      while (!reached()) await Promise.race(members.map((member) => member.next('count')))
    },
    async stop(submitted) {
      const answers = await Promise.all(members.map((member) => member.ask('stop', 'report')))
      const reports = answers.map((answer) => answer.report)
      assertOnce(system, reports, submitted)
      return reports.reduce((total, { entered }) => total + entered, 0)
    },
  }
}

/** Throws when a task ran twice, or when one of the submitted ones never ran. */
export function assertOnce(system: string, reports: readonly Report[], submitted: number | null): void {
  const bits = reports.map(({ seen }) => Buffer.from(seen, 'base64'))
  const length = Math.max(0, ...bits.map((part) => part.length))
  let twice = reports.reduce((total, report) => total + report.twice, 0)
  let count = 0
  for (let at = 0; at < length; at++) {
    let all = 0
    for (const part of bits) {
      const own = part[at] ?? 0
      twice += ones(all & own)
      all |= own
    }
    count += ones(all)
  }
  if (twice > 0) throw new Error(`${system} ran ${twice} tasks twice`)
  if (submitted !== null && count !== submitted)
    throw new Error(`${system} ran ${count} of ${submitted} tasks`)
}

function ones(byte: number): number {
  let count = 0
  for (let left = byte; left > 0; left &= left - 1) count += 1
  return count
}

type Kind = ToParent['kind']
type Answer<K extends Kind> = Extract<ToParent, { kind: K }>

/** One process. */
class Member {
  readonly child: ChildProcess
  entered = 0
  ended = 0
  private readonly waiting = new Map<Kind, PromiseWithResolvers<ToParent>>()
  private failure: Error | null = null

  constructor(system: string, url: string, settings: WorkerSettings) {
    this.child = fork(program, [system, url, JSON.stringify(settings)], {
      execArgv: ['--conditions=development', '--disable-warning=ExperimentalWarning'],
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    this.child.on('message', (message: ToParent) => this.hear(message))
    // Its last message may still be on its way when it has ended; the channel closes behind it.
    void Promise.all([once(this.child, 'exit'), once(this.child, 'disconnect')]).then(
      ([[code]]) => this.fail(new Error(`a worker process of ${system} ended with code ${code}`)),
      (error: Error) => this.fail(error),
    )
  }

  tell(kind: FromParent['kind']): void {
    this.child.send({ kind } satisfies FromParent)
  }

  ask<K extends Kind>(kind: FromParent['kind'], answer: K): Promise<Answer<K>> {
    const next = this.next(answer)
    this.tell(kind)
    return next
  }

  /** The next message of this kind. */
  next<K extends Kind>(kind: K): Promise<Answer<K>> {
    if (this.failure !== null) return Promise.reject(this.failure)
    let waiting = this.waiting.get(kind)
    if (waiting === undefined) {
      waiting = Promise.withResolvers()
      waiting.promise.catch(() => {})
      this.waiting.set(kind, waiting)
    }
    return waiting.promise as Promise<Answer<K>>
  }

  private hear(message: ToParent): void {
    if (message.kind === 'count') {
      this.entered = message.entered
      this.ended = message.ended
    }
    const waiting = this.waiting.get(message.kind)
    this.waiting.delete(message.kind)
    waiting?.resolve(message)
  }

  private fail(error: Error): void {
    this.failure = error
    for (const { reject } of this.waiting.values()) reject(error)
    this.waiting.clear()
  }
}
