/**
 * Asks Claude for a structured answer, checked by a zod schema, over the provider's streaming API.
 *
 * The answer comes as the input of a tool named `answer`, which works together with web search. An answer that does not fit is
 * sent back once with what is wrong; the second misfit is an error. Waiting is bounded: a service that asks for a long pause is a
 * ModelBusyError at once, so that a handler gives its slot back instead of sleeping in it. It reads no environment.
 */
import type { Anthropic } from '@anthropic-ai/sdk'
import { z } from 'zod'
import { ModelAnswerInvalidError } from './model-errors.ts'
import type { ClientOptions, modelError } from './model-client.ts'

/** A question. `webSearch.maxUses` lets the model search the web that often; `maxTokens` bounds thinking and answer (8,192). */
export type Question<T> = {
  readonly system: string
  readonly prompt: string
  readonly schema: z.ZodType<T>
  readonly maxTokens?: number
  readonly webSearch?: { readonly maxUses: number }
  readonly signal?: AbortSignal
}

/** What a question cost, over all its requests. */
export type ModelUsage = {
  readonly requests: number
  readonly inputTokens: number
  readonly outputTokens: number
  readonly webSearches: number
}

/** A model to ask. `ask` throws ModelBusyError, ModelAnswerInvalidError, ModelRefusedError, and the signal's reason when it aborts. */
export type Model = {
  readonly name: string
  ask<T>(question: Question<T>): Promise<{ readonly value: T; readonly usage: ModelUsage }>
}

/** `apiKey` is required; `model` defaults to claude-sonnet-5-5. The rest is for the connection, see model-client.ts. */
export type ModelOptions = ClientOptions & { readonly model?: string }

const DEFAULT_MODEL = 'claude-sonnet-5-5'
/** Thinking counts as output: an answer of one page needs room for more. */
const DEFAULT_MAX_TOKENS = 8_192
const ANSWER = 'answer'
/** A search that takes long is handed back unfinished (`pause_turn`) and continued so often at most. */
const MAX_TURNS = 8

type Usage = { -readonly [K in keyof ModelUsage]: number }

/** The SDK's client, and its errors in our words. */
type Connection = { readonly client: Anthropic; readonly modelError: typeof modelError }

/**
 * Opens a model. Nothing happens before the first question: the SDK is large, and most processes ask none.
 */
export function openModel(options: ModelOptions): Model {
  const name = options.model ?? DEFAULT_MODEL
  let connection: Promise<Connection> | null = null
  return {
    name,
    ask: async (question) => ask(await (connection ??= connect(options)), name, options, question),
  }
}

async function connect(options: ModelOptions): Promise<Connection> {
  const { modelError, openClient } = await import('./model-client.ts')
  return { client: openClient(options), modelError }
}

async function ask<T>(
  connection: Connection,
  model: string,
  options: ModelOptions,
  question: Question<T>,
): Promise<{ value: T; usage: ModelUsage }> {
  const signal = anySignal(options.signal, question.signal)
  const usage: Usage = { requests: 0, inputTokens: 0, outputTokens: 0, webSearches: 0 }
  const messages: Anthropic.MessageParam[] = [{ role: 'user', content: question.prompt }]
  let repaired = false
  for (let turn = 0; turn < MAX_TURNS; turn++) {
    const message = await request(connection, model, options, question, {
      messages,
      signal,
      usage,
    })
    if (message.stop_reason === 'pause_turn') {
      messages.push({ role: 'assistant', content: message.content })
      continue
    }
    const reading = readAnswer(message, question.schema)
    if ('value' in reading) return { value: reading.value, usage }
    if (repaired || reading.reason === 'cut off' || reading.reason === 'refused to answer') {
      throw new ModelAnswerInvalidError(reading.reason, reading.issues)
    }
    repaired = true
    messages.push({ role: 'assistant', content: message.content }, repairRequest(message, reading.issues))
  }
  throw new ModelAnswerInvalidError('no answer', [`it was still searching after ${MAX_TURNS} turns`])
}

type Turn = {
  readonly messages: Anthropic.MessageParam[]
  readonly signal: AbortSignal | undefined
  readonly usage: Usage
}

