/**
 * The benchmark counts honestly: a task that is lost or runs twice fails a measurement, latencies add up, and the systems
 * that need no further installation drain what they were given. The peers are run by `npm run bench -- --self-test`.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { beside } from '../bench/compare.ts'
import { add, newHistogram, percentileMs, record } from '../bench/histogram.ts'
import { readOptions } from '../bench/options.ts'
import { plotsOf } from '../bench/plots.ts'
import { publish } from '../bench/publish.ts'
import { type CellRecord, type RunRecord, spreadOf } from '../bench/record.ts'
import { comparisonTable } from '../bench/table.ts'
import type { Measurement } from '../bench/workload.ts'
import { workloads } from '../bench/workloads/index.ts'
import { assertOnce, type Report } from '../bench/workers.ts'
import { createTestDatabase, type TestDatabase } from './harness/database.ts'

const report = (numbers: readonly number[], twice = 0): Report => {
  const bits = Buffer.alloc(4)
  for (const n of numbers) bits[n >> 3]! |= 1 << (n & 7)
  return { entered: numbers.length, ended: numbers.length, twice, seen: bits.toString('base64') }
}

const course = (rates: readonly number[]) => rates.map((rate, i): [number, number] => [i + 1, rate])

describe('counting', () => {
  it('accepts every task seen once, by whichever process', () => {
    expect(() => assertOnce('x', [report([0, 2, 4]), report([1, 3])], 5)).not.toThrow()
  })

  it('refuses a task that two processes have seen', () => {
    expect(() => assertOnce('x', [report([0, 1]), report([1, 2])], 3)).toThrow('x ran 1 tasks twice')
  })

  it('refuses a task that one process has seen twice', () => {
    expect(() => assertOnce('x', [report([0, 1], 1)], 2)).toThrow('x ran 1 tasks twice')
  })

  it('refuses a lost task', () => {
    expect(() => assertOnce('x', [report([0, 2])], 3)).toThrow('x ran 2 of 3 tasks')
  })

  it('divides figures and courses by those that were measured at the same time', () => {
    const first = { figures: { rate: 200, idle: 0 }, series: { rate: course([100, 200, 0, 400]) } }
    const other = { figures: { rate: 150, idle: 7 }, series: { rate: course([100, 100, 10]) } }
    expect(beside(other, first)).toEqual({
      figures: { ...other.figures, rateOfFirst: 0.75 },
      series: { ...other.series, rateOfFirst: course([1, 0.5]) },
    })
    expect(beside(other, null)).toEqual(other)
    // A long course in stretches: 120 seconds, of which every second one brought nothing.
    const halting = {
      figures: {},
      series: { rate: course(Array.from({ length: 120 }, (_, i) => (i % 2) * 8)) },
    }
    const even = { figures: {}, series: { rate: course(Array.from({ length: 120 }, () => 8)) } }
    const { series } = beside(halting, even)
    expect(series!['rateOfFirst']).toHaveLength(60)
    expect(series!['rateOfFirst']!.every(([, share]) => share === 0.5)).toBe(true)
  })

  it('finds percentiles within the width of a bucket, also in sums of histograms', () => {
    const [low, high] = [newHistogram(), newHistogram()]
    for (let i = 1; i <= 500; i++) record(low, i * 1000)
    for (let i = 501; i <= 1000; i++) record(high, i * 1000)
    add(low, high)
    for (const [share, ms] of [
      [0.5, 500],
      [0.99, 990],
      [0.999, 999],
    ] as const) {
      expect(Math.abs(percentileMs(low, share) / ms - 1)).toBeLessThan(0.02)
    }
  })
})

const cell = (system: string, values: readonly number[], failures: string[] = []): CellRecord => ({
  system,
  label: `<${system}> & co`,
  short: `<${system}> & co`,
  kind: system === 'leasehold' ? 'own' : 'peer',
  setting: null,
  parameters: { tasks: 1000, concurrency: 500 },
  samples: values.map((tasksPerSecond): Measurement => ({ figures: { tasksPerSecond } })),
  failures,
})

const run: RunRecord = {
  at: '2026-11-21T22:00:00.000Z',
  size: 'default',
  machine: {
    cores: 2,
    processor: 'p',
    memoryGib: 4,
    system: 'Linux',
    node: 'v24',
    commit: 'abc',
    versions: {},
  },
  settings: { server_version: '18.4', fsync: 'on' },
  comparisons: [
    {
      id: 'W1',
      workload: 'drain',
      title: 'drain of 1,000',
      at: '2026-11-21T22:00:00.000Z',
      commit: 'abc',
      shown: workloads[0]!.shown,
      cells: [
        cell('leasehold', [300, 100, 200]),
        cell('other', [50, 150, 100]),
        cell('broken', [], ['it fell over']),
      ],
    },
  ],
}

describe('reporting', () => {
  it('publishes each comparison in the place of the same one, and mixes no results of two machines', () => {
    const folder = mkdtempSync(join(tmpdir(), 'leasehold-publish-'))
    const titles = (): string[] =>
      (JSON.parse(readFileSync(join(folder, 'results.json'), 'utf8')) as RunRecord).comparisons.map(
        ({ title, commit }) => `${title} at ${commit}`,
      )
    const second = { ...run.comparisons[0]!, title: 'drain of 2,000', commit: 'def' }
    publish({ ...run, comparisons: [run.comparisons[0]!, { ...second, commit: 'abc' }] }, folder)
    publish({ ...run, comparisons: [second] }, folder)
    expect(titles()).toEqual(['drain of 1,000 at abc', 'drain of 2,000 at def'])
    const tables = readFileSync(join(folder, 'results.txt'), 'utf8')
    expect(tables).toContain('W1  drain of 2,000')
    expect(tables).toContain('UTC at def')
    publish({ ...run, machine: { ...run.machine, cores: 64 }, comparisons: [second] }, folder)
    expect(titles()).toEqual(['drain of 2,000 at def'])
    rmSync(folder, { recursive: true })
  })

  it('shows median, range and ratio, and says which system failed and why', () => {
    expect(spreadOf(run.comparisons[0]!.cells[0]!, 'tasksPerSecond')).toEqual({
      median: 200,
      lowest: 100,
      highest: 300,
    })
    const lines = comparisonTable(run.comparisons[0]!).join('\n')
    expect(lines).toMatch(/<leasehold> & co +1,000 +200 \(100 – 300\)/)
    expect(lines).toMatch(/<other> & co +1,000 +100 \(50 – 150\) +×2/)
    expect(lines).toContain('<broken> & co failed: it fell over')
  })

  it('draws labels as text and leaves out what has no figures', () => {
    const svg = plotsOf(run).get('drain-500')!
    expect(svg).toContain('&lt;leasehold&gt; &amp; co')
    expect(svg).not.toContain('broken')
    expect(svg).not.toMatch(/NaN|Infinity|undefined/)
    expect(svg).toContain('prefers-color-scheme: dark')
  })

  it('names every mistake of a command line at once', () => {
    expect(() => readOptions(['--only', 'W1,W99', '--systems', 'nobody', '--repeats', '0'])).toThrow(
      /workload 'W99'[^]*system 'nobody'[^]*--repeats must be/,
    )
  })

  it('plans every workload in every size with numbers and words only', () => {
    for (const size of [['--quick'], [], ['--full']]) {
      const { sizes } = readOptions(size)
      for (const workload of workloads) {
        const cells = workload.plan(sizes).flatMap((comparison) => comparison.cells)
        expect(cells.length, workload.name).toBeGreaterThan(0)
        for (const { parameters } of cells) expect(JSON.parse(JSON.stringify(parameters))).toEqual(parameters)
      }
    }
  })
})

describe('a measurement', () => {
  let database: TestDatabase
  beforeAll(async () => {
    database = await createTestDatabase({ empty: true })
  })
  afterAll(() => database.drop())

  async function measure(system: string, workload: string, parameters: object): Promise<Measurement> {
    const program = fileURLToPath(new URL('../bench/cell.ts', import.meta.url))
    const child = spawn(
      process.execPath,
      ['--conditions=development', program, system, workload, database.url, '0', JSON.stringify(parameters)],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    )
    const closed = once(child, 'close')
    const [output, said, [code]] = await Promise.all([text(child.stdout), text(child.stderr), closed])
    expect(code, said).toBe(0)
    return JSON.parse(output.trim().split('\n').at(-1)!) as Measurement
  }

  it('drains what Leasehold and the controls were given, side by side, each task once', async () => {
    const systems = ['leasehold', 'naive', 'raw']
    const measured = await Promise.all(
      systems.map((system) => measure(system, 'drain', { tasks: 300, concurrency: 20 })),
    )
    for (const { figures } of measured) {
      expect(figures['tasks']).toBe(300)
      expect(figures['tasksPerSecond']).toBeGreaterThan(0)
      expect(figures['walBytesPerTask']).toBeGreaterThan(100)
    }
    const { rows } = await database.pool.query('select * from leasehold.invariant_violations')
    expect(rows).toEqual([])
  })

  it('takes rows by COPY into the queue', async () => {
    const { figures } = await measure('leasehold', 'submit', { way: 'COPY of 5,000', rows: 5000 })
    expect(figures['rowsPerSecond']).toBeGreaterThan(0)
    const { rows } = await database.pool.query<{ n: string }>('select count(*) as n from leasehold.ready')
    expect(Number(rows[0]!.n)).toBe(5000)
  })
})
