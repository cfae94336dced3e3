/**
 * The stage of the kill -9 tour: a task that takes its time, and says which process ended it.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { defineStage } from '@leasehold/queue'
import { z } from 'zod'

export const stages: readonly unknown[] = [
  defineStage({
    name: 'slow_work',
    payload: z.object({ seconds: z.number().min(0).max(600) }),
    timeout: '15 min',
    async run({ payload, signal, attempt }) {
      await sleep(payload.seconds * 1000, undefined, { signal })
      return { outcome: 'done', result: { pid: process.pid, attempt } }
    },
  }),
]
