/**
 * Schedules: which moments a cron expression or an interval names, in a time zone, across its clock changes.
 *
 * Pure: no database, no clock of its own. Firing is the scheduler's (daemons/scheduler), in one transaction.
 */
