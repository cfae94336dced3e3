/**
 * JSON whose whole numbers stay what they are: PostgreSQL keeps numbers of any size, JavaScript rounds beyond 2^53.
 *
 * Invariant: an integer that JavaScript would round is a bigint, in both directions; everything else is as JSON.parse and
 * JSON.stringify have it, and costs the same: only a text with sixteen digits in a row is looked at more closely. Parsing
 * is as robust as JSON.parse: whatever the database takes for JSON can be parsed, for a whole batch is parsed at once.
 */

/** Parses JSON of any depth; integers that a number cannot hold become bigint. Throws as JSON.parse does. */
export function parseExact(text: string): unknown {
  if (!hasLongNumber(text) || !/(?:^|[[,:\s-])[1-9]\d{15,}(?![\d.eE])/.test(text)) return JSON.parse(text)
  // A reviver would do it too, but it calls itself for each level and ends at a few thousand of them.
  let mark = ''
  do mark = `#${crypto.randomUUID()} `
  while (text.includes(mark))
  const marked = marking(text, mark)
  return marked === text ? JSON.parse(text) : unmarked(JSON.parse(marked), mark)
}

/** Whether sixteen digits stand in a row. Then one of them is at a place that 16 divides: the others are not looked at. */
function hasLongNumber(text: string): boolean {
  for (let i = 0; i < text.length; i += longNumber) {
    if (!isDigit(text, i)) continue
    let from = i
    let to = i + 1
    while (isDigit(text, from - 1)) from -= 1
    while (to - from < longNumber && isDigit(text, to)) to += 1
    if (to - from >= longNumber) return true
  }
  return false
}

const longNumber = 16

/** Beyond the ends of the text none is. */
function isDigit(text: string, at: number): boolean {
  const code = text.charCodeAt(at)
  return code >= 0x30 && code <= 0x39
}

/** The text with every integer that would be rounded as a text that begins with the mark. */
function marking(text: string, mark: string): string {
  const quoteOrNumber = /"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g
  let marked = ''
  let from = 0
  for (let found = quoteOrNumber.exec(text); found !== null; found = quoteOrNumber.exec(text)) {
    const [token] = found
    if (token === '"') {
      const end = endOfString(text, quoteOrNumber.lastIndex)
      if (end === -1) break // JSON.parse says so
      quoteOrNumber.lastIndex = end
    } else if (isRounded(token)) {
      marked += `${text.slice(from, found.index)}"${mark}${token}"`
      from = quoteOrNumber.lastIndex
    }
  }
  return marked + text.slice(from)
}

/** Behind the quote that ends what begins at `from`; -1 for none. Not by a pattern: those give up on long texts. */
function endOfString(text: string, from: number): number {
  for (let quote = text.indexOf('"', from); quote !== -1; quote = text.indexOf('"', quote + 1)) {
    let backslashes = 0
    while (text[quote - 1 - backslashes] === '\\') backslashes += 1
    if (backslashes % 2 === 0) return quote + 1
  }
  return -1
}

/** Whether it is an integer, and the digits that JavaScript would show are others than those which stand there. */
function isRounded(token: string): boolean {
  if (token.length < 16 || !/^-?[1-9]\d+$/.test(token)) return false
  const value = Number(token)
  if (Number.isSafeInteger(value)) return false
  const [mantissa = '', exponent = '0'] = Math.abs(value).toExponential().split('e')
  const digits = mantissa.replace('.', '').padEnd(Number(exponent) + 1, '0')
  return digits !== token.replace('-', '')
}

/** Puts bigints where marked texts stand. */
function unmarked(root: unknown, mark: string): unknown {
  const exact = (value: unknown): unknown =>
    typeof value === 'string' && value.startsWith(mark) ? BigInt(value.slice(mark.length)) : value
  const open: unknown[] = [root]
  while (open.length > 0) {
    const holder = open.pop()
    if (typeof holder !== 'object' || holder === null) continue
    for (const [key, value] of Object.entries(holder)) {
      const replaced = exact(value)
      // Not an assignment: "__proto__" is a name like any other in JSON.
      if (replaced !== value) Object.defineProperty(holder, key, { value: replaced, ...ordinary })
      else open.push(value)
    }
  }
  return exact(root)
}

const ordinary = { writable: true, enumerable: true, configurable: true }

/** JSON text of a value; a bigint is written as the number it is. All else as JSON.stringify has it. */
export function writeExact(value: unknown, indent = 0): string | undefined {
  try {
    return JSON.stringify(value, undefined, indent)
  } catch (error) {
    if (!(error instanceof TypeError) || !/BigInt/.test(error.message)) throw error
    const write = (_key: string, item: unknown): unknown =>
      typeof item === 'bigint' ? rawNumber(item) : item
    return JSON.stringify(value, write, indent)
  }
}

/** What JSON.stringify writes as a number of these digits. */
export function rawNumber(item: bigint): unknown {
  return (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON(item.toString())
}
