/**
 * A process of workers of one system, told by its parent when to begin, when to let go and when to stop.
 *
 * It counts handlers, remembers which task numbers it has seen (so that a task that ran twice is found out), and measures
 * how long after its scheduled send time each handler was entered. `node worker-process.ts SYSTEM URL SETTINGS`.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { adapterOf, allContenders, contenderNamed } from './contenders.ts'
import { newHistogram, record } from './histogram.ts'
import { type BenchTask, nowMicros, type Working } from './system.ts'
import type { FromParent, Report, ToParent, WorkerSettings } from './workers.ts'

const [name, url, text] = process.argv.slice(2) as [string, string, string]
const settings = JSON.parse(text) as WorkerSettings
const contender = contenderNamed(name, allContenders)
const system = await (await adapterOf(contender)).open(url, contender.variant)

let entered = 0
let ended = 0
let twice = 0
let seen = new Uint8Array(1 << 16)
let latency = newHistogram()
let released = Promise.withResolvers<void>()

function see(n: number): void {
  const at = n >> 3
  if (at >= seen.length) {
    const larger = new Uint8Array(Math.max(at + 1, seen.length * 2))
    larger.set(seen)
    seen = larger
  }
  const bit = 1 << (n & 7)
  if (seen[at]! & bit) twice += 1
  seen[at]! |= bit
}

async function run(task: BenchTask): Promise<void> {
  entered += 1
  countSoon()
  if (task.due > 0) record(latency, nowMicros() - task.due)
  see(task.n)
  if (task.ms > 0) await sleep(task.ms)
  else if (task.ms < 0) await released.promise
  ended += 1
  countSoon()
  if (task.fail) throw new Error('this task fails on purpose')
}

function tell(message: ToParent): void {
  process.send!(message)
}

let counting = false

/** Tells the counts soon. No timer runs while there is nothing to tell: 64 processes of timers would be a load of their own. */
function countSoon(): void {
  if (counting) return
  counting = true
  setTimeout(() => {
    counting = false
    tell({ kind: 'count', entered, ended })
  }, 5)
}

const working: Working[] = []

const orders: Record<FromParent['kind'], () => Promise<void>> = {
  async go() {
    for (let i = 0; i < settings.slots; i++) {
      const slot = `bench@${settings.process * settings.slots + i + 1}`
      working.push(await system.work({ concurrency: settings.concurrency, slot, run }))
    }
    tell({ kind: 'working' })
  },
  async release() {
    released.resolve()
    released = Promise.withResolvers()
  },
  async latency() {
    tell({ kind: 'latency', histogram: latency })
    latency = newHistogram()
  },
  async stop() {
    await Promise.all(working.map((worker) => worker.stop()))
    const report: Report = { entered, ended, twice, seen: Buffer.from(seen).toString('base64') }
    process.send!({ kind: 'report', report } satisfies ToParent, () => process.exit(0))
  },
}

process.on('message', ({ kind }: FromParent) => void orders[kind]())
process.on('disconnect', () => process.exit(1))
tell({ kind: 'ready' })
