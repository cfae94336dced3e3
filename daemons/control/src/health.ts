/**
 * Is anything wrong? The judgement behind /health: open incidents, and checks of the database that are bad, among them a
 * monitor that is silent.
 *
 * The same facts as `leasehold status`, for a checker that only looks at the status code. What is merely worth a look (a
 * check that warns) is told and changes nothing.
 */
import { describeError } from '@leasehold/queue'
import type { Answer } from './shared-read.ts'
import type { Overview } from './source.ts'

/** Something that is wrong or worth a look. */
export interface Finding {
  readonly what: 'incident' | 'check' | 'database'
  /** The kind of incident, or the name of the check. */
  readonly name: string
  readonly message: string
  /** Of an incident: since when. */
  readonly since?: string
  /** Of a check: what to do. */
  readonly hint?: string
}

export interface Health {
  readonly ok: boolean
  readonly wrong: readonly Finding[]
  readonly warnings: readonly Finding[]
}

/** Judges what was read. A database that cannot be read is wrong. */
export function judge(answer: Answer<Overview>): Health {
  if (!answer.ok) {
    const { code, message } = describeError(answer.error)
    return { ok: false, wrong: [{ what: 'database', name: code, message }], warnings: [] }
  }
  const { incidents, checks } = answer.value
  const wrong = [
    ...incidents.map(({ kind, summary, openedAt }): Finding => ({
      what: 'incident',
      name: kind,
      message: summary,
      since: openedAt.toISOString(),
    })),
    ...findings(checks, 'bad'),
  ]
  return { ok: wrong.length === 0, wrong, warnings: findings(checks, 'warn') }
}

function findings(checks: Overview['checks'], status: 'bad' | 'warn'): Finding[] {
  return checks
    .filter((check) => check.status === status)
    .map(({ name, value, advice }) => ({ what: 'check', name, message: value ?? 'unknown', hint: advice }))
}
