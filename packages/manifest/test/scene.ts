/**
 * Manifests as files in a folder of the test, and what is wrong with them.
 */
import { type Manifest, readManifest } from '@leasehold/manifest'
import { ConfigError } from '@leasehold/queue'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect } from 'vitest'

const folder = mkdtempSync(join(tmpdir(), 'leasehold-manifest-'))
let written = 0
afterAll(() => rmSync(folder, { recursive: true }))

export function write(text: string, kind = '.json'): string {
  const file = join(folder, `manifest-${(written += 1)}${kind}`)
  writeFileSync(file, text)
  return file
}

export const read = (value: unknown): Promise<Manifest> => readManifest(write(JSON.stringify(value)))

/** The problems of a manifest as `place: reason`. */
export async function problemsOf(reading: Promise<unknown>): Promise<string[]> {
  const error = await reading.then(
    () => null,
    (e: unknown) => e,
  )
  expect(error).toBeInstanceOf(ConfigError)
  return (error as ConfigError).problems.map(({ name, problem }) => `${name}: ${problem}`)
}
