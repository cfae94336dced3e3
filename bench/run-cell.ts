/**
 * Runs one cell in a process of its own on a fresh database, and reads what it measured from its last line.
 *
 * Each gets a fresh database and fresh processes, so that nobody inherits anything. One that takes too long is ended.
 */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Party } from './meeting.ts'
import type { BenchServer } from './server.ts'
import type { Cell, Measurement, Workload } from './workload.ts'

const program = fileURLToPath(new URL('./cell.ts', import.meta.url))
/** As the units of every service have it; for all systems, and inherited by the workers' processes. */
const compileCache = fileURLToPath(new URL('../node_modules/.cache/compiled', import.meta.url))

/** Throws when the cell fails: with the last lines of what it said. */
export async function runCell(
  server: BenchServer,
  workload: Workload,
  { contender, parameters }: Cell,
  limitMs: number,
  interrupted: AbortSignal,
  party: Party,
): Promise<Measurement> {
  const url = await server.freshDatabase()
  try {
    const output = await runProgram(
      [contender.name, workload.name, url, String(server.postmaster), JSON.stringify(parameters)],
      limitMs,
      interrupted,
      party,
    )
    return JSON.parse(output.trim().split('\n').at(-1) ?? '') as Measurement
  } finally {
    await server.dropDatabase(url)
  }
}

function runProgram(
  args: readonly string[],
  limitMs: number,
  stop: AbortSignal,
  party: Party,
): Promise<string> {
  const child = spawn(
    process.execPath,
    [
      '--conditions=development',
      '--disable-warning=ExperimentalWarning',
      '--no-deprecation',
      program,
      ...args,
    ],
    {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      env: { NODE_COMPILE_CACHE: compileCache, ...process.env },
      timeout: limitMs,
      killSignal: 'SIGKILL',
      signal: stop,
      detached: true, // a group of its own, with its workers
    },
  )
  // Workers that outlive it may be held still: those hear nothing but this.
  child.once('exit', () => endGroup(child.pid!))
  // One that has ended meanwhile says so itself.
  child.once('message', () => void party.arrive().then(() => child.connected && child.send('go', () => {})))
  let output = ''
  let said = ''
  child.stdout!.on('data', (chunk: Buffer) => (output += chunk.toString()))
  child.stderr!.on('data', (chunk: Buffer) => (said = (said + chunk.toString()).slice(-4000)))
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => {
      if (code === 0) return resolve(output)
      if (signal === 'SIGKILL') return reject(new Error(`ended after ${Math.round(limitMs / 1000)} s`))
      reject(new Error(reasonOf(said) || `ended with code ${code}`))
    })
  })
}

function endGroup(leader: number): void {
  try {
    process.kill(-leader, 'SIGKILL')
  } catch {
    // Nobody is left.
  }
}

/** The error's own line, when there is one. */
function reasonOf(said: string): string {
  const lines = said.split('\n').filter((line) => line.trim() !== '')
  return lines.findLast((line) => /^\s*(\w*Error|error):/.test(line))?.trim() ?? lines.slice(-3).join(' | ')
}
