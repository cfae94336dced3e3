/**
 * Programs as stages, with real processes: what arrives at a program, what its ending means, and that nothing of it is
 * left behind, not even when the process that started it is killed.
 */
import type { Stage, TaskContext } from '@leasehold/queue'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openCommands } from '@leasehold/stages'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { spawnProcess } from '../../../test/harness/processes.ts'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'leasehold-command-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

const env = { PATH: process.env['PATH'] ?? '/usr/bin:/bin' }
const commands = openCommands({ graceMs: 45_000 })
/** For programs that do not go when they are told to. */
const severe = openCommands({ graceMs: 500 })

interface Attempt {
  readonly outcome: Promise<unknown>
  readonly lines: string[]
  readonly abort: () => void
}

/** Starts one attempt as a runner would; the log is kept. */
function attempt(
  command: readonly string[],
  more: { payload?: unknown; env?: Record<string, string>; directory?: string; by?: typeof commands } = {},
): Attempt {
  const { payload = { n: 1 }, directory = folder, by = commands } = more
  const stage: Stage = by.stage({ name: 'made_up', command, directory, env: { ...env, ...more.env } })
  const lines: string[] = []
  const stop = new AbortController()
  const at = (level: string) => (message: string) => void lines.push(`${level} ${message}`)
  const context = {
    payload,
    task: { id: '77', stage: 'made_up', runId: 'run-1', crashes: 0 },
    attempt: 2,
    fence: '4711',
    signal: stop.signal,
    log: { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') },
  } as unknown as TaskContext
  return { outcome: stage.run(context), lines, abort: () => stop.abort() }
}

const sh = (script: string, ...args: string[]): string[] => ['sh', '-c', script, 'sh', ...args]
const node = (script: string): string[] => [process.execPath, '-e', script]

async function failure(command: string[]): Promise<{ code: string; message: string; retryable: boolean }> {
  return (await attempt(command).outcome.then(
    (outcome) => expect.fail(`it did not fail: ${JSON.stringify(outcome)}`),
    (error: unknown) => error,
  )) as never
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0) && !/^State:\s*Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

const pidsIn = (file: string): number[] => readFileSync(file, 'utf8').trim().split(/\s+/).map(Number)

/** The processes that a program has written down, once there are `count` of them. */
async function pidsOf(file: string, count: number): Promise<number[]> {
  await expect
    .poll(() => (existsSync(file) ? pidsIn(file).length : 0), { timeout: 45_000, interval: 10 })
    .toBe(count)
  return pidsIn(file)
}

describe('a program that is done', () => {
  test('gets the payload on standard input, and the task in its environment', async () => {
    const { outcome, lines } = attempt(
      sh('cat; echo; env | grep ^LEASEHOLD | sort; echo "$MODE in $(pwd)"'),
      {
        payload: { text: 'näh "\n', n: [1, null] },
        env: { MODE: 'polite' },
      },
    )
    expect(await outcome).toMatchObject({ outcome: 'done' })
    expect(lines).toEqual([
      String.raw`info {"text":"näh \"\n","n":[1,null]}`,
      'info LEASEHOLD_TASK_ATTEMPT=2',
      'info LEASEHOLD_TASK_FENCE=4711',
      'info LEASEHOLD_TASK_ID=77',
      'info LEASEHOLD_TASK_RUN_ID=run-1',
      'info LEASEHOLD_TASK_STAGE=made_up',
      `info polite in ${folder}`,
    ])
  })

  test('leaves exit code, duration, last lines and the object it printed last', async () => {
    const { outcome } = attempt(
      sh('echo one; echo two >&2; sleep 0.05; echo \'{"processed": 3, "errors": []}\''),
    )
    const { result } = (await outcome) as { result: { durationMs: number; lastLines: string[] } }
    expect(result).toMatchObject({ exitCode: 0, signal: null, output: { processed: 3, errors: [] } })
    expect(result.durationMs).toBeGreaterThan(10)
    expect(result.lastLines.toSorted()).toEqual(['one', 'two', '{"processed": 3, "errors": []}'].toSorted())
  })

  test.each([
    ['a text', 'echo hello'],
    ['a list', 'echo [1]'],
    ['broken JSON', 'echo \'{"a": \''],
    ['an object that something follows', 'echo \'{"a": 1}\'; echo end'],
    ['nothing', 'true'],
  ])('has no output of its own when it prints %s at last', async (_what, script) => {
    expect((await attempt(sh(script)).outcome) as object).not.toHaveProperty('result.output')
  })

  test('need not read its input, however long that is', async () => {
    const { outcome } = attempt(sh('exec <&-; echo done'), { payload: 'x'.repeat(5_000_000) })
    expect(await outcome).toMatchObject({ outcome: 'done', result: { lastLines: ['done'] } })
  })

  test('may be named by a path from its directory', async () => {
    writeFileSync(join(folder, 'tool'), '#!/bin/sh\necho "tool $1"\n', { mode: 0o755 })
    expect(await attempt(['./tool', 'a b']).outcome).toMatchObject({ result: { lastLines: ['tool a b'] } })
  })

  test('takes what it left running with it', async () => {
    const file = join(folder, 'left')
    const { outcome, lines } = attempt(sh('sleep 1000 & echo $! > left; echo done'))
    expect(await outcome).toMatchObject({ outcome: 'done' })
    expect(lines.at(-1)).toMatch(/left processes behind/)
    expect(isAlive(pidsIn(file)[0]!)).toBe(false)
  })
})

describe('a program that fails', () => {
  test('says why: its exit code and its last errors, not what it printed before', async () => {
    const error = await failure(sh('echo working; echo "no disk left" >&2; echo more; exit 3'))
    expect(error).toMatchObject({ code: 'exit_3', retryable: true })
    expect(error.message).toMatch(
      /^the program ended with exit code 3 after \d+\.\d s; it said at last:\nno disk left$/,
    )
  })

  test.each([
    [65, 'EX_DATAERR'],
    [78, 'EX_CONFIG'],
    [126, 'could not be executed'],
    [127, 'was not found'],
  ])('with exit code %i is not tried again', async (code, words) => {
    const error = await failure(sh(`exit ${code}`))
    expect(error).toMatchObject({ code: `exit_${code}`, retryable: false })
    expect(error.message).toContain(words)
  })

  test('with exit code 75 is asked again later, and no attempt is counted', async () => {
    expect(await attempt(sh('echo "rate limited"; exit 75')).outcome).toMatchObject({
      outcome: 'snooze',
      afterMs: 60_000,
      reason: expect.stringMatching(/rate limited/),
    })
  })

  test('by a signal is tried again', async () => {
    expect(await failure(sh('kill -SEGV $$'))).toMatchObject({ code: 'signal_SIGSEGV', retryable: true })
  })

  test.each([
    ['does not exist', ['no-such-program-anywhere'], /no program 'no-such-program-anywhere' in PATH/],
    ['does not exist at its path', ['./nowhere'], /nowhere does not exist/],
    ['may not be executed', ['./plain'], /plain may not be executed/],
    ['is a folder', ['/tmp'], /may not be executed/],
    ['has no file for an interpreter', ['./orphan'], /exit code 12[67]/],
  ])('because it %s is not tried again', async (_what, command, words) => {
    writeFileSync(join(folder, 'plain'), 'text')
    writeFileSync(join(folder, 'orphan'), '#!/no/such/interpreter\n', { mode: 0o755 })
    const error = await failure(command)
    expect(error).toMatchObject({ retryable: false })
    expect(error.message).toMatch(words)
  })

  test('because its directory is missing is not tried again', async () => {
    const { outcome } = attempt(['true'], { directory: join(folder, 'gone') })
    await expect(outcome).rejects.toMatchObject({ code: 'not_started', retryable: false, message: expect.stringMatching(/working directory .*gone does not exist/) }) // prettier-ignore
  })

  test('because its arguments are too long for the system says so', async () => {
    expect(await failure(['true', 'x'.repeat(3_000_000)])).toMatchObject({
      code: 'not_started',
      retryable: false,
    })
  })
})

describe('what a program prints', () => {
  test('is in the log while it runs', async () => {
    const { outcome, lines, abort } = attempt(sh('echo begun; exec sleep 1000'))
    await expect.poll(() => lines, { timeout: 45_000, interval: 10 }).toEqual(['info begun'])
    abort()
    await outcome.catch(() => {})
  })

  test('survives bytes that are no text, NULs, half lines and overwritten ones', async () => {
    const { outcome, lines } = attempt(
      sh(
        String.raw`printf 'a\0b\n\377\376c\n10%%\r50%%\r100%%\r\n\n' ; printf 'ü' | head -c 1; sleep 0.05; printf '\274 half'`,
      ),
    )
    await outcome
    expect(lines).toEqual(['info a\0b', 'info \uFFFD\uFFFDc', 'info 100%', 'info ü half'])
  })

  test('is cut into pieces where no line ends', async () => {
    const { outcome, lines } = attempt(sh("head -c 20000 /dev/zero | tr '\\0' x"))
    await outcome
    expect(lines.map((line) => line.length - 'info '.length)).toEqual([8000, 8000, 4000])
  })

  test('may be a hundred megabytes: the log takes the first lines, the result the last, and memory does not grow', async () => {
    const { outcome, lines } = attempt(sh('yes "a line like any other" | head -c 100000000; echo; echo end'))
    const before = process.memoryUsage.rss()
    expect(await outcome).toMatchObject({ outcome: 'done', result: { lastLines: expect.arrayContaining(['a line like any other', 'end']) } }) // prettier-ignore
    expect(lines.length).toBeLessThan(1100)
    // Kept, it would be all of the hundred; up to half of it lies about until somebody collects the garbage.
    expect(process.memoryUsage.rss() - before).toBeLessThan(80_000_000)
  })
})

describe('an abort', () => {
  test('ends the program and all it has started', async () => {
    const { outcome, abort } = attempt(sh('sleep 1000 & (sleep 1000 & echo $$ $! > tree; wait) & wait'))
    const pids = await pidsOf(join(folder, 'tree'), 2)
    abort()
    await expect(outcome).rejects.toMatchObject({ code: 'signal_SIGTERM' })
    expect(pids.filter(isAlive)).toEqual([])
  })

  test('lets a program that hears SIGTERM leave in order', async () => {
    const { outcome, abort, lines } = attempt(
      node(
        `process.on('SIGTERM', () => { console.log('in order'); process.exit(0) }); setInterval(() => {}, 1000); console.log('begun')`,
      ),
    )
    await expect.poll(() => lines, { timeout: 45_000, interval: 10 }).toContain('info begun')
    abort()
    await outcome
    expect(lines).toContain('info in order')
  })

  test('kills what ignores SIGTERM, and what was stopped', async () => {
    const { outcome, abort } = attempt(
      sh(`trap '' TERM; sh -c 'echo $$ $PPID > deaf; kill -STOP $$'; sleep 1000`),
      { by: severe },
    )
    const pids = await pidsOf(join(folder, 'deaf'), 2)
    abort()
    await expect(outcome).rejects.toMatchObject({ code: 'signal_SIGKILL' })
    expect(pids.filter(isAlive)).toEqual([])
  })
})

test.each(['SIGKILL', 'SIGTERM'] as const)(
  'nothing of a program outlives the process that started it, ended by %s',
  async (signal) => {
    const file = join(folder, `orphans-${signal}`)
    const runner = spawnProcess({
      script: 'packages/stages/test/fixtures/run-command.ts',
      args: ['sh', '-c', `trap '' INT; (trap '' HUP; sleep 1000) & echo $$ $! > ${file}; wait`],
    })
    const pids = await pidsOf(file, 2)
    expect(pids.filter(isAlive)).toEqual(pids)
    runner.kill(signal)
    await runner.exit
    await expect.poll(() => pids.filter(isAlive), { timeout: 45_000, interval: 20 }).toEqual([])
  },
)

test('a guard that was killed is started again, and knows what runs', async () => {
  const file = join(folder, 'guarded')
  const runner = spawnProcess({
    script: 'packages/stages/test/fixtures/run-command.ts',
    args: ['--guard-dies', 'sh', '-c', `echo $$ >> ${file}; exec sleep 1000`],
  })
  const pids = await pidsOf(file, 2) // the second was started after the guard had died
  runner.kill('SIGKILL')
  await runner.exit
  await expect.poll(() => pids.filter(isAlive), { timeout: 45_000, interval: 20 }).toEqual([])
})
