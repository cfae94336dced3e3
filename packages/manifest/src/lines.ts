/**
 * Where in its file a setting of the manifest stands, for messages.
 *
 * Looks at object literals as they are written and understands no code: what is computed, imported or spread has no line,
 * and the nearest setting around it is named instead. Never throws.
 */

/** Line numbers (from 1) of the settings in a manifest's text, by their path: `stages.lead_verify.instances`. */
export function linesOf(text: string): ReadonlyMap<string, number> {
  const lines = new Map<string, number>()
  const start = /\bdefineManifest\s*\(|\bexport\s+default\b|^\s*\{/m.exec(text)
  if (start === null) return lines
  new Scanner(text, text.indexOf('{', start.index)).scan(lines)
  return lines
}

/** The line of a path, or of the nearest setting that holds it; null when nothing of it was found. */
export function lineOf(lines: ReadonlyMap<string, number>, path: string): number | null {
  for (let at = path; at !== ''; at = at.slice(0, Math.max(0, at.lastIndexOf('.')))) {
    const line = lines.get(at)
    if (line !== undefined) return line
  }
  return null
}

interface Level {
  readonly kind: 'object' | 'list' | 'other'
  readonly path: string
  /** The setting or item whose value is being read. */
  current: string | null
  index: number
}

/** Comments, texts in three kinds of quotes, names and numbers, and single signs. */
const token =
  /\/\/[^\n]*|\/\*[^]*?\*\/|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\[^])*`|[\p{L}\p{N}_$]+|\S/gu

class Scanner {
  private readonly text: string
  private readonly from: number
  private readonly levels: Level[] = []
  private line = 1
  private counted = 0

  constructor(text: string, from: number) {
    this.text = text
    this.from = Math.max(0, from)
  }

  /** Walks to the end of the first object. */
  scan(lines: Map<string, number>): void {
    token.lastIndex = this.from
    let before = ''
    for (let match = token.exec(this.text); match !== null; match = token.exec(this.text)) {
      const [sign] = match
      if (sign.startsWith('//') || sign.startsWith('/*')) continue
      const level = this.levels.at(-1)
      if (sign === ':' && level?.kind === 'object' && level.current === null) {
        level.current = joined(level.path, unquoted(before))
        lines.set(level.current, this.lineAt(match.index))
      } else if (sign === ',' && level !== undefined) {
        level.current = null
        level.index += 1
      } else if ('{[('.includes(sign)) this.open(sign, lines, match.index)
      else if ('}])'.includes(sign)) {
        this.levels.pop()
        if (this.levels.length === 0) return
      }
      before = sign
    }
  }

  private open(sign: string, lines: Map<string, number>, at: number): void {
    const around = this.levels.at(-1)
    let path = around?.current ?? ''
    if (around?.kind === 'list') {
      path = joined(around.path, String(around.index))
      lines.set(path, this.lineAt(at))
    }
    const literal =
      around === undefined || around.kind === 'list' || (around.kind === 'object' && around.current !== null)
    const kind = !literal || sign === '(' ? 'other' : sign === '{' ? 'object' : 'list'
    this.levels.push({ kind, path, current: null, index: 0 })
  }

  private lineAt(index: number): number {
    for (; this.counted < index; this.counted += 1) if (this.text[this.counted] === '\n') this.line += 1
    return this.line
  }
}

function joined(path: string, name: string): string {
  return path === '' ? name : `${path}.${name}`
}

function unquoted(name: string): string {
  return /^['"]/.test(name) ? name.slice(1, -1) : name
}
