/**
 * What others may know of the scheduler daemon: where its program is, to start it as a process.
 */
