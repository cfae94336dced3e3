/**
 * Folders of migrations made up for one test.
 *
 * They live in the system's temporary folder and are removed when the file ends.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'

const made: string[] = []

afterAll(async () => {
  await Promise.all(made.map((folder) => rm(folder, { recursive: true, force: true })))
})

/** Writes the files (`0001_first.sql` → text) into a new folder and answers with its path. */
export async function migrationFolder(files: Record<string, string>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'leasehold-migrations-'))
  made.push(folder)
  await addMigrations(folder, files)
  return folder
}

/** Adds files to a folder, or replaces them. */
export async function addMigrations(folder: string, files: Record<string, string>): Promise<void> {
  await Promise.all(Object.entries(files).map(([name, sql]) => writeFile(join(folder, name), sql)))
}
