/**
 * One look of the monitor: release the dead, open and resolve incidents, write the alert about them.
 *
 * Invariant: all of it is one transaction, so a crash loses no mail and two monitors side by side write one. Mail is
 * only written down here, never sent: a mail server cannot delay a look, and trouble with graphile-worker cannot undo it.
 * What is found is decided in SQL (monitor_tick), what is mailed in policy.ts, how it gets out in outbox.ts.
 */
import { type Db, type Tx, describeError, inTransaction } from '@leasehold/queue'
import { type Reporter, compose } from './compose.ts'
import type { Contact } from './contact.ts'
import type { Log } from './log.ts'
import { recoverDelivery, requestDelivery } from './outbox.ts'
import { oneLine } from './plain-text.ts'
import { type News, worthAMail } from './policy.ts'
import {
  type Incident,
  type MonitorIntroduction,
  databaseName,
  monitorBeat,
  monitorTick,
  queueAlert,
} from './verbs.ts'

/** What a look works with. */
export interface LookDeps {
  readonly db: Db
  readonly monitor: MonitorIntroduction
  readonly limits: { readonly wedgeLimitMs: number; readonly lonelyAfterMs: number }
  readonly contact: Contact
  readonly log: Log
  /** Whether a job for a new alert can be made right now; alerts written while it cannot are found later. */
  readonly canRequestDelivery: () => boolean
}

/** What a look found. */
export interface Look {
  /** False: another monitor was looking at that moment, and nothing was done. */
  readonly looked: boolean
  /** More dead workers wait to be released: look again at once. */
  readonly unfinished: boolean
  /** How long no monitor had looked, in milliseconds; null: none ever did. */
  readonly silentMs: number | null
  readonly opened: readonly Incident[]
  readonly resolved: readonly Incident[]
  /** The alert that was written, or null when there was nothing to tell. */
  readonly alertId: string | null
}

// A session that hangs must not keep the other monitors from looking, nor a lock from the workers.
const patience = `select set_config('statement_timeout', '60s', true), set_config('lock_timeout', '10s', true),
  set_config('idle_in_transaction_session_timeout', '30s', true)`
const maxLogged = 20

/** Looks once. Throws when the database fails; nothing of the look has then happened. */
export async function look(deps: LookDeps): Promise<Look> {
  const { contact } = deps
  let unrequested = false
  const found = await inTransaction(deps.db, async (tx): Promise<Look> => {
    await tx.query(patience)
    const silentMs = await monitorBeat(tx, deps.monitor, contact.awayMs)
    const { looked, unfinished, opened, resolved } = await monitorTick(tx, deps.limits)
    const news = worthAMail({ opened, resolved })
    const alertId = news === null ? null : await writeAlert(tx, news, deps)
    if (alertId !== null) unrequested = !(await requestWithoutRisk(tx, deps))
    return { looked, unfinished, silentMs, opened, resolved, alertId }
  })
  contact.reached()
  contact.reported()
  tell(found, deps.log)
  if (deps.canRequestDelivery()) await recoverWithoutRisk(deps, unrequested ? 0 : undefined)
  return found
}

async function writeAlert(tx: Tx, news: News, deps: LookDeps): Promise<string> {
  const { host, pid } = deps.monitor
  const reporter: Reporter = { database: await databaseName(tx), host, pid }
  const incidents = [...news.opened, ...news.resolved]
  const [first] = incidents
  // All of one look happened at one moment of the database's clock; this machine's may be wrong.
  const at = new Date(first?.resolved_at ?? first?.opened_at ?? Date.now())
  const { subject, body } = compose(news, reporter, at)
  return queueAlert(tx, {
    incidentIds: incidents.map((incident) => incident.id),
    subject,
    body,
  })
}

/** A job that cannot be made must not take the release of workers down with it; false: the alert has none yet. */
async function requestWithoutRisk(tx: Tx, deps: LookDeps): Promise<boolean> {
  if (!deps.canRequestDelivery()) return false
  await tx.query('savepoint delivery')
  try {
    await requestDelivery(tx, 0)
    return true
  } catch (error) {
    await tx.query('rollback to savepoint delivery')
    deferred(deps.log, error)
    return false
  }
}

/** The look is done and committed: what happens here must not make it look failed. */
async function recoverWithoutRisk(deps: LookDeps, slackMs: number | undefined): Promise<void> {
  try {
    await recoverDelivery(deps.db, slackMs)
  } catch (error) {
    deferred(deps.log, error)
  }
}

function deferred(log: Log, error: unknown): void {
  const reason = describeError(error).message
  log.warn(
    { event: 'delivery.deferred', reason },
    'delivery job could not be made; the next look tries again',
  )
}

function tell(found: Look, log: Log): void {
  for (const { kind, subject, summary } of found.opened.slice(0, maxLogged)) {
    log.warn({ event: 'incident.opened', kind, subject, summary: oneLine(summary) }, 'incident opened')
  }
  for (const { kind, subject, summary } of found.resolved.slice(0, maxLogged)) {
    log.info({ event: 'incident.resolved', kind, subject, summary: oneLine(summary) }, 'incident resolved')
  }
  const untold = [found.opened, found.resolved].map((list) => Math.max(0, list.length - maxLogged))
  if (untold.some((n) => n > 0)) {
    log.warn(
      { event: 'incidents.more', opened: untold[0], resolved: untold[1] },
      'more incidents than told here',
    )
  }
}
