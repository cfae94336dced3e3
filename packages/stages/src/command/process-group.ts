/**
 * Ending a process group as a whole, and knowing when it is gone.
 *
 * Invariant: a group is gone when none of its processes can do anything any more. Dead ones that nobody has collected yet
 * (init's duty, which in containers may be nobody's) do not count.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'

/** How long processes may take to disappear after SIGKILL, which only a device that does not answer prolongs. */
const killWithinMs = 1000

/** Ends every process of the group: SIGTERM, and after the grace SIGKILL. Resolves when none is left. */
export async function endGroup(group: number, graceMs: number): Promise<void> {
  send(group, 'SIGTERM')
  send(group, 'SIGCONT') // a stopped process takes no other
  if (await isGone(group, graceMs)) return
  send(group, 'SIGKILL')
  await isGone(group, killWithinMs)
}

/** Whether a process of the group still lives. */
export function isAlive(group: number): boolean {
  return send(group, 0) && hasLiving(group)
}

async function isGone(group: number, withinMs: number): Promise<boolean> {
  const until = performance.now() + withinMs
  for (let pauseMs = 5; isAlive(group); pauseMs = Math.min(pauseMs * 2, 100)) {
    const leftMs = until - performance.now()
    if (leftMs <= 0) return false
    await delay(Math.min(pauseMs, leftMs))
  }
  return true
}

/** False when there is no such group. */
function send(group: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(-group, signal)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM' // it exists, under another user
  }
}

/** Where the system shows no processes as files, every member counts. */
function hasLiving(group: number): boolean {
  let processes: string[]
  try {
    processes = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  } catch {
    return true
  }
  return processes.length === 0 || processes.some((pid) => livesIn(pid, group))
}

function livesIn(pid: string, group: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // 4711 (name, which may hold anything) state parent group …
    const [state, , ownGroup] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return Number(ownGroup) === group && state !== 'Z' && state !== 'X'
  } catch {
    return false
  }
}
