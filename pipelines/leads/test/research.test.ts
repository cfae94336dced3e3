/**
 * Holds research and contacts end to end with real parts: a site, a DNS and a model on loopback, and each of them missing.
 */
import { ModelBusyError, openDns, openModel, openWeb, type Dns, type Web } from '@leasehold/stages'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { startDnsServer, type DnsServer } from '../../../test/harness/dns-server.ts'
import { answering, failing, startModelServer, type ModelServer } from '../../../test/harness/model-server.ts'
import { findContacts } from '../src/contacts/find.ts'
import { createVerify } from '../src/contacts/verify.ts'
import { parseCriteria } from '../src/criteria.ts'
import { discoverByModel } from '../src/discovery/by-model.ts'
import { researchCompany } from '../src/research/research.ts'
import { company } from './fixtures.ts'
import { startSiteServer, type SiteServer } from './site-server.ts'

const never = new AbortController().signal
const criteria = parseCriteria({ target: 1, city: 'Austin', kind: 'property management' })
let names: DnsServer
let site: SiteServer
let models: ModelServer
let dns: Dns
let web: Web

beforeAll(async () => {
  names = await startDnsServer({
    'acme.test': { a: ['127.0.0.1'], mx: [{ priority: 10, exchange: 'mx.acme.test' }] },
    'dead.test': { a: ['127.0.0.1'] },
  })
})
beforeEach(async () => {
  site = await startSiteServer({
    '/': `<title>Acme</title><h1>Property management in Austin</h1><a href="https://acme.appfolio.com/connect">Pay rent</a>
      <a href="/about-us">About</a><a href="/our-team">Meet the team</a><a href="http://elsewhere.test/team">Team</a>
      <a href="mailto:office@acme.test">Write</a>`,
    '/our-team':
      '<h3>Jane Doe</h3><p>Owner</p><h3>Max Muster</h3><p>Office Manager</p><p>m.muster@acme.test</p>',
    '/about-us': '<p>Since 1990.</p>',
  })
  models = await startModelServer()
  dns = openDns({ servers: [names.address], timeoutMs: 10_000 })
  web = openWeb({ allowPrivate: true, dns })
})
afterEach(async () => {
  await web.close()
  site.close()
  models.close()
})
afterAll(() => names.close())

const acme = () => company({ domain: 'acme.test', website: `http://acme.test:${site.port}/`, city: 'Austin' })
const model = () => openModel({ apiKey: 'made-up', baseUrl: models.url, maxRetries: 0 })

