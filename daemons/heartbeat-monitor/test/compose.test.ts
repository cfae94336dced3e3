/**
 * The words of an alert, without a database: sizes, counts, and texts that mean harm.
 */
import { expect, test } from 'vitest'
import { compose } from '../src/compose.ts'
import { messageId } from '../src/mailer.ts'
import { bundle } from '../src/bundle.ts'
import { duration, oneLine } from '../src/plain-text.ts'
import type { IncidentOf } from '../src/verbs.ts'

const at = new Date('2026-11-21T22:00:00Z')
const reporter = { database: 'shop', host: 'crane.example', pid: 7 }

function death(details: Partial<IncidentOf<'worker_dead'>['details']> = {}): IncidentOf<'worker_dead'> {
  return {
    id: '1',
    kind: 'worker_dead',
    subject: 'w',
    summary: 'worker verify@1 died',
    opened_at: at.toISOString(),
    resolved_at: null,
    details: {
      worker_id: 'w',
      slot: 'verify@1',
      stages: ['verify'],
      host: 'crane.example',
      pid: 9,
      end: 'lost',
      last_seen: '2026-11-21T21:57:57Z',
      silent_s: 123.4,
      held: [],
      released_count: 0,
      quarantined_count: 0,
      unserved: [],
      ...details,
    },
  }
}

test('the subject counts workers and tasks over all deaths', () => {
  const opened = [death({ released_count: 2 }), death({ released_count: 3 })]
  expect(compose({ opened, resolved: [] }, reporter, at).subject).toBe(
    'Leasehold: 2 workers died, 5 tasks released',
  )
})

test('a subject is one line whatever the names are, and never longer than a header should be', () => {
  const stage = `x\r\nBcc: all@shop.example\u2028\u0000${'y'.repeat(500)}`
  const lonely: IncidentOf<'stage_without_worker'> = {
    ...death(),
    kind: 'stage_without_worker',
    details: { stage, oldest: at.toISOString(), last_worker_seen: null },
  }
  const { subject } = compose({ opened: [lonely], resolved: [] }, reporter, at)
  expect(subject).toMatch(/^[\P{Cc}]+$/u)
  expect(subject.length).toBeLessThanOrEqual(180)
})

test('a title cannot forge a line of the body', () => {
  const title = 'innocent\n\nWhat to do:\n  rm -rf /'
  const held = [{ task_id: '5', stage: 'verify', title, quarantined: false }]
  const { body } = compose({ opened: [death({ held, released_count: 1 })], resolved: [] }, reporter, at)
  expect(body.match(/^What to do:$/gm)).toHaveLength(1)
  expect(body).toContain('task 5 "innocent What to do: rm -rf /" (verify)')
})

test('a worker that held ten thousand tasks names twenty and counts the rest', () => {
  const held = Array.from({ length: 100 }, (_, n) => ({
    task_id: String(n),
    stage: 'verify',
    title: null,
    quarantined: false,
  }))
  const { body } = compose({ opened: [death({ held, released_count: 10_000 })], resolved: [] }, reporter, at)
  expect(body.match(/task \d+ \(verify\)/g)).toHaveLength(20)
  expect(body).toContain('… and 9980 more')
  expect(body).toContain('released: 10000 tasks can be claimed again')
})

function idOf(alertIds: string[]): string {
  return messageId({ alertIds, createdAt: at }, 'Leasehold <alerts@shop.example>')
}

test('the same alerts have the same Message-ID, a bundle that grew has another', () => {
  expect(idOf(['1', '2'])).toBe(idOf(['1', '2']))
  expect(new Set([idOf(['1']), idOf(['1', '2']), idOf(['1', '2', '3'])]).size).toBe(3)
  expect(idOf(['1'])).toMatch(/^<leasehold-alert-1-\d+@shop\.example>$/)
})

function alert(id: string, body: string): Parameters<typeof bundle>[0][number] {
  return {
    subject: `Leasehold: alert ${id}`,
    body,
    created_at: at,
    tries: 4,
  }
}

test('a bundle stays readable: what does not fit keeps its subject', () => {
  const mail = bundle([alert('1', 'short'), alert('2', 'x'.repeat(300_000)), alert('3', 'last')])
  expect(mail.subject).toBe('Leasehold: 3 alerts held back; last: alert 3')
  expect(mail.body.length).toBeLessThan(10_000)
  expect(mail.body).toContain('Leasehold: alert 2')
  expect(mail.body).toContain('3 tries failed')
})

test.each([
  [0, '0 s'],
  [59.6, '1 min 0 s'],
  [123.4, '2 min 3 s'],
  [7_260, '2 h 1 min'],
  [200_000, '2 d 7 h'],
])('%d seconds read as %s', (seconds, text) => expect(duration(seconds)).toBe(text))

test('a text without anything to show is a question mark', () => {
  expect([oneLine(null), oneLine(''), oneLine('\u202E\n')]).toEqual(['?', '?', '?'])
})
