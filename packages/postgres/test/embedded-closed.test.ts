/**
 * The embedded server below a folder that others may not enter, as a clone in root's home is.
 *
 * Started as root, it runs as somebody else, who cannot reach the programs and the data there. Started as an ordinary user it
 * runs as that user, and everything stays where it is: that is what these tests prove then.
 */
import { findEmbedded, startEmbedded, stopEmbedded } from '@leasehold/postgres'
import { chmod, chown, cp, lstat, mkdir, mkdtemp, readdir, rename, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { Client } from 'pg'
import { afterAll, afterEach, beforeAll, expect, onTestFinished, test } from 'vitest'
import { type TestProcess, spawnProcess } from '../../../test/harness/processes.ts'
import { findBinaries } from '../src/embedded/binaries.ts'
import { reachableBinaries } from '../src/embedded/binaries-copy.ts'
import { openPlace } from '../src/embedded/open-place.ts'

const asRoot = process.getuid?.() === 0
const somebody = { uid: 64_000, gid: 64_000 }

/** Everybody may enter `folder`; nobody else may enter `closed`, where the programs are and the clones are made. */
let folder: string
let closed: string
let binDir: string
let place: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'leasehold-closed-'))
  await chmod(folder, 0o755)
  closed = join(folder, 'closed')
  await mkdir(closed, { mode: 0o700 })
  const installed = dirname(dirname((await findBinaries()).binDir))
  await cp(installed, join(closed, 'package'), { recursive: true, verbatimSymlinks: true })
  binDir = join(closed, 'package', 'native', 'bin')
  place = join(folder, 'place')
})
afterAll(() => rm(folder, { recursive: true, force: true }))

/** Those that hold on to a server. */
const processes: TestProcess[] = []
afterEach(async () => {
  for (const p of processes) p.kill('SIGTERM')
  await Promise.all(processes.splice(0).map((p) => p.exit))
})

async function makeClone(name: string): Promise<string> {
  const clone = join(closed, name)
  await mkdir(clone)
  // Whatever became of the process that started it.
  onTestFinished(async () => void (await stopEmbedded(join(clone, '.leasehold'))))
  return clone
}

function run(cwd: string, ...args: string[]): TestProcess {
  return spawnProcess({ script: 'packages/postgres/test/fixtures/own-embedded.ts', args, cwd })
}

interface Serving {
  readonly pid: string
  readonly how: 'started' | 'attached'
  readonly dataDir: string
  readonly url: string
}
async function serving(clone: string): Promise<Serving> {
  const started = run(clone, 'start', binDir, place)
  processes.push(started)
  const line = await started.waitForLine(/^serving /)
  const [, pid, how, dataDir, url] = line.split(' ') as [string, string, Serving['how'], string, string]
  return { pid, how, dataDir, url }
}
async function found(clone: string): Promise<string> {
  const look = run(clone, 'find')
  await look.exit
  return look.output().trim()
}

async function end(): Promise<void> {
  for (const p of processes) p.kill('SIGTERM')
  for (const p of processes.splice(0)) expect(await p.exit, p.output()).toEqual({ code: 0, signal: null })
}

async function ask(url: string, sql: string): Promise<unknown[]> {
  const client = new Client({ connectionString: url })
  await client.connect()
  try {
    return (await client.query<Record<string, unknown>>(sql)).rows
  } finally {
    await client.end()
  }
}

test('two that start there at once end with one server, which others find, and its data are found again', async () => {
  const clone = await makeClone('twice')
  const [one, other] = await Promise.all([serving(clone), serving(clone)])
  expect(new Set([one.how, other.how])).toEqual(new Set(['started', 'attached']))
  expect({ ...other, how: one.how }).toEqual(one)
  expect(await found(clone)).toBe(`found ${one.pid} ${one.dataDir}`)
  expect(await findEmbedded(join(clone, '.leasehold'))).toMatchObject({ dataDir: one.dataDir })

  const own = await lstat(join(clone, '.leasehold'))
  const data = await stat(join(one.dataDir, 'data'))
  expect(data.mode & 0o777).toBe(0o700)
  if (asRoot) {
    expect(own.isSymbolicLink()).toBe(true)
    expect(dirname(one.dataDir)).toBe(place)
    expect(data.uid).not.toBe(0)
    // One of each: nothing is left of the one that was slower.
    expect(await readdir(place)).toEqual([
      expect.stringMatching(/^data-/),
      expect.stringMatching(/^postgresql-18\./),
    ])
  } else {
    expect(one.dataDir).toBe(join(clone, '.leasehold'))
    await expect(stat(place)).rejects.toThrow('ENOENT')
  }

  await ask(one.url, 'create table kept as select 42 as answer')
  await end()
  expect(await found(clone)).toBe('nothing')
  const again = await serving(clone)
  expect(again).toMatchObject({ how: 'started', dataDir: one.dataDir, url: one.url })
  expect(await ask(again.url, 'select answer from kept')).toEqual([{ answer: 42 }])
})

