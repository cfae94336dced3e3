/**
 * Finding the stages a daemon is to serve in a user's module.
 *
 * A module exports `createStages(surroundings)`, or `stages`, or stages as its default export.
 * Refuses a module without stages and names it does not have, and lists those it has.
 */
import { ConfigError, type Db, type Stage } from '@leasehold/queue'

// oxlint-disable-next-line typescript/no-explicit-any -- stages of any payload stand side by side
export type AnyStage = Stage<any, any>

/** What a module's `createStages` is given. */
export interface StageSurroundings {
  readonly db: Db
  readonly model: {
    readonly apiKey: string | null
    readonly baseUrl: string | null
    readonly name: string | null
  }
  readonly log: (facts: object, message: string) => void
}

/** The named stages of a module (all, when none is named). Throws {@link ConfigError}. */
export async function loadStages(
  module: string,
  names: string[],
  surroundings: StageSurroundings,
): Promise<AnyStage[]> {
  const exported = await importModule(module)
  const found = exported['createStages']
  const made: unknown =
    typeof found === 'function'
      ? await (found as (s: StageSurroundings) => unknown)(surroundings)
      : (exported['stages'] ?? exported['default'])
  const stages = (Array.isArray(made) ? made : [made]).filter(isStage)
  if (stages.length === 0) {
    throw new ConfigError([
      { name: '--module', problem: `${module} exports no stages; export createStages() or stages` },
    ])
  }
  const known = stages.map((s) => s.name).join(', ')
  const missing = names.filter((name) => !stages.some((s) => s.name === name))
  if (missing.length > 0) {
    throw new ConfigError(
      missing.map((name) => ({
        name: '--stage',
        problem: `'${name}' is not in ${module}, which has: ${known}`,
      })),
    )
  }
  return names.length === 0 ? stages : stages.filter((s) => names.includes(s.name))
}

async function importModule(module: string): Promise<Record<string, unknown>> {
  try {
    return (await import(module)) as Record<string, unknown>
  } catch (error) {
    const code = (error as { code?: string }).code
    if (code !== 'ERR_MODULE_NOT_FOUND' && code !== 'MODULE_NOT_FOUND') throw error
    throw new ConfigError([{ name: '--module', problem: `cannot be loaded: ${(error as Error).message}` }], {
      cause: error,
    })
  }
}

function isStage(value: unknown): value is AnyStage {
  const stage = value as Partial<AnyStage> | null
  return typeof stage?.name === 'string' && typeof stage.run === 'function' && stage.payload !== undefined
}
