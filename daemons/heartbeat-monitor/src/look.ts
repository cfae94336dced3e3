/**
 * One look of the monitor: release the dead, open and resolve incidents, write the messages about them.
 *
 * Invariant: all of it is one transaction, so a crash loses no message and two monitors side by side write one. Messages
 * are only written down here, never sent: no channel can delay a look. Telling may fail without undoing the release of
 * workers: what is to be told is read from the state of the tables, so the next look tells it.
 * What is found and what is told when is decided in SQL (monitor_tick, due_messages), how it gets out in outbox.ts.
 */
import { type AlertChannel, type Db, type Tx, describeError, inTransaction } from '@leasehold/queue'
import { type Message, type Reporter, compose, withoutWords } from './compose.ts'
import type { Contact } from './contact.ts'
import { composeDigest } from './digest.ts'
import type { Log } from './log.ts'
import { type DueMessage, dueMessages, gatherNews, serveChannels, whyUntold, writeMessage } from './news.ts'
import { recoverDelivery } from './outbox.ts'
import { oneLine } from './plain-text.ts'
import {
  type Incident,
  type MonitorIntroduction,
  type TickAnswer,
  databaseFacts,
  monitorBeat,
  monitorTick,
} from './verbs.ts'

/** What a look works with. */
export interface LookDeps {
  readonly db: Db
  readonly monitor: MonitorIntroduction
  readonly limits: { readonly wedgeLimitMs: number; readonly lonelyAfterMs: number }
  readonly contact: Contact
  readonly log: Log
  /** The channels this process can send through. */
  readonly channels: readonly AlertChannel[]
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
  /**
   * Why nobody can be told, in one line: this look failed at it, or no channel gets anything through. Null: whoever has to
   * be told is or will be, or nobody has to. The next look tries again.
   */
  readonly untold: string | null
  /** The messages that were written, at most one for each channel. */
  readonly alertIds: readonly string[]
  /** In how many milliseconds something that waits has to be told; null: nothing does that a usual look would miss. */
  readonly againMs: number | null
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
    const answer = await monitorTick(tx, deps.limits)
    const told = answer.looked ? await tellWithoutRisk(tx, answer, deps) : nothingTold
    if (told.alertIds.length > 0) unrequested = !(await requestWithoutRisk(tx, deps))
    return { ...answer, silentMs, ...told }
  })
  contact.reached()
  contact.reported()
  tell(found, deps.log)
  if (deps.canRequestDelivery()) await recoverWithoutRisk(deps, unrequested ? 0 : undefined)
  return found
}

type Told = Pick<Look, 'alertIds' | 'againMs' | 'untold'>

const nothingTold: Told = { alertIds: [], againMs: null, untold: null }

/** What cannot be told now must not take the release of workers down with it: the next look tells it. */
async function tellWithoutRisk(tx: Tx, answer: TickAnswer, deps: LookDeps): Promise<Told> {
  await tx.query('savepoint telling')
  try {
    await serveChannels(tx, deps.channels)
    await gatherNews(tx)
    const due = await dueMessages(tx, deps.monitor.intervalMs, answer.unfinished)
    const alertIds: string[] = []
    for (const message of due.messages) alertIds.push(await writeWithoutRisk(tx, message, deps))
    return { alertIds, againMs: due.againMs, untold: await askUntold(tx) }
  } catch (error) {
    await tx.query('rollback to savepoint telling')
    const { code, message: reason } = describeError(error)
    deps.log.error(
      { event: 'telling.failed', code, reason },
      'nobody could be told; the next look tries again',
    )
    return { ...nothingTold, untold: reason }
  }
}

/** What is written down stays so when nobody can say whether it will be heard. */
async function askUntold(tx: Tx): Promise<string | null> {
  await tx.query('savepoint untold')
  try {
    const why = await whyUntold(tx)
    return why === null ? null : oneLine(why, 500)
  } catch (error) {
    await tx.query('rollback to savepoint untold')
    return oneLine(describeError(error).message, 500)
  }
}

/** A message for which there are no words is told without them, so that it holds up neither its channel nor the others. */
async function writeWithoutRisk(tx: Tx, message: DueMessage, deps: LookDeps): Promise<string> {
  await tx.query('savepoint message')
  try {
    return await writeMessage(tx, message, await words(tx, message, deps))
  } catch (error) {
    await tx.query('rollback to savepoint message')
    const reason = oneLine(describeError(error).message, 500)
    const { channel, newsIds } = message
    deps.log.error(
      { event: 'telling.without_words', channel, news: newsIds.length, reason },
      'a message could not be put into words; it is told without them',
    )
    return writeMessage(tx, message, withoutWords(message.news, reason))
  }
}

async function words(tx: Tx, { purpose, news }: DueMessage, deps: LookDeps): Promise<Message> {
  const { host, pid } = deps.monitor
  const { name, now } = await databaseFacts(tx)
  const reporter: Reporter = { database: name, host, pid }
  return purpose === 'digest' ? composeDigest(news, reporter, now) : compose(news, reporter, now)
}

/** A job that cannot be made must not take the look down either; false: a message has none yet. */
async function requestWithoutRisk(tx: Tx, deps: LookDeps): Promise<boolean> {
  if (!deps.canRequestDelivery()) return false
  await tx.query('savepoint delivery')
  try {
    await recoverDelivery(tx, 0)
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
