/**
 * Holds the finding of people on pages and the addresses proposed for them.
 */
import { describe, expect, test } from 'vitest'
import { candidatesFor, guessedRoleAddress, patternInUse, roleAddresses } from '../src/contacts/addresses.ts'
import { decisionRank, findPeople, personName, type Person } from '../src/contacts/people.ts'
import { readPage } from '../src/research/page.ts'

const people = (html: string) => findPeople(readPage('https://acme.example/team', html))
const person = (name: string, facts: Partial<Person> = {}): Person => ({
  name,
  title: 'Owner',
  email: null,
  source: 'page text',
  ...facts,
})

describe('a name', () => {
  test.each([
    'Jane Doe',
    'JANE DOE',
    'Dr. Jane Q. Doe',
    'José de la Cruz',
    'Mary-Ann O’Neil',
    'Jane Doe, CPM',
    'Robert "Bob" Stone Jr.',
  ])('%s is one', (text) => {
    expect(personName(text)).not.toBeNull()
  })

  test.each([
    'Contact Us',
    'Property Management',
    'Our Team',
    'jane doe',
    'Jane',
    'Austin Texas',
    'Read More About Jane',
    '123 Main St',
    '',
  ])('%j is none', (text) => {
    expect(personName(text)).toBeNull()
  })
})

describe('people on a page', () => {
  test('are found in structured data, above or below their title, and in one line with it', () => {
    const found = people(`
      <script type="application/ld+json">{"@type":"Person","name":"Ada Sample","jobTitle":"CEO","email":"mailto:Ada@acme.example"}</script>
      <div><h3>Jane Doe</h3><p>Property Manager</p></div>
      <div><p>Director of Operations</p><h4>John Q. Public</h4></div>
      <li>Rita Roe, Broker/Owner</li><p>Office Manager: Max Muster</p>`)
    expect(found.map((p) => [p.name, p.title])).toEqual([
      ['Ada Sample', 'CEO'],
      ['Rita Roe', 'Broker/Owner'],
      ['John Q. Public', 'Director of Operations'],
      ['Jane Doe', 'Property Manager'],
      ['Max Muster', 'Office Manager'],
    ])
    expect(found[0]).toMatchObject({ email: 'ada@acme.example', source: 'structured data' })
  })

  test('a headline beside a title invents nobody', () => {
    expect(
      people('<h2>Meet The Owner</h2><p>Owner</p><h3>Property Manager</h3><h3>Our Communities</h3>'),
    ).toEqual([])
    expect(people('<h3>Jane Doe</h3><p>lives in Austin and likes it here very much.</p>')).toEqual([])
  })

  test('a card list pairs each name with its own title', () => {
    const found = people('<p>Ann Lee</p><p>Owner</p><p>Bob Ray</p><p>Leasing Manager</p>')
    expect(found.map((p) => `${p.name}: ${p.title}`)).toEqual(['Ann Lee: Owner', 'Bob Ray: Leasing Manager'])
  })

  test('owners decide more than managers, vice presidents less than presidents', () => {
    const titles = [
      'Owner',
      'President',
      'Managing Broker',
      'COO',
      'Vice President',
      'Director of Leasing',
      'Property Manager',
      'Office Manager',
      'Intern',
    ]
    const ranks = titles.map(decisionRank)
    expect(ranks).toEqual(ranks.toSorted((a, b) => b - a))
    expect(new Set(ranks).size).toBe(titles.length)
  })
})

describe('addresses', () => {
  test('a published address is proposed alone; without one, three guesses that say so', () => {
    const published = ['office@acme.example', 'jdoe@acme.example']
    expect(candidatesFor(person('Jane Doe'), 'acme.example', published, null)).toEqual([
      { address: 'jdoe@acme.example', basis: 'published' },
    ])
    expect(candidatesFor(person('Zoë von Übel'), 'acme.example', published, null)).toEqual([
      { address: 'zoe.ubel@acme.example', basis: 'pattern' },
      { address: 'zoe@acme.example', basis: 'pattern' },
      { address: 'zubel@acme.example', basis: 'pattern' },
    ])
  })

  test('the pattern one colleague follows is tried first for the others', () => {
    const pattern = patternInUse(
      [person('Jane Doe'), person('Ann Lee')],
      ['doe@acme.example', 'ann.lee@acme.example'],
    )
    expect(pattern).toBe('last')
    expect(candidatesFor(person('Bob Ray'), 'acme.example', [], 'flast')[0]?.address).toBe(
      'bray@acme.example',
    )
  })

  test('without a domain nothing is guessed', () => {
    expect(candidatesFor(person('Jane Doe'), null, [], null)).toEqual([])
    expect(
      candidatesFor(person('Jane Doe', { email: 'jane@free.example', source: 'directory' }), null, [], null),
    ).toEqual([{ address: 'jane@free.example', basis: 'directory' }])
  })

  test('mailboxes of a role are the company’s own, most general first; the guessed one is called a guess', () => {
    const published = ['webmaster@agency.example', 'jane@acme.example', 'info@acme.example']
    expect(roleAddresses('acme.example', published).map((c) => c.address)).toEqual([
      'info@acme.example',
      'jane@acme.example',
    ])
    expect(guessedRoleAddress('acme.example')).toEqual({ address: 'info@acme.example', basis: 'role' })
  })
})
