/**
 * A log file that stays small: when it has grown to its limit it becomes NAME.1, that one NAME.2, and so on.
 *
 * Invariant: a line is written whole and to one file, before the call returns; what is older than the last file is gone.
 */
import { appendFileSync, existsSync, renameSync, statSync } from 'node:fs'

const limitBytes = 10 * 1024 * 1024
const keptFiles = 5

/** Answers with a function that appends a line. `limits` are for tests. */
export function openRotatingLog(
  file: string,
  { bytes = limitBytes, files = keptFiles }: { bytes?: number; files?: number } = {},
): (line: string) => void {
  let size = statSync(file, { throwIfNoEntry: false })?.size ?? 0
  return (line) => {
    const text = `${line}\n`
    if (size > 0 && size + text.length > bytes) {
      for (let n = files - 1; n >= 1; n -= 1) {
        const older = n === 1 ? file : `${file}.${n - 1}`
        if (existsSync(older)) renameSync(older, `${file}.${n}`)
      }
      size = 0
    }
    appendFileSync(file, text)
    size += Buffer.byteLength(text)
  }
}
