/**
 * The page of one task, for `leasehold show`: what was submitted, where it stands, and what its attempts left behind.
 *
 * Payloads are shown only to those who may read them; the page says so otherwise. Everything stored is escaped.
 */
import {
  type AttemptRecord,
  type Db,
  type Explanation,
  TaskNotFoundError,
  type TaskPayload,
  type TaskStatus,
  explainTask,
  getTask,
  listAttempts,
  readPayload,
} from '@leasehold/queue'
import { parseExactly } from '../exact-json.ts'
import { safeJson } from '../terminal/printable.ts'
import { type Cell, facts, table } from '../terminal/table.ts'
import type { Terminal } from '../terminal/terminal.ts'
import { duration, moment } from '../terminal/time.ts'
import { asCommands, stateText } from './wording.ts'

interface Submitted extends Omit<TaskPayload, 'payloadJson' | 'metaJson'> {
  readonly payload: unknown
  readonly meta: unknown
}

/** All that is known about a task. */
export interface TaskPage {
  readonly task: TaskStatus
  readonly why: Explanation
  /** Null when this login may not read payloads. */
  readonly submitted: Submitted | null
  /** Ended attempts, oldest first; the newest hundred of them. */
  readonly attempts: readonly AttemptRecord[]
}

/** Reads the page. Throws TaskNotFoundError. */
export async function readTaskPage(tx: Db, id: string): Promise<TaskPage> {
  const task = await getTask(tx, id)
  if (task === null) throw new TaskNotFoundError(id)
  return {
    task,
    why: await explainTask(tx, id),
    submitted: await readSubmitted(tx, id),
    attempts: await listAttempts(tx, id),
  }
}

async function readSubmitted(tx: Db, id: string): Promise<Submitted | null> {
  const read = await readPayload(tx, id)
  if (read === null) return null
  const { payloadJson, metaJson, ...rest } = read
  return {
    payload: parseExactly(payloadJson),
    meta: metaJson === null ? null : parseExactly(metaJson),
    ...rest,
  }
}

/** Lays the page out. */
export function taskPage(terminal: Terminal, { task, why, submitted, attempts }: TaskPage): string {
  const title = (text: string): string => `\n${terminal.paint('bold', text)}`
  const parts = [facts(terminal, taskFacts(terminal, task, why, submitted))]
  if (submitted === null)
    parts.push(`${title('Payload')}\nnot shown: this login may not read leasehold.tasks`)
  else {
    parts.push(`${title('Payload')}\n${json(submitted.payload)}`)
    if (submitted.meta !== null) parts.push(`${title('Meta')}\n${json(submitted.meta)}`)
  }
  if (attempts.length > 0) parts.push(`${title('Attempts that ended')}\n${attemptTable(terminal, attempts)}`)
  if (task.result !== null) parts.push(`${title('Result')}\n${json(task.result)}`)
  return parts.join('\n')
}

type Fact = readonly [name: string, value: Cell]

/** A line for a fact that is there, none for one that is not. */
function given<T>(name: string, value: T | null, text: (value: T) => Cell): Fact[] {
  return value === null ? [] : [[name, text(value)]]
}

function taskFacts(
  terminal: Terminal,
  task: TaskStatus,
  why: Explanation,
  submitted: Submitted | null,
): Fact[] {
  return [
    ['task', task.taskId],
    ['stage', task.stage],
    ['state', { shown: stateText(terminal, task) }],
    ['reason', why.reason],
    ['next', asCommands(why.nextStep)],
    ...given('title', task.title, String),
    ...given('key', task.key, String),
    ...given('run', task.runId, String),
    ...given('concurrency key', task.concurrencyKey, String),
    ...given('priority', submitted?.priority ?? null, String),
    ...given('timeout', submitted?.timeoutMs ?? null, duration),
    ...(submitted !== null && submitted.dependsOn.length > 0
      ? [['depends on', submitted.dependsOn.join(', ')] as const]
      : []),
    ['submitted', moment(task.submittedAt)],
    ...given('run at', task.endedAt === null ? task.runAt : null, moment),
    [
      'attempt',
      `${task.attempt} of ${task.maxAttempts}${task.crashes > 0 ? `, ${task.crashes} crashes` : ''}`,
    ],
    ...given('worker', task.workerId, String),
    ...given('leased', task.leasedAt, moment),
    ...given('deadline', task.deadlineAt, moment),
    ...given('progress', task.endedAt === null ? task.progress : null, (p) => `${Math.round(p * 100)}%`),
    ...given('progress says', task.endedAt === null ? task.progressMessage : null, String),
    ...given('ended', task.endedAt, moment),
  ]
}

function attemptTable(terminal: Terminal, attempts: readonly AttemptRecord[]): string {
  return table(
    terminal,
    ['ATTEMPT', 'OUTCOME', 'STARTED', 'TOOK', 'WORKER', 'ERROR'],
    attempts.map((attempt) => [
      String(attempt.attempt),
      attempt.outcome,
      attempt.leasedAt === null ? null : moment(attempt.leasedAt),
      attempt.leasedAt === null ? null : duration(attempt.endedAt.getTime() - attempt.leasedAt.getTime()),
      attempt.workerId?.slice(0, 8) ?? null,
      attempt.error === null ? null : [attempt.error.code, attempt.error.message].filter(Boolean).join(': '),
    ]),
  )
}

/** JSON over several lines; safeJson has escaped what is not printable, so the line breaks are our own. */
function json(value: unknown): string {
  const text = safeJson(value)
  return text.length > 20_000
    ? `${text.slice(0, 20_000)}\n… (${text.length} characters; --json shows all)`
    : text
}
