/**
 * Variables go into files that are no secret: what is one is refused there, by its name and by its shape, without being shown.
 */
import { secretNames } from '@leasehold/service'
import { expect, test } from 'vitest'
import { problemsOf, read } from './scene.ts'

test('no secret that Leasehold knows of can be a variable, wherever variables stand', async () => {
  const env = Object.fromEntries(secretNames.map((name) => [name, 'hunter2']))
  const problems = await problemsOf(
    read({
      service: { env },
      stages: { a: { command: 'true', env } },
      workers: { w: { stages: ['a'], env } },
    }),
  )
  const places = ['service', 'stages.a', 'workers.w']
  const named = problems.map((problem) => problem.split(':')[0]!)
  expect(named.toSorted()).toEqual(
    places.flatMap((place) => secretNames.map((name) => `${place}.env.${name}`)).toSorted(),
  )
  expect(problems.join('\n')).not.toContain('hunter2')
})

test.each([
  ['VERIFY_KEY', 'hunter2'],
  ['STRIPE_KEY', 'hunter2'],
  ['AWS_ACCESS_KEY_ID', 'hunter2'],
  ['SLACK_WEBHOOK', 'hunter2'],
  ['GIT', `ghp_${'hunter2'.repeat(4)}`],
  ['OPTIONS', `--auth ghp_${'hunter2'.repeat(4)}`],
  ['LAB', `glpat-${'hunter2'.repeat(4)}`],
  ['CHAT', 'xoxb-hunter2-hunter2'],
  ['SHOP', 'rk_live_hunter2hunter2'],
  ['CLOUD', 'AKIAHUNTER2HUNTER2HU'],
  ['MAPS', `AIza${'hunter2'.repeat(5)}`],
  ['BOT', `123456789:${'hunter2'.repeat(5)}`],
  ['PLACE', 'https://hooks.slack.com/services/T0/B0/hunter2'],
  ['CALL', 'https://api.example/x?a=1&token=hunter2'],
  ['SERVER', 'host=db.example user=me password=hunter2'],
  ['REPOSITORY', 'https://hunter2hunter2hunter2@git.example/x'],
])('the variable %s that holds a secret is refused without being shown', async (name, value) => {
  const problems = await problemsOf(read({ service: { env: { [name]: value } } }))
  expect(problems).toEqual([expect.stringContaining(`service.env.${name}: looks like a secret`)])
  expect(problems.join('\n').toLowerCase()).not.toContain('hunter2')
  expect(problems[0]).toContain(`put '${name}' into service.secrets`)
})

test('what is named in service.secrets is nobody’s variable besides, and what is no secret is one', async () => {
  const env = { SPECIAL: 'x' }
  const problems = await problemsOf(
    read({
      service: { secrets: ['SPECIAL'], env },
      stages: { a: { command: 'true', env } },
      workers: { w: { stages: ['a'], env } },
    }),
  )
  expect(problems.map((problem) => problem.split(': ')[0])).toEqual([
    'service.env.SPECIAL',
    'stages.a.env.SPECIAL',
    'workers.w.env.SPECIAL',
  ])
  expect(problems[0]).toContain('is named in service.secrets')
  const plain = {
    TZ: 'UTC',
    KEYBOARD: 'de',
    SITE: 'https://shop.example/?page=2&key_word=tea',
    MONKEY_BUSINESS: 'sk',
    SMTP_USER: 'mailer',
    GREETING: 'tokens: 12:30',
  }
  expect((await read({ service: { env: plain } })).service.env).toEqual(plain)
})
