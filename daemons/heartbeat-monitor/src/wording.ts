/**
 * What each kind of incident is called in a mail: its headline, its facts, what to do, and what is so again later.
 *
 * Invariant: every kind has all four; every text of others goes through oneLine; every advice is a command or a
 * statement that can be pasted. Putting them together is compose.ts.
 */
import { block, count, duration, moment, oneLine } from './plain-text.ts'
import type { DeathDetails, HeldTask, IncidentKind, IncidentOf } from './verbs.ts'

/** The words for one kind. Lists are never empty. */
export interface Wording<K extends IncidentKind> {
  /** For the subject and above the section. */
  readonly headline: (incidents: readonly IncidentOf<K>[]) => string
  readonly describe: (incident: IncidentOf<K>) => string
  /** What to do next, said once below all of them. */
  readonly advice: (incidents: readonly IncidentOf<K>[]) => readonly string[]
  /** What is so again when it is resolved. */
  readonly over: (incident: IncidentOf<K>) => string
}

/** Held tasks that are named for one worker; the rest is counted. */
const maxHeld = 20
/** Stages that get a command of their own. */
const maxCommands = 10

const workerDead: Wording<'worker_dead'> = {
  headline(deaths) {
    const released = deaths.reduce((sum, death) => sum + death.details.released_count, 0)
    const aside = deaths.reduce((sum, death) => sum + death.details.quarantined_count, 0)
    const tasks = released + aside === 0 ? 'no task was held' : `${count(released, 'task')} released`
    return `${count(deaths.length, 'worker')} died, ${tasks}`
  },
  describe({ details }) {
    return block(`DEAD  ${oneLine(details.slot)}`, {
      'worker id': oneLine(details.worker_id),
      stage: details.stages.map((stage) => oneLine(stage)).join(', '),
      process: `host ${oneLine(details.host)}, pid ${details.pid ?? 'unknown'}`,
      'last seen': `${duration(details.silent_s)} ago, at ${moment(details.last_seen)}`,
      held: heldTasks(details),
      leases: leases(details),
      now: successors(details),
    })
  },
  advice(deaths) {
    const unserved = [...new Set(deaths.flatMap((death) => death.details.unserved))]
    return [
      ...unserved.slice(0, maxCommands).map(startWorker),
      'npx leasehold workers',
      'select * from leasehold.dead_workers;',
    ]
  },
  over: ({ details }) => `${oneLine(details.slot)}: its slot or its stages have a live worker again`,
}

function heldTasks(death: DeathDetails): string {
  const total = death.released_count + death.quarantined_count
  if (total === 0) return 'no task'
  const named = death.held.slice(0, maxHeld).map(task)
  const rest = total - named.length
  return [...named, ...(rest > 0 ? [`… and ${rest} more`] : [])].join(`\n${' '.repeat(15)}`)
}

function task(held: HeldTask): string {
  const title = held.title === null ? '' : ` "${oneLine(held.title, 80)}"`
  return `task ${held.task_id}${title} (${oneLine(held.stage)})${held.quarantined ? ': quarantined' : ''}`
}

function leases(death: DeathDetails): string {
  const { released_count: released, quarantined_count: aside } = death
  if (released + aside === 0) return 'none to release'
  const parts = []
  if (released > 0) parts.push(`released: ${count(released, 'task')} can be claimed again`)
  if (aside > 0) parts.push(`${count(aside, 'task')} quarantined, because too many workers died holding them`)
  return parts.join('; ')
}

function successors(death: DeathDetails): string {
  if (death.unserved.length > 0)
    return `NO live worker is left for ${death.unserved.map((stage) => oneLine(stage)).join(', ')}`
  return death.end === 'superseded'
    ? 'its slot was started again and has taken over'
    : 'other live workers serve its stages'
}

const stageWithoutWorker: Wording<'stage_without_worker'> = {
  headline: (stages) => oneOrMore(stages, 'has work and no worker', 'have work and no worker'),
  describe({ details }) {
    const seen = details.last_worker_seen
    return block(`NO WORKER  ${oneLine(details.stage)}`, {
      'work since': moment(details.oldest),
      'last worker': seen === null ? 'none within the last day' : `seen at ${moment(seen)}`,
      meaning: 'its tasks wait, and nobody is there to run them',
    })
  },
  advice: (stages) => [
    ...stages.slice(0, maxCommands).map(({ details }) => startWorker(details.stage)),
    'npx leasehold stages',
  ],
  over: ({ details }) => `stage ${oneLine(details.stage)} has a worker again, or no more work`,
}

