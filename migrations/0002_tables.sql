-- Tables: settings, the task itself, one table per state, and what an attempt leaves behind.
--
-- Hot tables carry no foreign keys (a key share lock on a hot parent becomes a multixact), no GIN and no row triggers;
-- indexes grow at their right edge. What is only history is partitioned by ranges of the task id, all tables alike,
-- so that retention drops partitions and deletes nothing row by row.

-- ---------------------------------------------------------------------------------------------------- settings
create table leasehold.stages (
  name text collate "C" primary key,
  priority smallint not null default 5,
  max_attempts smallint not null default 3,
  max_crashes smallint not null default 3,
  timeout interval not null default interval '30 minutes',
  backoff_min interval not null default interval '5 seconds',
  backoff_max interval not null default interval '30 seconds',
  key_limit integer not null default 1,
  expected_workers integer not null default 0,
  paused_until timestamptz,
  registered_at timestamptz not null default leasehold.clock(),
  constraint stage_name_is_plain check (name ~ '^[a-z][a-z0-9_.-]{0,47}$'),
  constraint stage_priority_is_0_to_9 check (priority between 0 and 9),
  constraint stage_max_attempts_is_1_to_1000 check (max_attempts between 1 and 1000),
  constraint stage_max_crashes_is_1_to_100 check (max_crashes between 1 and 100),
  constraint stage_timeout_is_up_to_30_days check (timeout > interval '0' and timeout <= interval '30 days'),
  constraint stage_backoff_is_ordered check (
    backoff_min >= interval '0' and backoff_min <= backoff_max and backoff_max <= interval '30 days'),
  constraint stage_key_limit_is_positive check (key_limit between 1 and 100000),
  constraint stage_expected_workers_is_not_negative check (expected_workers between 0 and 100000)
);
comment on table leasehold.stages is 'One row per named kind of work, with the settings its tasks inherit. Changes take effect on the next transition.';
comment on column leasehold.stages.key_limit is 'How many tasks of one concurrency_key may be ready or running at once.';
comment on column leasehold.stages.max_crashes is 'A task whose worker died this many times while holding it is quarantined (dead).';
comment on column leasehold.stages.paused_until is 'Nothing is claimed before this moment; infinity means until resumed.';

-- ------------------------------------------------------------------------------------------------------- tasks
create table leasehold.tasks (
  id bigint generated always as identity,
  stage text collate "C" not null,
  payload jsonb not null default '{}',
  priority smallint,
  run_at timestamptz,
  key text collate "C",
  run_id text collate "C",
  title text,
  max_attempts smallint,
  timeout interval,
  depends_on bigint[],
  concurrency_key text collate "C",
  meta jsonb,
  submitted_at timestamptz not null default leasehold.clock(),
  primary key (id),
  constraint task_payload_is_at_most_1_mib check (pg_column_size(payload) <= 1048576),
  constraint task_priority_is_0_to_9 check (priority between 0 and 9),
  constraint task_run_at_is_within_100_years check (run_at < timestamptz '2126-01-01' and run_at > timestamptz '1970-01-01'),
  constraint task_key_is_1_to_200_characters check (length(key) between 1 and 200),
  constraint task_run_id_is_1_to_200_printable check (run_id ~ '^[[:print:]]{1,200}$'),
  constraint task_title_is_at_most_500_characters check (length(title) <= 500),
  constraint task_max_attempts_is_1_to_1000 check (max_attempts between 1 and 1000),
  constraint task_timeout_is_up_to_30_days check (timeout > interval '0' and timeout <= interval '30 days'),
  constraint task_depends_on_at_most_10000 check (cardinality(depends_on) <= 10000),
  constraint task_concurrency_key_is_1_to_200_characters check (length(concurrency_key) between 1 and 200),
  constraint task_meta_is_at_most_64_kib check (pg_column_size(meta) <= 65536)
) partition by range (id);
comment on table leasehold.tasks is 'Insert here to submit. One immutable row per task; its state is the table its id stands in (see view task_status).';
comment on column leasehold.tasks.priority is '0-9, higher first; null takes the stage''s.';
comment on column leasehold.tasks.run_at is 'Not before this moment; null means now.';
comment on column leasehold.tasks.key is 'Unique per stage while the task is unfinished.';
comment on column leasehold.tasks.run_id is 'Groups the tasks of one pass of a pipeline.';
comment on column leasehold.tasks.depends_on is 'Ids of tasks that must be done first; one that dies or is cancelled cancels this one.';
comment on column leasehold.tasks.concurrency_key is 'At most stages.key_limit tasks of one key are ready or running at once.';
create index tasks_by_run on leasehold.tasks (run_id, id) where run_id is not null;

