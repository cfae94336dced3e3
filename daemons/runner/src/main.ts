/**
 * The runner daemon's program: listens for signals first and loads everything else after that.
 *
 * Loading takes longer than starting Node, and a signal in that time must end the process in order too. What the daemon
 * does is in daemon.ts.
 */
const early: NodeJS.Signals[] = []
const note = (signal: NodeJS.Signals): void => void early.push(signal)
process.on('SIGTERM', note).on('SIGINT', note)

const { runDaemon } = await import('./daemon.ts')
await runDaemon(() => {
  process.off('SIGTERM', note).off('SIGINT', note)
  return early.length > 0
})
