/**
 * The setup of every test file, executed anew for each one: what the file leaves behind is cleared away at its end.
 *
 * What that is, is said to file-end.ts.
 */
import { afterAll } from 'vitest'
import { endFile } from './file-end.ts'

afterAll(endFile)
