/**
 * The pipeline's three stages, and the tools they share within one process.
 *
 * Whoever runs a stage opens the tools once and closes them at the end. Without a key there is no model, without fetching no web: the stages
 * then do what is left and say so in their results. Nothing here reads the environment.
 */
import type { Stage } from '@leasehold/queue'
import { openDns, openModel, openWeb, type Dns, type Model, type Web } from '@leasehold/stages'
import { createVerify } from '../contacts/verify.ts'
import { createRunWatch } from '../store/runs.ts'
import { contactStage } from './contact.ts'
import { discoveryStage, type Slice } from './discovery.ts'
import { researchStage, type CompanyTask } from './research.ts'

/** What the stages work with. */
export type LeadTools = {
  readonly dns: Dns
  readonly web: Web | null
  readonly model: Model | null
  close(): Promise<void>
}

/**
 * `apiKey` brings the model in, `modelName` and `modelUrl` choose another. `fetchPages` false reads no site at all. `dnsServers` and
 * `allowPrivate` are for networks of one's own.
 */
export type LeadToolOptions = {
  readonly apiKey?: string | undefined
  readonly modelName?: string | undefined
  readonly modelUrl?: string | undefined
  readonly fetchPages?: boolean | undefined
  readonly dnsServers?: readonly string[] | undefined
  readonly allowPrivate?: boolean | undefined
  readonly userAgent?: string | undefined
}

/** Opens the tools. Nothing is asked of anybody before the first task. */
export function openLeadTools(options: LeadToolOptions = {}): LeadTools {
  const dns = openDns(options.dnsServers === undefined ? {} : { servers: options.dnsServers })
  const web =
    options.fetchPages === false
      ? null
      : openWeb({
          dns,
          allowPrivate: options.allowPrivate ?? false,
          ...(options.userAgent === undefined ? {} : { userAgent: options.userAgent }),
        })
  const model =
    options.apiKey === undefined
      ? null
      : openModel({
          apiKey: options.apiKey,
          ...(options.modelName === undefined ? {} : { model: options.modelName }),
          ...(options.modelUrl === undefined ? {} : { baseUrl: options.modelUrl }),
        })
  return { dns, web, model, close: async () => web?.close() }
}

/** The stages of the pipeline, as a tuple in the order companies pass them. */
export type LeadStages = readonly [Stage<Slice>, Stage<CompanyTask>, Stage<CompanyTask>]

/** The stages in the order companies pass them. */
export function leadStages(
  tools: LeadTools,
): readonly [Stage<Slice>, Stage<CompanyTask>, Stage<CompanyTask>] {
  const runs = createRunWatch()
  const { web, model } = tools
  return [
    discoveryStage(model),
    researchStage({ web, model, runs }),
    contactStage({ web, model, verify: createVerify(tools.dns), runs }),
  ]
}

/** The stages as the runner daemon asks a module for them. Their tools live as long as the process. */
export function createStages(surroundings: {
  readonly model: {
    readonly apiKey: string | null
    readonly baseUrl: string | null
    readonly name: string | null
  }
}): LeadStages {
  const { apiKey, baseUrl, name } = surroundings.model
  return leadStages(
    openLeadTools({
      apiKey: apiKey ?? undefined,
      modelUrl: baseUrl ?? undefined,
      modelName: name ?? undefined,
    }),
  )
}
