/**
 * `npm run check`: format, types, lint, layering and the schema dump, in one word.
 *
 * All steps run even when one fails, so that one look shows everything. Changes nothing; each failure names the command
 * that mends it where there is one.
 */
import { spawnSync } from 'node:child_process'
import { ensureInstall, pinnedEnvironment, repository } from './ensure-install.mjs'

const node = ensureInstall()

const schema = [node, '--conditions=development', 'scripts/check-schema.mjs']
const steps = [
  { name: 'format', command: ['prettier', '--check', '--log-level=warn', '.'], remedy: 'npm run format' },
  { name: 'types', command: ['tsc', '-b'] },
  { name: 'types of the tests', command: ['tsc', '-p', 'test'] },
  { name: 'lint', command: ['oxlint', '--type-aware', '--quiet'] },
  { name: 'layers', command: [node, 'scripts/check-layers.mjs'] },
  { name: 'schema dump', command: schema, remedy: 'npm run check -- --write-schema' },
]

if (process.argv.includes('--write-schema')) process.exit(run([...schema, '--write']) ? 0 : 1)

const failed = []
for (const { name, command, remedy } of steps) {
  const passed = run(command)
  const hint = passed || remedy === undefined ? '' : ` (mend it with ${remedy})`
  console.log(`${passed ? 'ok    ' : 'FAILED'} ${name}${hint}`)
  if (!passed) failed.push(name)
}
console.log(failed.length === 0 ? 'The check passed.' : `The check failed: ${failed.join(', ')}.`)
process.exit(failed.length === 0 ? 0 : 1)

function run([program, ...args]) {
  const { status } = spawnSync(program, args, { cwd: repository, env: pinnedEnvironment(), stdio: 'inherit' })
  return status === 0
}
