/**
 * What a run asks for: the criteria, checked once at the edge and passed on as data.
 *
 * A criterion left out does not restrict. Unknown keys are refused, because a misspelt `citty` would silently
 * return the whole world. Whether a company meets the criteria is decided in discovery/match.ts and research/icp.ts.
 */
import { LeaseholdError } from '@leasehold/queue'
import { z } from 'zod'
import { FINGERPRINTS, findFingerprint } from './research/fingerprints.ts'

const word = (what: string) =>
  z
    .string()
    .trim()
    .min(1, `${what} is empty; leave it out to accept any`)
    .max(200)
    // A NUL byte cannot be stored in Postgres text; every other control character is a typing accident.
    .regex(/^[^\p{Cc}\p{Cs}]*$/u, `${what} holds control characters`)
    .optional()

/** The zod schema of {@link Criteria}; also the payload edge of the discovery stage. */
export const criteriaSchema: z.ZodType<Criteria> = z.strictObject({
  city: word('city'),
  state: word('state'),
  country: word('country'),
  kind: word('kind'),
  pms: word('pms').transform((name, ctx) => {
    if (name === undefined) return undefined
    const known = findFingerprint(name)
    if (known) return known.name
    ctx.addIssue({
      code: 'custom',
      message: `no fingerprint for "${name}"; known: ${FINGERPRINTS.map((f) => f.name).join(', ')}`,
    })
    return z.NEVER
  }),
  target: z.int().min(1).max(500_000),
  minScore: z.int().min(0).max(100).default(40),
  source: z
    .string()
    .min(1)
    .max(4096)

    .regex(/^[^\p{Cc}\p{Cs}]*$/u, 'source holds control characters')
    .optional(),
})

/**
 * City, state, country: one place each, any usual spelling (`TX`, `Texas`). `kind`: words looked for in name, industry
 * and description. `pms`: a product of fingerprints.ts. `target`: leads wanted. `minScore`: ICP score (0–100) from which a
 * company qualifies. `source`: absolute path of a company directory; without it a model searches.
 */
export type Criteria = {
  readonly city?: string | undefined
  readonly state?: string | undefined
  readonly country?: string | undefined
  readonly kind?: string | undefined
  readonly pms?: string | undefined
  readonly target: number
  readonly minScore: number
  readonly source?: string | undefined
}

/** The criteria cannot be used; `problems` lists all that is wrong with them. */
export class CriteriaInvalidError extends LeaseholdError {
  readonly problems: readonly { readonly path: string; readonly message: string }[]

  constructor(
    problems: readonly { readonly path: string; readonly message: string }[],
    options?: ErrorOptions,
  ) {
    const lines = problems.map((p) => `${p.path === '' ? 'criteria' : p.path}: ${p.message}`)
    super(
      'CRITERIA_INVALID',
      `The criteria cannot be used. ${lines.join('; ')}. Correct them and start the run again.`,
      options,
    )
    this.problems = problems
  }
}

/** Checks `input` and returns it in canonical form. Throws {@link CriteriaInvalidError} with every problem at once. */
export function parseCriteria(input: unknown): Criteria {
  const parsed = criteriaSchema.safeParse(input)
  if (parsed.success) return parsed.data
  throw new CriteriaInvalidError(
    parsed.error.issues.map((issue) => ({ path: issue.path.join('.'), message: issue.message })),
  )
}
