/**
 * Exit codes and signals of real processes.
 */
import { onShutdown } from '@leasehold/service'
import { expect, test } from 'vitest'
import { type TestProcess, spawnProcess } from '../../../test/harness/processes.ts'

const run = (way: string): TestProcess =>
  spawnProcess({ script: 'packages/service/test/fixtures/main.ts', args: [way] })

test.each([
  ['done', 0, /^$/],
  ['three', 3, /^$/],
  ['config', 2, /1 problem:\n {2}SMTP_PORT: is odd\n[^]*\[CONFIG\]\n$/],
  ['known', 1, /^It broke\. Mend it\. \[EXAMPLE\]\n$/],
  ['taken', 5, /^Slot a@1 was taken\. \[SLOT_TAKEN\]\n$/],
  ['unknown', 1, /TypeError: a bug\n {4}at /],
])('a program that ends with %s exits with %i', async (way, code, output) => {
  const child = run(way)
  expect(await child.exit).toEqual({ code, signal: null })
  expect(child.output()).toMatch(output)
})

test('the first signal drains, the second stops', async () => {
  const child = run('signals')
  await child.waitForLine(/listening/)
  child.kill('SIGTERM')
  await child.waitForLine(/drain SIGTERM/)
  child.kill('SIGINT')
  await child.waitForLine(/stop SIGINT/)
  expect(await child.exit).toEqual({ code: 0, signal: null })
})

test('the echo of the first signal is ignored, a later one is not, and after that nobody listens', () => {
  const heard: string[] = []
  let time = 1_000
  const handlers = { drain: () => heard.push('drain'), stopNow: () => heard.push('stop') }
  const stop = onShutdown(handlers, { echoMs: 250, now: () => time })
  for (const at of [1_000, 1_001, 1_249, 1_250]) {
    time = at
    process.emit('SIGINT', 'SIGINT')
  }
  expect(heard).toEqual(['drain', 'stop'])
  stop()
  expect(process.listenerCount('SIGTERM')).toBe(0)
})