-- -------------------------------------------------------------------------------------- one table per state
-- Lanes: 0-9 are the priorities. 10 is the express lane (run_now, and what a dead worker left behind).
-- 11 holds suspects: tasks one crash short of quarantine; a worker runs one of them at a time, so that a payload
-- which kills its worker takes no innocent neighbour into quarantine with it.
create table leasehold.ready (
  position bigint generated always as identity,
  task_id bigint not null,
  lane smallint not null,
  failures smallint not null default 0,
  crashes smallint not null default 0,
  stage text collate "C" not null,
  concurrency_key text collate "C",
  constraint ready_once_per_task primary key (task_id),
  constraint ready_lane_is_0_to_11 check (lane between 0 and 11)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000,
        autovacuum_vacuum_insert_scale_factor = 10, vacuum_truncate = off);
comment on table leasehold.ready is 'Tasks that may be claimed now, and nothing else.';
create index ready_by_lane on leasehold.ready (stage, lane, position);
create index ready_by_concurrency_key on leasehold.ready (stage, concurrency_key) where concurrency_key is not null;

create table leasehold.scheduled (
  run_at timestamptz not null,
  task_id bigint not null,
  failures smallint not null default 0,
  crashes smallint not null default 0,
  express boolean not null default false,
  stage text collate "C" not null,
  constraint scheduled_once_per_task primary key (task_id)
) with (vacuum_truncate = off);
comment on table leasehold.scheduled is 'Tasks whose run_at lies ahead: delayed ones, and retries in their backoff.';
create index scheduled_by_due_time on leasehold.scheduled (stage, run_at);

create table leasehold.waiting (
  task_id bigint not null,
  failures smallint not null default 0,
  crashes smallint not null default 0,
  lane smallint not null,
  for_parents boolean not null,
  stage text collate "C" not null,
  concurrency_key text collate "C",
  waiting_since timestamptz not null,
  constraint waiting_once_per_task primary key (task_id),
  constraint waiting_has_a_reason check (for_parents or concurrency_key is not null)
) with (vacuum_truncate = off);
comment on table leasehold.waiting is 'Tasks held back by open parents or by a concurrency key at its limit.';
create index waiting_by_concurrency_key on leasehold.waiting (stage, concurrency_key, lane desc, task_id)
  where not for_parents;

create sequence leasehold.fences;
comment on sequence leasehold.fences is 'Every claim draws one; never reused, never lowered.';

create table leasehold.leases (
  task_id bigint not null,
  fence bigint not null,
  worker_id uuid not null,
  leased_at timestamptz not null,
  deadline_at timestamptz not null,
  attempt smallint not null,
  crashes smallint not null,
  stage text collate "C" not null,
  run_id text collate "C",
  key text collate "C",
  concurrency_key text collate "C",
  constraint one_lease_per_task primary key (task_id)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000,
        autovacuum_vacuum_insert_scale_factor = 10, vacuum_truncate = off);
comment on table leasehold.leases is 'Tasks that run now. Valid while the worker''s expires_at and deadline_at lie ahead of clock().';
-- (worker, fence): a worker's fences only grow, and it reports the oldest it still holds with each beat; reading from
-- there on never walks the dead entries that an old snapshot keeps.
create index leases_by_worker on leasehold.leases (worker_id, fence);
create index leases_by_concurrency_key on leasehold.leases (stage, concurrency_key) where concurrency_key is not null;

