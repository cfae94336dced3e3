/**
 * Holds migrations/schema.sql and migrations/roles.sql against what the migrations really make.
 *
 * The dump lets a reviewer see what a migration changes and lets a reader see the schema in one file. Runs on a fresh
 * embedded PostgreSQL 18, needs `--conditions=development`. With `--write` it rewrites the dump instead of comparing.
 */
import { migrate, startEmbedded } from '@leasehold/postgres'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Client } from 'pg'
import { dumpSchema, grantLines } from './dump-schema.mjs'
import { rolesScript } from './roles.mjs'

const header = `-- The schema as all migrations leave it, for reading and for the check that compares. Never applied, never edited:
-- \`npm run check -- --write-schema\` rewrites it. Partitions are left out.

`

for (const [name, wanted] of Object.entries(await dumpFresh())) {
  const file = fileURLToPath(new URL(`../migrations/${name}`, import.meta.url))
  if (process.argv.includes('--write')) {
    await writeFile(file, wanted)
    console.log(`migrations/${name} was written.`)
    continue
  }
  const found = existsSync(file) ? await readFile(file, 'utf8') : ''
  if (found !== wanted) {
    console.error(`migrations/${name} is not what the migrations make. ${firstDifference(found, wanted)}`)
    process.exitCode = 1
  }
}

async function dumpFresh() {
  const dataDir = await mkdtemp(join(tmpdir(), 'leasehold-schema-'))
  const server = await startEmbedded({ dataDir, ephemeral: true, settings: { shared_buffers: '32MB' } })
  const client = new Client({ connectionString: server.url })
  try {
    await migrate(server.url)
    await client.connect()
    return {
      'schema.sql': header + (await dumpSchema(client, 'leasehold')),
      'roles.sql': rolesScript(await grantLines(client, 'leasehold')),
    }
  } finally {
    await client.end()
    await server.stop()
    await rm(dataDir, { recursive: true, force: true })
  }
}

function firstDifference(found, wanted) {
  if (found === '') return 'It does not exist.'
  const [left, right] = [found.split('\n'), wanted.split('\n')]
  const at = right.findIndex((line, index) => line !== left[index])
  const line = at < 0 ? right.length : at
  return `First difference, line ${line + 1}:\n  dump:       ${left[line] ?? '(end)'}\n  migrations: ${right[line] ?? '(end)'}`
}
