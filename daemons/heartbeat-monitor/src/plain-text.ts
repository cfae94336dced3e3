/**
 * Text of others on its way into a mail: names, titles and errors that anybody may have written.
 *
 * Invariant: what leaves here is one line without control, format or separator characters, so that it can neither
 * break a header, nor forge a line of the body, nor turn the reading direction. Composing is compose.ts.
 */

/** One line of at most `max` characters. What was cut ends with an ellipsis; what was nothing is `?`. */
export function oneLine(text: string | null | undefined, max = 200): string {
  const line = (text ?? '')
    .replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}]+/gu, ' ')
    .replaceAll(/\s+/gu, ' ')
    .trim()
  if (line === '') return '?'
  const characters = Array.from(line)
  return characters.length <= max ? line : `${characters.slice(0, max - 1).join('')}…`
}

/** `1 worker`, `2 workers`. */
export function count(n: number, one: string, many = `${one}s`): string {
  return `${n} ${n === 1 ? one : many}`
}

/** Seconds for people: the two largest units. */
export function duration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds))
  if (s < 60) return `${s} s`
  if (s < 3_600) return `${Math.floor(s / 60)} min ${s % 60} s`
  if (s < 86_400) return `${Math.floor(s / 3_600)} h ${Math.floor((s % 3_600) / 60)} min`
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3_600)} h`
}

/** A moment in UTC to the second, whatever the reader's and the server's zones are. */
export function moment(time: string | Date): string {
  const date = new Date(time)
  return Number.isNaN(date.getTime()) ? '?' : `${date.toISOString().slice(0, 19).replace('T', ' ')} UTC`
}

/** A heading with labelled lines below it; a fact that is null is left out. */
export function block(heading: string, facts: Readonly<Record<string, string | null>>): string {
  const told = Object.entries(facts).filter((fact): fact is [string, string] => fact[1] !== null)
  return [heading, ...told.map(([label, text]) => `  ${label.padEnd(12)} ${text}`)].join('\n')
}