create table leasehold.attempts (
  task_id bigint not null,
  fence bigint not null,
  worker_id uuid,
  leased_at timestamptz,
  ended_at timestamptz not null,
  attempt smallint not null,
  final boolean not null,
  outcome text collate "C" not null,
  error jsonb,
  result jsonb,
  primary key (task_id, fence),
  constraint attempt_outcome_is_known check (
    (final and outcome in ('done', 'dead', 'cancelled'))
    or (not final and outcome in ('retry', 'released', 'snoozed', 'lost', 'reopened')))
) partition by range (task_id);
comment on table leasehold.attempts is 'One row per ended lease, the last one final. Only inserted into.';
create index attempts_failed_by_time on leasehold.attempts (ended_at) where outcome in ('dead', 'retry', 'lost');

-- --------------------------------------------------------------------------- what stands beside a state
create table leasehold.task_keys (
  stage text collate "C" not null,
  key text collate "C" not null,
  task_id bigint not null,
  constraint key_once_per_unfinished_task primary key (stage, key),
  constraint task_holds_one_key unique (task_id)
);
comment on table leasehold.task_keys is 'Keys of unfinished tasks; freed in the transaction that ends the task.';

create table leasehold.dependencies (
  parent_id bigint not null,
  child_id bigint not null,
  constraint dependency_once primary key (parent_id, child_id),
  constraint parent_is_older_than_child check (parent_id < child_id)
);
comment on table leasehold.dependencies is 'Open edges of waiting tasks. A parent is always older than its child, so there are no cycles.';
create index dependencies_by_child on leasehold.dependencies (child_id);

-- A nudge says: look again whether this waiting task, or the next one of this key, may go. Whoever frees a key or ends
-- a parent leaves one in its own transaction and takes no lock on others; the next claim of the stage acts on it.
-- parent_id is the parent that ended; null asks to look at all of them, once, after the child was submitted.
create table leasehold.nudges (
  id bigint generated always as identity primary key,
  task_id bigint,
  parent_id bigint,
  stage text collate "C" not null,
  concurrency_key text collate "C",
  constraint nudge_names_a_task_or_a_key check ((task_id is null) <> (concurrency_key is null))
) with (vacuum_truncate = off);
create index nudges_by_stage on leasehold.nudges (stage, id);

-- The row that is locked while tasks of a key are admitted. Never updated, so it does not rot.
create table leasehold.concurrency_keys (
  stage text collate "C" not null,
  concurrency_key text collate "C" not null,
  primary key (stage, concurrency_key)
);

create table leasehold.revocations (
  worker_id uuid not null,
  fence bigint not null,
  task_id bigint not null,
  reason text not null,
  primary key (worker_id, fence, task_id)
);
comment on table leasehold.revocations is 'Leases taken from a live worker (cancelled, past deadline); its next exchange or beat reads and removes them.';

create table leasehold.run_ledger (
  run_id text collate "C" not null,
  stage text collate "C" not null,
  submitted integer not null default 0,
  done integer not null default 0,
  dead integer not null default 0,
  cancelled integer not null default 0
);
comment on table leasehold.run_ledger is 'Counts by run and stage as a sum of small entries: one per statement, never a hot row.';
create index run_ledger_by_run on leasehold.run_ledger (run_id, stage);

-- ----------------------------------------------------------------------------- what an attempt leaves behind
create table leasehold.task_progress (
  task_id bigint not null,
  at timestamptz not null,
  fence bigint not null,
  fraction real,
  message text,
  primary key (task_id, at),
  constraint progress_fraction_is_0_to_1 check (fraction between 0 and 1)
) partition by range (task_id);

create table leasehold.task_checkpoints (
  task_id bigint not null,
  name text collate "C" not null,
  fence bigint not null,
  at timestamptz not null,
  value jsonb,
  primary key (task_id, name),
  constraint checkpoint_name_is_1_to_200_characters check (length(name) between 1 and 200)
) partition by range (task_id);