const workersMissing: Wording<'workers_missing'> = {
  headline(stages) {
    const [first] = stages
    const few = first === undefined ? '' : `has ${first.details.live} of ${first.details.expected} workers`
    return oneOrMore(stages, few, 'have fewer workers than expected')
  },
  describe: ({ details }) =>
    block(`WORKERS MISSING  ${oneLine(details.stage)}`, {
      live: `${details.live} of ${details.expected} expected`,
    }),
  advice: (stages) => [
    ...stages.slice(0, maxCommands).map(({ details }) => startWorker(details.stage)),
    'npx leasehold workers',
  ],
  over: ({ details }) => `stage ${oneLine(details.stage)} has its ${details.expected} workers again`,
}

const workerWedged: Wording<'worker_wedged'> = {
  headline: (workers) => `${count(workers.length, 'worker')} wedged`,
  describe: ({ details }) =>
    block(`WEDGED  ${oneLine(details.slot)}`, {
      'worker id': oneLine(details.worker_id),
      stage: details.stages.map((stage) => oneLine(stage)).join(', '),
      process: `host ${oneLine(details.host)}, pid ${details.pid ?? 'unknown'}`,
      meaning: `it beats, but its main loop has not turned for ${duration(details.stands_still_s)}`,
      leases: `it holds ${count(details.running, 'task')}; when it stops renewing they are released`,
    }),
  advice: () => [
    'npx leasehold tasks --state running',
    'A handler blocks the event loop: end that process (kill -9 its pid), it is started again.',
  ],
  over: ({ details }) =>
    `worker ${oneLine(details.slot)} is not wedged any more: it turns again, or it ended`,
}

const taskQuarantined: Wording<'task_quarantined'> = {
  headline: (tasks) => `${count(tasks.length, 'task')} quarantined`,
  describe: ({ details }) =>
    block(`QUARANTINED  task ${oneLine(details.task_id)}`, {
      stage: oneLine(details.stage),
      title: details.title === null ? null : oneLine(details.title),
      reason: oneLine(details.error?.message, 300),
    }),
  advice: (tasks) => {
    const ids = tasks.slice(0, maxCommands).map(({ details }) => oneLine(details.task_id))
    return [`npx leasehold show ${ids[0]}`, `npx leasehold retry ${ids.join(' ')}   once the cause is mended`]
  },
  over: ({ details }) => `task ${oneLine(details.task_id)} is out of quarantine`,
}

const monitorSilent: Wording<'monitor_silent'> = {
  headline: (monitors) =>
    monitors.length === 1
      ? `the monitor on ${oneLine(monitors[0]?.details.host, 60)} is silent`
      : `${monitors.length} monitors are silent`,
  describe: ({ details }) =>
    block(`MONITOR SILENT  ${oneLine(details.host)}`, {
      process: `pid ${details.pid ?? 'unknown'}, monitor id ${oneLine(details.monitor_id)}`,
      'last look': moment(details.ticked_at),
      meaning: 'the monitor that wrote this still watches; with it gone nobody would',
    }),
  advice: () => ['npx leasehold monitor   on that host'],
  over: ({ details }) => `the monitor on ${oneLine(details.host)} looks again, or was replaced`,
}

const tasksFailing: Wording<'tasks_failing'> = {
  headline: (stages) => oneOrMore(stages, 'has tasks that ended dead', 'have tasks that ended dead'),
  describe: ({ details }) =>
    block(`TASKS DEAD  ${oneLine(details.stage)}`, {
      dead: `${count(details.dead, 'task')} within an hour when this was noticed, the last at ${moment(details.last_at)}`,
      last: `task ${oneLine(details.last.task_id)}${details.last.title === null ? '' : ` "${oneLine(details.last.title, 80)}"`}`,
      error: oneLine(details.last.error, 300),
      meaning: 'their attempts are used up: they stay dead until somebody retries them',
    }),
  advice: (stages) => [
    ...stages
      .slice(0, maxCommands)
      .map(({ details }) => `npx leasehold tasks --state dead --stage ${oneLine(details.stage)}`),
    'npx leasehold retry ID   once the cause is mended',
  ],
  over: ({ details }) => `no task of stage ${oneLine(details.stage)} has ended dead for an hour`,
}

const backlogOld: Wording<'backlog_old'> = {
  headline: (stages) => oneOrMore(stages, 'is behind its backlog limit', 'are behind their backlog limits'),
  describe: ({ details }) =>
    block(`BACKLOG  ${oneLine(details.stage)}`, {
      'oldest task': `ready for ${duration(details.age_s)}`,
      limit: duration(details.limit_s),
      meaning: 'work comes faster than it is done; nothing is lost, it waits',
    }),
  advice: (stages) => [
    'npx leasehold stages',
    ...stages.slice(0, maxCommands).map(({ details }) => `${startWorker(details.stage)}   one more of them`),
  ],
  over: ({ details }) => `stage ${oneLine(details.stage)} is within its backlog limit again`,
}

