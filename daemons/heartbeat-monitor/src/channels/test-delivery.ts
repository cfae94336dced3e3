/**
 * A delivery that says it is a test: the real thing through each channel, asked for by a person.
 *
 * Invariant: it goes through the same code as an alert; it counts towards no cap and leaves no message behind.
 */
import { describeError } from '@leasehold/queue'
import { moment, oneLine } from '../plain-text.ts'
import type { Channel } from './channel.ts'

/** How one channel took it. */
export interface TestResult {
  readonly channel: Channel['name']
  readonly ok: boolean
  /** Why it was not taken, or what was remarked; null: nothing to say. */
  readonly remark: string | null
  readonly tookMs: number
}

const withinMs = 40_000

/** Sends one test message through each channel, side by side; never throws. */
export function sendTest(
  channels: readonly Channel[],
  facts: { readonly database: string; readonly host: string },
): Promise<TestResult[]> {
  const at = new Date()
  const subject = `Leasehold: test alert from ${oneLine(facts.host, 60)}`
  const body = [
    'This is a test: nothing is wrong. Somebody ran `npx leasehold alerts test`.',
    '',
    `Alerts of the database ${oneLine(facts.database)} arrive here.`,
    '',
    `-- \nSent on ${oneLine(facts.host)} at ${moment(at)}\n`,
  ].join('\n')
  const alert = { id: 'test', purpose: 'test', subject, createdAt: at, incidents: [] }
  const delivery = { subject, body, alerts: [alert], database: facts.database }
  return Promise.all(
    channels.map(async (channel): Promise<TestResult> => {
      const started = performance.now()
      const result = (ok: boolean, remark: string | null): TestResult => {
        const tookMs = Math.round(performance.now() - started)
        return { channel: channel.name, ok, remark, tookMs }
      }
      try {
        return result(true, await channel.send(delivery, AbortSignal.timeout(withinMs)))
      } catch (error) {
        return result(false, oneLine(describeError(error).message, 500))
      }
    }),
  )
}
