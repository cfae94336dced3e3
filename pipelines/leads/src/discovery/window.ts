/**
 * The part of a directory that is being read: whole lines in memory, from a moving beginning, of a file opened once.
 *
 * Invariants: every byte is read once, however often a line has to be looked at again; beyond what rows.ts asks for with
 * `more` nothing is held. What the lines say is rows.ts and broken-line.ts.
 */
import { type FileHandle, open } from 'node:fs/promises'
import type { Directory } from './directory.ts'

const BLOCK = 256 * 1024

/** Opens the file of a directory at `offset`; to be disposed of. Reading throws the reason of `signal` once it aborts. */
export async function openWindow(
  directory: Directory,
  offset: number,
  signal: AbortSignal | undefined,
): Promise<Window> {
  signal?.throwIfAborted()
  return new Window(await open(directory.path, 'r'), directory, offset, signal)
}

export class Window {
  /** Where in the file `held` begins. */
  offset: number
  /** The file has been read to its end. */
  ended = false
  private held: Buffer = Buffer.alloc(0)
  private readonly file: FileHandle
  private readonly newline: Buffer
  private readonly signal: AbortSignal | undefined

  constructor(file: FileHandle, directory: Directory, offset: number, signal: AbortSignal | undefined) {
    this.file = file
    this.newline = Buffer.from(directory.recordDelimiters.at(-1) ?? '\n', directory.encoding)
    this.offset = offset
    this.signal = signal
  }

  /** The bytes in memory. */
  get size(): number {
    return this.held.length
  }

  /** Whole lines only; at the end of the file everything that is left. */
  get lines(): Buffer {
    if (this.ended) return this.held
    const at = aligned(this.held, this.newline, 'last')
    return this.held.subarray(0, at === -1 ? 0 : at + this.newline.length)
  }

  /** The first line with its end; null when its end is not in memory. */
  get firstLine(): Buffer | null {
    const at = aligned(this.held, this.newline, 'first')
    if (at !== -1) return this.held.subarray(0, at + this.newline.length)
    return this.ended ? this.held : null
  }

  /** Reads a block more. False: there was nothing left. */
  async more(): Promise<boolean> {
    this.signal?.throwIfAborted()
    const block = Buffer.allocUnsafe(BLOCK)
    const { bytesRead } = await this.file.read(block, 0, BLOCK, this.offset + this.held.length)
    this.ended = bytesRead === 0
    this.held = Buffer.concat([this.held, block.subarray(0, bytesRead)])
    return !this.ended
  }

  /** Lets go of everything before `offset`. */
  moveTo(offset: number): void {
    this.held = this.held.subarray(offset - this.offset)
    this.offset = offset
  }

  /** Lets go of the first line, however long it is; false when there is none. */
  async skipLine(): Promise<boolean> {
    let skipped = 0
    for (;;) {
      const line = this.firstLine
      if (line !== null) {
        this.moveTo(this.offset + line.length)
        return skipped + line.length > 0
      }
      skipped += this.held.length
      this.moveTo(this.offset + this.held.length)
      await this.more()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.file.close()
  }
}

/** Where `newline` is; in UTF-16 only at whole characters, since U+0A00 and its like hold the same bytes. */
function aligned(bytes: Buffer, newline: Buffer, which: 'first' | 'last'): number {
  let at = which === 'first' ? bytes.indexOf(newline) : bytes.lastIndexOf(newline)
  while (at !== -1 && at % newline.length !== 0) {
    if (which === 'last' && at === 0) return -1
    at = which === 'first' ? bytes.indexOf(newline, at + 1) : bytes.lastIndexOf(newline, at - 1)
  }
  return at
}
