/**
 * Where the daemons' programs are. Each is the `main` beside the index of its package, in src/ and in dist/ alike.
 */
import { runnerEntry } from '@leasehold/daemon-runner'

export { runnerEntry }

const main = import.meta.url.endsWith('.ts') ? './main.ts' : './main.js'

/** The heartbeat monitor's program. */
export const monitorEntry: URL = new URL(main, import.meta.resolve('@leasehold/daemon-heartbeat-monitor'))

/** The scheduler's program. */
export const schedulerEntry: URL = new URL(main, import.meta.resolve('@leasehold/daemon-scheduler'))

/** The control service's program. */
export const controlEntry: URL = new URL(main, import.meta.resolve('@leasehold/daemon-control'))

/** The program of this command line, without what bin/leasehold.mjs looks for first. */
export const cliEntry: URL = new URL(`.${main}`, import.meta.url)
