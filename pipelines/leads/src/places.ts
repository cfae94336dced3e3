/**
 * Tells whether two spellings mean the same city, state or country.
 *
 * Comparison is by folded text (case, accents, punctuation) and by the usual abbreviations of the United States and
 * Canada and the ISO codes of all countries. It never guesses by likeness: "Austin" is not "Austinburg".
 */

/** Lower case, without accents or punctuation, blanks single: the form in which names are compared. */
export function fold(text: string): string {
  // Plain ASCII is nearly every cell of a big directory; the normalisation of the rest costs ten times as much.
  const plain = isAscii(text) ? text : text.normalize('NFKD').replaceAll(/\p{M}+/gu, '')
  return plain
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}]+/gu, ' ')
    .trim()
}

function isAscii(text: string): boolean {
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) > 127) return false
  return true
}

const STATES =
  'al alabama|ak alaska|az arizona|ar arkansas|ca california|co colorado|ct connecticut|de delaware|dc district of columbia|' +
  'fl florida|ga georgia|hi hawaii|id idaho|il illinois|in indiana|ia iowa|ks kansas|ky kentucky|la louisiana|me maine|' +
  'md maryland|ma massachusetts|mi michigan|mn minnesota|ms mississippi|mo missouri|mt montana|ne nebraska|nv nevada|' +
  'nh new hampshire|nj new jersey|nm new mexico|ny new york|nc north carolina|nd north dakota|oh ohio|ok oklahoma|or oregon|' +
  'pa pennsylvania|pr puerto rico|ri rhode island|sc south carolina|sd south dakota|tn tennessee|tx texas|ut utah|vt vermont|' +
  'va virginia|wa washington|wv west virginia|wi wisconsin|wy wyoming|' +
  'ab alberta|bc british columbia|mb manitoba|nb new brunswick|nl newfoundland and labrador|ns nova scotia|on ontario|' +
  'pe prince edward island|qc quebec|sk saskatchewan|yt yukon|nt northwest territories|nu nunavut'

const stateNames: ReadonlyMap<string, string> = new Map(
  STATES.split('|').map((entry) => [entry.slice(0, 2), entry.slice(3)] as const),
)
const stateFullNames: ReadonlySet<string> = new Set(stateNames.values())

const countryNames: ReadonlyMap<string, string> = buildCountryNames()

function buildCountryNames(): Map<string, string> {
  const names = new Intl.DisplayNames(['en'], { type: 'region', fallback: 'none' })
  const map = new Map<string, string>()
  const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
  for (const a of letters) {
    for (const b of letters) {
      const code = `${a}${b}`
      const name = names.of(code)
      if (name === undefined || name === 'Unknown Region') continue
      map.set(code.toLowerCase(), fold(name))
    }
  }
  const aliases = {
    usa: 'us',
    'u s a': 'us',
    'u s': 'us',
    'united states of america': 'us',
    america: 'us',
    can: 'ca',
    gbr: 'gb',
    uk: 'gb',
    'u k': 'gb',
    'great britain': 'gb',
    england: 'gb',
    scotland: 'gb',
    wales: 'gb',
    deu: 'de',
    deutschland: 'de',
    fra: 'fr',
    esp: 'es',
    ita: 'it',
    nld: 'nl',
    holland: 'nl',
    aus: 'au',
    ind: 'in',
    mex: 'mx',
    bra: 'br',
    'south korea': 'kr',
    russia: 'ru',
    turkey: 'tr',
    'czech republic': 'cz',
  }
  for (const [alias, code] of Object.entries(aliases)) {
    const name = map.get(code)
    if (name !== undefined) map.set(alias, name)
  }
  return map
}

/** The canonical form of a city: folded, with `saint` and `fort` written out. Compare with `===`. */
export function canonicalCity(text: string): string {
  return fold(text).replace(/^st /, 'saint ').replace(/^ft /, 'fort ').replace(/^mt /, 'mount ')
}

/** The canonical form of a state or province: its folded full name. Compare with `===`. */
export function canonicalState(text: string): string {
  const folded = fold(text)
  // `US-TX` and `TX 78701` are common in exports.
  const bare = folded.replace(/^(us|ca) (?=[a-z]{2}$)/, '').replace(/ \d{5}( \d{4})?$/, '')
  return stateNames.get(bare) ?? bare
}

/** The canonical form of a country: its folded English name. Compare with `===`. */
export function canonicalCountry(text: string): string {
  const folded = fold(text)
  return countryNames.get(folded) ?? folded
}

/** Whether `text` is a state or province of the United States or Canada, short or long. */
export function isKnownState(text: string): boolean {
  const canonical = canonicalState(text)
  return stateFullNames.has(canonical)
}

const countryFullNames: ReadonlySet<string> = new Set(countryNames.values())

/** Whether `text` names a country. */
export function isKnownCountry(text: string): boolean {
  return countryFullNames.has(canonicalCountry(text))
}

/** The parts of a one-cell address such as `Austin, TX, United States`; what is not there is null. */
export function splitLocation(text: string): {
  city: string | null
  state: string | null
  country: string | null
} {
  const parts = text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')
  let country: string | null = null
  let state: string | null = null
  const last = parts.at(-1)
  // "CA" ends an American address as a state far more often than it names Canada alone.
  if (last !== undefined && isKnownCountry(last) && !(parts.length === 2 && isKnownState(last))) {
    country = parts.pop() ?? null
  }
  const tail = parts.at(-1)
  if (tail !== undefined && parts.length > 1) state = parts.pop() ?? null
  else if (tail !== undefined && isKnownState(tail) && country !== null) state = parts.pop() ?? null
  return { city: parts.at(-1) ?? null, state, country }
}
