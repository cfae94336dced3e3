/**
 * The workloads, in the order in which they are measured and shown.
 */
import type { Workload } from '../workload.ts'
import { workload as backlog } from './backlog.ts'
import { workload as disturbed } from './disturbed.ts'
import { workload as drain } from './drain.ts'
import { workload as leads } from './leads.ts'
import { workload as mixed } from './mixed.ts'
import { workload as scale } from './scale.ts'
import { workload as soak } from './soak.ts'
import { workload as steady } from './steady.ts'
import { workload as submit } from './submit.ts'
import { workload as views } from './views.ts'
import { workload as waiting } from './waiting.ts'

export const workloads: readonly Workload[] = [
  drain,
  submit,
  steady,
  backlog,
  disturbed,
  scale,
  mixed,
  waiting,
  views,
  soak,
  leads,
]

/** The workload of this name or number. Throws when there is none. */
export function workloadNamed(name: string): Workload {
  const found = workloads.find((workload) => workload.name === name || workload.id === name.toUpperCase())
  if (found !== undefined) return found
  const all = workloads.map(({ id, name }) => `${id} ${name}`).join(', ')
  throw new Error(`There is no workload '${name}'. There are: ${all}.`)
}
