/**
 * Stage contact_discovery: finds whom to write to at one qualified company, and so makes it a lead or not.
 *
 * A run counts its leads from what is written here, fenced and in batches like research. Once the run's target is met, remaining
 * companies are let go. What finding does is contacts/find.ts.
 */
import { defineStage, type Db, type Outcome, type Stage, type TaskContext } from '@leasehold/queue'
import { findContacts, type ContactFinding, type ContactTools } from '../contacts/find.ts'
import { createBatch } from '../store/batch.ts'
import { writeContacts, type FindingKey } from '../store/findings.ts'
import type { createRunWatch } from '../store/runs.ts'
import { ATTEMPTS, WITHOUT_MODEL, withModel } from './model-pause.ts'
import { CONTACT_STAGE } from './names.ts'
import { companyReader, companyTask, type CompanyTask } from './research.ts'

/** What the stage works with. */
export type ContactParts = ContactTools & { readonly runs: ReturnType<typeof createRunWatch> }

type Store = {
  readonly read: ReturnType<typeof companyReader>
  readonly write: (db: Db, finding: FindingKey & { readonly found: ContactFinding }) => Promise<null>
}

/** Makes the stage. */
export function contactStage(parts: ContactParts): Stage<CompanyTask> {
  const store: Store = {
    read: companyReader(),
    write: createBatch(async (db, findings) => {
      await writeContacts(db, findings)
      return findings.map(() => null)
    }),
  }
  return defineStage<CompanyTask>({
    name: CONTACT_STAGE,
    payload: companyTask,
    concurrency: 64,
    timeout: '5 min',
    retry: { attempts: ATTEMPTS },
    run: (ctx) => contact(ctx, parts, store),
  })
}

async function contact(ctx: TaskContext<CompanyTask>, parts: ContactParts, store: Store): Promise<Outcome> {
  const { runId, companyId } = ctx.payload
  const run = await parts.runs(ctx.db, runId)
  if (run === null) return { outcome: 'cancel', reason: `run ${runId} was deleted` }
  if (run.met) return { outcome: 'done', result: { skipped: 'target met' } }
  const known = await store.read(ctx.db, companyId)
  if (known === null) return { outcome: 'cancel', reason: `company ${companyId} was deleted` }
  const asked = await withModel(parts.model, ctx, (model) =>
    findContacts({ ...parts, model }, known.company, known.site, ctx.signal),
  )
  if ('later' in asked) return asked.later
  const found: ContactFinding = asked.withoutModel
    ? { ...asked.value, notes: [...asked.value.notes, WITHOUT_MODEL] }
    : asked.value
  await store.write(ctx.db, { companyId, runId, fence: ctx.fence, found })
  return { outcome: 'done', result: { contacts: found.contacts.length } }
}
