/**
 * Stage company_discovery: finds companies that match and hands each to research.
 *
 * Works in slices: one task reads a part of the directory (or asks the model once), and in its settling transaction inserts the candidates,
 * submits their research and the task for the next slice. So a worker that dies costs one slice, and nothing is inserted or handed on twice.
 * Ends at the end of the source, at twice the target, or when the target is met. Reading and choosing are discovery/*.ts.
 */
import {
  defineStage,
  submitMany,
  type Outcome,
  type Settled,
  type Stage,
  type TaskContext,
} from '@leasehold/queue'
import type { Model } from '@leasehold/stages'
import { z } from 'zod'
import { criteriaSchema, type Criteria } from '../criteria.ts'
import { discoverByModel } from '../discovery/by-model.ts'
import { openDirectory, type Directory, type Position } from '../discovery/directory.ts'
import { DirectoryInvalidError } from '../discovery/header.ts'
import { createMatcher, knownFields, uncheckedCriteria } from '../discovery/match.ts'
import { readRows } from '../discovery/rows.ts'
import { beginSelection, OVERSAMPLING, type RowCounts } from '../discovery/select.ts'
import { createBlockedDomains } from '../store/blocked.ts'
import { candidateNames, insertCandidates, insertRejected, type Candidate } from '../store/candidates.ts'
import { addDiscovery, ensureRun, readRun, type RunFacts } from '../store/runs.ts'
import { ATTEMPTS, withModel } from './model-pause.ts'
import { DISCOVERY_STAGE, RESEARCH_STAGE } from './names.ts'

/** A slice: so many candidates or rows at most. Bounds the transaction and what a dead worker costs. */
const SLICE_CANDIDATES = 2_000
const SLICE_ROWS = 20_000
/** Portions asked of a model in a row without enough candidates before it has nothing more to give. */
const MAX_ASKS = 40

/** The payload of a slice. By SQL, `{"criteria": {"target": 25, …}}` starts a run. */
export type Slice = {
  readonly criteria: Criteria
  /** Where in which file to go on; absent in a run's first slice. */
  readonly from?: (Position & { readonly size: number; readonly modifiedMs: number }) | undefined
  /** How often the model was asked before. */
  readonly asks?: number | undefined
}

const slice: z.ZodType<Slice> = z.strictObject({
  criteria: criteriaSchema,
  from: z
    .strictObject({ offset: z.int().min(0), line: z.int().min(1), size: z.int().min(0), modifiedMs: z.int() })
    .optional(),
  asks: z.int().min(0).optional(),
})

type Found = {
  readonly candidates: readonly Candidate[]
  readonly rejected: readonly { line: number; problem: string }[]
  readonly counts: RowCounts
  readonly notes: readonly string[]
  /** The next slice; null at the end of the source. */
  readonly next: Slice | null
}

type Context = TaskContext<Slice>
type Blocked = ReturnType<typeof createBlockedDomains>

/** Makes the stage. `model` null: only directories are read. */
export function discoveryStage(model: Model | null): Stage<Slice> {
  const blockedDomains = createBlockedDomains()
  return defineStage<Slice>({
    name: DISCOVERY_STAGE,
    payload: slice,
    concurrency: 2,
    timeout: '10 min',
    retry: { attempts: ATTEMPTS },
    run: (ctx) => discover(ctx, model, blockedDomains),
  })
}

async function discover(
  ctx: Context,
  model: Model | null,
  blockedDomains: Blocked,
): Promise<Outcome | Settled> {
  // A task inserted by hand may have no run; its own id makes a good name for one.
  const runId = ctx.task.runId ?? `run-${ctx.task.id}`
  await ensureRun(ctx.db, runId, ctx.payload.criteria)
  const run = await readRun(ctx.db, runId)
  if (run === null) return { outcome: 'cancel', reason: `run ${runId} was deleted` }
  const room = run.criteria.target * OVERSAMPLING - run.candidates
  if (run.met || room <= 0) return ctx.transaction((tx) => addDiscovery(tx, runId, noCounts(), [], true))
  const blocked = await blockedDomains(ctx.db)
  if (run.criteria.source === undefined) return discoverWithModel(ctx, runId, run, model, blocked, room)
  const found = await readSlice(
    ctx,
    run.criteria,
    run.criteria.source,
    blocked,
    Math.min(room, SLICE_CANDIDATES),
  )
  return handOver(ctx, runId, room, found)
}

/** Writes the slice, hands its companies to research and goes on: all in the settling transaction. */
function handOver(ctx: Context, runId: string, room: number, found: Found): Promise<Settled> {
  return ctx.transaction(async (tx) => {
    const inserted = await insertCandidates(tx, runId, found.candidates)
    await insertRejected(tx, runId, found.rejected)
    // What an earlier slice had already is a duplicate, too.
    const known = found.candidates.length - inserted.length
    const counts = {
      ...found.counts,
      candidates: inserted.length,
      duplicates: found.counts.duplicates + known,
    }
    const ended = found.next === null || inserted.length >= room
    await addDiscovery(tx, runId, counts, found.notes, ended)
    await submitMany(
      tx,
      RESEARCH_STAGE,
      inserted.map(({ id, name }) => ({
        payload: { runId, companyId: id },
        runId,
        title: name.slice(0, 200).toWellFormed(),
      })),
    )
    if (!ended && found.next !== null) ctx.submit(DISCOVERY_STAGE, found.next, nextOptions(ctx, runId))
    return { outcome: 'done', result: { ...counts, ended } }
  })
}

