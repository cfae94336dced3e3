/**
 * Sends SIGTERM to its own process at the moment when a daemon's program begins to load its daemon.ts.
 *
 * For `nodeOptions: ['--import', './test/harness/told-while-loading.ts']`: whoever survives this listens early enough.
 */
import { registerHooks } from 'node:module'

registerHooks({
  load(url, context, next) {
    if (url.endsWith('/src/daemon.ts')) process.kill(process.pid, 'SIGTERM')
    return next(url, context)
  },
})
