/**
 * The guard: a small process of its own that outlives the runner just long enough to end what the runner had started.
 *
 * Invariant: a program never runs unless the guard knows its process group. The program's own process reports the group
 * over the pipe before it becomes the program, and until then keeps the pipe open; so even a runner that is killed in
 * between leaves a guard that knows. The pipe's end is the runner's end, however it came: the guard then ends all groups,
 * SIGTERM first. It is a shell because one per runner costs a megabyte and starts at once; it has its own session and
 * ignores what is sent to the runner's terminal. (systemd does the same for what a unit leaves behind, and for the guard.)
 */
import { type ChildProcess, spawn } from 'node:child_process'
import type { Writable } from 'node:stream'

/** Lines come in as `+ group` and `- group`; GRACE is in tenths of a second. */
const guardScript = `
trap '' INT TERM HUP
groups=' '
while read -r what group; do
  case $what in
    +) groups="$groups$group " ;;
    -) case $groups in *" $group "*) groups="\${groups%% $group *} \${groups#* $group }" ;; esac ;;
  esac
done
for group in $groups; do kill -s TERM -- "-$group"; kill -s CONT -- "-$group"; done 2>/dev/null
left=$1
while [ "$left" -gt 0 ]; do
  alive=
  for group in $groups; do kill -s 0 -- "-$group" 2>/dev/null && alive=yes; done
  [ -z "$alive" ] && exit 0
  sleep 0.1 2>/dev/null || sleep 1
  left=$((left - 1))
done
for group in $groups; do kill -s KILL -- "-$group"; done 2>/dev/null
`

/** What a new process does before it becomes the program: reports its group (it leads one) on descriptor 3. */
const reportScript = 'echo "+ $$" >&3 || exit 71; exec 3>&-; exec "$@"'

/** Words that run a program under the guard, whose pipe must be descriptor 3. */
export function guarded(command: readonly string[]): [string, string[]] {
  return ['/bin/sh', ['-c', reportScript, 'leasehold', ...command]]
}

/** The guard of one process; started when it is first needed, and again should it end. */
export class Guard {
  private readonly graceMs: number
  private readonly groups = new Set<number>()
  private shell: ChildProcess | null = null

  /** `graceMs`: how long groups have between SIGTERM and SIGKILL once the runner is gone. */
  constructor(graceMs: number) {
    this.graceMs = graceMs
  }

  /** The pipe to the guard, for descriptor 3 of a new process. */
  pipe(): Writable {
    this.shell ??= this.start()
    return this.shell.stdin!
  }

  /** A group was started; remembered here too, for a guard that has to be started again. */
  began(group: number): void {
    this.groups.add(group)
  }

  /** Nothing of the group is left: its number may be used by others now. */
  ended(group: number): void {
    this.groups.delete(group)
    this.shell?.stdin?.write(`- ${group}\n`)
  }

  private start(): ChildProcess {
    const shell = spawn(
      '/bin/sh',
      ['-c', guardScript, 'leasehold-guard', String(Math.ceil(this.graceMs / 100))],
      {
        stdio: ['pipe', 'ignore', 'ignore'],
        detached: true,
        cwd: '/',
        env: { PATH: '/usr/local/bin:/usr/bin:/bin' },
      },
    )
    const gone = (): void => {
      if (this.shell === shell) this.shell = null
    }
    shell.once('error', gone).once('exit', gone)
    shell.stdin.on('error', gone)
    for (const group of this.groups) shell.stdin.write(`+ ${group}\n`)
    // Neither keeps this process alive.
    shell.unref()
    ;(shell.stdin as unknown as { unref(): void }).unref()
    return shell
  }
}
