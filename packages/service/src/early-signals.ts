/**
 * Signals that come while a program is still being loaded: noted, so that it ends in order instead of being killed.
 *
 * Loading takes longer than starting Node. A daemon's main.ts calls this first, then imports everything else, then hands
 * the answer to its `onShutdown`. Imported by its own name (`@leasehold/service/early-signals`): the index would load
 * what is to be loaded afterwards, so this file imports nothing.
 */

/**
 * Begins to note SIGTERM and SIGINT. The function it answers with ends that, to be called right after somebody else
 * listens, and says whether one came meanwhile; it may be called once.
 */
export function noteSignals(): () => boolean {
  let came = false
  const note = (): void => {
    came = true
  }
  process.on('SIGTERM', note).on('SIGINT', note)
  return () => {
    process.off('SIGTERM', note).off('SIGINT', note)
    return came
  }
}
