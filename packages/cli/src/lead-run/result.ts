/**
 * The result of a run for people: what was found, what was left out and why, the best leads, and what was not available.
 */
import { exportLeads, type Lead, runNotes } from '@leasehold/pipeline-leads'
import type { Db } from '@leasehold/queue'
import { printable } from '../terminal/printable.ts'
import { table } from '../terminal/table.ts'
import type { Terminal } from '../terminal/terminal.ts'
import type { Standing } from './progress.ts'

const shownLeads = 15
const shownRows = 5

/** Prints it. */
export async function showResult(
  db: Db,
  runId: string,
  standing: Standing,
  terminal: Terminal,
): Promise<void> {
  const { status } = standing
  const leads: Lead[] = []
  for await (const lead of exportLeads(db, runId)) {
    leads.push(lead)
    if (leads.length === shownLeads) break
  }
  const say = (line: string): void => terminal.out(line)
  say('')
  say(
    terminal.paint(
      'bold',
      `${Math.min(status.leads, status.target)} leads of ${status.target} wanted (${standing.open > 0 ? 'not ended' : status.state})`,
    ),
  )
  say(
    `${status.scanned} rows read: ${status.candidates} candidates, ${status.unmatched} did not match, ${status.duplicates} duplicates, ` +
      `${status.blocked} on blocked domains, ${status.rejected} malformed`,
  )
  if (leads.length > 0) {
    say('')
    say(leadTable(leads, terminal))
    const more = Math.min(status.leads, status.target) - leads.length
    if (more > 0) say(`… and ${more} more`)
  }
  for (const { line, problem } of status.rejectedRows.slice(0, shownRows))
    say(`line ${line} was skipped: ${printable(problem, 200)}`)
  if (status.rejected > shownRows)
    say(`… and ${status.rejected - shownRows} more malformed lines: select * from leads.rejected_rows`)
  const notes = await runNotes(db, runId)
  for (const note of status.notes) say(`note: ${printable(note, 300)}`)
  for (const { note, companies } of notes.slice(0, 5))
    say(`note: ${printable(note, 300)} (${companies} companies)`)
  const dead = standing.stages.reduce((sum, stage) => sum + stage.dead, 0)
  if (dead > 0)
    say(terminal.paint('red', `${dead} tasks died: npx leasehold tasks --run ${runId} --state dead`))
}

/** On a narrow terminal the columns that say least are left out rather than all of them cut. */
function leadTable(leads: readonly Lead[], terminal: Terminal): string {
  const narrow = terminal.isTty && terminal.columns < 130
  const columns: [string, (lead: Lead) => string | number | null][] = [
    ['#', (lead) => lead.rank],
    ['COMPANY', (lead) => lead.company],
    ['CITY', (lead) => lead.city],
    ['SCORE', (lead) => lead.score],
    ['PMS', (lead) => lead.pms],
    ['CONTACT', (lead) => lead.contact],
    ['E-MAIL', (lead) => lead.email],
    ['VERIFIED', (lead) => lead.emailStatus],
  ]
  const shown = columns.filter(([title]) => !narrow || !['CITY', 'CONTACT', 'VERIFIED'].includes(title))
  return table(
    terminal,
    shown.map(([title]) => title),
    leads.map((lead) => shown.map(([, cell]) => cell(lead))),
  )
}
