/**
 * Where a command writes: results to standard output, everything else to standard error.
 *
 * Invariant: colours appear on terminals only and never with NO_COLOR; results are complete even when they are piped.
 */
import { styleText } from 'node:util'

type Style = Parameters<typeof styleText>[0]

export interface Terminal {
  readonly isTty: boolean
  /** Width of the terminal in characters; 80 when there is none. */
  readonly columns: number
  /** A line of the result. */
  out(line: string): void
  /** A line about the work: progress, notes, errors. */
  note(line: string): void
  readonly paint: (style: Style, text: string) => string
}

/** The terminal of this process. */
export function openTerminal(stdout: NodeJS.WriteStream, stderr: NodeJS.WriteStream): Terminal {
  return {
    isTty: stdout.isTTY,
    columns: stdout.columns ?? 80,
    out: (line) => void stdout.write(`${line}\n`),
    note: (line) => void stderr.write(`${line}\n`),
    // Looks at NO_COLOR, FORCE_COLOR and at whether the stream is a terminal.
    paint: (style, text) => styleText(style, text, { stream: stdout }),
  }
}
