/**
 * Daemons and commands behind a real PgBouncer in transaction mode.
 */
import { test } from 'vitest'
import { createTestDatabase } from '../../../test/harness/database.ts'
import { startPgbouncer } from '../../../test/harness/pgbouncer.ts'
import { createHostileDatabase } from './defaults.ts'
import { liveAndDie } from './scenario.ts'

test('everything works through PgBouncer: migration, death, mail, take-over', async () => {
  const db = await createTestDatabase({ empty: true })
  const pooler = await startPgbouncer(db.url)
  try {
    await liveAndDie(pooler.url, db.url)
  } finally {
    await pooler.stop()
    await db.drop()
  }
})

test('also when the defaults of the database behind it are hostile', async () => {
  const db = await createHostileDatabase()
  const pooler = await startPgbouncer(db.url)
  try {
    await liveAndDie(pooler.url, db.admin)
  } finally {
    await pooler.stop()
    await db.drop()
  }
})
