/**
 * Who is measured, in which settings, and what each keeps for its figures: read beside every table.
 *
 * Only names and facts: an adapter is loaded in the processes that run it, never here, because the peers are installed
 * on demand. `mostTasks` keeps a run of a slow system to some seconds; the tables show the number that was used.
 */

/** A system in one of its settings. */
export interface Contender {
  readonly name: string
  readonly label: string
  /** For plots. */
  readonly short: string
  /** Below bench/. */
  readonly file: string
  readonly variant: string | null
  readonly kind: 'own' | 'peer' | 'control'
  readonly installedBy: 'root' | 'bench'
  readonly keeps: { readonly history: string; readonly leases: string; readonly retries: string }
  /** The most tasks of one drain. */
  readonly mostTasks: number
  /** Several workers can run in one process. */
  readonly slots: boolean
}

export const contenders: readonly Contender[] = [
  {
    name: 'leasehold',
    label: 'Leasehold',
    short: 'Leasehold',
    file: 'systems/leasehold.ts',
    variant: null,
    kind: 'own',
    installedBy: 'root',
    keeps: { history: 'yes', leases: 'heartbeat, fence', retries: 'yes' },
    mostTasks: 10_000_000,
    slots: true,
  },
  {
    name: 'graphile-batched',
    label: 'graphile-worker 0.18, local queue + batched',
    short: 'graphile-worker, batched',
    file: 'systems/graphile-worker.ts',
    variant: 'batched',
    kind: 'peer',
    installedBy: 'root',
    keeps: { history: 'no, deletes', leases: '4 h lock, no fence', retries: 'yes' },
    mostTasks: 10_000_000,
    slots: true,
  },
  {
    name: 'graphile',
    label: 'graphile-worker 0.18, default',
    short: 'graphile-worker, default',
    file: 'systems/graphile-worker.ts',
    variant: 'default',
    kind: 'peer',
    installedBy: 'root',
    keeps: { history: 'no, deletes', leases: '4 h lock, no fence', retries: 'yes' },
    mostTasks: 50_000,
    slots: true,
  },
  {
    name: 'pg-boss',
    label: 'pg-boss 12.35',
    short: 'pg-boss',
    file: 'peers/pg-boss.ts',
    variant: null,
    kind: 'peer',
    installedBy: 'bench',
    keeps: { history: 'yes, 7 days', leases: 'expiry, no fence', retries: 'yes' },
    mostTasks: 1_000_000,
    slots: true,
  },
  {
    name: 'bullmq',
    label: 'BullMQ 6.7 on Postgres',
    short: 'BullMQ on Postgres',
    file: 'peers/bullmq.ts',
    variant: null,
    kind: 'peer',
    installedBy: 'bench',
    keeps: { history: 'yes', leases: 'lock token per job', retries: 'yes' },
    mostTasks: 30_000,
    slots: true,
  },
  {
    name: 'dbos',
    label: 'DBOS SDK 5.3 queues',
    short: 'DBOS queues',
    file: 'peers/dbos.ts',
    variant: null,
    kind: 'peer',
    installedBy: 'bench',
    keeps: { history: 'yes, with results', leases: 'executor id, recovery', retries: 'of steps' },
    mostTasks: 10_000,
    slots: false,
  },
  {
    name: 'naive',
    label: 'control: one table, SKIP LOCKED, batched',
    short: 'control: one table, SKIP LOCKED',
    file: 'systems/naive.ts',
    variant: null,
    kind: 'control',
    installedBy: 'root',
    keeps: { history: 'yes', leases: 'none', retries: 'none' },
    mostTasks: 10_000_000,
    slots: true,
  },
  {
    name: 'raw',
    label: 'control: raw batched DELETE + INSERT',
    short: 'control: raw DELETE + INSERT',
    file: 'systems/raw.ts',
    variant: null,
    kind: 'control',
    installedBy: 'root',
    keeps: { history: 'yes', leases: 'none, at most once', retries: 'none' },
    mostTasks: 10_000_000,
    slots: false,
  },
]

/** What a stage asks for that must never hold more than it runs: shown where that is what is compared. */
export const nothingAhead: Contender = {
  ...contenderNamed('leasehold'),
  name: 'leasehold-nothing-ahead',
  label: 'Leasehold, nothing fetched ahead',
  short: 'Leasehold, nothing ahead',
  variant: 'nothing-ahead',
  mostTasks: 50_000,
}

/** The contender of this name, also among settings that only a workload asks for (`among`). Throws when there is none. */
export function contenderNamed(name: string, among: readonly Contender[] = contenders): Contender {
  const found = among.find((contender) => contender.name === name)
  if (found !== undefined) return found
  throw new Error(`There is no system '${name}'. There are: ${contenders.map((c) => c.name).join(', ')}.`)
}

/** All there are, also those that cannot be chosen: for the processes that run a cell. */
export const allContenders: readonly Contender[] = [...contenders, nothingAhead]

/** Loads its adapter. Only for the processes that run it. */
export async function adapterOf(contender: Contender): Promise<import('./system.ts').Adapter> {
  return (await import(new URL(contender.file, import.meta.url).href)) as import('./system.ts').Adapter
}
