/**
 * What others may know of the runner daemon: where its program is, to start it as a process.
 */

/** The file to run: `node <entry> --stage NAME --slot NAME`. */
export const runnerEntry: URL = new URL(
  `./main.${import.meta.url.endsWith('.ts') ? 'ts' : 'js'}`,
  import.meta.url,
)