function channelDownMeans(details: IncidentOf<'channel_down'>['details']): string {
  if (details.refused)
    return 'refused for good: its messages stay in leasehold.alerts until somebody asks for them'
  if (details.withheld)
    return "taken without an answer, perhaps: it counts as told, and the day's cap is used up until the next digest's hour"
  if (details.unserved) return 'its messages wait for a monitor that is configured to send them'
  return 'its messages wait and are tried again, at least every five minutes'
}

const channelDown: Wording<'channel_down'> = {
  headline: (channels) =>
    `alerts by ${channels.map(({ details }) => oneLine(details.channel, 20)).join(' and ')} do not get through`,
  describe: ({ details }) =>
    block(`CHANNEL DOWN  ${oneLine(details.channel)}`, {
      error: oneLine(details.error, 300),
      meaning: channelDownMeans(details),
    }),
  advice: (channels) => [
    ...channels.map(({ details }) => `npx leasehold alerts test --channel ${oneLine(details.channel, 20)}`),
    ...(channels.some(({ details }) => details.refused)
      ? ['npx leasehold alerts retry   sends what was refused, once the cause is mended']
      : []),
    ...channels
      .filter(({ details }) => details.unserved)
      .map(
        ({ details }) =>
          `npx leasehold alerts channel ${oneLine(details.channel, 20)} --off   when it was taken out on purpose`,
      ),
  ],
  over: ({ details }) => `alerts by ${oneLine(details.channel, 20)} get through again`,
}

// Nobody opens it any more; one that an earlier release left open is still worded.
const mailUndeliverable: Wording<'mail_undeliverable'> = {
  headline: () => 'mail was undeliverable',
  describe: ({ details }) => block('MAIL', { error: oneLine(details.error) }),
  advice: () => ['npx leasehold alerts test --channel email'],
  over: () => 'mail is delivered again',
}

/** Kinds whose facts are in their summary: the programs that notice them write it for people. */
function bySummary<K extends IncidentKind>(
  heading: string,
  one: string,
  many: string,
  steps: readonly string[],
): Wording<K> {
  return {
    headline: (incidents) => {
      const [first] = incidents
      return incidents.length === 1 ? `${one} ${oneLine(first?.subject, 60)}` : `${incidents.length} ${many}`
    },
    describe: (incident) =>
      block(`${heading}  ${oneLine(incident.subject, 100)}`, {
        what: oneLine(incident.summary, 400),
        since: moment(incident.opened_at),
      }),
    advice: () => steps,
    over: (incident) => `${oneLine(incident.subject, 100)}: no longer so (${oneLine(incident.summary, 100)})`,
  }
}

/** For kinds that this program has no words for. */
export const unknownKind: Wording<IncidentKind> = {
  headline: (incidents) =>
    `${count(incidents.length, 'incident')} of kind ${oneLine(incidents[0]?.kind, 48)}`,
  describe: (incident) =>
    block(`${oneLine(incident.kind, 48).toUpperCase()}  ${oneLine(incident.subject, 100)}`, {
      what: oneLine(incident.summary, 400),
      since: moment(incident.opened_at),
    }),
  advice: () => ['npx leasehold status', 'select * from leasehold.open_incidents;'],
  over: (incident) => `${oneLine(incident.summary, 100)}: no longer so`,
}

/** The words of every kind, in the order in which a mail tells them. */
export const wordings: { readonly [K in IncidentKind]: Wording<K> } = {
  worker_dead: workerDead,
  stage_without_worker: stageWithoutWorker,
  workers_missing: workersMissing,
  worker_wedged: workerWedged,
  task_quarantined: taskQuarantined,
  schedule_missed: bySummary('SCHEDULE MISSED', 'missed: schedule', 'schedules missed', [
    'npx leasehold schedules',
    'npx leasehold scheduler   when none runs',
  ]),
  schedule_failing: bySummary('SCHEDULE FAILING', 'the last task died of schedule', 'schedules failing', [
    'npx leasehold schedules',
    'npx leasehold tasks --state dead',
  ]),
  tasks_failing: tasksFailing,
  backlog_old: backlogOld,
  monitor_silent: monitorSilent,
  channel_down: channelDown,
  housekeeping_overdue: bySummary('HOUSEKEEPING', 'overdue: housekeeping', 'housekeeping jobs overdue', [
    'npx leasehold doctor',
    'npx leasehold monitor   when none runs: it does the housekeeping',
  ]),
  mail_undeliverable: mailUndeliverable,
}

function startWorker(stage: string): string {
  return `npx leasehold runner --stage ${oneLine(stage)}`
}

function oneOrMore(
  stages: readonly { readonly details: { readonly stage: string } }[],
  one: string,
  more: string,
): string {
  return stages.length === 1
    ? `stage ${oneLine(stages[0]?.details.stage, 60)} ${one}`
    : `${stages.length} stages ${more}`
}