async function request<T>(
  connection: Connection,
  model: string,
  options: ModelOptions,
  question: Question<T>,
  turn: Turn,
): Promise<Anthropic.Message> {
  const tools: Anthropic.ToolUnion[] = [answerTool(question.schema)]
  if (question.webSearch !== undefined) {
    tools.push({ type: 'web_search_20250305', name: 'web_search', max_uses: question.webSearch.maxUses })
  }
  const params: Anthropic.MessageStreamParams = {
    model,
    max_tokens: question.maxTokens ?? DEFAULT_MAX_TOKENS,
    system: `${question.system}\n\nGive your answer only by calling the tool "${ANSWER}", once.`,
    messages: turn.messages,
    tools,
    // Not forced: models that think before they answer refuse a forced tool, and a search must come first.
    tool_choice: { type: 'auto' },
  }
  const attempts = 1 + (options.maxRetries ?? 2)
  for (let attempt = 1; ; attempt++) {
    try {
      turn.usage.requests++
      const message = await connection.client.messages
        .stream(params, turn.signal === undefined ? {} : { signal: turn.signal })
        .finalMessage()
      turn.usage.inputTokens += message.usage.input_tokens
      turn.usage.outputTokens += message.usage.output_tokens
      turn.usage.webSearches += message.usage.server_tool_use?.web_search_requests ?? 0
      return message
    } catch (error) {
      if (turn.signal?.aborted === true) throw turn.signal.reason
      const known = connection.modelError(error)
      // The SDK has retried what failed before the stream began; a stream cut in its middle is ours to repeat.
      if (known.cutStream && attempt < attempts) continue
      throw known.error
    }
  }
}

function answerTool(schema: z.ZodType): Anthropic.Tool {
  const { $schema: _, ...json } = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' })
  if (json.type !== 'object') throw new TypeError('a question needs a schema of an object')
  return { name: ANSWER, description: 'Gives the final answer.', input_schema: { ...json, type: 'object' } }
}

type Reading<T> = { value: T } | { reason: ModelAnswerInvalidError['reason']; issues: string[] }

function readAnswer<T>(message: Anthropic.Message, schema: z.ZodType<T>): Reading<T> {
  if (message.stop_reason === 'refusal') return { reason: 'refused to answer', issues: [] }
  const call = message.content.find((block) => block.type === 'tool_use' && block.name === ANSWER)
  if (call === undefined || call.type !== 'tool_use') {
    if (message.stop_reason === 'max_tokens') return { reason: 'cut off', issues: [] }
    return { reason: 'no answer', issues: [`the tool "${ANSWER}" was not called`] }
  }
  const parsed = schema.safeParse(readInput(call))
  if (parsed.success) return { value: parsed.data }
  if (message.stop_reason === 'max_tokens') return { reason: 'cut off', issues: [] }
  const issues = parsed.error.issues.map((issue) => `${issue.path.join('.') || 'answer'}: ${issue.message}`)
  return { reason: 'does not fit the schema', issues }
}

/** The SDK parses the streamed JSON when it is first read, and throws then. */
function readInput(call: Anthropic.ToolUseBlock): unknown {
  try {
    return call.input
  } catch {
    // JSON that does not parse fits no schema: undefined becomes an issue like any other.
    return undefined
  }
}

function repairRequest(message: Anthropic.Message, issues: readonly string[]): Anthropic.MessageParam {
  const text = `That answer cannot be used:\n${issues.map((issue) => `- ${issue}`).join('\n')}\nCall "${ANSWER}" again with a corrected answer.`
  const calls = message.content.filter((block) => block.type === 'tool_use')
  if (calls.length === 0) return { role: 'user', content: text }
  return {
    role: 'user',
    content: calls.map((call) => ({
      type: 'tool_result',
      tool_use_id: call.id,
      is_error: true,
      content: text,
    })),
  }
}

function anySignal(...signals: (AbortSignal | undefined)[]): AbortSignal | undefined {
  const given = signals.filter((signal) => signal !== undefined)
  return given.length > 1 ? AbortSignal.any(given) : given[0]
}
