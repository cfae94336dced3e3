/**
 * A breaker: after enough failures in a row it refuses at once for a while, instead of letting everybody wait for a timeout.
 *
 * Its state is of this process only and is lost with it. closed → (failures in a row) → open → (cool-down) → half-open, where one
 * caller may try; its success closes, its failure opens again for twice as long. Counting what is a failure is the caller's.
 */

/** A breaker in use. Every `enter()` that answered true must be followed by exactly one `succeeded`, `failed` or `left`. */
export type Breaker = {
  /** Whether the caller may try now. While half-open, true for one caller at a time. */
  enter(): boolean
  succeeded(): void
  failed(): void
  /** The try ended without telling anything (it was aborted). */
  left(): void
  /** Whether callers are being refused. */
  isOpen(): boolean
}

/** `failures` in a row open it for `coolDownMs`, doubled by every failed trial up to `maxCoolDownMs`. `now` is a monotonic clock in ms. */
export type BreakerOptions = {
  readonly failures: number
  readonly coolDownMs: number
  readonly maxCoolDownMs: number
  readonly now?: () => number
}

/** Makes a closed breaker. */
export function createBreaker(options: BreakerOptions): Breaker {
  const now = options.now ?? (() => performance.now())
  let failuresInARow = 0
  let coolDownMs = options.coolDownMs
  let openUntil: number | null = null
  let trial = false
  const isOpen = () => openUntil !== null && (trial || now() < openUntil)
  return {
    isOpen,
    enter() {
      if (openUntil === null) return true
      if (isOpen()) return false
      trial = true
      return true
    },
    succeeded() {
      failuresInARow = 0
      coolDownMs = options.coolDownMs
      openUntil = null
      trial = false
    },
    failed() {
      failuresInARow++
      if (trial) {
        coolDownMs = Math.min(coolDownMs * 2, options.maxCoolDownMs)
        openUntil = now() + coolDownMs
        trial = false
      } else if (openUntil === null && failuresInARow >= options.failures) {
        openUntil = now() + coolDownMs
      }
    },
    left() {
      trial = false
    },
  }
}
