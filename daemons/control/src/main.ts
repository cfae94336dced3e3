/**
 * The control service's program: listens for signals first and loads everything else after that.
 *
 * What the daemon does is in daemon.ts.
 */
import { noteSignals } from '@leasehold/service/early-signals'

const toldBefore = noteSignals()
const { runDaemon } = await import('./daemon.ts')
await runDaemon(toldBefore)
