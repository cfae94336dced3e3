/**
 * What several tests of the lead pipeline start from: a company with only the facts a test is about.
 *
 * Everything is made up and at reserved domains. Servers belong to the tests that need them.
 */
import type { Company } from '../src/company.ts'

/** A company of which nothing is known but `facts`. */
export function company(facts: Partial<Company> = {}): Company {
  return {
    name: 'Acme Property Management',
    domain: null,
    website: null,
    city: null,
    state: null,
    country: null,
    industry: null,
    description: null,
    phone: null,
    email: null,
    employees: null,
    pms: null,
    contactName: null,
    contactTitle: null,
    extra: {},
    ...facts,
  }
}
