/**
 * Feeding systemd's watchdog: only while the main loop comes round, so that a process whose work stands still is killed
 * and started again, however lively the rest of it looks.
 */
import type { Notifier } from './systemd.ts'

/** The watchdog of one process. Without one nothing here does anything. */
export class Watchdog {
  /** After how long without food systemd kills; infinite when it does not watch. */
  readonly limitMs: number
  private readonly systemd: Notifier
  private fedAt = -Infinity
  private feeding: NodeJS.Timeout | undefined

  constructor(systemd: Notifier) {
    this.systemd = systemd
    this.limitMs = systemd.watchdogIntervalMs === null ? Infinity : systemd.watchdogIntervalMs * 2
  }

  /** For loops that come round often within the limit: each turn feeds, at most once in a twentieth of the limit. */
  turned(): void {
    const now = performance.now()
    if (this.limitMs === Infinity || now - this.fedAt < Math.min(this.limitMs / 20, 1_000)) return
    this.fedAt = now
    this.systemd.watchdog()
  }

  /**
   * For loops that may rest longer than the limit: feeds from now on, twice within the limit, as long as the loop is
   * overdue by less than `slackMs`. Both are the caller's measure of a loop that stands still.
   */
  feedWhile(overdueMs: () => number, slackMs: number): void {
    if (this.systemd.watchdogIntervalMs === null) return
    const feed = (): void => {
      if (overdueMs() < slackMs) this.systemd.watchdog()
    }
    feed()
    this.feeding = setInterval(feed, this.systemd.watchdogIntervalMs)
  }

  /** Ends `feedWhile`. */
  stop(): void {
    clearInterval(this.feeding)
  }
}