create table leasehold.task_logs (
  task_id bigint not null,
  line bigint generated by default as identity,
  fence bigint not null,
  at timestamptz not null,
  level text collate "C" not null,
  message text not null,
  fields jsonb,
  primary key (task_id, line),
  constraint log_level_is_known check (level in ('debug', 'info', 'warn', 'error', 'stdout', 'stderr')),
  constraint log_message_is_at_most_32_kib check (length(message) <= 32768)
) partition by range (task_id);

-- ------------------------------------------------------------------------------------------------- workers
create table leasehold.workers (
  id uuid primary key,
  slot text collate "C" not null,
  stages text[] collate "C" not null,
  host text not null,
  pid integer,
  version text,
  concurrency integer not null default 1,
  restarts integer not null default 0,
  meta jsonb,
  ttl interval not null,
  beat_interval interval not null,
  started_at timestamptz not null,
  beat_at timestamptz not null,
  expires_at timestamptz not null,
  loop_at timestamptz not null,
  oldest_fence bigint not null default 0,
  running integer not null default 0,
  draining boolean not null default false,
  drain_asked boolean not null default false,
  ended_at timestamptz,
  end_reason text,
  constraint worker_slot_is_1_to_100_printable check (slot ~ '^[[:graph:]]{1,100}$'),
  constraint worker_serves_1_to_100_stages check (cardinality(stages) between 1 and 100),
  constraint worker_ttl_is_sane check (ttl between interval '100 milliseconds' and interval '1 day'),
  constraint worker_beats_three_times_per_ttl check (beat_interval * 3 <= ttl),
  constraint worker_end_has_a_reason check ((ended_at is null) = (end_reason is null))
) with (fillfactor = 50);
comment on table leasehold.workers is 'One row per process incarnation; one update per beat renews all its leases. No index holds a column that a beat changes, so beats stay HOT.';
create unique index one_live_worker_per_slot on leasehold.workers (slot) where ended_at is null;
create index workers_by_end on leasehold.workers (ended_at) where ended_at is not null;

-- A stage's workers that wait for work: until when a submitter should wake them.
create table leasehold.sleepers (
  stage text collate "C" not null,
  worker_id uuid not null,
  wake_until timestamptz not null,
  primary key (stage, worker_id)
) with (fillfactor = 50);

-- ------------------------------------------------------------------------------------- housekeeping state
create table leasehold.partitions (
  first_id bigint primary key,
  end_id bigint not null unique,
  created_at timestamptz not null default leasehold.clock(),
  opened_at timestamptz,
  closed_at timestamptz,
  constraint partition_is_not_empty check (end_id > first_id)
);
comment on table leasehold.partitions is 'Ranges of task ids that have partitions in tasks, attempts, task_progress, task_checkpoints and task_logs.';

create table leasehold.floors (
  stage text collate "C" not null,
  lane smallint not null,
  floor bigint not null,
  drained boolean not null,
  primary key (stage, lane, floor)
);
comment on table leasehold.floors is 'Append-only: below the highest floor of a lane nothing is ready. Claims start there.';

create table leasehold.floor_probes (
  id bigint generated always as identity primary key,
  last_position bigint not null,
  below_xid xid8 not null,
  taken_at timestamptz not null,
  server_started_at timestamptz not null,
  passed boolean not null
);

create table leasehold.stragglers (
  xid xid8 primary key,
  from_position bigint not null,
  noted_at timestamptz not null
);
comment on table leasehold.stragglers is 'Submitters that kept their transaction open while floors went on; what they left below is re-queued when they end.';

create table leasehold.locks (
  name text collate "C" primary key
);
insert into leasehold.locks (name) values ('floors'), ('monitor'), ('partitions'), ('release');
comment on table leasehold.locks is 'Rows that are locked, never changed: one duty at a time across all processes.';

create table leasehold.stage_samples (
  stage text collate "C" not null,
  at timestamptz not null,
  ready bigint not null,
  scheduled bigint not null,
  waiting bigint not null,
  running bigint not null,
  took interval not null,
  primary key (stage, at)
);
comment on table leasehold.stage_samples is 'Depths counted by the monitor: history, and the figure that stage_health shows where counting would take too long.';
