import { join } from 'node:path'
import { defineConfig } from 'vitest/config'

// Inherited by the workers and by the programs that tests start: half of the time of a start is compiling.
process.env['NODE_COMPILE_CACHE'] ??= join(import.meta.dirname, 'node_modules/.cache/node-compile')

const conditions = ['development', 'node', 'default']

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    include: ['{packages,daemons,pipelines}/*/test/**/*.test.ts', 'test/**/*.test.ts'],
    // Limits of waiting for what must happen, on a machine that may be busy with something else; none is a measurement.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    expect: { poll: { timeout: 45_000 } },
    pool: 'forks',
    // More than the cores of a small machine: many files wait for leases, outages and services most of the time.
    maxWorkers: 3,
    setupFiles: ['./test/harness/per-file.ts'],
    globalSetup: ['./test/harness/global-setup.ts'],
  },
})
