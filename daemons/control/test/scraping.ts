/**
 * Asking a control service as its watchers do, over HTTP, and reading what Prometheus would read.
 */
import { Metrics, openRoom, type Room, Source } from '@leasehold/daemon-control'

/** One line of /metrics. */
export interface Sample {
  readonly name: string
  /** As it is written, escapes included: `stage="work"`. */
  readonly labels: string
  readonly value: number
}

/** What GET /metrics says. */
export interface Scrape {
  readonly text: string
  readonly samples: readonly Sample[]
  /** The value of a sample; undefined when it is not there. */
  of(name: string, labels?: string): number | undefined
}

const sampleLine = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/

/** Reads the text format; refuses lines that are neither comments nor samples. */
export function readMetrics(text: string): Scrape {
  const samples = text
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line): Sample => {
      const found = sampleLine.exec(line)
      if (found === null) throw new Error(`not a sample: ${line}`)
      const value = found[3]!.replace('Inf', 'Infinity')
      return { name: found[1]!, labels: found[2] ?? '', value: Number(value) }
    })
  return {
    text,
    samples,
    of: (name, labels = '') => samples.find((one) => one.name === name && one.labels === labels)?.value,
  }
}

/** Scrapes a service. */
export async function scrape(address: string): Promise<Scrape> {
  const response = await fetch(`http://${address}/metrics`)
  if (response.status !== 200) throw new Error(`${response.status}: ${await response.text()}`)
  return readMetrics(await response.text())
}

/** A service of this process on a database, with a log that nobody reads. */
export async function openTestRoom(
  url: string | null,
  token: string | null = null,
): Promise<{ room: Room; source: Source; close(): Promise<void> }> {
  const log = { info: () => {}, warn: () => {}, error: () => {} }
  const metrics = new Metrics('1.2.3')
  const source = new Source(log, (answer) => metrics.note(answer))
  if (url !== null) source.open(url)
  const room = await openRoom({ host: '127.0.0.1', port: 0, token, source, metrics, log })
  return {
    room,
    source,
    async close() {
      await room.close()
      await source.close()
    },
  }
}
