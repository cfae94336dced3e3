/**
 * The lead pipeline: criteria in, leads out. What programs around it need to start runs, work their stages and read results.
 *
 * Other packages import from this file only, never past it.
 */
import { fileURLToPath } from 'node:url'

export { CriteriaInvalidError, parseCriteria } from './criteria.ts'
export type { Criteria } from './criteria.ts'
export { DirectoryInvalidError } from './discovery/header.ts'
export { csvCell, exportLeads, leadsCsv } from './export.ts'
export type { Lead } from './export.ts'
export { createStages, leadStages, openLeadTools } from './stages/lead-stages.ts'
export type { LeadStages, LeadToolOptions, LeadTools } from './stages/lead-stages.ts'
export { CONTACT_STAGE, DISCOVERY_STAGE, RESEARCH_STAGE } from './stages/names.ts'
export { startRun } from './start.ts'
export type { StartedRun } from './start.ts'
export { recordContacted, suppressDomains } from './store/blocked.ts'
export { RunExistsError, RunNotFoundError, runNotes, runStatus } from './store/runs.ts'
export type { RunStatus } from './store/runs.ts'

/** The pipeline's own tables (schema leads), for the migrator of @leasehold/postgres. */
export const leadsMigrations: { readonly name: string; readonly folder: string; readonly schema: string } = {
  name: 'leads',
  folder: fileURLToPath(new URL('../migrations/', import.meta.url)),
  schema: 'leads',
}

/** The made-up company directory that ships with the repository, and the domains in it that must not be contacted. */
export const sampleDirectory: { readonly companies: string; readonly suppressedDomains: string } = {
  companies: fileURLToPath(new URL('../sample/companies.csv', import.meta.url)),
  suppressedDomains: fileURLToPath(new URL('../sample/suppressed-domains.txt', import.meta.url)),
}
