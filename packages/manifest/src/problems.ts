/**
 * Collecting what is wrong with a manifest: every problem with its place, so that one edit mends them all.
 */
import { type ConfigProblem, nearName } from '@leasehold/queue'
import { z } from 'zod'
import { namePattern, nameRule, shown } from './values.ts'

/** Collects what is wrong, each with its place in the manifest. */
export class Problems {
  readonly list: ConfigProblem[] = []

  /** `place`: `stages.lead_verify.instances`. */
  add(place: string, problem: string): void {
    this.list.push({ name: place, problem })
  }

  /** A part in its form; null when it cannot be used. Without its unknown settings it can, for what else there is to find. */
  read<S extends z.ZodType>(form: S, place: string, value: unknown): z.output<S> | null {
    const parsed = form.safeParse(value)
    if (parsed.success) return parsed.data
    const { issues } = parsed.error
    for (const issue of issues) this.addIssue(form, place, issue)
    const unknown = issues.flatMap((issue) =>
      issue.code === 'unrecognized_keys' && issue.path.length === 0 ? issue.keys : [],
    )
    if (unknown.length === 0) return null
    const known = Object.entries(value as object).filter(([key]) => !unknown.includes(key))
    return form.safeParse(Object.fromEntries(known)).data ?? null
  }

  private addIssue(form: z.ZodType, place: string, issue: z.core.$ZodIssue): void {
    const at = [place, ...issue.path.map(String)].filter((part) => part !== '').join('.')
    if (issue.code !== 'unrecognized_keys') return this.add(at || 'manifest', issue.message)
    const known = settingsAt(form, issue.path)
    for (const key of issue.keys) {
      const near = nearName(key, known)
      const advice = near === null ? `there are: ${known.join(', ')}` : `did you mean ${near}?`
      this.add([at, key].filter((part) => part !== '').join('.'), `is not a setting; ${advice}`)
    }
  }

  /** The entries of a part that is an object of named things; entries whose names cannot work are left out. */
  entries(place: string, value: unknown): [name: string, value: unknown][] {
    if (value === undefined) return []
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      this.add(place, `must be an object of names and their settings, not ${shown(value)}`)
      return []
    }
    return Object.entries(value).filter(([name]) => {
      if (namePattern.test(name)) return true
      this.add(`${place}.${name.slice(0, 60)}`, `the name ${nameRule}`)
      return false
    })
  }
}

function settingsAt(form: z.ZodType, path: readonly PropertyKey[]): string[] {
  let at: unknown = form
  for (const key of path) at = unwrapped((unwrapped(at) as Partial<z.ZodObject>).shape?.[String(key)])
  return Object.keys((unwrapped(at) as Partial<z.ZodObject>).shape ?? {})
}

function unwrapped(form: unknown): unknown {
  return form instanceof z.ZodOptional || form instanceof z.ZodDefault ? unwrapped(form.unwrap()) : form
}
