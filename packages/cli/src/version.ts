/** The version of this program, from its package. The path is the same from src/ and from dist/. */
import { readFileSync } from 'node:fs'

const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
  version: string
}

export const version: string = manifest.version
