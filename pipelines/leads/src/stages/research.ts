/**
 * Stage company_research: enriches one company and hands it to contact discovery when it qualifies.
 *
 * The handing over is part of the settlement. The findings are written just before it, fenced and together with those of other companies
 * under way (store/batch.ts), because a transaction per company would wait for the disk 30,000 times. Once the run's target is met, remaining
 * companies are let go without being looked at. What research does is research/research.ts.
 */
import { defineStage, type Db, type Outcome, type Stage, type TaskContext } from '@leasehold/queue'
import type { Model, Web } from '@leasehold/stages'
import { z } from 'zod'
import { researchCompany, type Research } from '../research/research.ts'
import { createBatch } from '../store/batch.ts'
import { readCompanies, type KnownCompany } from '../store/candidates.ts'
import { writeResearch, type FindingKey } from '../store/findings.ts'
import type { createRunWatch } from '../store/runs.ts'
import { ATTEMPTS, WITHOUT_MODEL, withModel } from './model-pause.ts'
import { CONTACT_STAGE, RESEARCH_STAGE } from './names.ts'

/** Which company of which run; the payload of both later stages. */
export const companyTask: z.ZodType<CompanyTask> = z.strictObject({
  runId: z.string().min(1).max(200),
  companyId: z.string().regex(/^\d{1,18}$/),
})

/** See {@link companyTask}. */
export type CompanyTask = { readonly runId: string; readonly companyId: string }

/** What the stage works with. */
export type ResearchParts = {
  readonly web: Web | null
  readonly model: Model | null
  readonly runs: ReturnType<typeof createRunWatch>
}

type Store = {
  readonly read: ReturnType<typeof companyReader>
  readonly write: (db: Db, finding: FindingKey & { readonly research: Research }) => Promise<null>
}

/** Reads companies for many handlers at once. */
export function companyReader(): (db: Db, id: string) => Promise<KnownCompany | null> {
  return createBatch(readCompanies)
}

/** Makes the stage. */
export function researchStage(parts: ResearchParts): Stage<CompanyTask> {
  const store: Store = {
    read: companyReader(),
    write: createBatch(async (db, findings) => {
      await writeResearch(db, findings)
      return findings.map(() => null)
    }),
  }
  return defineStage<CompanyTask>({
    name: RESEARCH_STAGE,
    payload: companyTask,
    concurrency: 64,
    timeout: '5 min',
    retry: { attempts: ATTEMPTS },
    run: (ctx) => research(ctx, parts, store),
  })
}

async function research(ctx: TaskContext<CompanyTask>, parts: ResearchParts, store: Store): Promise<Outcome> {
  const { runId, companyId } = ctx.payload
  const run = await parts.runs(ctx.db, runId)
  if (run === null) return { outcome: 'cancel', reason: `run ${runId} was deleted` }
  if (run.met) return { outcome: 'done', result: { skipped: 'target met' } }
  const known = await store.read(ctx.db, companyId)
  if (known === null) return { outcome: 'cancel', reason: `company ${companyId} was deleted` }
  const { company } = known
  const asked = await withModel(parts.model, ctx, (model) =>
    researchCompany({ web: parts.web, model }, company, run.criteria, ctx.signal),
  )
  if ('later' in asked) return asked.later
  const found: Research = asked.withoutModel
    ? { ...asked.value, notes: [...asked.value.notes, WITHOUT_MODEL] }
    : asked.value
  await store.write(ctx.db, { companyId, runId, fence: ctx.fence, research: found })
  if (found.qualified)
    ctx.submit(CONTACT_STAGE, ctx.payload, { runId, title: company.name.slice(0, 200).toWellFormed() })
  return { outcome: 'done', result: { score: found.score, qualified: found.qualified } }
}
