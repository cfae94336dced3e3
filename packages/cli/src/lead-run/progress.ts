/**
 * How far a run of the lead pipeline is, shown while it goes: a bar for each stage on a terminal, plain lines elsewhere.
 *
 * What holds it up is said as well (holdups.ts). Reads only. Ends when the run has met its target or used up its candidates, and nothing of it is unfinished.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { type RunStatus, runStatus } from '@leasehold/pipeline-leads'
import { type Db, type RunStageProgress, runProgress } from '@leasehold/queue'
import { MultiBar, Presets, type SingleBar } from 'cli-progress'
import { leadStageNames } from '../pipeline.ts'
import type { Terminal } from '../terminal/terminal.ts'
import { Holdups } from './holdups.ts'

const everyMs = 250
const plainEveryMs = 2000

/** Where a run stands at one moment. */
export interface Standing {
  readonly status: RunStatus
  readonly stages: readonly RunStageProgress[]
  readonly open: number
}

/** Reads it. */
export async function readStanding(db: Db, runId: string): Promise<Standing> {
  const stages = await runProgress(db, runId)
  return {
    status: await runStatus(db, runId),
    stages,
    open: stages.reduce((sum, stage) => sum + stage.open, 0),
  }
}

/** Shows the run until it ends or `signal` aborts; answers with where it stands then. */
export async function followRun(
  db: Db,
  runId: string,
  terminal: Terminal,
  signal: AbortSignal,
): Promise<Standing> {
  const view = terminal.isTty ? new Bars() : new Lines(terminal)
  const holdups = new Holdups(db)
  try {
    for (;;) {
      const standing = await readStanding(db, runId)
      view.show(standing, await holdups.look(standing.stages))
      if (standing.open === 0 || signal.aborted) return standing
      await sleep(everyMs, undefined, { signal }).catch(() => {})
    }
  } finally {
    view.close()
  }
}

function ended(stage: RunStageProgress | undefined): number {
  return stage === undefined ? 0 : stage.done + stage.dead + stage.cancelled
}

class Bars {
  private readonly bars = new MultiBar(
    { format: '  {stage} {bar} {value}/{total}  {note}', hideCursor: true, clearOnComplete: false, fps: 10 },
    Presets.shades_classic,
  )
  private readonly byStage = new Map<string, SingleBar>()

  show({ status, stages }: Standing, holdups: ReadonlyMap<string, string>): void {
    for (const name of leadStageNames) {
      const stage = stages.find((one) => one.stage === name)
      const note =
        name === 'company_discovery'
          ? `${status.candidates} candidates of ${status.scanned} rows`
          : name === 'company_research'
            ? `${status.qualified} qualify`
            : `${status.leads} of ${status.target} leads`
      const facts = { stage: name.padEnd(18), note: holdups.get(name) ?? note }
      const total = Math.max(stage?.submitted ?? 0, 1)
      const bar = this.byStage.get(name) ?? this.bars.create(total, 0, facts)
      this.byStage.set(name, bar)
      bar.setTotal(total)
      bar.update(ended(stage), facts)
    }
  }

  close(): void {
    this.bars.stop()
  }
}

class Lines {
  private readonly terminal: Terminal
  private last = ''
  private held = ''
  private at = -Infinity

  constructor(terminal: Terminal) {
    this.terminal = terminal
  }

  show({ status, stages, open }: Standing, holdups: ReadonlyMap<string, string>): void {
    const held = [...holdups].map(([stage, why]) => `waiting: stage ${stage} ${why}`).join('\n')
    if (held !== this.held) this.terminal.out(held === '' ? 'going on' : held)
    this.held = held
    const now = performance.now()
    if (open > 0 && now - this.at < plainEveryMs) return
    const parts = leadStageNames.map((name) => {
      const stage = stages.find((one) => one.stage === name)
      return `${name} ${ended(stage)}/${stage?.submitted ?? 0}`
    })
    const line = `${parts.join('  ')}  leads ${status.leads}/${status.target}`
    if (line === this.last) return
    this.last = line
    this.at = now
    this.terminal.out(line)
  }

  close(): void {}
}
