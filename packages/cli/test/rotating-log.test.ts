/**
 * The logs of programs in the background: how much is kept.
 */
import { globSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { openRotatingLog } from '../src/background/rotating-log.ts'

const folder = mkdtempSync(join(tmpdir(), 'leasehold-rotating-log-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

test('a log is turned over when it is full, and the oldest is dropped', () => {
  const file = join(folder, 'turning.log')
  const write = openRotatingLog(file, { bytes: 25, files: 3 })
  for (let n = 1; n <= 8; n += 1) write(`line number ${n}`)
  expect(['', '.1', '.2'].map((end) => readFileSync(`${file}${end}`, 'utf8'))).toEqual([
    'line number 8\n',
    'line number 7\n',
    'line number 6\n',
  ])
  expect(globSync('turning.log*', { cwd: folder })).toHaveLength(3)
})
