/**
 * Finds out which column of a directory holds what, by its header.
 *
 * Each field has a list of header names in order of trust; the first that is there wins, so that `website` beats `url` and
 * `company name` beats `name`. A column nobody claims is kept under its own name. Refuses a header without a company column.
 * Turning a record into a company by this map is company-row.ts.
 */
import { LeaseholdError } from '@leasehold/queue'
import { fold } from '../places.ts'
import { COLUMN_NAMES, type Field } from './column-names.ts'

/** Which column feeds which field, and under which name the rest are kept. Indexes count from 0. */
export type ColumnMap = {
  readonly width: number
  readonly fields: Readonly<Partial<Record<Field, number>>>
  readonly extra: readonly { readonly index: number; readonly name: string }[]
}

/** The directory cannot be read at all: not there, no text, or no company column. Nothing was taken from it. */
export class DirectoryInvalidError extends LeaseholdError {
  readonly path: string

  constructor(path: string, problem: string, options?: ErrorOptions) {
    super('DIRECTORY_INVALID', `The company directory ${path} cannot be used: ${problem}`, options)
    this.path = path
  }
}

/** The header cell in the form synonyms are written: `CompanyName` and `company_name` become `company name`. */
function headerWord(cell: string): string {
  return fold(cell.replaceAll(/(\p{Ll})(\p{Lu})/gu, '$1 $2'))
}

/** Maps a header row. Throws {@link DirectoryInvalidError} naming the columns seen when none of them holds the company. */
export function mapColumns(path: string, header: readonly string[]): ColumnMap {
  const words = header.map(headerWord)
  const claimed = new Set<number>()
  const fields: Partial<Record<Field, number>> = {}
  for (const [field, synonyms] of COLUMN_NAMES) {
    for (const synonym of synonyms) {
      const index = words.findIndex((word, i) => word === synonym && !claimed.has(i))
      if (index === -1) continue
      fields[field] = index
      claimed.add(index)
      break
    }
  }
  if (fields.name === undefined) {
    const seen = header.map((cell) => `"${cell.trim().slice(0, 40)}"`).slice(0, 12)
    throw new DirectoryInvalidError(
      path,
      `its first line names no company column (found ${seen.join(', ')}). Give the file a header line with a column ` +
        '"company" (or "name") and, where known, "website", "city", "state", "country", "description", "industry".',
    )
  }
  const names = new Set<string>()
  const extra: { index: number; name: string }[] = []
  for (const [index, cell] of header.entries()) {
    if (claimed.has(index)) continue
    const base =
      cell
        .replaceAll(/\p{Cc}+/gu, ' ')
        .trim()
        .slice(0, 100)
        .toWellFormed() || `column ${index + 1}`
    let name = base
    for (let n = 2; names.has(name); n++) name = `${base} (${n})`
    names.add(name)
    extra.push({ index, name })
  }
  return { width: header.length, fields, extra }
}
