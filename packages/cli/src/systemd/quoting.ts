/**
 * Values as systemd's files take them: no path, name or setting can be read as anything but itself.
 *
 * Callers have refused control characters before (refuse.ts): there is no way to say them everywhere.
 */

/** A word of ExecStart=: no specifier, no variable and no blank of it means anything. */
export function execWord(word: string): string {
  const plain = word.replaceAll('%', '%%').replaceAll('$', '$$$$')
  return /^[\w@%+=:,./$-]+$/.test(plain) ? plain : `"${plain.replaceAll(/["\\]/g, String.raw`\$&`)}"`
}

/** A path that fills its line: WorkingDirectory=, EnvironmentFile=, the file of LoadCredential=. */
export function path(text: string): string {
  return text.replaceAll('%', '%%')
}

/** A path among others: ReadWritePaths=. */
export function listedPath(text: string): string {
  const plain = path(text)
  return /\s|["'\\]/.test(plain) ? `"${plain.replaceAll(/["\\]/g, String.raw`\$&`)}"` : plain
}

/** A line of an EnvironmentFile=. */
export function environmentLine(name: string, value: string): string {
  return /^[\w@%+=:,./-]*$/.test(value)
    ? `${name}=${value}`
    : `${name}="${value.replaceAll(/["\\`$]/g, String.raw`\$&`)}"`
}