describe('research', () => {
  test('reads the site, detects the system, scores, and keeps what the contact stage needs', async () => {
    const research = await researchCompany({ web, model: null }, acme(), criteria, never)
    expect(research).toMatchObject({
      qualified: true,
      scoredBy: 'rules',
      pms: { name: 'AppFolio', evidence: 'host' },
      pmsStatus: 'detected',
      notes: [],
      site: { title: 'Acme', emails: ['office@acme.test'] },
    })
    expect(research.site?.peoplePages.map((url) => new URL(url).pathname)).toEqual(['/our-team', '/about-us'])
  })

  test('without a network says less and says so', async () => {
    const offline = openWeb({ dns: openDns({ servers: ['127.0.0.1:1'], timeoutMs: 50 }) })
    const described = { ...acme(), description: 'Residents pay through Buildium.' }
    const research = await researchCompany({ web: offline, model: null }, described, criteria, never)
    expect(research).toMatchObject({
      qualified: true,
      pms: { name: 'Buildium', evidence: 'description' },
      site: null,
    })
    expect(research.notes).toEqual([expect.stringMatching(/its site was not read: the DNS did not answer/)])
    await offline.close()
  })

  test('a wanted system that was not seen, or that nobody could look for, does not qualify', async () => {
    const wanted = { ...criteria, pms: 'Yardi' }
    const other = await researchCompany({ web, model: null }, acme(), wanted, never)
    expect(other).toMatchObject({ qualified: false, verdict: 'Yardi was asked for, AppFolio was detected' })
    const unread = await researchCompany({ web: null, model: null }, acme(), wanted, never)
    expect(unread).toMatchObject({
      qualified: false,
      pmsStatus: 'unknown',
      verdict: 'Yardi was asked for, nobody could look',
    })
  })

  test('a model’s score replaces the rules’, an unusable one does not and is noted', async () => {
    const signals = [{ name: 'fit', points: 90, reason: 'manages homes in Austin' }]
    models.script = [answering({ score: 90, signals })]
    await expect(researchCompany({ web, model: model() }, acme(), criteria, never)).resolves.toMatchObject({
      score: 90,
      scoredBy: 'model',
      signals,
    })
    models.script = [answering({ score: 900 }), answering({})]
    const research = await researchCompany({ web, model: model() }, acme(), criteria, never)
    expect(research.scoredBy).toBe('rules')
    expect(research.notes).toEqual([expect.stringMatching(/model's answer could not be used/)])
    models.script = [failing(401, 'authentication_error')]
    await expect(researchCompany({ web, model: model() }, acme(), criteria, never)).resolves.toMatchObject({
      scoredBy: 'rules',
    })
  })

  test('a busy model is an error to come back for', async () => {
    models.script = [failing(429, 'rate_limit_error', { 'retry-after': '60' })]
    await expect(researchCompany({ web, model: model() }, acme(), criteria, never)).rejects.toBeInstanceOf(
      ModelBusyError,
    )
  })
})

function tools() {
  return { web, model: null, verify: createVerify(dns) }
}

describe('contacts', () => {
  test('are the people of the team page, who decide most first, at verified addresses', async () => {
    const { site: facts } = await researchCompany({ web, model: null }, acme(), criteria, never)
    const { contacts, notes } = await findContacts(tools(), acme(), facts, never)
    expect(contacts.map((c) => [c.name, c.title, c.email, c.basis, c.status])).toEqual([
      // The one address the site gives away shows the pattern for the others.
      ['Jane Doe', 'Owner', 'j.doe@acme.test', 'pattern', 'valid'],
      ['Max Muster', 'Office Manager', 'm.muster@acme.test', 'published', 'valid'],
      [null, null, 'office@acme.test', 'published', 'valid'],
    ])
    expect(notes).toEqual([])
  })

  test('without a network are the directory’s, unverified and saying so', async () => {
    const offline = {
      web: null,
      model: null,
      verify: createVerify(openDns({ servers: ['127.0.0.1:1'], timeoutMs: 50 })),
    }
    const known = { ...acme(), contactName: 'Jo Doe', contactTitle: 'Owner', email: 'jo@acme.test' }
    const { contacts, notes } = await findContacts(offline, known, null, never)
    expect(contacts).toMatchObject([
      { name: 'Jo Doe', email: 'jo@acme.test', basis: 'directory', status: 'unknown', source: 'directory' },
    ])
    expect(notes).toEqual([expect.stringMatching(/^not verified: the DNS did not answer/)])
  })

  test('fall back to the mailbox most companies have, called a guess', async () => {
    const { contacts } = await findContacts(tools(), acme(), null, never)
    expect(contacts).toMatchObject([{ name: null, email: 'info@acme.test', basis: 'role', status: 'valid' }])
  })

  test('at a domain that certainly accepts no mail are none', async () => {
    const gone = company({ domain: 'gone.test', contactName: 'Jo Doe' })
    const { contacts, notes } = await findContacts(tools(), gone, null, never)
    expect(contacts).toEqual([])
    expect(notes).toEqual(['no address of anybody found can be right'])
  })

  test('a model may only name people the pages name', async () => {
    const { site: facts } = await researchCompany({ web, model: null }, acme(), criteria, never)
    models.script = [
      answering({
        people: [
          { name: 'Jane Doe', title: 'Founder', email: 'jane@invented.test' },
          { name: 'Invented Person', title: 'CEO', email: null },
        ],
      }),
    ]
    const { contacts } = await findContacts({ ...tools(), model: model() }, acme(), facts, never)
    expect(contacts.map((c) => c.name)).not.toContain('Invented Person')
    expect(contacts.map((c) => c.email)).not.toContain('jane@invented.test')
  })
})

describe('discovery by a model', () => {
  const found = {
    name: 'Acme',
    website: 'https://www.acme.test/x',
    city: 'Austin',
    state: 'TX',
    country: null,
    industry: null,
    description: null,
    phone: null,
    email: 'not an address',
    propertyManagementSystem: 'AppFolio',
  }

  test('searches the web and gives companies in the directory’s form', async () => {
    models.script = [answering({ companies: [found] })]
    const advice = await discoverByModel(model(), criteria, ['known.test'], never)
    expect(advice.value).toMatchObject([
      { name: 'Acme', domain: 'acme.test', city: 'Austin', email: null, pms: 'AppFolio' },
    ])
    expect(JSON.stringify(models.requests[0])).toContain('web_search')
    expect(JSON.stringify(models.requests[0])).toContain('known.test')
  })

  test('without a model there are none, and that is not an error', async () => {
    await expect(discoverByModel(null, criteria, [], never)).resolves.toEqual({ value: null, note: null })
  })
})
