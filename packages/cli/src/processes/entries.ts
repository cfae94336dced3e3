/**
 * Where the daemons' programs are. Each is the `main` beside the index of its package, in src/ and in dist/ alike.
 */
import { runnerEntry } from '@leasehold/daemon-runner'

export { runnerEntry }

/** The heartbeat monitor's program. */
export const monitorEntry: URL = new URL(
  import.meta.url.endsWith('.ts') ? './main.ts' : './main.js',
  import.meta.resolve('@leasehold/daemon-heartbeat-monitor'),
)
