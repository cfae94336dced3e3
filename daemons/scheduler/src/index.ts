/**
 * What others may know of the scheduler daemon: where its program is, to start it as a process.
 */

/** The daemon's program. */
export const schedulerEntry: URL = new URL(
  import.meta.url.endsWith('.ts') ? './main.ts' : './main.js',
  import.meta.url,
)
