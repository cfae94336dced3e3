/**
 * Runs one measurement in a process of its own and reads its figures: the last line of its output, as JSON.
 *
 * Each system gets a fresh database and a fresh process, so that nobody inherits anything. A measurement that takes too
 * long is ended and fails the run.
 */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const limitMs = 10 * 60_000

/** Figures by name, as a measurement prints them. */
export type Figures = Record<string, number>

/** Starts `bench/systems/<system>.ts <workload> <url> <parameters as JSON>`. */
export function measure(system: string, workload: string, url: string, parameters: object): Promise<Figures> {
  const program = fileURLToPath(new URL(`./systems/${system}.ts`, import.meta.url))
  const child = spawn(
    process.execPath,
    [
      '--conditions=development',
      '--disable-warning=ExperimentalWarning',
      program,
      workload,
      url,
      JSON.stringify(parameters),
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  let output = ''
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
  const timer = setTimeout(() => child.kill('SIGKILL'), limitMs)
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code) => {
      clearTimeout(timer)
      const last = output.trim().split('\n').at(-1) ?? ''
      if (code !== 0) return reject(new Error(`${system} ${workload} ended with code ${code}`))
      try {
        resolve(JSON.parse(last) as Figures)
      } catch {
        reject(new Error(`${system} ${workload} printed no figures: ${last.slice(0, 200)}`))
      }
    })
  })
}

/** The middle value. */
export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** The value below which a share (0–1) of the samples lies. */
export function percentile(values: number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!
}
