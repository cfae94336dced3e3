/**
 * All that a runner daemon is told: its arguments, the manifest, the environment, checked as a whole.
 *
 * Invariant: with a problem anywhere nothing is started, and every problem that can be known without a database is named.
 */
import { ConfigError, type ConfigProblem, type Db } from '@leasehold/queue'
import { type Config, readConfig } from '@leasehold/service'
import { type Arguments, readArguments } from './arguments.ts'
import { type Declared, readDeclared } from './declared.ts'
import { loadStages } from './stages.ts'

/** What this process is to be. */
export interface Told {
  readonly given: Arguments
  /** What the manifest says for this slot; null without a manifest. */
  readonly declared: Declared | null
  readonly config: Config
}

/** A module that wants its database before it makes its stages is not waited for. */
const stagesWithinMs = 2000

/** Reads and checks it; the manifest's variables go into the environment. Throws {@link ConfigError}. */
export async function readTold(args: string[], environment: NodeJS.ProcessEnv): Promise<Told> {
  const { given, problems } = readArguments(args)
  const declared = await keeping(problems, () => declaredFor(given, environment))
  Object.assign(environment, declared?.variables)
  const config = await keeping(problems, () => readConfig(environment, 'runner'))
  if (problems.length === 0 && config !== null) return { given, declared, config }
  if (given.config === null) await keeping(problems, () => lookForStages(given))
  throw new ConfigError(problems)
}

async function declaredFor(
  { config, slot }: Arguments,
  environment: NodeJS.ProcessEnv,
): Promise<Declared | null> {
  if (config === null) return null
  const name = slot ?? environment['SLOT_ID'] ?? ''
  if (name !== '') return readDeclared(config, name, environment)
  throw new ConfigError([
    {
      name: '--slot',
      problem: 'is needed with --config: a worker of the manifest and a number, lead_verify@2',
    },
  ])
}

/** Only to see whether the module has them: nothing is to be started any more. */
async function lookForStages({ module, stages }: Arguments): Promise<void> {
  const db = { query: () => Promise.reject(new Error('there is no database yet')) } as unknown as Db
  const model = { apiKey: null, baseUrl: null, name: null }
  const late = new Promise<void>((over) => setTimeout(over, stagesWithinMs).unref())
  try {
    await Promise.race([loadStages(module, stages, { db, model, log: () => {} }), late])
  } catch (error) {
    // A module that fails for want of its database says nothing about its stages.
    if (error instanceof ConfigError) throw error
  }
}

/** The result, or null when there were problems, which are added; of a name that has one already nothing more is said. */
async function keeping<T>(problems: ConfigProblem[], work: () => T | Promise<T>): Promise<T | null> {
  try {
    return await work()
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    const named = new Set(problems.map(({ name }) => name))
    problems.push(...error.problems.filter(({ name }) => !named.has(name)))
    return null
  }
}
