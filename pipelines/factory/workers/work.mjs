/**
 * A made-up program that stands for every worker of the factory: `node workers/work.mjs KIND`, payload on standard input.
 *
 * It works through `items` (three made-up ones when there are none), prints a line for each, and ends with one JSON line
 * that is its result. An item that cannot be worked is an error of its own and keeps none of the others back. Nothing in it
 * knows of Leasehold; any language would do.
 */
import { createHash } from 'node:crypto'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'

const unusable = 65 // EX_DATAERR: no other attempt would help
const kind = process.argv[2] ?? 'work'
const payload = parse(await text(process.stdin))
const { items = ['first', 'second', 'third'], pauseMs = 20 } = payload
if (!Array.isArray(items)) refuse(`items must be a list, not ${typeof items}`)

process.on('SIGTERM', () => {
  console.error(`${kind}: told to stop, leaving in order`)
  process.exit(1)
})

const errors = []
let written = 0
for (const [index, item] of items.entries()) {
  await delay(pauseMs)
  if (typeof item !== 'string') {
    errors.push({ index, reason: 'is no text' })
    console.error(`${kind}: item ${index} is no text`)
    continue
  }
  const mark = createHash('sha256').update(`${kind} ${item}`).digest('hex').slice(0, 8)
  console.log(`${kind}: ${item} → ${mark}`)
  written += 1
}
console.log(JSON.stringify({ processed: items.length, written, errors }))

function parse(input) {
  try {
    const value = JSON.parse(input)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  } catch {
    // Said below.
  }
  return refuse(`the payload must be a JSON object, not ${input.trim().slice(0, 200)}`)
}

function refuse(reason) {
  console.error(`${kind}: ${reason}`)
  process.exit(unusable)
}
