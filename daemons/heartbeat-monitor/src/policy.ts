/**
 * Which news is worth a mail: the one place that decides it.
 *
 * Now: every batch that has something to tell is mailed, one mail for one look. Left out is only what a mail cannot
 * tell (that mail does not arrive) or has told already (that others go on with a dead worker's stages).
 */
import type { Incident, TickAnswer } from './verbs.ts'

/** What one mail reports. */
export interface News {
  readonly opened: readonly Incident[]
  readonly resolved: readonly Incident[]
}

/** What to mail of a look's findings; null for nothing. */
export function worthAMail(found: Pick<TickAnswer, 'opened' | 'resolved'>): News | null {
  const opened = found.opened.filter((incident) => incident.kind !== 'mail_undeliverable')
  const resolved = found.resolved.filter(isNews)
  return opened.length + resolved.length === 0 ? null : { opened, resolved }
}

function isNews(resolved: Incident): boolean {
  if (resolved.kind === 'mail_undeliverable') return false
  if (resolved.kind !== 'worker_dead') return true
  return resolved.details.unserved.length > 0 && !forgotten(resolved)
}

/** A death is closed after a day although nothing came back; that is no recovery. */
function forgotten(incident: Incident): boolean {
  const openMs = Date.parse(incident.resolved_at ?? '') - Date.parse(incident.opened_at)
  return openMs >= 86_400_000
}
