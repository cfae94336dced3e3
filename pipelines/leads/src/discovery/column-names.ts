/**
 * The names under which directories head their columns, per field.
 *
 * Data only: teaching the reader a new export is adding a name. Names are folded (lower case, no punctuation, `CompanyName`
 * written `company name`) and in order of trust within a field; an earlier field claims a column before a later one.
 * Applying them to a header is header.ts.
 */

/** The fields a column can feed; `location` is one cell with city, state and country, `firstName`/`lastName` make a contact. */
export type Field =
  | 'name'
  | 'domain'
  | 'website'
  | 'city'
  | 'state'
  | 'country'
  | 'location'
  | 'industry'
  | 'description'
  | 'phone'
  | 'email'
  | 'employees'
  | 'pms'
  | 'contactName'
  | 'contactTitle'
  | 'firstName'
  | 'lastName'

/** Header names per field, most trusted first. */
export const COLUMN_NAMES: readonly (readonly [Field, readonly string[]])[] = [
  [
    'name',
    list(
      'company name, company, organization name, organisation name, organization, organisation, ' +
        'business name, legal name, legal business name, account name, account, business, firm, ' +
        'firm name, employer, employer name, entity name, entity legal name, doing business as name, ' +
        'dba name, dba, trade name, trading name, brand, name of company, vendor name, ' +
        'facility name, hotel name, property name, name, title, firma, unternehmen, empresa, ' +
        'societe, nom, nombre',
    ),
  ],
  [
    'domain',
    list(
      'domain, domain name, company domain, website domain, primary domain, root domain, ' +
        'email domain, hostname, host',
    ),
  ],
  [
    'website',
    list(
      'website, website url, company website, web site, homepage, homepage url, home page, url, ' +
        'company url, site, web, web address, webseite, contact website, official website, link',
    ),
  ],
  [
    'city',
    list(
      'city, company city, hq city, headquarters city, town, municipality, mailing city, ' +
        'business city, address city, addr city, reg address post town, post town, city name, ort, ' +
        'stadt, ville, ciudad',
    ),
  ],
  [
    'state',
    list(
      'state, state code, company state, hq state, headquarters state, state province, ' +
        'state or province, province, state abbreviation, region, state region, state name, ' +
        'address state, addr state, mailing state, business state, county state, state l, state s, ' +
        'bundesland, estado',
    ),
  ],
  [
    'country',
    list(
      'country, country name, company country, hq country, headquarters country, country code, ' +
        'country region, nation, address country, addr country, reg address country, land, pays, pais',
    ),
  ],
  [
    'location',
    list(
      'location, locality, headquarters, headquarters location, hq, hq location, city state, ' +
        'place, company location, address',
    ),
  ],
  [
    'industry',
    list(
      'industry, industries, sector, category, categories, category list, categories list, ' +
        'industry group, category group list, vertical, company industry, business type, ' +
        'type of business, license description, naics description, sic description, ' +
        'siccode sic text 1, business category, branche, kind, type',
    ),
  ],
  [
    'description',
    list(
      'description, company description, short description, about, summary, long description, ' +
        'business description, overview, tagline, one liner, notes, keywords, specialties, services, ' +
        'beschreibung',
    ),
  ],
  [
    'phone',
    list(
      'phone, phone number, company phone, business phone, telephone, tel, contact phone, ' +
        'office phone, main phone, telefon, mobile',
    ),
  ],
  [
    'email',
    list(
      'email, e mail, email address, e mail address, company email, contact email, business email, ' +
        'mail, emails',
    ),
  ],
  [
    'employees',
    list(
      'employees, employee count, number of employees, employees count, num employees, ' +
        'company size, size range, size, headcount, current employee estimate, ' +
        'total employee estimate, workers',
    ),
  ],
  [
    'pms',
    list(
      'pms, property management system, property management software, pms software, ' +
        'management software, software',
    ),
  ],
  [
    'contactName',
    list(
      'contact name, contact, contact person, primary contact, owner, owner name, decision maker, ' +
        'full name, person name, person, ceo, ceo name, founder, manager, ansprechpartner',
    ),
  ],
  ['contactTitle', list('contact title, job title, person title, position, role, contact role')],
  ['firstName', list('first name, firstname, contact first name, given name, vorname')],
  ['lastName', list('last name, lastname, contact last name, surname, family name, nachname')],
]

function list(names: string): readonly string[] {
  return names.split(', ')
}
