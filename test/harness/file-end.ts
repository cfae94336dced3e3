/**
 * What has to be cleared away when a test file ends: its processes, its clusters. Whoever makes such things says so once.
 *
 * Kept apart from hooks of the makers' own modules: those are loaded once where files share a worker (--no-isolate), and
 * their hooks would belong to the first file alone. per-file.ts asks here at the end of each.
 */
const duties = new Set<() => Promise<void>>()

/** From now on `clear` is called at the end of every file of this worker. */
export function atFileEnd(clear: () => Promise<void>): void {
  duties.add(clear)
}

/** Carries all of it out. */
export async function endFile(): Promise<void> {
  for (const clear of duties) await clear()
}
