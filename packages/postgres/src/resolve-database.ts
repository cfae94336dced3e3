/**
 * Which database to use: the one that DATABASE_URL names, else an embedded one.
 *
 * Invariant: with an address nothing embedded is started, looked for or written to disk.
 * The value of DATABASE_URL is handed in; reading the environment is @leasehold/service's duty.
 */
import { type EmbeddedOptions, startEmbedded } from './embedded/server.ts'

/** The address to connect to. `stop` ends an embedded server which this call started, and does nothing otherwise. */
export interface ResolvedDatabase {
  readonly url: string
  readonly embedded: boolean
  stop(): Promise<void>
}

/** Answers with `databaseUrl` when it is given, else with the running or freshly started server of `dataDir`. */
export async function resolveDatabase(
  options: EmbeddedOptions & { readonly databaseUrl?: string | undefined },
): Promise<ResolvedDatabase> {
  const { databaseUrl, ...embedded } = options
  if (databaseUrl !== undefined) return { url: databaseUrl, embedded: false, stop: () => Promise.resolve() }
  const server = await startEmbedded(embedded)
  return { url: server.url, embedded: true, stop: () => server.stop() }
}
