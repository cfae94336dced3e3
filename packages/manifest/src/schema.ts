/**
 * The form of every part of the manifest: which settings it has and what each may be.
 *
 * Parts are checked one by one, so that a mistake in one hides none in another; what parts say of each other is checked
 * in assemble.ts. Unknown settings are refused with the near name.
 */
import { z } from 'zod'
import { command, duration, environment, shown, stageName, text, whole } from './values.ts'

const day = 86_400_000

const secrets = z.array(
  text(/^[A-Z][A-Z0-9_]{0,99}$/, 'must be the name of a setting: capital letters, digits and _'),
  { error: 'must be a list of names' },
)
const directory = text(/^[^\p{Cc}]+$/u, 'must be a path')
const module = text(/^[^\p{Cc}\s]+$/u, "must be a file ('./stages.ts') or a package")
const timeout = duration(1, 30 * day, '1 ms to 30 d')
const pause = duration(0, 30 * day, '0 to 30 d')
const payload = z.json({
  error: 'must be JSON: texts, numbers, true, false, null, lists and objects of these',
})
const boolean = z.boolean({ error: (issue) => `must be true or false, not ${shown(issue.input)}` })

const processForm = {
  instances: whole(0, 1000).optional(),
  concurrency: whole(1, 10_000).optional(),
  env: environment.optional(),
  directory: directory.optional(),
}

interface ProcessForm {
  readonly instances?: number | undefined
  readonly concurrency?: number | undefined
  readonly env?: Record<string, string> | undefined
  readonly directory?: string | undefined
  readonly module?: string | undefined
}

/** An entry of `stages`; times in milliseconds. */
export interface StageForm extends ProcessForm {
  readonly command?: string[] | undefined
  readonly timeout?: number | undefined
  readonly priority?: number | undefined
  readonly retry?:
    { attempts?: number | undefined; from?: number | undefined; to?: number | undefined } | undefined
  readonly limits?:
    | {
        perKey?: number | undefined
        crashes?: number | undefined
        rate?: { tasks: number; per: number; burst?: number | undefined } | undefined
      }
    | undefined
  readonly secrets?: string[] | undefined
}

/** An entry of `workers`. */
export interface WorkerForm extends ProcessForm {
  readonly stages: string[]
}

/** An entry of `schedules`; times in milliseconds. */
export interface ScheduleForm {
  readonly stage: string
  readonly cron?: string | undefined
  readonly every?: number | undefined
  readonly zone: string
  readonly payload?: unknown
  readonly catchUp: 'skip' | 'one' | 'all'
  readonly jitter: number
  readonly enabled: boolean
}

/** The part `service`. */
export interface ServiceForm {
  readonly user: string
  readonly env: Record<string, string>
  readonly secrets: string[]
  readonly ownLogins: string[]
}

/** What stands at the top; times in milliseconds. */
export interface TopForm {
  readonly monitors: number
  readonly schedulers: number
  readonly controls: number
  readonly leaseTtl: number
  readonly beatInterval: number
  readonly drainTimeout: number
  readonly wedgeLimit: number
}

/** Every part's form, by what it is called. */
export const forms: {
  readonly service: z.ZodType<ServiceForm>
  readonly stage: z.ZodType<StageForm>
  readonly worker: z.ZodType<WorkerForm>
  readonly schedule: z.ZodType<ScheduleForm>
  readonly top: z.ZodType<TopForm>
} = {
  service: z.strictObject({
    user: text(/^[a-z_][a-z0-9_-]{0,30}\$?$/, 'must be the name of a user of the system').default(
      'leasehold',
    ),
    env: environment.default({}),
    secrets: secrets.default([]),
    ownLogins: z.array(stageName, { error: 'must be a list of services' }).default([]),
  }),
  stage: z.strictObject({
    ...processForm,
    command: command.optional(),
    module: module.optional(),
    timeout: timeout.optional(),
    priority: whole(0, 9).optional(),
    retry: z
      .strictObject({
        attempts: whole(1, 1000).optional(),
        from: pause.optional(),
        to: pause.optional(),
      })
      .optional(),
    limits: z
      .strictObject({
        perKey: whole(1, 100_000).optional(),
        crashes: whole(1, 100).optional(),
        rate: z
          .strictObject({
            tasks: whole(1, 1_000_000),
            per: duration(1, day, '1 ms to 1 d'),
            burst: whole(1, 1_000_000).optional(),
          })
          .optional(),
      })
      .optional(),
    secrets: secrets.optional(),
  }),
  worker: z.strictObject({
    ...processForm,
    module: module.optional(),
    stages: z.array(stageName, { error: 'must be a list of stages' }).min(1, 'must name at least one stage'),
  }),
  schedule: z.strictObject({
    stage: stageName,
    cron: z.string({ error: (issue) => `must be a cron expression, not ${shown(issue.input)}` }).optional(),
    every: duration(1000, 400 * day, '1 s to 400 d').optional(),
    zone: z
      .string({ error: (issue) => `must be the name of a time zone, not ${shown(issue.input)}` })
      .default('UTC'),
    payload: payload.optional(),
    catchUp: z
      .enum(['skip', 'one', 'all'], {
        error: (issue) => `must be 'skip', 'one' or 'all', not ${shown(issue.input)}`,
      })
      .default('one'),
    jitter: duration(0, day, '0 to 1 d').default(0),
    enabled: boolean.default(true),
  }),
  top: z.strictObject({
    service: z.unknown().optional(),
    stages: z.unknown().optional(),
    workers: z.unknown().optional(),
    schedules: z.unknown().optional(),
    alerts: z.unknown().optional(),
    monitors: whole(0, 100).default(1),
    schedulers: whole(0, 100).default(1),
    controls: whole(0, 1).default(1),
    leaseTtl: duration(1000, 3_600_000, '1 s to 1 h').default(90_000),
    beatInterval: duration(50, 1_200_000, '50 ms to 20 min').default(30_000),
    drainTimeout: duration(0, 3_600_000, '0 to 1 h').default(30_000),
    wedgeLimit: duration(1000, day, '1 s to 1 d').default(60_000),
  }),
}
