/**
 * A cluster for a test that stops, kills or replaces a server of its own: made once for a file, copied for each test.
 *
 * Invariant: a copy is a cluster that was stopped in order, without a port of its own; what made it is gone when the file
 * ends. Tests about the making itself start on an empty folder instead.
 */
import { execFile } from 'node:child_process'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { migrate, startEmbedded } from '@leasehold/postgres'
import { inject } from 'vitest'
import { atFileEnd } from './file-end.ts'
import { makeServerFolder } from './server-folder.ts'

const run = promisify(execFile)
const made = new Map<'empty' | 'migrated', Promise<string>>()

atFileEnd(async () => {
  const folders = [...made.values()]
  made.clear()
  for (const folder of folders) await rm(await folder, { recursive: true, force: true })
})

/** Puts a stopped cluster into a data directory, with Leasehold's schema in its database or with nothing. */
export async function copyCluster(dataDir: string, kind: 'empty' | 'migrated'): Promise<void> {
  const original = made.get(kind) ?? make(kind)
  made.set(kind, original)
  // Not by Node: the files belong to the server's account, and stay its own.
  for (const part of ['data', 'log']) await run('cp', ['-a', join(await original, part), dataDir])
}

async function make(kind: 'empty' | 'migrated'): Promise<string> {
  const dataDir = await makeServerFolder('leasehold-cluster-')
  const { binDir } = inject('testServer')
  const settings = { shared_buffers: '32MB' }
  const server = await startEmbedded({ dataDir, ephemeral: true, settings, ...(binDir && { binDir }) })
  if (kind === 'migrated') await migrate(server.url)
  await server.stop()
  return dataDir
}
