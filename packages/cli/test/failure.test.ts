/**
 * How failures are told: every one has a hint and an exit code, none shows a password.
 */
import { ConfigError, KeyConflictError, LeaseholdError, TaskNotFoundError } from '@leasehold/queue'
import { expect, test } from 'vitest'
import { CommandError, toFailure, usageError } from '../src/failure.ts'

function coded(code: string, message: string, more: object = {}): Error {
  return Object.assign(new Error(message), { code, ...more })
}

test('every failure has a hint', () => {
  const failures = [
    new LeaseholdError('SOMETHING', 'x'),
    new KeyConflictError('x'),
    new Error('x'),
    'x',
    coded('ECONNREFUSED', 'connect'),
    coded('42P01', 'relation "leasehold.task_status" does not exist'),
    coded('XX000', 'internal'),
    new AggregateError([coded('ECONNREFUSED', 'connect')]),
  ].map(toFailure)
  for (const failure of failures) expect(failure.hint).not.toBe('')
})

test('exit codes tell usage, absence and nothing done from failure', () => {
  expect(toFailure(new ConfigError([{ name: 'A', problem: 'b' }])).exitCode).toBe(2)
  expect(toFailure(usageError('a', 'b')).exitCode).toBe(2)
  expect(toFailure(new TaskNotFoundError('7')).exitCode).toBe(3)
  for (const code of ['DIRECTORY_INVALID', 'CRITERIA_INVALID'])
    expect(toFailure(new LeaseholdError(code, 'm')).exitCode).toBe(2)
  expect(toFailure(new LeaseholdError('RUN_NOT_FOUND', 'm')).exitCode).toBe(3)
  expect(toFailure(new CommandError('X', 'm', 'h', 4)).exitCode).toBe(4)
  expect(toFailure(new Error('boom')).exitCode).toBe(1)
})

test('a missing schema, a missing role and a slow query each name their remedy', () => {
  expect(toFailure(coded('42P01', 'no')).hint).toContain('npx leasehold migrate')
  expect(toFailure(coded('42501', 'no')).hint).toContain('leasehold_observer')
  expect(toFailure(coded('57014', 'no')).hint).toContain('--limit')
  expect(toFailure(new Error('Connection terminated due to connection timeout')).hint).toContain(
    'DATABASE_URL',
  )
})

test('the hint that came from the database is passed on', () => {
  expect(toFailure(coded('LH999', 'no', { hint: 'do that' })).hint).toBe('do that')
})

test('no failure shows the password of an address', () => {
  const { message } = toFailure(new Error('cannot parse postgres://me:s3cret@host/db or redis://:x@y'))
  expect(message).not.toContain('s3cret')
  expect(message).toContain('postgres://me:***@host/db')
})
