/**
 * Load while workers work: as much as they take (closed loop), or a given rate that waits for nobody (open loop).
 *
 * In an open loop every task has a scheduled send time before the run begins to be late; latency counts from that, so a
 * system that stalls is charged for everybody who had to wait. What is due is sent in one submission, as a busy
 * application would; at low rates that is one task.
 */
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { benchTask, nowMicros } from './system.ts'
import type { Bench } from './workload.ts'
import type { Workers } from './workers.ts'

const mostInFlight = 4
const mostPerSubmission = 1000
const sampleMs = 1000

/** What a loaded stretch did. */
export interface Loaded {
  /** The number after the last one submitted. */
  readonly next: number
  readonly seconds: number
  /** Handlers that ended within the stretch. */
  readonly ended: number
  /** Ended per second, each second. */
  readonly course: readonly (readonly [number, number])[]
}

/** Samples once a second what ends. */
class Course {
  readonly points: [number, number][] = []
  private readonly startedAt = performance.now()
  private readonly from: number
  private last: { at: number; ended: number }
  private readonly timer: NodeJS.Timeout
  private readonly workers: Workers

  constructor(workers: Workers) {
    this.workers = workers
    this.from = workers.ended
    this.last = { at: this.startedAt, ended: this.from }
    this.timer = setInterval(() => this.sample(), sampleMs)
  }

  private sample(): void {
    const now = { at: performance.now(), ended: this.workers.ended }
    const seconds = (now.at - this.last.at) / 1000
    this.points.push([
      Math.round((now.at - this.startedAt) / 100) / 10,
      (now.ended - this.last.ended) / seconds,
    ])
    this.last = now
  }

  end(next: number): Loaded {
    clearInterval(this.timer)
    const seconds = (performance.now() - this.startedAt) / 1000
    return { next, seconds, ended: this.workers.ended - this.from, course: this.points }
  }
}

/** Keeps about `backlog` tasks waiting for so long. `each` is called about once per submission. */
export async function saturate(
  { system, batch }: Bench,
  workers: Workers,
  { first, seconds, backlog }: { first: number; seconds: number; backlog: number },
): Promise<Loaded> {
  const size = Math.min(batch, Math.max(1, Math.floor(backlog / 4)))
  const already = workers.ended - first
  let next = first
  const course = new Course(workers)
  const until = performance.now() + seconds * 1000
  const submitter = async () => {
    while (performance.now() < until) {
      if (next - (workers.ended - already) >= backlog) {
        await sleep(1)
        continue
      }
      const from = next
      next += size
      await system.submit(Array.from({ length: size }, (_, i) => ({ payload: benchTask(from + i) })))
    }
  }
  await Promise.all([submitter(), submitter()])
  return course.end(next)
}

/** Sends `rate` tasks a second for so long, evenly or at random moments; resolves when the last one is submitted. */
export async function openLoop(
  { system }: Bench,
  workers: Workers,
  { first, seconds, rate, random }: { first: number; seconds: number; rate: number; random: boolean },
): Promise<Loaded> {
  const count = Math.max(1, Math.round(rate * seconds))
  const startMicros = nowMicros() + 5000
  const gaps = random ? randomGaps(1e6 / rate) : () => 1e6 / rate
  const inFlight = new Set<Promise<void>>()
  const course = new Course(workers)
  let failure: Error | null = null
  let due = startMicros
  let sent = 0
  while (sent < count) {
    await untilMicros(due)
    if (failure !== null) throw failure as Error
    if (inFlight.size >= mostInFlight) {
      await Promise.race(inFlight)
      continue
    }
    const tasks = []
    for (const now = nowMicros(); due <= now && sent < count && tasks.length < mostPerSubmission; sent++) {
      tasks.push({ payload: benchTask(first + sent, { due: Math.round(due) }) })
      due += gaps()
    }
    const submitted: Promise<void> = system
      .submit(tasks)
      .catch((error: Error) => void (failure = error))
      .finally(() => inFlight.delete(submitted))
    inFlight.add(submitted)
  }
  await Promise.all(inFlight)
  if (failure !== null) throw failure as Error
  return course.end(first + count)
}

/** Exponential gaps, from a fixed seed: every system gets the same arrivals. */
function randomGaps(mean: number): () => number {
  let state = 42
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return -Math.log(1 - state / 2 ** 32) * mean
  }
}

/** Timers are a millisecond coarse: the last stretch is waited for awake, so that lateness is the system's own. */
async function untilMicros(moment: number): Promise<void> {
  for (;;) {
    const left = moment - nowMicros()
    if (left <= 0) return
    if (left > 2500) await sleep(Math.floor(left / 1000) - 2)
    else await nextTurn()
  }
}
