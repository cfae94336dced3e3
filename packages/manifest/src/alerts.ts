/**
 * The part `alerts`: who is told what, and how often. The policy is the library's; here its lengths of time are written
 * as texts, and places are the manifest's.
 *
 * Refuses what the library refuses, and nothing else; whether it fits what the database holds already is seen there.
 */
import {
  type AlertPolicyInput,
  alertPolicyProblems,
  type AlertRule,
  type Duration,
  toMs,
} from '@leasehold/queue'
import type { Problems } from './problems.ts'
import { shown } from './values.ts'

/** A rule for one kind of incident, or for `*`: all others. What is not named stays as the database has it. */
export interface AlertRuleInput extends Partial<Omit<AlertRule, 'minAgeMs' | 'remindAfterMs'>> {
  /** What is over sooner is never told. */
  readonly minAge?: Duration
  /** Tell again when it has been open for so long since it was last told; null: never. */
  readonly remindAfter?: Duration | null
}

/** The policy of all monitors; what is not named stays as the database has it. */
export interface AlertsInput extends Omit<AlertPolicyInput, 'gapMs' | 'rules' | 'backlogMs'> {
  /** The least time between two messages of a channel. */
  readonly gap?: Duration
  readonly rules?: Readonly<Record<string, AlertRuleInput | null>>
  /** By stage: how old its oldest ready task may be; null: any age. */
  readonly backlog?: Readonly<Record<string, Duration | null>>
}

/** The policy's change; null when the manifest has none or something is wrong with it. */
export function readAlerts(value: unknown, problems: Problems): AlertPolicyInput | null {
  if (value === undefined || value === null) return null
  if (typeof value !== 'object' || Array.isArray(value)) {
    problems.add('alerts', `must be an object, not ${shown(value)}`)
    return null
  }
  const before = problems.list.length
  const { gap, backlog, rules, ...rest } = value as AlertsInput
  const input: Record<string, unknown> = { ...rest }
  // Whoever writes the library's own names would have two ways to say one thing.
  for (const [wrong, right] of [
    ['gapMs', 'gap'],
    ['backlogMs', 'backlog'],
  ] as const)
    if (wrong in rest) problems.add(`alerts.${wrong}`, `is not a setting; did you mean ${right}?`)
  if (gap !== undefined) input['gapMs'] = milliseconds('alerts.gap', gap, problems)
  if (backlog !== undefined) input['backlogMs'] = eachTime('alerts.backlog', backlog, problems)
  if (rules !== undefined) input['rules'] = readRules(rules, problems)
  if (problems.list.length === before)
    for (const { name, problem } of alertPolicyProblems(input)) problems.add(placeOf(name), problem)
  return problems.list.length === before ? input : null
}

/** The library's name of a setting as the manifest has it. */
function placeOf(name: string): string {
  if (name === 'alerts') return name
  return `alerts.${name}`.replace(/^alerts\.backlogMs/, 'alerts.backlog').replace(/Ms$/, '')
}

function readRules(rules: unknown, problems: Problems): unknown {
  if (typeof rules !== 'object' || rules === null || Array.isArray(rules)) return rules
  return Object.fromEntries(
    Object.entries(rules).map(([kind, rule]) => [kind, readRule(`alerts.rules.${kind}`, rule, problems)]),
  )
}

function readRule(place: string, rule: unknown, problems: Problems): unknown {
  if (typeof rule !== 'object' || rule === null || Array.isArray(rule)) return rule
  const { minAge, remindAfter, ...rest } = rule as AlertRuleInput
  for (const [wrong, right] of [
    ['minAgeMs', 'minAge'],
    ['remindAfterMs', 'remindAfter'],
  ] as const)
    if (wrong in rest) problems.add(`${place}.${wrong}`, `is not a setting; did you mean ${right}?`)
  return {
    ...rest,
    ...(minAge === undefined ? {} : { minAgeMs: milliseconds(`${place}.minAge`, minAge, problems) }),
    ...(remindAfter === undefined
      ? {}
      : {
          remindAfterMs:
            remindAfter === null ? null : milliseconds(`${place}.remindAfter`, remindAfter, problems),
        }),
  }
}

function eachTime(place: string, times: unknown, problems: Problems): unknown {
  if (typeof times !== 'object' || times === null || Array.isArray(times)) return times
  return Object.fromEntries(
    Object.entries(times).map(([name, time]) => [
      name,
      time === null ? null : milliseconds(`${place}.${name}`, time as unknown, problems),
    ]),
  )
}

function milliseconds(place: string, value: unknown, problems: Problems): number {
  try {
    return toMs(value as Duration)
  } catch {
    problems.add(place, `must be a length of time such as '5 min' or '2 h', not ${shown(value)}`)
    return 0
  }
}
