/**
 * Finds out which property-management system (PMS) a company runs, by the fingerprints, and says from what.
 *
 * Evidence in order of strength: a link or script to the product's hosts, the directory's own column, a widget's marker in
 * the page, the product's name in the page's text, its name in the directory's description. The first kind that finds a product decides.
 * "Not detected" after reading a site is a different answer from "nobody could look": research.ts keeps them apart.
 */
import type { Company } from '../company.ts'
import { fold } from '../places.ts'
import { FINGERPRINTS, findFingerprint, type Fingerprint } from './fingerprints.ts'
import type { PageFacts } from './page.ts'

/** Where the evidence was: see the head of this file. */
export type PmsEvidence = 'host' | 'directory' | 'marker' | 'page text' | 'description'

/** A detected system. `detail` is what was seen, for a person to check. */
export type PmsFinding = { readonly name: string; readonly evidence: PmsEvidence; readonly detail: string }

/** Looks through a page (with the HTML it was read from) and the directory's row; null when nothing betrays a system. */
export function detectPms(company: Company, page: PageFacts | null, html: string): PmsFinding | null {
  return (
    (page === null ? null : byHost(page)) ??
    byDirectory(company) ??
    (page === null ? null : byMarker(html)) ??
    (page === null ? null : byWords(page.text, 'page text')) ??
    byWords(`${company.name}. ${company.description ?? ''}`, 'description')
  )
}

function byHost(page: PageFacts): PmsFinding | null {
  for (const product of FINGERPRINTS) {
    for (const host of page.hosts) {
      const known = product.hosts.find((name) => host === name || host.endsWith(`.${name}`))
      if (known !== undefined) return { name: product.name, evidence: 'host', detail: host }
    }
  }
  return null
}

function byDirectory(company: Company): PmsFinding | null {
  if (company.pms === null) return null
  const product = findFingerprint(company.pms)
  return product === undefined ? null : { name: product.name, evidence: 'directory', detail: company.pms }
}

function byMarker(html: string): PmsFinding | null {
  const lower = html.toLowerCase()
  for (const product of FINGERPRINTS) {
    const marker = product.markers.find((piece) => lower.includes(piece.toLowerCase()))
    if (marker !== undefined) return { name: product.name, evidence: 'marker', detail: marker }
  }
  return null
}

const wordList: readonly (readonly [Fingerprint, readonly string[]])[] = FINGERPRINTS.map(
  (product) => [product, product.words.map((word) => ` ${fold(word)} `)] as const,
)

function byWords(text: string, evidence: 'page text' | 'description'): PmsFinding | null {
  const folded = ` ${fold(text)} `
  for (const [product, words] of wordList) {
    const word = words.find((wanted) => folded.includes(wanted))
    if (word !== undefined) return { name: product.name, evidence, detail: word.trim() }
  }
  return null
}
