/**
 * The layering check finds what it is there for, and says so in words that lead to the mend.
 */
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'

const script = fileURLToPath(new URL('../scripts/check-layers.mjs', import.meta.url))

let root: string
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'leasehold-layers-'))
  for (const [folder, name] of [
    ['packages/queue', '@leasehold/queue'],
    ['packages/postgres', '@leasehold/postgres'],
    ['packages/runner', '@leasehold/runner'],
    ['daemons/runner', '@leasehold/daemon-runner'],
    ['daemons/scheduler', '@leasehold/daemon-scheduler'],
    ['pipelines/leads', '@leasehold/pipeline-leads'],
  ] as const) {
    await write(`${folder}/package.json`, JSON.stringify({ name }))
  }
})
afterEach(() => rm(root, { recursive: true, force: true }))

async function write(path: string, text: string): Promise<void> {
  await mkdir(dirname(join(root, path)), { recursive: true })
  await writeFile(join(root, path), text)
}

async function check(path: string, code: string): Promise<string> {
  await write(path, `/** A file. */\n${code}\n`)
  return run()
}

function run(): Promise<string> {
  return new Promise((done) =>
    execFile(process.execPath, [script, root], (_error, _out, words) => done(words)),
  )
}

test.each([
  [
    'packages/queue/src/a.ts',
    "import { run } from '@leasehold/runner'",
    'packages/queue may not import packages/runner',
  ],
  [
    'daemons/runner/src/a.ts',
    "export * from '@leasehold/daemon-scheduler'",
    'may not import daemons/scheduler',
  ],
  ['pipelines/leads/src/a.ts', "await import('@leasehold/postgres')", 'may not import packages/postgres'],
  [
    'pipelines/leads/src/a.ts',
    "import type { Pool } from '@leasehold/postgres'",
    'may not import packages/postgres',
  ],
  [
    'packages/runner/src/a.ts',
    "import { x } from '@leasehold/queue/src/x.ts'",
    'imports past the index of @leasehold/queue',
  ],
  [
    'packages/runner/src/a.ts',
    "import { x } from '../../queue/src/index.ts'",
    'reaches into packages/queue/src/index.ts',
  ],
  ['packages/runner/src/a.ts', "import { x } from '../test/x.ts'", 'source imports a test'],
  [
    'packages/runner/src/a.ts',
    "import pg, {\n  Pool,\n} from 'pg'",
    'pg belongs to packages/postgres and packages/queue',
  ],
  ['packages/runner/src/a.ts', "import 'pino/file.js'", 'pino belongs to packages/service'],
  [
    'packages/runner/src/a.ts',
    'export const url = process.env.DATABASE_URL',
    'a library reads the environment',
  ],
  ['packages/runner/src/a.ts', "process.on('SIGTERM', stop)", 'a library installs a process handler'],
  ['packages/runner/src/utils.ts', 'export {}', 'a drawer'],
])('%s: %s', async (path, code, breach) => {
  expect(await check(path, code)).toContain(breach)
})

test('a door that a package opens beside its index may be used', async () => {
  const exports = { '.': './src/index.ts', './early': './src/early.ts' }
  await write('packages/service/package.json', JSON.stringify({ name: '@leasehold/service', exports }))
  expect(await check('daemons/runner/src/a.ts', "import { x } from '@leasehold/service/early'")).toBe('')
  expect(await check('daemons/runner/src/a.ts', "import { x } from '@leasehold/service/late'")).toContain(
    'imports past the index',
  )
})

test('files that import one another in a circle are found, a circle of types is none', async () => {
  await write('packages/queue/src/b.ts', "/** B. */\nimport { a } from './a.ts'\n")
  expect(await check('packages/queue/src/a.ts', "import { b } from './b.ts'")).toContain(
    'packages/queue/src/a.ts → packages/queue/src/b.ts → packages/queue/src/a.ts',
  )
  expect(await check('packages/queue/src/a.ts', "import { type B } from './b.ts'")).toBe('')
})

test('a file without an opening comment is named', async () => {
  await write('packages/queue/src/a.ts', 'export const a = 1\n')
  expect(await run()).toContain('packages/queue/src/a.ts: does not open with a comment')
})

test('what is allowed passes', async () => {
  await write('packages/runner/src/b.ts', '/** B. */\nexport const b = 1\n')
  await write('daemons/runner/src/main.ts', '/** Main. */\nconsole.log(process.env)\nprocess.exit(0)\n')
  await write(
    'packages/runner/test/a.test.ts',
    "/** T. */\nimport '../../../test/harness/x.ts'\nimport 'pg'\n",
  )
  const code = [
    "import type { Pool } from 'pg'",
    "import { claim } from '@leasehold/queue'",
    "import { b } from './b.ts'",
    "// import { x } from '../../queue/src/x.ts'",
    'export const text = "no import here"',
  ]
  expect(await check('packages/runner/src/a.ts', code.join('\n'))).toBe('')
})
