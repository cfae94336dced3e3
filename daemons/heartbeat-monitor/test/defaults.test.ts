/**
 * Daemons and commands on a database whose defaults are hostile.
 */
import { test } from 'vitest'
import { createHostileDatabase } from './defaults.ts'
import { liveAndDie } from './scenario.ts'

test('no default of the database or its logins gets in the way: migration, death, mail, take-over', async () => {
  const db = await createHostileDatabase()
  try {
    await liveAndDie(db.url, db.admin)
  } finally {
    await db.drop()
  }
})
