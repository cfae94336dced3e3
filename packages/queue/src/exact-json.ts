/**
 * JSON whose whole numbers stay what they are: PostgreSQL keeps numbers of any size, JavaScript rounds beyond 2^53.
 *
 * Invariant: an integer that JavaScript would round is a bigint, in both directions; everything else is as JSON.parse and
 * JSON.stringify have it, and costs the same: only a text with sixteen digits in a row is looked at more closely.
 */

/** Parses JSON; integers that a number cannot hold become bigint. Throws as JSON.parse does. */
export function parseExact(text: string): unknown {
  if (!/\d{16}/.test(text)) return JSON.parse(text)
  return JSON.parse(text, exactly)
}

type Reviver = (key: string, value: unknown, context: { source?: string }) => unknown

// The third argument is in Node since 21; the types do not know it yet.
const exactly = ((_key, value, { source }) =>
  typeof value === 'number' && source !== undefined && isRounded(value, source)
    ? BigInt(source)
    : value) as Reviver as (key: string, value: unknown) => unknown

/** Whether the digits that JavaScript would show are others than those which stand there. */
function isRounded(value: number, source: string): boolean {
  if (Number.isSafeInteger(value) || !/^-?\d+$/.test(source)) return false
  const [mantissa = '', exponent = '0'] = Math.abs(value).toExponential().split('e')
  const digits = mantissa.replace('.', '').padEnd(Number(exponent) + 1, '0')
  return digits !== source.replace('-', '')
}

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
