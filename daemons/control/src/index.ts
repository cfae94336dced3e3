/**
 * The control service's public face: what its answers are made of, and listening.
 *
 * Daemons are not imported by one another; tests, the CLI and main.ts import from here.
 */
export { type Health, judge } from './health.ts'
export { Metrics } from './metrics.ts'
export { type Room, type RoomOptions, openRoom } from './room.ts'
export { type Answer, SharedRead } from './shared-read.ts'
export { type Overview, Source, readOverview } from './source.ts'
