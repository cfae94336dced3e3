/**
 * A database of its own on the user's server, for as long as a piece of work takes.
 *
 * Invariant: nothing that existed before is touched, and what was made is gone afterwards, however the work ends: the
 * database, and those of Leasehold's roles that migrating it has brought to the server.
 */
import { openPool } from '@leasehold/postgres'
import { randomBytes } from 'node:crypto'
import type { Pool } from 'pg'

/** Runs `work` with the address of an empty database. Drops it, also when `work` fails. */
export async function withScratchDatabase<T>(
  serverUrl: string,
  work: (url: string, name: string) => Promise<T>,
): Promise<T> {
  const name = `leasehold_bench_${randomBytes(4).toString('hex')}`
  const admin = openPool({ connectionString: serverUrl, applicationName: 'leasehold bench', max: 1 })
  try {
    const rolesBefore = await roles(admin)
    await admin.query(`create database ${name} template template0`)
    try {
      const url = new URL(serverUrl)
      url.pathname = `/${name}`
      return await work(url.href, name)
    } finally {
      await admin.query(`drop database if exists ${name} with (force)`)
      for (const role of await roles(admin)) if (!rolesBefore.includes(role)) await dropRole(admin, role)
    }
  } finally {
    await admin.end()
  }
}

/** Stays when another database has begun to use it meanwhile. */
async function dropRole(admin: Pool, role: string): Promise<void> {
  try {
    await admin.query(`drop role if exists ${role}`)
  } catch (error) {
    const stillUsed = '2BP01'
    if ((error as { code?: string }).code !== stillUsed) throw error
  }
}

const ownRoles = ['owner', 'submitter', 'worker', 'observer', 'operator'].map((role) => `leasehold_${role}`)

async function roles(admin: Pool): Promise<string[]> {
  const { rows } = await admin.query<{ rolname: string }>(
    'select rolname from pg_catalog.pg_roles where rolname = any ($1)',
    [ownRoles],
  )
  return rows.map(({ rolname }) => rolname)
}