test('two clones have two databases; one that is moved keeps its own, and its copy does not share it', async () => {
  const first = await serving(await makeClone('first'))
  const second = await serving(await makeClone('second'))
  expect(second.how).toBe('started')
  expect(second.dataDir).not.toBe(first.dataDir)
  await end()

  const moved = join(closed, 'moved')
  await rename(join(closed, 'second'), moved)
  expect((await serving(moved)).url).toBe(second.url)
  await end()

  const copy = await makeClone('copy')
  await cp(moved, copy, { recursive: true, verbatimSymlinks: true })
  const original = await serving(moved)
  expect(await found(copy)).toBe('nothing')
  if (asRoot) {
    const refused = run(copy, 'start', binDir, place)
    await refused.waitForLine(new RegExp(`leads to the database of ${moved}.*rm ${copy}/\\.leasehold`))
    expect((await refused.exit).code).toBe(1)
    await rm(join(copy, '.leasehold'))
  }
  const own = await serving(copy)
  expect(own.how).toBe('started')
  expect(own.dataDir).not.toBe(original.dataDir)
})

test('data that are gone with the place where they lay are made anew in it', async () => {
  const clone = await makeClone('lost')
  const first = await serving(clone)
  await end()
  await rm(first.dataDir, { recursive: true })
  const second = await serving(clone)
  expect(second).toMatchObject({ how: 'started', dataDir: first.dataDir })
  expect(second.url).not.toBe(first.url)
})

test('an empty folder that an earlier attempt left is no hindrance, and data in it are never left behind', async () => {
  const clone = await makeClone('earlier')
  const own = join(clone, '.leasehold')
  await mkdir(own)
  expect((await serving(clone)).how).toBe('started')
  await end()
  await rm(own, { recursive: true })
  await mkdir(join(own, 'data'), { recursive: true })
  const refused = run(clone, 'start', binDir, place)
  await refused.waitForLine(asRoot ? new RegExp(`chmod o\\+x ${closed}`) : /PG_VERSION/)
  expect((await refused.exit).code).toBe(1)
})

test('a data directory that was chosen there is used where it is or refused', async () => {
  const dataDir = join(await makeClone('chosen'), '.leasehold')
  const start = startEmbedded({ dataDir, binDir, places: [place], ephemeral: true })
  if (asRoot) await expect(start).rejects.toThrow(`chmod o+x ${closed}`)
  else expect((await start).dataDir).toBe(dataDir)
})

test('the copy of the programs is writable for root alone and readable for all, whatever the original was', async () => {
  await chmod(join(closed, 'package', 'native', 'share'), 0o770)
  await chmod(join(closed, 'package', 'native', 'bin', 'initdb'), 0o700)
  const own = join(folder, 'copy')
  const binaries = { binDir, major: 18 }
  const copy = await reachableBinaries(binaries, somebody, [own])
  if (!asRoot) return expect(copy).toBe(binaries)
  const modes = new Set<string>()
  for (const entry of await readdir(dirname(copy.binDir), { recursive: true, withFileTypes: true })) {
    const { mode, uid } = await lstat(join(entry.parentPath, entry.name))
    expect(uid).toBe(0)
    if (!entry.isSymbolicLink()) modes.add((mode & 0o777).toString(8))
  }
  expect(modes).toEqual(new Set(['755', '644']))
  expect(await reachableBinaries(binaries, somebody, [own])).toEqual(copy)
})

test('a folder that npm did not install is not copied', async () => {
  const bin = join(closed, 'other', 'bin')
  await mkdir(bin, { recursive: true })
  const binaries = { binDir: bin, major: 18 }
  expect(await reachableBinaries(binaries, somebody, [place])).toBe(binaries)
})

test('a place that is not root’s alone is passed over', async () => {
  const [writable, foreign, own] = ['writable', 'foreign', 'own'].map((name) => join(folder, name))
  await mkdir(writable!)
  await chmod(writable!, 0o777)
  await mkdir(foreign!)
  if (asRoot) await chown(foreign!, somebody.uid, somebody.gid)
  const inClosed = join(closed, 'place')
  expect(await openPlace(somebody, [writable!, foreign!, inClosed, own!])).toBe(asRoot ? own : null)
  expect(await openPlace(somebody, [writable!, foreign!])).toBeNull()
})