function nextOptions(ctx: Context, runId: string): { runId: string; title?: string; priority?: number } {
  const { title, priority } = ctx.task
  return { runId, ...(title === undefined ? {} : { title }), ...(priority === undefined ? {} : { priority }) }
}

async function readSlice(
  ctx: Context,
  criteria: Criteria,
  source: string,
  blocked: ReadonlySet<string>,
  limit: number,
): Promise<Found> {
  let directory: Directory
  try {
    directory = await openDirectory(source)
  } catch (error) {
    // The only source is gone: the run goes on with what it has and says why it has no more.
    if (error instanceof DirectoryInvalidError) return nothing([error.message])
    throw error
  }
  const notes = ctx.payload.from === undefined ? [...directory.notes] : []
  const known = knownFields(directory.columns)
  if (ctx.payload.from === undefined) notes.push(...uncheckedCriteria(criteria, known))
  const from = whereToGoOn(ctx.payload.from, directory, notes)
  const selection = beginSelection({
    matches: createMatcher(criteria, known),
    blocked,
    taken: new Set(),
    limit,
  })
  const candidates: Candidate[] = []
  const rejected: { line: number; problem: string }[] = []
  let position = from
  let full = false
  for await (const row of readRows(directory, from, ctx.signal)) {
    if ('problem' in row) {
      selection.reject()
      rejected.push({ line: row.line, problem: row.problem })
    } else {
      const verdict = selection.offer(row.company)
      // This row is the next slice's first.
      if (verdict === 'full') full = true
      else if (verdict === 'candidate') candidates.push({ company: row.company, line: row.line })
    }
    if (full) break
    position = row.next
    if (selection.counts.scanned % 1_000 === 0) showProgress(ctx, directory, position)
    if (selection.counts.scanned >= SLICE_ROWS) {
      full = true
      break
    }
  }
  const { size, modifiedMs } = directory
  const next = full ? { criteria, from: { ...position, size, modifiedMs } } : null
  return { candidates, rejected, counts: selection.counts, notes, next }
}

function whereToGoOn(from: Slice['from'], directory: Directory, notes: string[]): Position {
  if (from === undefined) return directory.start
  if (from.size === directory.size && from.modifiedMs === directory.modifiedMs) return from
  // Positions in another file mean nothing. Reading again inserts nobody twice, but counts rows twice.
  notes.push(`${directory.path} changed while it was read; it was read again from its beginning`)
  return directory.start
}

function showProgress(ctx: Context, directory: Directory, position: Position): void {
  ctx.progress(position.offset / Math.max(1, directory.size), `line ${position.line}`)
}

async function discoverWithModel(
  ctx: Context,
  runId: string,
  run: RunFacts,
  model: Model | null,
  blocked: ReadonlySet<string>,
  room: number,
): Promise<Outcome | Settled> {
  if (model === null) {
    const note = 'there is no source: name a company directory (criteria.source) or set ANTHROPIC_API_KEY'
    return handOver(ctx, runId, room, nothing([note]))
  }
  const known = await candidateNames(ctx.db, runId)
  const asked = await withModel(model, ctx, (who) => discoverByModel(who, run.criteria, known, ctx.signal))
  if ('later' in asked) return asked.later
  const { value, note } = asked.value
  if (value === null) {
    return handOver(
      ctx,
      runId,
      room,
      nothing([asked.withoutModel ? 'the model could not be reached' : (note ?? 'the model found nobody')]),
    )
  }
  // A model answers by meaning; what its answer leaves open is not held against a company, as in a directory without the column.
  const matches = createMatcher(
    { ...run.criteria, kind: undefined },
    { city: false, state: false, country: false },
  )
  const selection = beginSelection({ matches, blocked, taken: new Set(), limit: room })
  const candidates = value.filter((company) => selection.offer(company) === 'candidate')
  const asks = (ctx.payload.asks ?? 0) + 1
  const next = candidates.length === 0 || asks >= MAX_ASKS ? null : { criteria: run.criteria, asks }
  return handOver(ctx, runId, room, {
    candidates: candidates.map((company) => ({ company, line: null })),
    rejected: [],
    counts: selection.counts,
    notes: [],
    next,
  })
}

function nothing(notes: readonly string[]): Found {
  return { candidates: [], rejected: [], counts: noCounts(), notes, next: null }
}

function noCounts(): RowCounts {
  return { scanned: 0, rejected: 0, unmatched: 0, blocked: 0, duplicates: 0, candidates: 0 }
}
