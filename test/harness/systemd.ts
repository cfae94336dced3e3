/**
 * A real systemd in namespaces of its own, with this repository as /opt/leasehold; see test/systemd/sandbox.sh.
 *
 * Invariant: what `start` brought up is gone when the file ends, however it ends. Commands run inside, as root, with the
 * environment of a login on a server: none of ours.
 */
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { expect } from 'vitest'

/** How a command inside ended. */
export interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

const repository = fileURLToPath(new URL('../../', import.meta.url))
const script = join(repository, 'test/systemd/sandbox.sh')
const node = '/opt/leasehold/node_modules/node/bin/node'
const folderOfFixtures = '/opt/leasehold/test/systemd/fixtures'

/** One running systemd. */
export class Systemd {
  private readonly folder: string

  private constructor(folder: string) {
    this.folder = folder
    process.once('exit', () => this.stop())
  }

  /** Boots; takes a fraction of a second. */
  static start(): Systemd {
    const folder = mkdtempSync(join(tmpdir(), 'leasehold-systemd-'))
    const up = spawnSync(script, ['up', folder, repository], { encoding: 'utf8' })
    if (up.status !== 0) throw new Error(`no systemd: ${up.stderr}`)
    return new Systemd(folder)
  }

  stop(): void {
    spawnSync(script, ['down', this.folder])
    rmSync(this.folder, { recursive: true, force: true })
  }

  /** Runs a line of bash inside. */
  async run(command: string): Promise<Ended> {
    const child = spawn(script, ['exec', this.folder, 'bash', '-c', command], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { PATH: process.env['PATH'], LC_ALL: 'C.UTF-8' },
    })
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve))
    const [stdout, stderr, code] = await Promise.all([text(child.stdout), text(child.stderr), ended])
    return { code, stdout, stderr }
  }

  /** A line of bash that must succeed; answers with what it printed. */
  async must(command: string): Promise<string> {
    const { code, stdout, stderr } = await this.run(command)
    if (code !== 0) throw new Error(`${command}\nended with ${code}: ${stdout}${stderr}`)
    return stdout
  }

  /** `leasehold ARGS`, in the folder of the fixtures' manifest. */
  leasehold(args: string): Promise<Ended> {
    return this.run(`cd ${folderOfFixtures} && ${node} /opt/leasehold/packages/cli/bin/leasehold.mjs ${args}`)
  }

  /** Stores a secret where the services look for it. */
  async putSecret(name: string, value: string): Promise<void> {
    writeFileSync(join(this.folder, 'share', name), value)
    await this.must(
      `mkdir -p -m 700 /etc/leasehold/credentials && install -m 600 /srv/share/${name} /etc/leasehold/credentials/${name}`,
    )
  }

  /** A property of a unit, as `systemctl show` gives it. */
  async show(unit: string, property: string): Promise<string> {
    return (await this.must(`systemctl show --value -p ${property} '${unit}'`)).trim()
  }

  /** Waits until a property is as expected; shows the unit's journal when it never is. */
  async until(unit: string, property: string, expected: string | RegExp, timeout = 60_000): Promise<void> {
    try {
      const matching = typeof expected === 'string' ? new RegExp(`^${expected}$`) : expected
      await expect.poll(() => this.show(unit, property), { timeout, interval: 100 }).toMatch(matching)
    } catch (error) {
      throw new Error(`${unit}: ${property} is not ${expected}\n${await this.journal(unit)}`, {
        cause: error,
      })
    }
  }

  async journal(unit: string): Promise<string> {
    return await this.must(`journalctl --no-pager -o cat -u '${unit}'`)
  }
}
