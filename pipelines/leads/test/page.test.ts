/**
 * Holds the reading of pages and the detection of property-management systems.
 */
import { describe, expect, test } from 'vitest'
import { FINGERPRINTS, findFingerprint } from '../src/research/fingerprints.ts'
import { readPage } from '../src/research/page.ts'
import { detectPms } from '../src/research/pms.ts'
import { company } from './fixtures.ts'

const url = 'https://www.acme.example/'

describe('a page', () => {
  test('gives its title, lines, links, hosts and addresses, without scripts and styles', () => {
    const page = readPage(
      url,
      `<html><head><title> Acme  Homes </title><style>p { color: red }</style><script src="https://cdn.acme.example/a.js"></script></head>
       <body><h1>Welcome <b>home</b></h1><script>var hidden = 1</script><p>One<br>Two &amp; three</p>
       <a href="/team#x">Our team</a> <a href="mailto:Office%40acme.example?subject=x">Write</a> <a href="tel:+15125550100">Call</a>
       <p>or jane.doe@acme.example, logo@2x.png</p><iframe src="//portal.test/x"></iframe><a href="javascript:void(0)">x</a></body></html>`,
    )
    expect(page.title).toBe('Acme Homes')
    expect(page.lines.slice(0, 3)).toEqual(['Welcome home', 'One', 'Two & three'])
    expect(page.text).not.toContain('hidden')
    expect(page.links).toEqual([{ href: 'https://www.acme.example/team', text: 'Our team' }])
    expect([...page.hosts].toSorted()).toEqual(['cdn.acme.example', 'portal.test', 'www.acme.example'])
    expect([...page.emails].toSorted()).toEqual(['jane.doe@acme.example', 'office@acme.example'])
    expect(page.phones).toEqual(['+15125550100'])
  })

  test('JSON-LD is flattened out of graphs and lists, broken blocks are left out', () => {
    const page = readPage(
      url,
      `<script type="application/ld+json">{"@graph":[{"@type":"Organization","employee":[{"@type":"Person","name":"Jo Doe"}]}]}</script>
       <script type="application/ld+json">{broken</script>`,
    )
    expect(page.jsonLd.map((object) => object['@type'])).toEqual(['Organization', 'Person'])
  })

  test.each([
    ['tags', '<div>'],
    ['formatting', '<b><i>'],
    ['attributes', `<p ${'a1 '.repeat(3)}`],
    ['closing tags', '<div></p></span>'],
    ['quotes', '<a href="'],
  ])('a megabyte of nested %s costs no more than reading it', (_, piece) => {
    const html = `<p>first</p>${piece.repeat(Math.ceil(1_000_000 / piece.length))}`
    // A quadratic reader needs minutes for this and runs into the test's own limit.
    expect(readPage(url, html).lines[0]).toBe('first')
  })

  test('addresses are found side by side, at the edges and never across one another', () => {
    const long = 'x'.repeat(64)
    const text = `A.B+c@One.example,d@two.example@three.example;@four.example e@ ${long}y@five.example f@six.e7 g@seven.example`
    expect(readPage(url, text).emails).toEqual([
      'a.b+c@one.example',
      'd@two.example',
      `${long.slice(1)}y@five.example`,
      'g@seven.example',
    ])
  })

  test('what is no HTML gives no facts and no error', () => {
    expect(readPage(url, '').lines).toEqual([])
    expect(readPage(url, '\u0000\u0001<<<>>><a href="http://[">').links).toEqual([])
  })
})

function detect(html: string, facts: Parameters<typeof company>[0] = {}) {
  return detectPms(company(facts), html === '' ? null : readPage(url, html), html)
}

describe('a property-management system', () => {
  test.each(FINGERPRINTS.map((f) => [f.name, f.hosts[0] ?? ''] as const))(
    '%s is detected by a link to %s',
    (name, host) => {
      expect(detect(`<a href="https://acme.${host}/connect">Resident login</a>`)).toEqual({
        name,
        evidence: 'host',
        detail: `acme.${host}`,
      })
    },
  )

  test.each(FINGERPRINTS.map((f) => [f.name, f.words[0] ?? ''] as const))(
    '%s is detected by "%s" in a description',
    (name, word) => {
      expect(detect('', { description: `Residents pay through ${word}.` })).toMatchObject({
        name,
        evidence: 'description',
      })
    },
  )

  test('stronger evidence wins: a link over the directory, the directory over the text', () => {
    const html = '<a href="https://acme.managebuilding.com">Pay</a><p>We moved from AppFolio</p>'
    expect(detect(html, { pms: 'Yardi' })).toMatchObject({ name: 'Buildium', evidence: 'host' })
    expect(detect('<p>We moved from AppFolio</p>', { pms: 'Yardi' })).toMatchObject({
      name: 'Yardi',
      evidence: 'directory',
    })
  })

  test.each([
    ['a host that only ends alike', '<a href="https://notappfolio.com">x</a>', {}],
    [
      'an opera house',
      '',
      { description: 'Apartments beside the opera and the mews, with a race track; a hospitable place' },
    ],
    ['an unknown system in the directory', '', { pms: 'our own spreadsheet' }],
    ['nothing', '', {}],
  ])('%s is none', (_, html, facts) => {
    expect(detect(html, facts)).toBeNull()
  })

  test('names and aliases in the table are unique', () => {
    for (const product of FINGERPRINTS) {
      for (const name of [product.name, ...product.aliases]) expect(findFingerprint(name)).toBe(product)
    }
  })
})
