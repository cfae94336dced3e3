/**
 * The names of the pipeline's stages. Tasks, slots, units and views carry them, so they never change.
 */

/** Finds companies that match. */
export const DISCOVERY_STAGE = 'company_discovery'
/** Enriches one company. */
export const RESEARCH_STAGE = 'company_research'
/** Finds one company's contacts. */
export const CONTACT_STAGE = 'contact_discovery'
