/**
 * Loaded into each child of `leasehold dev` before its program: a child whose parent is gone, however it went, drains.
 *
 * Invariant: only the end of the channel to the parent is noticed; the channel itself keeps nothing alive. Children have
 * sessions of their own, so without this a killed parent would leave them running.
 */
import { isMainThread } from 'node:worker_threads'

if (isMainThread && process.channel) {
  process.on('disconnect', () => process.kill(process.pid, 'SIGTERM'))
  process.channel.unref()
}
