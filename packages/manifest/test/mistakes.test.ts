/**
 * Manifests with mistakes: each is refused as a whole, with every place, reason and line.
 */
import { readManifest } from '@leasehold/manifest'
import { describe, expect, test } from 'vitest'
import { problemsOf, read, write } from './scene.ts'

describe('a manifest with mistakes', () => {
  test('names all of them at once, whatever part they are in', async () => {
    const problems = await problemsOf(
      read({
        stage: {},
        leaseTtl: '1 min',
        beatInterval: '40 s',
        stages: { x: { command: 'a', instances: 'eight', timout: 3, retry: { attemps: 3 } }, y: {} },
        schedules: { s: { stage: 'xx', cron: '0 6 * * *' } },
      }),
    )
    expect(problems.map((problem) => problem.replace(/ \([^(]*:1\)$/, ''))).toEqual([
      'stage: is not a setting; did you mean stages?',
      "stages.x.instances: must be a whole number from 0 to 1000, not 'eight'",
      'stages.x.retry.attemps: is not a setting; did you mean attempts?',
      'stages.x.timout: is not a setting; did you mean timeout?',
      'stages.y: needs a command (any program) or a module (where its handler is), and has neither',
      "schedules.s.stage: no stage 'xx' is declared (did you mean 'x'?)",
      'beatInterval: is 40000 ms, more than a third of leaseTtl (60000 ms): two beats may get lost before a lease does',
    ])
  })

  const command = { command: 'node workers/a.js' }
  test.each<[string, object, string]>([
    ['a name with a space', { stages: { 'lead verify': command } }, 'stages.lead verify: the name must be'],
    ['a name with a slash', { stages: { '../etc': command } }, 'stages.../etc: the name must be'],
    ['a name with an @', { stages: { 'a@1': command } }, 'stages.a@1: the name must be'],
    ['a name that is too long', { stages: { [`a${'b'.repeat(48)}`]: command } }, 'the name must be'],
    ['stages that are a list', { stages: [command] }, 'stages: must be an object'],
    ['a stage that is a text', { stages: { a: 'node a.js' } }, 'stages.a: '],
    [
      'a command and a module',
      { stages: { a: { ...command, module: './a.ts' } } },
      'stages.a: has a command and a module',
    ],
    ['no words', { stages: { a: { command: '  ' } } }, 'stages.a.command: must be'],
    ['no program', { stages: { a: { command: ['', 'x'] } } }, 'stages.a.command: must begin'],
    ['a word that is a number', { stages: { a: { command: ['sleep', 5] } } }, '5 is no word'],
    ['a NUL in a word', { stages: { a: { command: ['a', 'b\0c'] } } }, 'is no word'],
    ['a pipe without a shell', { stages: { a: { command: 'a | b' } } }, "['sh', '-c', '…']"],
    ['quotes without a shell', { stages: { a: { command: "echo 'a b'" } } }, "['sh', '-c', '…']"],
    ['a variable without a shell', { stages: { a: { command: 'echo $HOME' } } }, "'$' would arrive as it is"],
    [
      'more instances than sense',
      { stages: { a: { ...command, instances: 1e9 } } },
      'stages.a.instances: must be',
    ],
    ['half an instance', { stages: { a: { ...command, instances: 1.5 } } }, 'not 1.5'],
    [
      'no attempts',
      { stages: { a: { ...command, retry: { attempts: 0 } } } },
      'stages.a.retry.attempts: must be',
    ],
    [
      'a pause that shrinks',
      { stages: { a: { ...command, retry: { from: '1 min', to: '1 s' } } } },
      'stages.a.retry: from (60000 ms)',
    ],
    [
      'a rate of nothing',
      { stages: { a: { ...command, limits: { rate: { tasks: 0, per: '1 s' } } } } },
      'stages.a.limits.rate.tasks: must be a whole number from 1 to 1000000, not 0',
    ],
    [
      'a rate without a time',
      { stages: { a: { ...command, limits: { rate: { tasks: 5 } } } } },
      'stages.a.limits.rate.per: ',
    ],
    [
      'a rate per week',
      { stages: { a: { ...command, limits: { rate: { tasks: 5, per: '7 d' } } } } },
      'stages.a.limits.rate.per: must be 1 ms to 1 d',
    ],
    [
      'a burst above its rate',
      { stages: { a: { ...command, limits: { rate: { tasks: 5, per: '1 s', burst: 6 } } } } },
      'stages.a.limits.rate.burst: must be a whole number from 1 to tasks (5), not 6',
    ],
    [
      'a rate for a module',
      { stages: { a: { module: './a.ts', limits: { rate: { tasks: 5, per: '1 s' } } } } },
      'stages.a.limits: is said by the stage itself',
    ],
    [
      'a time without a unit',
      { stages: { a: { ...command, timeout: '5' } } },
      "stages.a.timeout: must be a length of time such as '30 s'",
    ],
    [
      'an endless timeout',
      { stages: { a: { ...command, timeout: '31 d' } } },
      'stages.a.timeout: must be 1 ms to 30 d',
    ],
    [
      'a timeout for a module',
      { stages: { a: { module: './a.ts', timeout: '5 s' } } },
      'stages.a.timeout: is said by the stage itself',
    ],
    [
      'a worker without stages',
      { workers: { w: { module: 'x', stages: [] } } },
      'workers.w.stages: must name at least one',
    ],
    [
      'a worker of nothing',
      { workers: { w: { stages: ['blgo'] } }, stages: { blog: command } },
      "workers.w.stages.0: 'blgo' is no command of stages (did you mean 'blog'?)",
    ],
    [
      'a stage named twice',
      { workers: { w: { module: 'x', stages: ['a', 'a'] } } },
      "workers.w.stages.1: 'a' is named twice",
    ],
    [
      'a slot that is there twice',
      { stages: { a: command }, workers: { a: { module: 'x', stages: ['b'] } } },
      'the slot a@1 would be there twice',
    ],
    [
      'a stage from two modules',
      { stages: { a: { module: './a.ts' } }, workers: { w: { module: 'x', stages: ['a'] } } },
      'leave it to one of the two',
    ],
    [
      'a password',
      { service: { env: { SMTP_PASSWORD: 'hunter2' } } },
      'service.env.SMTP_PASSWORD: looks like a secret',
    ],
    [
      'a key',
      { stages: { a: { ...command, env: { OPENAI_API_KEY: 'hunter2' } } } },
      'stages.a.env.OPENAI_API_KEY: looks like a secret',
    ],
    [
      'a database with its password',
      { service: { env: { DB: 'postgres://me:hunter2@db.example/x' } } },
      'service.env.DB: looks like a secret',
    ],
    ['a slot in the environment', { service: { env: { SLOT_ID: 'x' } } }, 'every process is given its own'],
    ['a lease in the environment', { service: { env: { LEASEHOLD_LEASE_TTL_MS: '5' } } }, 'write leaseTtl'],
    [
      'a variable that is a number',
      { service: { env: { PORT: 3 } } },
      'service.env.PORT: must be a text, not 3',
    ],
    ['a variable of two lines', { service: { env: { A: 'b\nUser=root' } } }, 'must be one line'],
    ['a variable without a name', { service: { env: { 'A=B': 'c' } } }, 'is no name of a variable'],
    [
      'a secret nobody has',
      { stages: { a: { ...command, secrets: ['MY_KEY'] } }, service: { secrets: ['MYKEY'] } },
      "'MY_KEY' is not in service.secrets (did you mean 'MYKEY'?)",
    ],
    [
      'a secret that is a path',
      { service: { secrets: ['../shadow'] } },
      'service.secrets.0: must be the name',
    ],
    ['a user with options', { service: { user: 'me\nUser=root' } }, 'service.user: must be the name'],
    [
      'a schedule without a time',
      { stages: { a: command }, schedules: { s: { stage: 'a' } } },
      'schedules.s: needs cron or every',
    ],
    [
      'a schedule with two',
      { stages: { a: command }, schedules: { s: { stage: 'a', cron: '* * * * *', every: '5 s' } } },
      'schedules.s: needs cron or every, not both',
    ],
    [
      'a catch-up of its own',
      { stages: { a: command }, schedules: { s: { stage: 'a', every: '5 s', catchUp: 'most' } } },
      "must be 'skip', 'one' or 'all', not 'most'",
    ],
    [
      'a day that never comes',
      { stages: { a: command }, schedules: { s: { stage: 'a', cron: '0 0 30 2 *' } } },
      'schedules.s.cron: ',
    ],
    [
      'a cron expression of four fields',
      { stages: { a: command }, schedules: { s: { stage: 'a', cron: '* * * *' } } },
      'five are needed',
    ],
    [
      'a zone of nowhere',
      { stages: { a: command }, schedules: { s: { stage: 'a', every: '5 s', zone: 'Europe/Lundon' } } },
      'schedules.s.zone: ',
    ],
    [
      'half a second',
      { stages: { a: command }, schedules: { s: { stage: 'a', every: '1500 ms' } } },
      'schedules.s.every: ',
    ],
    [
      'an alert of no kind',
      { alerts: { rules: { worker_daed: { tell: 'now' } } } },
      'alerts.rules.worker_daed: is no kind',
    ],
    [
      'an age that is no time',
      { alerts: { rules: { worker_dead: { minAge: 'long' } } } },
      'alerts.rules.worker_dead.minAge: must be a length of time',
    ],
    [
      'an age beyond its bounds',
      { alerts: { rules: { worker_dead: { minAge: '30 d' } } } },
      'alerts.rules.worker_dead.minAge: ',
    ],
    [
      'a limit in milliseconds',
      { alerts: { backlogMs: { a: 5 } } },
      'alerts.backlogMs: is not a setting; did you mean backlog?',
    ],
    ['alerts that are a text', { alerts: 'all' }, 'alerts: must be an object'],
    [
      'quiet hours around the digest',
      { alerts: { digestAt: '07:00', quiet: { from: '22:00', until: '08:00' } } },
      'alerts.digestAt: ',
    ],
  ])('%s is refused with its place', async (_what, manifest, expected) => {
    const problems = await problemsOf(read(manifest))
    expect(problems.join('\n')).toContain(expected)
    expect(problems.join('\n')).not.toContain('hunter2')
  })

  test('a payload that is no JSON is refused', async () => {
    const file = write(
      "export default { stages: { a: { command: 'true' } }, schedules: { s: { stage: 'a', every: '5 s', payload: { at: new Date() } } } }",
      '.mjs',
    )
    expect((await problemsOf(readManifest(file))).join('\n')).toContain('schedules.s.payload')
  })

  test('names the line of each, in code with comments, quotes and code of its own', async () => {
    const file = write(
      `// a manifest { with: comments }
const many = 8
export default {
  /* stages: { x: 1 } */ "service": { user: 'me too', env: { A: \`{ b: \${many} }\`, 'SMTP_PASSWORD': "x" } },
  stages: {
    good: { command: ['sh', '-c', 'echo { timeout: 3 }'], instances: many },
    'lead-verify': {
      command: many > 3 ? 'a' : 'b', // really
      timeout: '5 mins',
      secrets: ['A', 'b',
        'c'],
    },
    ...{ spread: { comand: 'x' } },
  },
  monitors: -1,
}
`,
      '.mjs',
    )
    const lines = (await problemsOf(readManifest(file))).map((problem) =>
      problem.replace(/: .* \(\S*:(\d+)\)$/, ' $1'),
    )
    expect(lines.toSorted()).toEqual(
      [
        'service.user 4',
        'service.env.SMTP_PASSWORD 4',
        'stages.lead-verify.timeout 9',
        'stages.lead-verify.secrets.1 10',
        'stages.lead-verify.secrets.2 10',
        'stages.spread.comand 5',
        'stages.spread 5',
        'monitors 15',
      ].toSorted(),
    )
  })
})
