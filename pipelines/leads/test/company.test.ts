/**
 * Holds the identity of companies: registrable domains, addresses to fetch, names and places in any spelling.
 */
import { describe, expect, test } from 'vitest'
import { canonicalName, identityOf, mailDomain, registrableDomain, websiteAddress } from '../src/company.ts'
import { canonicalCity, canonicalCountry, canonicalState, splitLocation } from '../src/places.ts'

describe('a company domain', () => {
  test.each([
    ['https://www.acme.co.uk/about?x=1', 'acme.co.uk'],
    ['WWW.ACME.EXAMPLE', 'acme.example'],
    ['leasing.acme.example', 'acme.example'],
    ['acme.com, acme.net', 'acme.com'],
    ['foo.github.io', 'foo.github.io'],
    ['https://bücher.example', 'xn--bcher-kva.example'],
    ['info@acme.com', 'acme.com'],
  ])('%s is %s', (text, domain) => {
    expect(registrableDomain(text)).toBe(domain)
  })

  test.each([
    '',
    'n/a',
    'localhost',
    '127.0.0.1',
    'http://[::1]/',
    'brochure.pdf',
    'facebook.com/acme',
    'co.uk',
    'javascript:alert(1)',
  ])('%j is nobody’s domain', (text) => {
    expect(registrableDomain(text)).toBeNull()
  })

  test('a free mailbox says nothing about the domain, an own one does', () => {
    expect(mailDomain('acme.austin@gmail.com')).toBeNull()
    expect(mailDomain('jo@mail.acme.example')).toBe('acme.example')
  })
})

describe('a website address', () => {
  test('gets a scheme and loses user, password and fragment', () => {
    expect(websiteAddress('acme.example/x')).toBe('https://acme.example/x')
    expect(websiteAddress('http://u:p@acme.example/#top')).toBe('http://acme.example/')
  })

  test.each([
    'ftp://acme.example',
    'file:///etc/passwd',
    'http://127.0.0.1/',
    'linkedin.com/company/acme',
    'none',
  ])('%s is not fetched', (text) => {
    expect(websiteAddress(text)).toBeNull()
  })
})

describe('identity', () => {
  test('subdomains of one domain are one company', () => {
    const a = identityOf({ name: 'Acme', domain: registrableDomain('www.acme.example'), city: 'Austin' })
    const b = identityOf({
      name: 'Acme Leasing',
      domain: registrableDomain('leasing.acme.example'),
      city: 'Dallas',
    })
    expect(a).toBe(b)
  })

  test('without a domain, legal forms, accents and punctuation do not make two companies, another city does', () => {
    const one = identityOf({ name: 'The Café & Co., LLC', domain: null, city: 'St. Louis' })
    expect(identityOf({ name: 'CAFE AND CO', domain: null, city: 'Saint Louis' })).toBe(one)
    expect(identityOf({ name: 'CAFE AND CO', domain: null, city: 'Dallas' })).not.toBe(one)
  })

  test('a name that is nothing but a legal form is kept', () => {
    expect(canonicalName('LLC')).toBe('llc')
    expect(canonicalName('株式会社あ')).not.toBe('')
  })
})

describe('places', () => {
  test('states and countries match in short and long spelling', () => {
    expect(canonicalState('TX')).toBe(canonicalState('Texas'))
    expect(canonicalState('US-TX')).toBe('texas')
    expect(canonicalState('ON')).toBe(canonicalState('Ontario'))
    expect(canonicalCountry('USA')).toBe(canonicalCountry('United States'))
    expect(canonicalCountry('U.K.')).toBe(canonicalCountry('United Kingdom'))
    expect(canonicalCountry('de')).toBe(canonicalCountry('Germany'))
  })

  test('cities match whatever their accents, never by likeness', () => {
    expect(canonicalCity('Montréal')).toBe(canonicalCity('MONTREAL'))
    expect(canonicalCity('Austinburg')).not.toBe(canonicalCity('Austin'))
  })

  test.each([
    ['Austin, TX, United States', { city: 'Austin', state: 'TX', country: 'United States' }],
    ['Austin, TX', { city: 'Austin', state: 'TX', country: null }],
    ['Fresno, CA', { city: 'Fresno', state: 'CA', country: null }],
    ['Texas, USA', { city: null, state: 'Texas', country: 'USA' }],
    ['Berlin, Germany', { city: 'Berlin', state: null, country: 'Germany' }],
    ['1 Main St, Austin, TX 78701', { city: 'Austin', state: 'TX 78701', country: null }],
    ['Austin', { city: 'Austin', state: null, country: null }],
  ])('%s is split into its parts', (text, parts) => {
    expect(splitLocation(text)).toEqual(parts)
  })
})
