/**
 * One measurement in a process of its own: opens the system on a fresh database, measures, prints JSON as its last line.
 *
 * `node cell.ts SYSTEM WORKLOAD URL POSTMASTER PARAMETERS`.
 */
import { once } from 'node:events'
import { Client } from 'pg'
import { adapterOf, allContenders, contenderNamed } from './contenders.ts'
import type { Parameters } from './workload.ts'
import { workloadNamed } from './workloads/index.ts'

const [name, workload, url, postmaster, text] = process.argv.slice(2) as [
  string,
  string,
  string,
  string,
  string,
]
const contender = contenderNamed(name, allContenders)
const adapter = await adapterOf(contender)
const client = new Client({ connectionString: url })
await client.connect()
const system = await adapter.open(url, contender.variant)
await system.install()
const measurement = await workloadNamed(workload).measure(
  {
    contender,
    system,
    batch: adapter.batch,
    claimStatement: adapter.claimStatement,
    url,
    client,
    postmaster: Number(postmaster),
    async meet() {
      if (process.send === undefined) return // run by hand, alone
      process.send('ready')
      await once(process, 'message')
    },
  },
  JSON.parse(text) as Parameters,
)
await system.close()
await client.end()
process.stdout.write(`\n${JSON.stringify(measurement)}\n`, () => process.exit(0))
