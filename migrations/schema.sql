-- The schema as all migrations leave it, for reading and for the check that compares. Never applied, never edited:
-- `npm run check -- --write-schema` rewrites it. Partitions are left out.

create schema leasehold;

create sequence leasehold.fences as bigint start 1 increment 1 minvalue 1 maxvalue 9223372036854775807;

create table leasehold.alert_channels (
  channel text not null,
  enabled boolean default true not null,
  per_day integer,
  served_at timestamp with time zone,
  last_sent_at timestamp with time zone,
  failing_since timestamp with time zone,
  failures integer default 0 not null,
  last_error text,
  not_before timestamp with time zone,
  constraint alert_channels_pkey PRIMARY KEY (channel),
  constraint alert_channel_is_known CHECK ((channel = ANY (ARRAY['email'::text, 'telegram'::text, 'webhook'::text, 'command'::text]))),
  constraint alert_channel_per_day_is_1_to_100000 CHECK (((per_day >= 1) AND (per_day <= 100000)))
) with (fillfactor=50);

create table leasehold.alert_doubts (
  transmission uuid not null,
  channel text not null,
  at timestamp with time zone not null,
  reason text not null,
  constraint doubt_once_per_transmission PRIMARY KEY (transmission)
);
CREATE INDEX alert_doubts_by_channel ON leasehold.alert_doubts USING btree (channel, at);

create table leasehold.alert_news (
  id bigint generated always as identity not null,
  channel text not null,
  incident_id bigint not null,
  what text not null,
  minor boolean not null,
  at timestamp with time zone not null,
  told_at timestamp with time zone,
  alert_id bigint,
  followed boolean default false not null,
  constraint alert_news_pkey PRIMARY KEY (id),
  constraint alert_news_incident_id_fkey FOREIGN KEY (incident_id) REFERENCES leasehold.incidents(id) ON DELETE CASCADE,
  constraint alert_news_told_by_a_message CHECK (((told_at IS NULL) = (alert_id IS NULL))),
  constraint alert_news_what_is_known CHECK ((what = ANY (ARRAY['opened'::text, 'reminder'::text, 'resolved'::text])))
);
CREATE INDEX alert_news_open ON leasehold.alert_news USING btree (incident_id) WHERE ((what = 'opened'::text) AND (NOT followed));
CREATE INDEX alert_news_reminders ON leasehold.alert_news USING btree (incident_id, channel) WHERE (what = 'reminder'::text);
CREATE INDEX alert_news_waiting ON leasehold.alert_news USING btree (channel, id) WHERE (told_at IS NULL);
CREATE UNIQUE INDEX one_opening_and_end_per_channel ON leasehold.alert_news USING btree (incident_id, channel, what) WHERE (what <> 'reminder'::text);

create table leasehold.alert_policy (
  one_row boolean default true not null,
  per_day integer default 2 not null,
  reserve integer default 1 not null,
  zone text default 'UTC'::text not null,
  digest_at time without time zone default '08:00:00'::time without time zone not null,
  quiet_from time without time zone,
  quiet_until time without time zone,
  gap interval default '00:01:00'::interval not null,
  constraint alert_policy_pkey PRIMARY KEY (one_row),
  constraint alert_digest_is_an_hour_of_the_day CHECK ((digest_at < '24:00:00'::time without time zone)),
  constraint alert_gap_is_up_to_an_hour CHECK (((gap >= '00:00:00'::interval) AND (gap <= '01:00:00'::interval))),
  constraint alert_per_day_is_1_to_1000 CHECK (((per_day >= 1) AND (per_day <= 1000))),
  constraint alert_policy_is_one_row CHECK (one_row),
  constraint alert_reserve_is_within_per_day CHECK (((reserve >= 0) AND (reserve <= per_day))),
  constraint digest_is_not_in_quiet_hours CHECK (((quiet_from = quiet_until) OR (NOT
CASE
    WHEN (quiet_from < quiet_until) THEN ((digest_at >= quiet_from) AND (digest_at < quiet_until))
    ELSE ((digest_at >= quiet_from) OR (digest_at < quiet_until))
END))),
  constraint quiet_hours_are_not_the_whole_day CHECK (((quiet_from <> quiet_until) AND (quiet_from < '24:00:00'::time without time zone) AND (quiet_until < '24:00:00'::time without time zone))),
  constraint quiet_hours_have_both_ends CHECK (((quiet_from IS NULL) = (quiet_until IS NULL)))
);
CREATE TRIGGER alert_zone_is_known BEFORE INSERT OR UPDATE OF zone ON leasehold.alert_policy FOR EACH ROW EXECUTE FUNCTION leasehold.check_alert_zone();

create table leasehold.alert_rules (
  kind text not null,
  tell text default 'now'::text not null,
  min_age interval default '00:00:00'::interval not null,
  remind_after interval,
  channels text[],
  recovery boolean default true not null,
  through_quiet boolean default false not null,
  constraint alert_rules_pkey PRIMARY KEY (kind),
  constraint alert_min_age_is_up_to_7_days CHECK (((min_age >= '00:00:00'::interval) AND (min_age <= '7 days'::interval))),
  constraint alert_reminder_is_5_minutes_to_a_year CHECK (((remind_after >= '00:05:00'::interval) AND (remind_after <= '366 days'::interval))),
  constraint alert_rule_channels_are_known CHECK (((channels <@ ARRAY['email'::text, 'telegram'::text, 'webhook'::text, 'command'::text]) AND (cardinality(channels) > 0) AND (array_position(channels, NULL::text) IS NULL))),
  constraint alert_rule_kind_is_plain CHECK ((kind ~ '^([a-z][a-z_]{0,47}|\*)$'::text)),
  constraint alert_tell_is_known CHECK ((tell = ANY (ARRAY['now'::text, 'digest'::text, 'never'::text])))
);

create table leasehold.alerts (
  id bigint generated always as identity not null,
  channel text default 'email'::text not null,
  incident_ids bigint[] not null,
  subject text not null,
  body text not null,
  created_at timestamp with time zone default leasehold.clock() not null,
  next_try_at timestamp with time zone default leasehold.clock() not null,
  claimed_until timestamp with time zone,
  sent_at timestamp with time zone,
  tries integer default 0 not null,
  last_error text,
  purpose text default 'alert'::text not null,
  transmission uuid,
  refused_at timestamp with time zone,
  handing_over_at timestamp with time zone,
  constraint alerts_pkey PRIMARY KEY (id),
  constraint alert_goes_to_a_known_channel CHECK ((channel = ANY (ARRAY['email'::text, 'telegram'::text, 'webhook'::text, 'command'::text]))),
  constraint alert_purpose_is_known CHECK ((purpose = ANY (ARRAY['alert'::text, 'digest'::text]))),
  constraint alert_subject_is_one_line CHECK ((subject !~ '[[:cntrl:]]'::text))
);
CREATE INDEX alerts_by_channel ON leasehold.alerts USING btree (channel, id);
CREATE INDEX alerts_sent ON leasehold.alerts USING btree (channel, sent_at) WHERE (sent_at IS NOT NULL);
CREATE INDEX alerts_unsent ON leasehold.alerts USING btree (id) WHERE (sent_at IS NULL);

create table leasehold.attempts (
  task_id bigint not null,
  fence bigint not null,
  worker_id uuid,
  leased_at timestamp with time zone,
  ended_at timestamp with time zone not null,
  attempt smallint not null,
  final boolean not null,
  outcome text not null,
  error jsonb,
  result jsonb,
  constraint attempts_pkey PRIMARY KEY (task_id, fence),
  constraint attempt_outcome_is_known CHECK (((final AND (outcome = ANY (ARRAY['done'::text, 'dead'::text, 'cancelled'::text]))) OR ((NOT final) AND (outcome = ANY (ARRAY['retry'::text, 'released'::text, 'snoozed'::text, 'lost'::text, 'reopened'::text])))))
) partition by RANGE (task_id);
CREATE INDEX attempts_failed_by_time ON ONLY leasehold.attempts USING btree (ended_at) WHERE (outcome = ANY (ARRAY['dead'::text, 'retry'::text, 'lost'::text]));

create table leasehold.backlog_limits (
  stage text not null,
  older_than interval not null,
  constraint backlog_limits_pkey PRIMARY KEY (stage),
  constraint backlog_limit_is_a_second_to_a_year CHECK (((older_than >= '00:00:01'::interval) AND (older_than <= '366 days'::interval))),
  constraint backlog_stage_is_plain CHECK ((stage ~ '^[a-z][a-z0-9_.-]{0,47}$'::text))
);

create table leasehold.concurrency_keys (
  stage text not null,
  concurrency_key text not null,
  constraint concurrency_keys_pkey PRIMARY KEY (stage, concurrency_key)
);

create table leasehold.dependencies (
  parent_id bigint not null,
  child_id bigint not null,
  constraint dependency_once PRIMARY KEY (parent_id, child_id),
  constraint parent_is_older_than_child CHECK ((parent_id < child_id))
);
CREATE INDEX dependencies_by_child ON leasehold.dependencies USING btree (child_id);

create table leasehold.floor_probes (
  id bigint generated always as identity not null,
  last_position bigint not null,
  below_xid xid8 not null,
  taken_at timestamp with time zone not null,
  server_started_at timestamp with time zone not null,
  passed boolean not null,
  constraint floor_probes_pkey PRIMARY KEY (id)
);

create table leasehold.floors (
  stage text not null,
  lane smallint not null,
  floor bigint not null,
  drained boolean not null,
  constraint floors_pkey PRIMARY KEY (stage, lane, floor)
);

create table leasehold.housekeeping (
  duty text not null,
  schedule text not null,
  period interval not null,
  known_since timestamp with time zone not null,
  started_at timestamp with time zone,
  started_by text,
  ended_at timestamp with time zone,
  succeeded_at timestamp with time zone,
  next_at timestamp with time zone,
  outcome text,
  did jsonb,
  error text,
  turns bigint default 0 not null,
  failures_in_a_row integer default 0 not null,
  constraint housekeeping_pkey PRIMARY KEY (duty),
  constraint duty_name_is_plain CHECK ((duty ~ '^[a-z][a-z_]{0,47}$'::text)),
  constraint duty_outcome_is_known CHECK ((outcome = ANY (ARRAY['running'::text, 'done'::text, 'failed'::text]))),
  constraint duty_period_is_positive CHECK ((period > '00:00:00'::interval))
) with (fillfactor=50);

create table leasehold.incidents (
  id bigint generated always as identity not null,
  kind text not null,
  subject text not null,
  opened_at timestamp with time zone not null,
  resolved_at timestamp with time zone,
  summary text not null,
  details jsonb default '{}'::jsonb not null,
  constraint incidents_pkey PRIMARY KEY (id),
  constraint incident_kind_is_plain CHECK ((kind ~ '^[a-z][a-z_]{0,47}$'::text))
);
CREATE INDEX incidents_by_end ON leasehold.incidents USING btree (resolved_at) WHERE (resolved_at IS NOT NULL);
CREATE INDEX incidents_by_subject ON leasehold.incidents USING btree (kind, subject);
CREATE INDEX incidents_by_time ON leasehold.incidents USING btree (opened_at);
CREATE UNIQUE INDEX one_open_incident_per_subject ON leasehold.incidents USING btree (kind, subject) WHERE (resolved_at IS NULL);

create table leasehold.leases (
  task_id bigint not null,
  fence bigint not null,
  worker_id uuid not null,
  leased_at timestamp with time zone not null,
  deadline_at timestamp with time zone not null,
  attempt smallint not null,
  crashes smallint not null,
  stage text not null,
  run_id text,
  key text,
  concurrency_key text,
  constraint one_lease_per_task PRIMARY KEY (task_id)
) with (autovacuum_vacuum_insert_scale_factor=10, autovacuum_vacuum_scale_factor=0.02, autovacuum_vacuum_threshold=10000, vacuum_truncate=off);
CREATE INDEX leases_by_concurrency_key ON leasehold.leases USING btree (stage, concurrency_key) WHERE (concurrency_key IS NOT NULL);
CREATE INDEX leases_by_worker ON leasehold.leases USING btree (worker_id, fence);

create table leasehold.locks (
  name text not null,
  constraint locks_pkey PRIMARY KEY (name)
);

create table leasehold.monitor_gaps (
  id bigint generated always as identity not null,
  ended_at timestamp with time zone not null,
  lasted interval not null,
  constraint monitor_gaps_pkey PRIMARY KEY (id)
);

create table leasehold.monitors (
  id uuid not null,
  host text not null,
  pid integer,
  version text,
  interval_ms integer not null,
  started_at timestamp with time zone not null,
  ticked_at timestamp with time zone not null,
  ticks bigint default 0 not null,
  stopped_at timestamp with time zone,
  constraint monitors_pkey PRIMARY KEY (id),
  constraint monitor_interval_is_positive CHECK ((interval_ms > 0))
) with (fillfactor=50);

create table leasehold.nudges (
  id bigint generated always as identity not null,
  task_id bigint,
  parent_id bigint,
  stage text not null,
  concurrency_key text,
  constraint nudges_pkey PRIMARY KEY (id),
  constraint nudge_names_a_task_or_a_key CHECK (((task_id IS NULL) <> (concurrency_key IS NULL)))
) with (vacuum_truncate=off);
CREATE INDEX nudges_by_stage ON leasehold.nudges USING btree (stage, id);

create table leasehold.partitions (
  first_id bigint not null,
  end_id bigint not null,
  created_at timestamp with time zone default leasehold.clock() not null,
  opened_at timestamp with time zone,
  closed_at timestamp with time zone,
  last_id bigint,
  last_ended_at timestamp with time zone,
  logs_gone_at timestamp with time zone,
  retired_at timestamp with time zone,
  tried_at timestamp with time zone,
  stays_because text,
  constraint partitions_pkey PRIMARY KEY (first_id),
  constraint partition_is_not_empty CHECK ((end_id > first_id)),
  constraint partitions_end_id_key UNIQUE (end_id)
);

create table leasehold.ready (
  "position" bigint generated always as identity not null,
  task_id bigint not null,
  lane smallint not null,
  failures smallint default 0 not null,
  crashes smallint default 0 not null,
  stage text not null,
  concurrency_key text,
  constraint ready_once_per_task PRIMARY KEY (task_id),
  constraint ready_lane_is_0_to_11 CHECK (((lane >= 0) AND (lane <= 11)))
) with (autovacuum_vacuum_insert_scale_factor=10, autovacuum_vacuum_scale_factor=0.02, autovacuum_vacuum_threshold=10000, vacuum_truncate=off);
CREATE INDEX ready_by_concurrency_key ON leasehold.ready USING btree (stage, concurrency_key) WHERE (concurrency_key IS NOT NULL);
CREATE INDEX ready_by_lane ON leasehold.ready USING btree (stage, lane, "position");

create table leasehold.retention (
  only_row boolean default true not null,
  keep_tasks interval default '30 days'::interval,
  keep_logs interval,
  rotate_every interval,
  range_ids bigint,
  keep_workers interval default '30 days'::interval not null,
  keep_incidents interval default '90 days'::interval not null,
  keep_monitors interval default '7 days'::interval not null,
  keep_firings interval default '90 days'::interval not null,
  constraint retention_pkey PRIMARY KEY (only_row),
  constraint retention_is_one_row CHECK (only_row),
  constraint retention_keeps_firings_at_least_1_day CHECK (((keep_firings >= '1 day'::interval) AND (keep_firings <= '100 years'::interval))),
  constraint retention_keeps_incidents_at_least_1_day CHECK (((keep_incidents >= '1 day'::interval) AND (keep_incidents <= '100 years'::interval))),
  constraint retention_keeps_logs_at_least_1_minute CHECK (((keep_logs >= '00:01:00'::interval) AND (keep_logs <= '100 years'::interval))),
  constraint retention_keeps_monitors_at_least_1_day CHECK (((keep_monitors >= '1 day'::interval) AND (keep_monitors <= '100 years'::interval))),
  constraint retention_keeps_tasks_at_least_1_minute CHECK (((keep_tasks >= '00:01:00'::interval) AND (keep_tasks <= '100 years'::interval))),
  constraint retention_keeps_workers_at_least_1_day CHECK (((keep_workers >= '1 day'::interval) AND (keep_workers <= '100 years'::interval))),
  constraint retention_needs_at_most_50_ranges CHECK (((rotate_every * (50)::double precision) >= keep_tasks)),
  constraint retention_range_is_1000_to_1000000000_ids CHECK (((range_ids >= 1000) AND (range_ids <= 1000000000))),
  constraint retention_rotates_after_at_least_10_seconds CHECK (((rotate_every >= '00:00:10'::interval) AND (rotate_every <= '10 years'::interval)))
);

create table leasehold.revocations (
  worker_id uuid not null,
  fence bigint not null,
  task_id bigint not null,
  reason text not null,
  constraint revocations_pkey PRIMARY KEY (worker_id, fence, task_id)
);

create table leasehold.run_ledger (
  run_id text not null,
  stage text not null,
  submitted integer default 0 not null,
  done integer default 0 not null,
  dead integer default 0 not null,
  cancelled integer default 0 not null
);
CREATE INDEX run_ledger_by_run ON leasehold.run_ledger USING btree (run_id, stage);

create table leasehold.schedule_firings (
  schedule text not null,
  slot timestamp with time zone not null,
  last_slot timestamp with time zone,
  slots integer,
  outcome text not null,
  reason text,
  task_id bigint,
  due_at timestamp with time zone,
  recorded_at timestamp with time zone not null,
  recorded_by text not null,
  scheduler_id uuid,
  constraint slot_once_per_schedule PRIMARY KEY (schedule, slot),
  constraint firing_has_a_task_or_a_reason CHECK ((((outcome = 'fired'::text) AND (task_id IS NOT NULL)) OR ((outcome = 'skipped'::text) AND (task_id IS NULL) AND (reason IS NOT NULL)))),
  constraint firing_outcome_is_known CHECK ((outcome = ANY (ARRAY['fired'::text, 'skipped'::text]))),
  constraint firing_range_is_skipped_and_ordered CHECK (((last_slot IS NULL) OR ((outcome = 'skipped'::text) AND (last_slot >= slot))))
);
CREATE INDEX schedule_firings_by_time ON leasehold.schedule_firings USING btree (recorded_at);

create table leasehold.scheduled (
  run_at timestamp with time zone not null,
  task_id bigint not null,
  failures smallint default 0 not null,
  crashes smallint default 0 not null,
  express boolean default false not null,
  stage text not null,
  constraint scheduled_once_per_task PRIMARY KEY (task_id)
) with (vacuum_truncate=off);
CREATE INDEX scheduled_by_due_time ON leasehold.scheduled USING btree (stage, run_at);

create table leasehold.schedulers (
  id uuid not null,
  host text not null,
  pid integer,
  version text,
  poll_ms integer not null,
  started_at timestamp with time zone not null,
  ticked_at timestamp with time zone not null,
  ticks bigint default 0 not null,
  stopped_at timestamp with time zone,
  constraint schedulers_pkey PRIMARY KEY (id),
  constraint scheduler_poll_is_positive CHECK ((poll_ms > 0))
) with (fillfactor=50);

create table leasehold.schedules (
  name text not null,
  stage text not null,
  cron text,
  every interval,
  anchor timestamp with time zone default '1970-01-01 00:00:00+00'::timestamp with time zone not null,
  zone text default 'UTC'::text not null,
  payload jsonb default '{}'::jsonb not null,
  priority smallint,
  key text,
  catch_up text default 'one'::text not null,
  jitter interval default '00:00:00'::interval not null,
  enabled boolean default true not null,
  owner text default 'sql'::text not null,
  created_at timestamp with time zone default leasehold.clock() not null,
  updated_at timestamp with time zone default leasehold.clock() not null,
  revision bigint default 1 not null,
  since timestamp with time zone default leasehold.clock() not null,
  next_slot timestamp with time zone,
  next_at timestamp with time zone,
  planned_at timestamp with time zone,
  problem text,
  problem_at timestamp with time zone,
  fired_by text default 'scheduler'::text not null,
  held_since timestamp with time zone,
  constraint schedules_pkey PRIMARY KEY (name),
  constraint schedule_anchor_is_a_whole_second CHECK (((anchor > '-infinity'::timestamp with time zone) AND (anchor < 'infinity'::timestamp with time zone) AND ((EXTRACT(epoch FROM anchor) % (1)::numeric) = (0)::numeric))),
  constraint schedule_catch_up_is_known CHECK ((catch_up = ANY (ARRAY['skip'::text, 'one'::text, 'all'::text]))),
  constraint schedule_cron_has_five_fields CHECK (((cron ~ '^\s*(@[A-Za-z]+|[-0-9A-Za-z*,/#?+]+(\s+[-0-9A-Za-z*,/#?+]+){4})\s*$'::text) AND (length(cron) <= 500))),
  constraint schedule_every_is_1_s_to_366_days CHECK (((every >= '00:00:01'::interval) AND (every <= '366 days'::interval))),
  constraint schedule_every_is_whole_seconds_without_months CHECK (((EXTRACT(month FROM every) = (0)::numeric) AND (EXTRACT(year FROM every) = (0)::numeric) AND ((EXTRACT(epoch FROM every) % (1)::numeric) = (0)::numeric))),
  constraint schedule_fired_by_is_known CHECK ((fired_by = ANY (ARRAY['scheduler'::text, 'timer'::text]))),
  constraint schedule_has_cron_or_every CHECK (((cron IS NULL) <> (every IS NULL))),
  constraint schedule_jitter_is_up_to_a_day CHECK ((((jitter >= '00:00:00'::interval) AND (jitter <= '1 day'::interval)) AND (EXTRACT(month FROM jitter) = (0)::numeric))),
  constraint schedule_key_is_1_to_200_characters CHECK (((length(key) >= 1) AND (length(key) <= 200))),
  constraint schedule_name_is_plain CHECK ((name ~ '^[a-z][a-z0-9_.-]{0,47}$'::text)),
  constraint schedule_owner_is_known CHECK ((owner = ANY (ARRAY['manifest'::text, 'cli'::text, 'sql'::text]))),
  constraint schedule_payload_is_at_most_1_mib CHECK ((pg_column_size(payload) <= 1048576)),
  constraint schedule_priority_is_0_to_9 CHECK (((priority >= 0) AND (priority <= 9))),
  constraint schedule_stage_is_plain CHECK ((stage ~ '^[a-z][a-z0-9_.-]{0,47}$'::text))
) with (fillfactor=70);
CREATE INDEX schedules_by_due_time ON leasehold.schedules USING btree (next_at) WHERE (enabled AND (next_slot IS NOT NULL));
CREATE INDEX schedules_by_plan ON leasehold.schedules USING btree (planned_at) WHERE enabled;
CREATE INDEX schedules_unplanned ON leasehold.schedules USING btree (name) WHERE (enabled AND (next_slot IS NULL));
CREATE TRIGGER schedule_edited BEFORE INSERT OR UPDATE OF name, stage, cron, every, anchor, zone, payload, priority, key, catch_up, jitter, enabled, owner ON leasehold.schedules FOR EACH ROW EXECUTE FUNCTION leasehold.schedule_edited();
CREATE TRIGGER schedule_removed AFTER DELETE ON leasehold.schedules FOR EACH ROW EXECUTE FUNCTION leasehold.schedule_removed();

create table leasehold.sleepers (
  stage text not null,
  worker_id uuid not null,
  wake_until timestamp with time zone not null,
  constraint sleepers_pkey PRIMARY KEY (stage, worker_id)
) with (fillfactor=50);

create table leasehold.stage_rates (
  stage text not null,
  arrival timestamp with time zone not null,
  constraint rate_by_newest_arrival PRIMARY KEY (stage, arrival)
) with (vacuum_truncate=off);

create table leasehold.stage_samples (
  stage text not null,
  at timestamp with time zone not null,
  ready bigint not null,
  scheduled bigint not null,
  waiting bigint not null,
  running bigint not null,
  took interval not null,
  constraint stage_samples_pkey PRIMARY KEY (stage, at)
);

create table leasehold.stages (
  name text not null,
  priority smallint default 5 not null,
  max_attempts smallint default 3 not null,
  max_crashes smallint default 3 not null,
  timeout interval default '00:30:00'::interval not null,
  backoff_min interval default '00:00:05'::interval not null,
  backoff_max interval default '00:00:30'::interval not null,
  key_limit integer default 1 not null,
  expected_workers integer default 0 not null,
  paused_until timestamp with time zone,
  registered_at timestamp with time zone default leasehold.clock() not null,
  rate_tasks integer,
  rate_per interval,
  rate_burst integer,
  key_limit_lowered_at timestamp with time zone,
  constraint stages_pkey PRIMARY KEY (name),
  constraint stage_backoff_is_ordered CHECK (((backoff_min >= '00:00:00'::interval) AND (backoff_min <= backoff_max) AND (backoff_max <= '30 days'::interval))),
  constraint stage_expected_workers_is_not_negative CHECK (((expected_workers >= 0) AND (expected_workers <= 100000))),
  constraint stage_key_limit_is_positive CHECK (((key_limit >= 1) AND (key_limit <= 100000))),
  constraint stage_max_attempts_is_1_to_1000 CHECK (((max_attempts >= 1) AND (max_attempts <= 1000))),
  constraint stage_max_crashes_is_1_to_100 CHECK (((max_crashes >= 1) AND (max_crashes <= 100))),
  constraint stage_name_is_plain CHECK ((name ~ '^[a-z][a-z0-9_.-]{0,47}$'::text)),
  constraint stage_priority_is_0_to_9 CHECK (((priority >= 0) AND (priority <= 9))),
  constraint stage_rate_burst_is_1_to_rate_tasks CHECK (((rate_burst >= 1) AND (rate_burst <= GREATEST(rate_tasks, 1)))),
  constraint stage_rate_is_whole CHECK ((num_nulls(rate_tasks, rate_per, rate_burst) = ANY (ARRAY[0, 3]))),
  constraint stage_rate_per_is_1_ms_to_1_day CHECK (((rate_per >= '00:00:00.001'::interval) AND (rate_per <= '1 day'::interval))),
  constraint stage_rate_tasks_is_1_to_1000000 CHECK (((rate_tasks >= 1) AND (rate_tasks <= 1000000))),
  constraint stage_timeout_is_up_to_30_days CHECK (((timeout > '00:00:00'::interval) AND (timeout <= '30 days'::interval)))
);
CREATE TRIGGER key_limit_changes BEFORE UPDATE OF key_limit ON leasehold.stages FOR EACH ROW WHEN ((new.key_limit IS DISTINCT FROM old.key_limit)) EXECUTE FUNCTION leasehold.key_limit_changes();
CREATE TRIGGER rate_is_set AFTER INSERT OR UPDATE OF rate_tasks ON leasehold.stages FOR EACH ROW WHEN ((new.rate_tasks IS NOT NULL)) EXECUTE FUNCTION leasehold.rate_is_set();

create table leasehold.stragglers (
  xid xid8 not null,
  from_position bigint not null,
  noted_at timestamp with time zone not null,
  constraint stragglers_pkey PRIMARY KEY (xid)
);

create table leasehold.task_checkpoints (
  task_id bigint not null,
  name text not null,
  fence bigint not null,
  at timestamp with time zone not null,
  value jsonb,
  constraint task_checkpoints_pkey PRIMARY KEY (task_id, name),
  constraint checkpoint_name_is_1_to_200_characters CHECK (((length(name) >= 1) AND (length(name) <= 200)))
) partition by RANGE (task_id);

create table leasehold.task_keys (
  stage text not null,
  key text not null,
  task_id bigint not null,
  constraint key_once_per_unfinished_task PRIMARY KEY (stage, key),
  constraint task_holds_one_key UNIQUE (task_id)
);

create table leasehold.task_logs (
  task_id bigint not null,
  line bigint generated by default as identity not null,
  fence bigint not null,
  at timestamp with time zone not null,
  level text not null,
  message text not null,
  fields jsonb,
  constraint task_logs_pkey PRIMARY KEY (task_id, line),
  constraint log_level_is_known CHECK ((level = ANY (ARRAY['debug'::text, 'info'::text, 'warn'::text, 'error'::text, 'stdout'::text, 'stderr'::text]))),
  constraint log_message_is_at_most_32_kib CHECK ((length(message) <= 32768))
) partition by RANGE (task_id);

create table leasehold.task_progress (
  task_id bigint not null,
  at timestamp with time zone not null,
  fence bigint not null,
  fraction real,
  message text,
  constraint task_progress_pkey PRIMARY KEY (task_id, at),
  constraint progress_fraction_is_0_to_1 CHECK (((fraction >= (0)::double precision) AND (fraction <= (1)::double precision)))
) partition by RANGE (task_id);

create table leasehold.tasks (
  id bigint generated always as identity not null,
  stage text not null,
  payload jsonb default '{}'::jsonb not null,
  priority smallint,
  run_at timestamp with time zone,
  key text,
  run_id text,
  title text,
  max_attempts smallint,
  timeout interval,
  depends_on bigint[],
  concurrency_key text,
  meta jsonb,
  submitted_at timestamp with time zone default leasehold.clock() not null,
  constraint tasks_pkey PRIMARY KEY (id),
  constraint task_concurrency_key_is_1_to_200_characters CHECK (((length(concurrency_key) >= 1) AND (length(concurrency_key) <= 200))),
  constraint task_depends_on_at_most_10000 CHECK ((cardinality(depends_on) <= 10000)),
  constraint task_key_is_1_to_200_characters CHECK (((length(key) >= 1) AND (length(key) <= 200))),
  constraint task_max_attempts_is_1_to_1000 CHECK (((max_attempts >= 1) AND (max_attempts <= 1000))),
  constraint task_meta_is_at_most_64_kib CHECK ((pg_column_size(meta) <= 65536)),
  constraint task_payload_is_at_most_1_mib CHECK ((pg_column_size(payload) <= 1048576)),
  constraint task_priority_is_0_to_9 CHECK (((priority >= 0) AND (priority <= 9))),
  constraint task_run_at_is_within_100_years CHECK (((run_at < '2126-01-01 00:00:00+00'::timestamp with time zone) AND (run_at > '1970-01-01 00:00:00+00'::timestamp with time zone))),
  constraint task_run_id_is_1_to_200_printable CHECK ((run_id ~ '^[[:print:]]{1,200}$'::text)),
  constraint task_timeout_is_up_to_30_days CHECK (((timeout > '00:00:00'::interval) AND (timeout <= '30 days'::interval))),
  constraint task_title_is_at_most_500_characters CHECK ((length(title) <= 500))
) partition by RANGE (id);
CREATE INDEX tasks_by_run ON ONLY leasehold.tasks USING btree (run_id, id) WHERE (run_id IS NOT NULL);
CREATE TRIGGER route_submitted AFTER INSERT ON leasehold.tasks REFERENCING NEW TABLE AS new_tasks FOR EACH STATEMENT EXECUTE FUNCTION leasehold.route_submitted();

create table leasehold.waiting (
  task_id bigint not null,
  failures smallint default 0 not null,
  crashes smallint default 0 not null,
  lane smallint not null,
  for_parents boolean not null,
  stage text not null,
  concurrency_key text,
  waiting_since timestamp with time zone not null,
  constraint waiting_once_per_task PRIMARY KEY (task_id),
  constraint waiting_has_a_reason CHECK ((for_parents OR (concurrency_key IS NOT NULL)))
) with (vacuum_truncate=off);
CREATE INDEX waiting_by_concurrency_key ON leasehold.waiting USING btree (stage, concurrency_key, lane DESC, task_id) WHERE (NOT for_parents);

create table leasehold.workers (
  id uuid not null,
  slot text not null,
  stages text[] not null,
  host text not null,
  pid integer,
  version text,
  concurrency integer default 1 not null,
  restarts integer default 0 not null,
  meta jsonb,
  ttl interval not null,
  beat_interval interval not null,
  started_at timestamp with time zone not null,
  beat_at timestamp with time zone not null,
  expires_at timestamp with time zone not null,
  loop_at timestamp with time zone not null,
  oldest_fence bigint default 0 not null,
  running integer default 0 not null,
  draining boolean default false not null,
  drain_asked boolean default false not null,
  ended_at timestamp with time zone,
  end_reason text,
  constraint workers_pkey PRIMARY KEY (id),
  constraint worker_beats_three_times_per_ttl CHECK (((beat_interval * (3)::double precision) <= ttl)),
  constraint worker_end_has_a_reason CHECK (((ended_at IS NULL) = (end_reason IS NULL))),
  constraint worker_serves_1_to_100_stages CHECK ((((cardinality(stages) >= 1) AND (cardinality(stages) <= 100)) OR ((cardinality(stages) = 0) AND COALESCE((meta ? 'run'::text), false)))),
  constraint worker_slot_is_1_to_100_printable CHECK ((slot ~ '^[[:graph:]]{1,100}$'::text)),
  constraint worker_ttl_is_sane CHECK (((ttl >= '00:00:00.1'::interval) AND (ttl <= '1 day'::interval)))
) with (fillfactor=50);
CREATE UNIQUE INDEX one_live_worker_per_slot ON leasehold.workers USING btree (slot) WHERE (ended_at IS NULL);
CREATE INDEX workers_by_end ON leasehold.workers USING btree (ended_at) WHERE (ended_at IS NOT NULL);

create view leasehold.active_leases as
 SELECT l.task_id,
    l.stage,
    w.slot,
    l.worker_id,
    w.host,
    w.pid,
    l.fence,
    l.attempt,
    l.leased_at,
    (leasehold.clock() - l.leased_at) AS held,
    l.deadline_at,
    w.expires_at,
        CASE
            WHEN (w.expires_at <= leasehold.clock()) THEN 'worker silent'::text
            WHEN (l.deadline_at <= leasehold.clock()) THEN 'past deadline'::text
            ELSE 'valid'::text
        END AS validity,
    t.title,
    t.run_id
   FROM ((leasehold.workers w
     JOIN leasehold.leases l ON (((l.worker_id = w.id) AND (l.fence >= w.oldest_fence))))
     JOIN leasehold.tasks t ON ((t.id = l.task_id)))
  WHERE (w.ended_at IS NULL);

create view leasehold.database_health as
 SELECT name,
    status,
    value,
    advice
   FROM ( SELECT 'monitor'::text AS name,
                CASE
                    WHEN (leasehold.monitor_silence() IS NULL) THEN 'bad'::text
                    WHEN (leasehold.monitor_silence() > ( SELECT GREATEST('00:03:00'::interval, (((max(m.interval_ms) * 3))::double precision * '00:00:00.001'::interval)) AS "greatest"
                       FROM leasehold.monitors m)) THEN 'bad'::text
                    ELSE 'ok'::text
                END AS status,
            COALESCE((('last looked '::text || (date_trunc('second'::text, leasehold.monitor_silence()))::text) || ' ago'::text), 'never looked'::text) AS value,
            'Start one: npx leasehold monitor. Without it nobody is told of dead workers.'::text AS advice
        UNION ALL
         SELECT 'unsent alerts'::text,
                CASE
                    WHEN (count(*) = 0) THEN 'ok'::text
                    ELSE 'bad'::text
                END AS "case",
            (count(*))::text AS count,
            'See leasehold.alerts.last_error; check SMTP_*.'::text
           FROM leasehold.alerts a
          WHERE ((a.sent_at IS NULL) AND (a.refused_at IS NULL) AND (a.created_at < (leasehold.clock() - '00:02:00'::interval)) AND (EXISTS ( SELECT
                   FROM leasehold.alert_channels c_1
                  WHERE ((c_1.channel = a.channel) AND c_1.enabled))))
        UNION ALL
         SELECT 'refused alerts'::text,
                CASE
                    WHEN (count(*) = 0) THEN 'ok'::text
                    ELSE 'warn'::text
                END AS "case",
            (count(*))::text AS count,
            'Of the last week. Correct the setting that leasehold.alerts.last_error names, then npx leasehold alerts retry.'::text
           FROM leasehold.alerts a
          WHERE ((a.sent_at IS NULL) AND (a.refused_at > (leasehold.clock() - '7 days'::interval)))
        UNION ALL
         SELECT 'oldest transaction'::text,
                CASE
                    WHEN (max((leasehold.clock() - a.xact_start)) > '00:10:00'::interval) THEN 'warn'::text
                    ELSE 'ok'::text
                END AS "case",
            COALESCE((date_trunc('second'::text, max((leasehold.clock() - a.xact_start))))::text, 'none'::text) AS "coalesce",
            'A long transaction keeps dead rows of every table. Claims do not slow down here, other queries do. See pg_stat_activity.'::text
           FROM pg_stat_activity a
          WHERE ((a.datname = current_database()) AND (a.pid <> pg_backend_pid()) AND (a.backend_type = 'client backend'::text))
        UNION ALL
         SELECT 'submitters held open'::text,
                CASE
                    WHEN (count(*) > 0) THEN 'warn'::text
                    ELSE 'ok'::text
                END AS "case",
            (count(*))::text AS count,
            'A transaction that inserted tasks stays open; its tasks are invisible until it commits.'::text
           FROM leasehold.stragglers
        UNION ALL
         SELECT 'notify queue'::text,
                CASE
                    WHEN (pg_notification_queue_usage() > (0.25)::double precision) THEN 'warn'::text
                    ELSE 'ok'::text
                END AS "case",
            ((round(((pg_notification_queue_usage() * (100)::double precision))::numeric, 1))::text || ' %'::text),
            'A session that listens and stays in a transaction keeps it; above 25 % workers are polled instead of woken.'::text
        UNION ALL
         SELECT 'dead rows'::text,
                CASE
                    WHEN (sum(u.n_dead_tup) > (5000000)::numeric) THEN 'warn'::text
                    ELSE 'ok'::text
                END AS "case",
            (COALESCE(sum(u.n_dead_tup), (0)::numeric))::text AS "coalesce",
            'ready and leases are vacuumed less than they churn: look for old transactions, lower autovacuum_naptime.'::text
           FROM pg_stat_user_tables u
          WHERE ((u.schemaname = 'leasehold'::name) AND (u.relname = ANY (ARRAY['ready'::name, 'leases'::name, 'scheduled'::name, 'waiting'::name])))
        UNION ALL
         SELECT 'id partitions ahead'::text,
                CASE
                    WHEN (count(*) < 1) THEN 'warn'::text
                    ELSE 'ok'::text
                END AS "case",
            (count(*))::text AS count,
            'npx leasehold housekeeping run partitions; a running monitor does it.'::text
           FROM leasehold.partitions p
          WHERE (p.first_id > ( SELECT q.last_value
                   FROM leasehold.tasks_id_seq q))
        UNION ALL
         SELECT 'transaction id age'::text,
                CASE
                    WHEN (age(d.datfrozenxid) > 1000000000) THEN 'warn'::text
                    ELSE 'ok'::text
                END AS "case",
            (age(d.datfrozenxid))::text AS age,
            'Autovacuum has to freeze this database soon.'::text
           FROM pg_database d
          WHERE (d.datname = current_database())
        UNION ALL
         SELECT s.name,
            s.status,
            s.value,
            s.advice
           FROM leasehold.storage_health() s(name, status, value, advice)) c;

create view leasehold.dead_workers as
 SELECT id AS worker_id,
    slot,
    stages,
    host,
    pid,
    beat_at AS last_seen,
    (leasehold.clock() - beat_at) AS silent,
    ended_at,
    COALESCE(end_reason, 'not released yet'::text) AS reason,
        CASE
            WHEN (ended_at IS NULL) THEN ( SELECT count(*) AS count
               FROM leasehold.leases l
              WHERE (l.worker_id = w.id))
            ELSE (0)::bigint
        END AS still_holds
   FROM leasehold.workers w
  WHERE (((ended_at IS NULL) AND (expires_at <= leasehold.clock())) OR ((end_reason = ANY (ARRAY['lost'::text, 'superseded'::text])) AND (ended_at > (leasehold.clock() - '7 days'::interval))))
  ORDER BY beat_at DESC;

create view leasehold.invariant_violations as
 SELECT violation,
    task_id,
    (stage COLLATE "C") AS stage,
    (detail COLLATE "C") AS detail
   FROM leasehold.violations() v(violation, task_id, stage, detail);

create view leasehold.open_incidents as
 SELECT id,
    kind,
    subject,
    summary,
    opened_at,
    (leasehold.clock() - opened_at) AS open_for,
    details
   FROM leasehold.incidents i
  WHERE (resolved_at IS NULL)
  ORDER BY opened_at;

create view leasehold.recent_failures as
 SELECT a.ended_at,
    a.task_id,
    t.stage,
    a.outcome,
    a.attempt,
    (a.error ->> 'code'::text) AS code,
    "left"((a.error ->> 'message'::text), 500) AS message,
    t.run_id,
    t.title,
    w.slot,
    a.worker_id,
    a.final
   FROM ((leasehold.attempts a
     JOIN leasehold.tasks t ON ((t.id = a.task_id)))
     LEFT JOIN leasehold.workers w ON ((w.id = a.worker_id)))
  WHERE ((a.outcome = ANY (ARRAY['dead'::text, 'retry'::text, 'lost'::text])) AND (a.ended_at > (leasehold.clock() - '7 days'::interval)))
  ORDER BY a.ended_at DESC
 LIMIT 1000;

create view leasehold.run_progress as
 SELECT run_id,
    stage,
    sum(submitted) AS submitted,
    sum(done) AS done,
    sum(dead) AS dead,
    sum(cancelled) AS cancelled,
    (((sum(submitted) - sum(done)) - sum(dead)) - sum(cancelled)) AS open
   FROM leasehold.run_ledger l
  GROUP BY run_id, stage;

create view leasehold.schedule_health as
 SELECT s.name AS schedule,
        CASE
            WHEN (NOT s.enabled) THEN 'disabled'::text
            WHEN (s.problem IS NOT NULL) THEN 'broken'::text
            WHEN (s.next_at < (leasehold.clock() - '00:02:00'::interval)) THEN 'late'::text
            WHEN (s.held_since < (leasehold.clock() - '00:02:00'::interval)) THEN 'late'::text
            WHEN ((s.next_slot IS NULL) AND (s.fired_by = 'scheduler'::text) AND (s.since < (leasehold.clock() - '00:02:00'::interval))) THEN 'late'::text
            WHEN (s.next_slot IS NULL) THEN 'not planned yet'::text
            WHEN (f.reason = 'unknown_stage'::text) THEN 'skipped'::text
            WHEN (leasehold.final_outcome(f.task_id) = 'dead'::text) THEN 'failed'::text
            ELSE 'ok'::text
        END AS status,
    s.stage,
    s.cron,
    s.every,
    s.anchor,
    s.zone,
    s.catch_up,
    s.jitter,
    s.enabled,
    s.owner,
    s.key,
    s.priority,
    s.next_slot,
    s.next_at,
    GREATEST((leasehold.clock() - COALESCE(s.next_at, s.since)), '00:00:00'::interval) AS late_by,
    COALESCE(f.last_slot, f.slot) AS last_slot,
    f.outcome AS last_outcome,
    f.reason AS last_reason,
    f.recorded_at AS last_at,
    f.task_id AS last_task_id,
        CASE
            WHEN (f.task_id IS NOT NULL) THEN COALESCE(leasehold.final_outcome(f.task_id), 'unfinished'::text)
            ELSE NULL::text
        END AS last_task_state,
    s.problem,
    s.created_at,
    s.updated_at,
    s.fired_by
   FROM (leasehold.schedules s
     LEFT JOIN LATERAL ( SELECT x.slot,
            x.last_slot,
            x.outcome,
            x.reason,
            x.task_id,
            x.recorded_at
           FROM leasehold.schedule_firings x
          WHERE (x.schedule = s.name)
          ORDER BY x.slot DESC
         LIMIT 1) f ON (true));

create view leasehold.scheduler_health as
 SELECT id AS scheduler_id,
    host,
    pid,
    version,
        CASE
            WHEN (stopped_at IS NOT NULL) THEN 'stopped'::text
            WHEN (ticked_at < (leasehold.clock() - GREATEST((((poll_ms * 3))::double precision * '00:00:00.001'::interval), '00:00:30'::interval))) THEN 'dead'::text
            ELSE 'live'::text
        END AS status,
    started_at,
    ticked_at AS last_seen,
    (leasehold.clock() - ticked_at) AS silent,
    ticks
   FROM leasehold.schedulers c;

create view leasehold.stage_health as
 SELECT s.name AS stage,
        CASE
            WHEN (s.paused_until > leasehold.clock()) THEN 'paused'::text
            WHEN ((live.n = 0) AND ((ready.n > 0) OR (due.n > 0))) THEN 'no worker'::text
            WHEN (live.n = 0) THEN 'no worker, no work'::text
            WHEN (live.n < s.expected_workers) THEN 'workers missing'::text
            WHEN (leases.n > 0) THEN 'working'::text
            WHEN ((ready.n > 0) AND (rate.next_start_at > leasehold.clock())) THEN 'rate limited'::text
            WHEN (ready.n > 0) THEN 'waiting for workers'::text
            ELSE 'idle'::text
        END AS status,
    live.n AS live_workers,
    s.expected_workers,
        CASE
            WHEN (ready.n > 1000) THEN GREATEST(ready.n, COALESCE(sample.ready, (0)::bigint))
            ELSE ready.n
        END AS ready,
    leases.n AS running,
        CASE
            WHEN (later.n > 1000) THEN GREATEST(later.n, COALESCE(sample.scheduled, (0)::bigint))
            ELSE later.n
        END AS scheduled,
        CASE
            WHEN (held.n > 1000) THEN GREATEST(held.n, COALESCE(sample.waiting, (0)::bigint))
            ELSE held.n
        END AS waiting,
    ((ready.n <= 1000) AND (later.n <= 1000) AND (held.n <= 1000)) AS exact,
    (leasehold.clock() - ( SELECT t.submitted_at
           FROM (leasehold.ready r
             JOIN leasehold.tasks t ON ((t.id = r.task_id)))
          WHERE ((r.stage = s.name) AND (r.lane = ( SELECT r2.lane
                   FROM leasehold.ready r2
                  WHERE (r2.stage = s.name)
                  ORDER BY r2.lane
                 LIMIT 1)) AND (r."position" >= COALESCE(( SELECT f.floor
                   FROM leasehold.floors f
                  WHERE ((f.stage = s.name) AND (f.lane = r.lane))
                  ORDER BY f.floor DESC
                 LIMIT 1), (0)::bigint)))
          ORDER BY r."position"
         LIMIT 1)) AS oldest_ready,
    s.paused_until,
    sample.at AS sampled_at,
    s.rate_tasks,
    s.rate_per,
    s.rate_burst,
        CASE
            WHEN (rate.next_start_at > leasehold.clock()) THEN rate.next_start_at
            ELSE NULL::timestamp with time zone
        END AS next_start_at
   FROM ((((((((leasehold.stages s
     CROSS JOIN LATERAL ( SELECT count(*) AS n
           FROM leasehold.workers w
          WHERE ((w.ended_at IS NULL) AND (w.expires_at > leasehold.clock()) AND (s.name = ANY (w.stages)))) live)
     CROSS JOIN LATERAL ( SELECT count(*) AS n
           FROM ( SELECT
                   FROM (generate_series(0, 11) g(lane)
                     CROSS JOIN LATERAL ( SELECT r."position"
                           FROM leasehold.ready r
                          WHERE ((r.stage = s.name) AND (r.lane = (g.lane)::smallint) AND (r."position" >= COALESCE(( SELECT f.floor
                                   FROM leasehold.floors f
                                  WHERE ((f.stage = s.name) AND (f.lane = (g.lane)::smallint))
                                  ORDER BY f.floor DESC
                                 LIMIT 1), (0)::bigint)))
                          ORDER BY r."position"
                         LIMIT 1001) one)
                 LIMIT 1001) x) ready)
     CROSS JOIN LATERAL ( SELECT count(*) AS n
           FROM (leasehold.workers w
             JOIN leasehold.leases l ON (((l.worker_id = w.id) AND (l.fence >= w.oldest_fence))))
          WHERE ((w.ended_at IS NULL) AND (l.stage = s.name))) leases)
     CROSS JOIN LATERAL ( SELECT count(*) AS n
           FROM ( SELECT
                   FROM leasehold.scheduled d
                  WHERE (d.stage = s.name)
                  ORDER BY d.run_at
                 LIMIT 1001) x) later)
     CROSS JOIN LATERAL ( SELECT count(*) AS n
           FROM ( SELECT
                   FROM leasehold.scheduled d
                  WHERE ((d.stage = s.name) AND (d.run_at <= leasehold.clock()))
                  ORDER BY d.run_at
                 LIMIT 1) x) due)
     CROSS JOIN LATERAL ( SELECT count(*) AS n
           FROM ( SELECT
                   FROM leasehold.waiting w
                  WHERE (w.stage = s.name)
                 LIMIT 1001) x) held)
     LEFT JOIN LATERAL ( SELECT p.ready,
            p.scheduled,
            p.waiting,
            p.at
           FROM leasehold.stage_samples p
          WHERE (p.stage = s.name)
          ORDER BY p.at DESC
         LIMIT 1) sample ON (true))
     LEFT JOIN LATERAL ( SELECT leasehold.rate_next(s.rate_tasks, s.rate_per, s.rate_burst, x.arrival, leasehold.clock()) AS next_start_at
           FROM leasehold.stage_rates x
          WHERE ((x.stage = s.name) AND (s.rate_tasks IS NOT NULL))
          ORDER BY x.arrival DESC
         LIMIT 1) rate ON (true));

create view leasehold.task_status as
 SELECT t.id AS task_id,
    t.stage,
        CASE
            WHEN (l.task_id IS NOT NULL) THEN 'running'::text
            WHEN (r.task_id IS NOT NULL) THEN 'ready'::text
            WHEN (s.task_id IS NOT NULL) THEN 'scheduled'::text
            WHEN (w.task_id IS NOT NULL) THEN 'waiting'::text
            WHEN a.final THEN a.outcome
            ELSE 'unknown'::text
        END AS state,
    t.title,
    t.key,
    t.run_id,
    t.concurrency_key,
    t.submitted_at,
        CASE
            WHEN (s.task_id IS NOT NULL) THEN s.run_at
            ELSE t.run_at
        END AS run_at,
    COALESCE((l.attempt)::integer, (a.attempt)::integer, 0) AS attempt,
    COALESCE(t.max_attempts, g.max_attempts) AS max_attempts,
    COALESCE((l.crashes)::integer, (r.crashes)::integer, (s.crashes)::integer, (w.crashes)::integer, 0) AS crashes,
    l.worker_id,
    l.fence,
    l.leased_at,
    l.deadline_at,
        CASE
            WHEN ((l.task_id IS NULL) AND (r.task_id IS NULL) AND (s.task_id IS NULL) AND (w.task_id IS NULL)) THEN a.ended_at
            ELSE NULL::timestamp with time zone
        END AS ended_at,
        CASE
            WHEN ((l.task_id IS NULL) AND (r.task_id IS NULL) AND (s.task_id IS NULL) AND (w.task_id IS NULL)) THEN a.result
            ELSE NULL::jsonb
        END AS result,
    a.error AS last_error,
    p.fraction AS progress,
    p.message AS progress_message,
    p.at AS progress_at
   FROM (((((((leasehold.tasks t
     JOIN leasehold.stages g ON ((g.name = t.stage)))
     LEFT JOIN leasehold.leases l ON ((l.task_id = t.id)))
     LEFT JOIN leasehold.ready r ON ((r.task_id = t.id)))
     LEFT JOIN leasehold.scheduled s ON ((s.task_id = t.id)))
     LEFT JOIN leasehold.waiting w ON ((w.task_id = t.id)))
     LEFT JOIN LATERAL ( SELECT x.final,
            x.outcome,
            x.attempt,
            x.ended_at,
            x.result,
            x.error
           FROM leasehold.attempts x
          WHERE (x.task_id = t.id)
          ORDER BY x.fence DESC
         LIMIT 1) a ON (true))
     LEFT JOIN LATERAL ( SELECT x.fraction,
            x.message,
            x.at
           FROM leasehold.task_progress x
          WHERE (x.task_id = t.id)
          ORDER BY x.at DESC
         LIMIT 1) p ON (true));

create view leasehold.worker_health as
 SELECT w.id AS worker_id,
    w.slot,
    w.stages,
        CASE
            WHEN (w.expires_at <= leasehold.clock()) THEN 'dead'::text
            WHEN (w.beat_at < (leasehold.clock() - (w.beat_interval * (2)::double precision))) THEN 'late'::text
            WHEN ((w.beat_at - w.loop_at) > GREATEST(w.beat_interval, '00:00:10'::interval)) THEN 'wedged'::text
            WHEN w.draining THEN 'draining'::text
            WHEN (held.n > 0) THEN 'working'::text
            ELSE 'idle'::text
        END AS status,
    held.n AS running,
    w.concurrency,
    w.beat_at AS last_seen,
    (leasehold.clock() - w.beat_at) AS silent,
    w.expires_at,
    w.loop_at,
    w.started_at,
    (leasehold.clock() - w.started_at) AS up,
    w.restarts,
    w.host,
    w.pid,
    w.version,
    w.drain_asked,
    w.meta
   FROM (leasehold.workers w
     CROSS JOIN LATERAL ( SELECT (count(*))::integer AS n
           FROM leasehold.leases l
          WHERE ((l.worker_id = w.id) AND (l.fence >= w.oldest_fence))) held)
  WHERE (w.ended_at IS NULL);

create view leasehold.worker_versions as
 SELECT version,
    (meta ->> 'schema'::text) AS schema,
    (count(*))::integer AS workers,
    array_agg(slot ORDER BY slot) AS slots,
    COALESCE((((meta ->> 'schema'::text) COLLATE "C") < leasehold.schema_version()), false) AS older_than_schema
   FROM leasehold.workers w
  WHERE ((ended_at IS NULL) AND (expires_at > leasehold.clock()))
  GROUP BY version, (meta ->> 'schema'::text);

CREATE OR REPLACE FUNCTION leasehold.advance_floors(p_patience interval DEFAULT '00:00:03'::interval, p_step bigint DEFAULT 500)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
  v_probe record;
  v_last_position bigint;
  v_xid xid8;
  v_holder record;
  v_lane record;
  v_floor bigint;
  v_drained boolean;
  v_raised integer := 0;
  v_passed_to bigint;
begin
  perform leasehold.require_read_committed('advance_floors');
  if pg_current_xact_id_if_assigned() is not null then
    raise exception 'advance_floors must run in a transaction of its own' using errcode = 'active_sql_transaction';
  end if;
  -- A sequence that was never used shows its first value as the last one.
  select case when is_called then last_value else 0 end into v_last_position from leasehold.ready_position_seq;
  v_xid := pg_current_xact_id();
  perform from leasehold.locks where name = 'floors' for update skip locked;
  if not found then
    return null;
  end if;

  perform leasehold.collect_stragglers();

  select p.* into v_probe from leasehold.floor_probes p order by p.id desc limit 1;
  if v_probe.id is null or v_probe.passed or v_probe.server_started_at <> pg_postmaster_start_time()
    or v_probe.below_xid > v_xid
  then
    insert into leasehold.floor_probes (last_position, below_xid, taken_at, server_started_at, passed)
    values (v_last_position, v_xid, v_now, pg_postmaster_start_time(), false);
    return 0;
  end if;

  select coalesce(max(p.last_position), 0) into v_passed_to from leasehold.floor_probes p
  where p.passed and p.id < v_probe.id;
  for v_holder in
    select w.xid from leasehold.ready_writers() w
    where w.xid < v_probe.below_xid and not exists (select from leasehold.stragglers g where g.xid = w.xid)
  loop
    if v_probe.taken_at > v_now - p_patience then
      return 0;
    end if;
    insert into leasehold.stragglers (xid, from_position, noted_at) values (v_holder.xid, v_passed_to + 1, v_now)
    on conflict do nothing;
  end loop;

  for v_lane in
    select s.name as stage, l.lane::smallint as lane, f.floor, f.drained
    from leasehold.stages s cross join generate_series(0, 11) as l(lane)
    left join lateral (
      select f.floor, f.drained from leasehold.floors f
      where f.stage = s.name and f.lane = l.lane order by f.floor desc limit 1) f on true
  loop
    select r.position into v_floor from leasehold.ready r
    where r.stage = v_lane.stage and r.lane = v_lane.lane and r.position >= coalesce(v_lane.floor, 0)
    order by r.position limit 1;
    -- A lane in which nobody ever saw a task needs no floor; one that was and is empty hardly a new one.
    continue when v_floor is null and v_lane.floor is null;
    v_drained := v_floor is null or v_floor > v_probe.last_position;
    v_floor := least(coalesce(v_floor, v_probe.last_position + 1), v_probe.last_position + 1);
    if v_floor >= coalesce(v_lane.floor, 0) + (case when v_drained and v_lane.drained then 100000 else p_step end) then
      insert into leasehold.floors (stage, lane, floor, drained) values (v_lane.stage, v_lane.lane, v_floor, v_drained);
      delete from leasehold.floors f where f.stage = v_lane.stage and f.lane = v_lane.lane and f.floor < v_lane.floor;
      v_raised := v_raised + 1;
    end if;
  end loop;
  insert into leasehold.floor_probes (last_position, below_xid, taken_at, server_started_at, passed) values
    (v_probe.last_position, v_probe.below_xid, v_now, pg_postmaster_start_time(), true),
    (v_last_position, v_xid, v_now, pg_postmaster_start_time(), false);
  delete from leasehold.floor_probes p where p.id <= v_probe.id;
  return v_raised;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.advance_floors_every(p_every interval)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
begin
  if exists (select from leasehold.floor_probes p where p.taken_at > v_now - p_every and p.taken_at <= v_now) then
    return null;
  end if;
  return leasehold.advance_floors();
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.advance_schedules(p_plans jsonb, p_by text DEFAULT 'scheduler'::text, p_scheduler uuid DEFAULT NULL::uuid)
 RETURNS TABLE(schedule text, recorded jsonb)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
 SET lock_timeout TO '1s'
AS $function$
#variable_conflict use_column
declare
  v_now timestamptz := leasehold.clock();
  v_held text[];
  v_names text[];
  v_slots timestamptz[];
  v_extras boolean[];
  v_ids bigint[];
  v_recorded jsonb;
  v_skipped jsonb;
begin
  perform leasehold.require_read_committed('firing schedules');
  select array_agg(h.name) into v_held from (
    select s.name
    from jsonb_to_recordset(p_plans) as p(name text, revision bigint, expected bigint, fire bigint[])
    join leasehold.schedules s on s.name = p.name
    where s.revision = p.revision and leasehold.epoch_ms(s.next_slot) is not distinct from p.expected
      and (s.enabled or p_by = 'command')
      and not exists (select from unnest(p.fire) as f(slot) where f.slot > leasehold.epoch_ms(v_now))
    order by s.name for update of s skip locked
  ) h;
  if v_held is null then
    return;
  end if;

  select array_agg(w.name order by w.name, w.slot), array_agg(w.slot order by w.name, w.slot),
    array_agg(w.extra order by w.name, w.slot), array_agg(w.id order by w.name, w.slot)
  into v_names, v_slots, v_extras, v_ids
  from (
    select p.name, to_timestamp(f.slot / 1000.0) as slot, coalesce(p.extra, false) as extra,
      nextval('leasehold.tasks_id_seq') as id
    from jsonb_to_recordset(p_plans) as p(name text, fire bigint[], extra boolean)
    cross join lateral unnest(p.fire) as f(slot)
    where p.name = any (v_held)
  ) w;

  if v_names is not null then
    -- Keys first, under the ids the tasks will have: whoever gets none leaves a skip instead of a task.
    insert into leasehold.task_keys (stage, key, task_id)
    select s.stage, s.key, w.id
    from unnest(v_names, v_slots, v_ids) as w(name, slot, id) join leasehold.schedules s on s.name = w.name
    where s.key is not null
      and exists (select from leasehold.stages t where t.name = s.stage)
      and not exists (select from leasehold.schedule_firings f where f.schedule = w.name and f.slot = w.slot
        and (f.outcome = 'fired' or leasehold.believed(f.recorded_at, v_now) is not null))
    order by s.stage, s.key, w.slot
    on conflict on constraint key_once_per_unfinished_task do nothing;

    with judged as (
      select w.name, w.slot, w.id, w.extra, s.jitter, t.paused_until > v_now as paused,
        case when t.name is null then 'unknown_stage' when s.key is not null and k.task_id is null then 'key_held' end as refusal
      from unnest(v_names, v_slots, v_extras, v_ids) as w(name, slot, extra, id)
      join leasehold.schedules s on s.name = w.name
      left join leasehold.stages t on t.name = s.stage
      left join leasehold.task_keys k on k.task_id = w.id
    ), written as (
      insert into leasehold.schedule_firings as f (
        schedule, slot, slots, outcome, reason, task_id, due_at, recorded_at, recorded_by, scheduler_id)
      select j.name, j.slot, 1, case when j.refusal is null then 'fired' else 'skipped' end,
        coalesce(j.refusal, case when j.extra then 'extra' when j.paused then 'stage_paused' end),
        case when j.refusal is null then j.id end,
        case when j.extra then v_now else leasehold.schedule_due(j.name, j.slot, j.jitter) end, v_now, p_by, p_scheduler
      from judged j
      -- Skipped by a clock that was ahead: its time has come only now.
      on conflict on constraint slot_once_per_schedule do update set last_slot = null, slots = excluded.slots,
        outcome = excluded.outcome, reason = excluded.reason, task_id = excluded.task_id, due_at = excluded.due_at,
        recorded_at = excluded.recorded_at, recorded_by = excluded.recorded_by, scheduler_id = excluded.scheduler_id
      where f.outcome = 'skipped' and leasehold.believed(f.recorded_at, v_now) is null
      returning f.schedule, f.slot, f.outcome, f.reason, f.task_id
    )
    select jsonb_agg(to_jsonb(w) || jsonb_build_object('task_id', w.task_id::text) order by w.schedule, w.slot)
    into v_recorded from written w;

    -- A slot that another one has fired meanwhile gives back the key it has just taken.
    delete from leasehold.task_keys k using unnest(v_ids) as i(id)
    where k.task_id = i.id and not exists (
      select from jsonb_to_recordset(v_recorded) as r(task_id bigint) where r.task_id = i.id);

    insert into leasehold.tasks (id, stage, payload, priority, key, title, meta)
    overriding system value
    select r.task_id, s.stage, s.payload, s.priority, s.key, r.schedule || ' ' || x.slot,
      jsonb_build_object('schedule', r.schedule, 'slot', x.slot)
    from jsonb_to_recordset(v_recorded) as r(schedule text, slot timestamptz, task_id bigint)
    join leasehold.schedules s on s.name = r.schedule
    cross join lateral (select to_char(r.slot at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as slot) x
    where r.task_id is not null
    order by r.task_id;
  end if;

  with written as (
    insert into leasehold.schedule_firings as f (
      schedule, slot, last_slot, slots, outcome, reason, due_at, recorded_at, recorded_by, scheduler_id)
    select p.name, to_timestamp(p.skip_first / 1000.0), nullif(to_timestamp(p.skip_last / 1000.0), to_timestamp(p.skip_first / 1000.0)),
      p.skip_count, 'skipped', 'missed', s.next_at, v_now, p_by, p_scheduler
    from jsonb_to_recordset(p_plans) as p(name text, skip_first bigint, skip_last bigint, skip_count integer)
    join leasehold.schedules s on s.name = p.name
    where p.name = any (v_held) and p.skip_first is not null
    on conflict on constraint slot_once_per_schedule do nothing
    returning f.schedule, f.slot, f.last_slot, f.slots, f.outcome, f.reason
  )
  select jsonb_agg(to_jsonb(w)) into v_skipped from written w;

  update leasehold.schedules s set
    next_slot = case when s.enabled then to_timestamp(p.next / 1000.0) end,
    next_at = case
      when p.held is not null then v_now + interval '15 seconds'
      when s.enabled and p.problem is null then leasehold.schedule_due(s.name, to_timestamp(p.next / 1000.0), s.jitter)
      else v_now + interval '1 minute' end,
    planned_at = v_now,
    held_since = case when p.held is not null then coalesce(leasehold.believed(s.held_since, v_now), v_now) end,
    problem = left(x.problem, 1000), problem_at = case when x.problem is not null then v_now end
  from jsonb_to_recordset(p_plans) as p(name text, next bigint, problem text, held text)
  cross join lateral (
    select case when p.held is null then p.problem
      when (select leasehold.believed(y.held_since, v_now) from leasehold.schedules y where y.name = p.name)
        <= v_now - interval '5 minutes' then p.held end as problem) x
  where s.name = p.name and p.name = any (v_held);

  return query
  select h.name, coalesce(jsonb_agg(r.one) filter (where r.one is not null), '[]')
  from unnest(v_held) as h(name)
  left join jsonb_array_elements(coalesce(v_recorded, '[]') || coalesce(v_skipped, '[]')) as r(one)
    on r.one ->> 'schedule' = h.name
  group by h.name;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.after_end(p_task_ids bigint[], p_outcome text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  delete from leasehold.task_keys k where k.task_id = any (p_task_ids);
  insert into leasehold.nudges (task_id, parent_id, stage)
  select d.child_id, d.parent_id, t.stage
  from leasehold.dependencies d join leasehold.tasks t on t.id = d.child_id
  where d.parent_id = any (p_task_ids);
  if pg_catalog.current_setting('transaction_isolation') <> 'read committed' then
    insert into leasehold.nudges (task_id, stage) select t.id, t.stage from leasehold.tasks t where t.id = any (p_task_ids);
  end if;
  insert into leasehold.run_ledger (run_id, stage, done, dead, cancelled)
  select t.run_id, t.stage,
    count(*) filter (where p_outcome = 'done'),
    count(*) filter (where p_outcome = 'dead'),
    count(*) filter (where p_outcome = 'cancelled')
  from leasehold.tasks t where t.id = any (p_task_ids) and t.run_id is not null
  group by 1, 2;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.alert_day(p_at timestamp with time zone)
 RETURNS timestamp with time zone
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select max(s.began)
  from leasehold.alert_policy p cross join (select leasehold.alert_zone() as zone) z
  cross join generate_series(-1, 1) as d(days)
  cross join lateral (select ((p_at at time zone z.zone)::date + d.days + p.digest_at) at time zone z.zone as began) s
  where s.began <= p_at
$function$;

CREATE OR REPLACE FUNCTION leasehold.alert_rule(p_kind text)
 RETURNS leasehold.alert_rules
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select coalesce(
    (select r from leasehold.alert_rules r where r.kind = p_kind),
    (select r from leasehold.alert_rules r where r.kind = '*'),
    row(p_kind, 'now', interval '0', null, null, true, false)::leasehold.alert_rules)
$function$;

CREATE OR REPLACE FUNCTION leasehold.alert_targets()
 RETURNS SETOF text
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  with served as (
    select c.channel from leasehold.alert_channels c
    where c.enabled and leasehold.believed(c.served_at, leasehold.clock()) > leasehold.clock() - interval '1 day'
  )
  select s.channel from served s
  union all
  select c.channel from leasehold.alert_channels c
  where c.channel = 'email' and c.enabled and not exists (select from served)
$function$;

CREATE OR REPLACE FUNCTION leasehold.alert_zone()
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_zone text;
begin
  select p.zone into v_zone from leasehold.alert_policy p;
  perform leasehold.clock() at time zone v_zone;
  return v_zone;
exception when invalid_parameter_value then
  return 'UTC';
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.alerts_used(p_channel text, p_at timestamp with time zone, OUT used integer, OUT waiting boolean)
 RETURNS record
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select (s.n + u.flying + u.waits::integer)::integer, u.waits
  from (
    select count(distinct x.transmission) as n from (
      select a.transmission from leasehold.alerts a
      where a.channel = p_channel and a.sent_at >= leasehold.alert_day(p_at) and leasehold.believed(a.sent_at, p_at) is not null
      union all
      select d.transmission from leasehold.alert_doubts d
      where d.channel = p_channel and d.at >= leasehold.alert_day(p_at) and leasehold.believed(d.at, p_at) is not null) x
  ) s cross join (
    select count(distinct a.transmission) filter (where leasehold.believed(a.claimed_until, p_at, interval '2 hours') > p_at) as flying,
      coalesce(bool_or(coalesce(leasehold.believed(a.claimed_until, p_at, interval '2 hours') <= p_at, true)), false) as waits
    from leasehold.alerts a where a.channel = p_channel and a.sent_at is null and a.refused_at is null
  ) u
$function$;

CREATE OR REPLACE FUNCTION leasehold.audit()
 RETURNS TABLE(violation text, task_id bigint, detail text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  with state as (
    select r.task_id, 'ready' as state from leasehold.ready r
    union all select l.task_id, 'running' from leasehold.leases l
    union all select d.task_id, 'scheduled' from leasehold.scheduled d
    union all select w.task_id, 'waiting' from leasehold.waiting w
  ), last_attempt as (
    select distinct on (a.task_id) a.task_id, a.final from leasehold.attempts a order by a.task_id, a.fence desc
  )
  select 'task in several states', s.task_id, string_agg(s.state, ', ') from state s group by s.task_id having count(*) > 1
  union all
  select 'task in no state and not ended', t.id, null from leasehold.tasks t
  left join state s on s.task_id = t.id left join last_attempt a on a.task_id = t.id
  where s.task_id is null and not coalesce(a.final, false)
  union all
  select 'ended task in a state', s.task_id, s.state from state s join last_attempt a on a.task_id = s.task_id where a.final
  union all
  select 'state without a task', s.task_id, s.state from state s left join leasehold.tasks t on t.id = s.task_id where t.id is null
  union all
  select 'key of an ended task', k.task_id, k.key from leasehold.task_keys k left join state s on s.task_id = k.task_id where s.task_id is null
  union all
  select 'unfinished task without its key', t.id, t.key from leasehold.tasks t join state s on s.task_id = t.id
  left join leasehold.task_keys k on k.task_id = t.id where t.key is not null and k.task_id is null
  union all
  select 'edge of a task that does not wait', d.child_id, 'parent ' || d.parent_id from leasehold.dependencies d
  left join leasehold.waiting w on w.task_id = d.child_id and w.for_parents where w.task_id is null
  union all
  select 'two ends without a reopening between', x.task_id, null from (
    select a.task_id, a.final, lag(a.final) over (partition by a.task_id order by a.fence) as before from leasehold.attempts a) x
  where x.final and x.before
  union all
  select 'run counts differ', null, c.run_id || ' / ' || c.stage || ': open ' || c.open || ', counted ' || c.counted from (
    select p.run_id, p.stage, p.open, (select count(*) from leasehold.tasks t join state s on s.task_id = t.id
      where t.run_id = p.run_id and t.stage = p.stage) as counted
    from leasehold.run_progress p) c where c.open <> c.counted
  union all
  select v.violation, v.task_id, v.detail from leasehold.invariant_violations v
$function$;

CREATE OR REPLACE FUNCTION leasehold.backoff(p_failures integer, p_min interval, p_max interval)
 RETURNS interval
 LANGUAGE sql
 PARALLEL SAFE
RETURN (SELECT ((GREATEST(d.least_s, (d.most_s / (2)::double precision)) + (random() * (d.most_s - GREATEST(d.least_s, (d.most_s / (2)::double precision))))) * '00:00:01'::interval) FROM (SELECT (EXTRACT(epoch FROM backoff.p_min))::double precision AS least_s, LEAST((EXTRACT(epoch FROM backoff.p_max))::double precision, ((EXTRACT(epoch FROM backoff.p_min))::double precision * power((2)::double precision, (LEAST(GREATEST(backoff.p_failures, 1), 40))::double precision))) AS most_s) d);

CREATE OR REPLACE FUNCTION leasehold.begin_duty(p_duty text, p_schedule text, p_period interval, p_by text)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
  v_next timestamptz := leasehold.next_turn(p_period);
begin
  insert into leasehold.housekeeping as h (duty, schedule, period, known_since, started_at, started_by, next_at, outcome, turns)
  values (p_duty, p_schedule, p_period, v_now, v_now, p_by, v_next, 'running', 1)
  on conflict (duty) do update set schedule = excluded.schedule, period = excluded.period, started_at = excluded.started_at,
    started_by = excluded.started_by, next_at = excluded.next_at, outcome = 'running', turns = h.turns + 1
  where h.outcome is distinct from 'running' or coalesce(leasehold.believed(h.started_at, v_now), '-infinity') < v_now - interval '5 minutes';
  return found;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.begin_handover(p_channel text, p_transmission uuid, p_for interval)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_now timestamptz;
begin
  perform from leasehold.alert_channels c where c.channel = p_channel for update;
  v_now := leasehold.clock();
  update leasehold.alerts a set handing_over_at = v_now, claimed_until = v_now + p_for
  where a.transmission = p_transmission and a.channel = p_channel and a.sent_at is null and a.refused_at is null
    and a.claimed_until is not null;
  return found;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.believed(p_at timestamp with time zone, p_now timestamp with time zone, p_ahead interval DEFAULT '00:01:00'::interval)
 RETURNS timestamp with time zone
 LANGUAGE sql
 STABLE PARALLEL SAFE
RETURN CASE WHEN (p_at <= (p_now + p_ahead)) THEN p_at ELSE NULL::timestamp with time zone END;

CREATE OR REPLACE FUNCTION leasehold.below_floors(p_from bigint DEFAULT 0)
 RETURNS TABLE(task_id bigint, stage text, lane smallint, ready_position bigint, floor bigint)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
  select r.task_id, s.name, l.lane::smallint, r.position, f.floor
  from leasehold.stages s cross join generate_series(0, 11) as l(lane)
  cross join lateral (
    select f.floor from leasehold.floors f where f.stage = s.name and f.lane = l.lane order by f.floor desc limit 1) f
  -- The order keeps this from becoming a join with all of ready.
  cross join lateral (
    select r.task_id, r.position from leasehold.ready r
    where r.stage = s.name and r.lane = l.lane and r.position >= p_from and r.position < f.floor order by r.position) r
$function$;

CREATE OR REPLACE FUNCTION leasehold.burst_ends_at(p_incidents bigint[], p_interval interval)
 RETURNS timestamp with time zone
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  with dead as (
    select min(w.expires_at) + least(p_interval, interval '1 minute') as latest
    from leasehold.incidents i join leasehold.workers w on i.kind = 'worker_dead' and w.id::text = i.subject
    where i.id = any (p_incidents)
  )
  select least(max(w.expires_at), min(d.latest)) + interval '10 milliseconds'
  from dead d join leasehold.workers w on w.ended_at is null and w.expires_at > leasehold.clock()
    and w.beat_at < leasehold.clock() - w.beat_interval * 2
  where d.latest > leasehold.clock()
$function$;

CREATE OR REPLACE FUNCTION leasehold.cancel_task(task_id bigint, reason text DEFAULT NULL::text)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_error jsonb := jsonb_build_object('code', 'cancelled', 'message', coalesce(left(cancel_task.reason, 1000), 'cancelled by an operator'));
  v_lease record;
begin
  for i in 1 .. 20 loop
    if leasehold.end_unleased(cancel_task.task_id, 'cancelled', v_error) then
      perform leasehold.process_nudges_if_allowed(cancel_task.task_id);
      return true;
    end if;
    delete from leasehold.leases l where l.task_id = cancel_task.task_id
    returning l.task_id, l.fence, l.worker_id, l.leased_at, l.attempt into v_lease;
    if found then
      insert into leasehold.attempts (task_id, fence, worker_id, leased_at, ended_at, attempt, final, outcome, error)
      values (v_lease.task_id, v_lease.fence, v_lease.worker_id, v_lease.leased_at, leasehold.clock(), v_lease.attempt, true,
        'cancelled', v_error);
      insert into leasehold.revocations (worker_id, fence, task_id, reason)
      values (v_lease.worker_id, v_lease.fence, v_lease.task_id, 'cancelled') on conflict do nothing;
      perform leasehold.nudge_keys(array[cancel_task.task_id]);
      perform leasehold.after_end(array[cancel_task.task_id], 'cancelled');
      perform leasehold.wake((select w.stages from leasehold.workers w where w.id = v_lease.worker_id));
      perform leasehold.process_nudges_if_allowed(cancel_task.task_id);
      return true;
    end if;
    if leasehold.final_outcome(cancel_task.task_id) is not null then
      return false;
    end if;
    if not exists (select from leasehold.tasks t where t.id = cancel_task.task_id) then
      raise exception 'task % does not exist', cancel_task.task_id using errcode = 'LH002',
        hint = 'It may have been dropped by retention.';
    end if;
  end loop;
  raise exception 'task % kept moving; try again', cancel_task.task_id using errcode = 'serialization_failure';
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.channel_conditions()
 RETURNS TABLE(kind text, subject text, summary text, details jsonb)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  with channel as (
    select c.channel, c.failures, c.last_error, leasehold.is_withheld(c.channel, k.now) as withheld,
      exists (select from leasehold.incidents i
        where i.kind = 'channel_down' and i.subject = c.channel and i.resolved_at is null) as open,
      c.failing_since is not null and leasehold.believed(c.served_at, k.now) > k.now - interval '1 day' as failing,
      exists (select from leasehold.alerts a where a.channel = c.channel and a.sent_at is null
        and a.refused_at >= c.failing_since) as refused,
      leasehold.believed(c.served_at, k.now) as served_at,
      exists (select from leasehold.monitor_gaps g
        where g.ended_at > k.now - interval '5 minutes' and leasehold.believed(g.ended_at, k.now) is not null) as unsettled,
      (select count(*) from leasehold.alerts a
        where a.channel = c.channel and a.sent_at is null and a.refused_at is null
          and coalesce(greatest(leasehold.believed(a.next_try_at, k.now, interval '2 hours'),
            leasehold.believed(a.claimed_until, k.now, interval '2 hours'), leasehold.believed(c.not_before, k.now, interval '2 hours')),
            '-infinity') < k.now - interval '5 minutes') as overdue
    from (select leasehold.clock() as now) k cross join leasehold.alert_channels c
    where c.enabled
  )
  select 'channel_down', c.channel, 'alerts by ' || c.channel || w.what, jsonb_build_object('channel', c.channel,
    'failures', c.failures, 'refused', c.refused, 'withheld', c.withheld, 'unserved', not c.failing, 'waiting', c.overdue,
    'error', w.error)
  from channel c
  cross join lateral (
    select coalesce(c.last_error, 'unknown') as error,
      case when c.refused then ' are refused: ' else ' could not be delivered: ' end || coalesce(c.last_error, 'unknown') as what
    where c.failing and (c.failures >= 3 or c.refused or c.withheld or c.open)
    union all
    select 'no monitor takes them', ' wait, and no monitor takes them'
    where c.overdue > 0 and not c.withheld and (c.open or not c.unsettled)
    limit 1
  ) w
$function$;

CREATE OR REPLACE FUNCTION leasehold.channel_rests(p_channel text)
 RETURNS interval
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select case when c.not_before > k.now then c.not_before - k.now
    when not leasehold.is_withheld(c.channel, k.now) and leasehold.is_held(c.channel, k.now) then interval '1 minute' end
  from (select leasehold.clock() as now) k
  cross join lateral (select x.channel, leasehold.believed(x.not_before, k.now, interval '2 hours') as not_before
    from leasehold.alert_channels x where x.channel = p_channel and x.enabled) c
$function$;

CREATE OR REPLACE FUNCTION leasehold.check_alert_zone()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  if not exists (select from pg_catalog.pg_timezone_names z where z.name = new.zone) then
    raise exception 'there is no time zone ''%''', left(new.zone, 100)
      using errcode = '22023', hint = 'Name one of pg_timezone_names: Europe/London, America/New_York, UTC …',
        constraint = 'alert_zone_is_known', table = 'alert_policy', column = 'zone';
  end if;
  return new;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.check_change(p_change jsonb, p_known text[])
 RETURNS void
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_unknown text;
begin
  if jsonb_typeof(p_change) is distinct from 'object' then
    raise exception 'a change is a JSON object, not %', left(coalesce(p_change::text, 'null'), 100)
      using errcode = '22023', hint = 'Known: ' || array_to_string(p_known, ', ') || '.';
  end if;
  select string_agg(left(k, 60), ', ' order by k) into v_unknown
  from jsonb_object_keys(p_change) k where not k = any (p_known);
  if v_unknown is not null then
    raise exception 'there is no setting %', v_unknown
      using errcode = '22023', hint = 'Known: ' || array_to_string(p_known, ', ') || '.';
  end if;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.claim(worker_id uuid, stage text, max_tasks integer DEFAULT 1)
 RETURNS TABLE(task_id bigint, fence bigint, attempt smallint, payload jsonb, extra jsonb)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
#variable_conflict use_column
begin
  if not exists (select from leasehold.stages s where s.name = claim.stage) then
    perform leasehold.raise_unknown_stage(claim.stage);
  end if;
  if max_tasks is null or max_tasks < 0 then
    perform leasehold.refuse_field('claim', 'max_tasks', 'a whole number from 0', max_tasks::text);
  end if;
  perform leasehold.promote_due(array[claim.stage]);
  return query
  select x.task_id, x.fence, x.attempt, x.payload::jsonb, x.extra::jsonb
  from leasehold.exchange(claim.worker_id, null, null, null, null, null, array[claim.stage], array[max_tasks], null, null, null) x
  where x.task_id is not null;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.claim_messages(p_channel text, p_for interval)
 RETURNS TABLE(id bigint, subject text, body text, purpose text, created_at timestamp with time zone, tries integer, incidents jsonb, transmission uuid)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_channel leasehold.alert_channels;
  v_transmission uuid := gen_random_uuid();
begin
  select * into v_channel from leasehold.alert_channels c where c.channel = p_channel and c.enabled for update;
  v_now := leasehold.clock(); -- not before the lock: waiting for it takes time as well
  if not found or leasehold.believed(v_channel.not_before, v_now, interval '2 hours') > v_now then
    return;
  end if;
  insert into leasehold.alert_doubts (transmission, channel, at, reason)
  select distinct a.transmission, a.channel, v_now, 'its sender ended without a word' from leasehold.alerts a
  where a.channel = p_channel and a.sent_at is null and a.refused_at is null and a.handing_over_at is not null
    and a.claimed_until is not null and coalesce(leasehold.believed(a.claimed_until, v_now, interval '2 hours') <= v_now, true)
  on conflict on constraint doubt_once_per_transmission do nothing;
  if found then
    update leasehold.alert_channels c set failing_since = coalesce(c.failing_since, v_now), failures = c.failures + 1,
      last_error = 'a sender ended without a word'
    where c.channel = p_channel;
  end if;
  -- What nobody has in hand any more waits again, so that what is withheld goes on being told with it.
  update leasehold.alerts a set claimed_until = null, handing_over_at = null
  where a.channel = p_channel and a.sent_at is null and a.refused_at is null and a.claimed_until is not null
    and coalesce(leasehold.believed(a.claimed_until, v_now, interval '2 hours') <= v_now, true);
  if leasehold.is_withheld(p_channel, v_now) then
    return;
  end if;
  update leasehold.alerts a set refused_at = v_now, last_error = 'the rules say never since it was written'
  where a.channel = p_channel and a.sent_at is null and a.refused_at is null and a.claimed_until is null
    and exists (select from leasehold.incidents i where i.id = any (a.incident_ids))
    and not exists (select from leasehold.incidents i cross join lateral leasehold.alert_rule(i.kind) r
      where i.id = any (a.incident_ids) and r.tell <> 'never');
  if leasehold.is_held(p_channel, v_now) then
    update leasehold.alerts a set next_try_at = v_now + interval '1 minute'
    where a.channel = p_channel and a.sent_at is null and a.refused_at is null and a.claimed_until is null;
    return;
  end if;
  return query
  with claimed as (
    update leasehold.alerts a set tries = a.tries + 1, claimed_until = v_now + p_for, transmission = v_transmission
    where a.channel = p_channel and a.sent_at is null and a.refused_at is null and a.claimed_until is null
    returning a.*
  ), numbered as (
    select c.*, row_number() over (order by c.id) as nr from claimed c
  )
  select n.id, n.subject, case when n.nr <= 100 then n.body end, n.purpose, n.created_at, n.tries,
    case when n.nr <= 100 then (select coalesce(jsonb_agg(jsonb_build_object('id', i.id::text, 'kind', i.kind, 'subject', i.subject,
      'summary', i.summary, 'opened_at', i.opened_at, 'resolved_at', i.resolved_at) order by i.id), '[]')
      from (select i.* from leasehold.incidents i where i.id = any (n.incident_ids) order by i.id limit 500) i) end,
    v_transmission
  from numbered n order by n.id;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.clock()
 RETURNS timestamp with time zone
 LANGUAGE sql
 PARALLEL SAFE
RETURN clock_timestamp();

CREATE OR REPLACE FUNCTION leasehold.clock_doubt()
 RETURNS text
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select case
    when leasehold.monitor_silence() > interval '1 day' then 'by the clock no monitor has looked for '
      || date_trunc('second', leasehold.monitor_silence()) || ': it may be wrong; start a monitor, and history goes a day later'
    when g.ended_at is not null then 'the clock went ahead by ' || date_trunc('second', g.lasted) || ' at ' || date_trunc('second', g.ended_at)
      || ', or no monitor looked for so long: history stays until ' || date_trunc('second', g.ended_at + interval '1 day') end
  from (select leasehold.clock() as now) c
  left join lateral (
    select x.ended_at, x.lasted from leasehold.monitor_gaps x
    where x.lasted > interval '1 day' and x.ended_at > c.now - interval '1 day' and leasehold.believed(x.ended_at, c.now) is not null
    order by x.ended_at desc limit 1) g on true
$function$;

CREATE OR REPLACE FUNCTION leasehold.collect_stragglers()
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_straggler record;
  v_requeued integer := 0;
  v_count integer;
begin
  for v_straggler in
    select g.* from leasehold.stragglers g
    where not exists (select from leasehold.ready_writers() w where w.xid = g.xid)
  loop
    perform pg_current_xact_id();
    with below as (
      select r.rid
      from leasehold.stages s cross join generate_series(0, 11) as l(lane)
      cross join lateral (
        select f.floor from leasehold.floors f where f.stage = s.name and f.lane = l.lane order by f.floor desc limit 1) f
      cross join lateral (
        select r.ctid as rid from leasehold.ready r
        where r.stage = s.name and r.lane = l.lane
          and r.position >= v_straggler.from_position and r.position < f.floor
        order by r.position for update skip locked) r
    ), gone as (
      delete from leasehold.ready r where r.ctid = any (array(select b.rid from below b))
      returning r.position, r.task_id, r.lane, r.failures, r.crashes, r.stage, r.concurrency_key
    )
    insert into leasehold.ready (task_id, lane, failures, crashes, stage, concurrency_key)
    select task_id, lane, failures, crashes, stage, concurrency_key from gone order by position;
    get diagnostics v_count = row_count;
    v_requeued := v_requeued + v_count;
    -- A row that somebody had locked was passed over: then once more next time.
    delete from leasehold.stragglers g where g.xid = v_straggler.xid
      and not exists (select from leasehold.below_floors(v_straggler.from_position));
  end loop;
  return v_requeued;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.compact_run_ledger(p_limit integer DEFAULT 20000)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_merged integer;
begin
  with many as (
    select run_id, stage from leasehold.run_ledger group by 1, 2 having count(*) > 50 limit 100
  ), taken as (
    select l.ctid as rid from leasehold.run_ledger l join many m on m.run_id = l.run_id and m.stage = l.stage
    limit p_limit for update of l skip locked
  ), gone as (
    delete from leasehold.run_ledger l where l.ctid = any (array(select t.rid from taken t))
    returning l.run_id, l.stage, l.submitted, l.done, l.dead, l.cancelled
  ), merged as (
    insert into leasehold.run_ledger (run_id, stage, submitted, done, dead, cancelled)
    select run_id, stage, sum(submitted), sum(done), sum(dead), sum(cancelled) from gone group by 1, 2
  )
  select count(*) into v_merged from gone;
  return v_merged;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.current_conditions(p_wedge interval, p_lonely interval, p_silent interval)
 RETURNS TABLE(kind text, subject text, summary text, details jsonb)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_function text;
begin
  return query select c.kind, c.subject, c.summary, c.details from leasehold.fleet_conditions(p_wedge, p_lonely, p_silent) c;
  return query select c.kind, c.subject, c.summary, c.details from leasehold.work_conditions() c;
  foreach v_function in array array['late_schedules', 'failing_schedules', 'overdue_housekeeping', 'channel_conditions'] loop
    if to_regprocedure(format('leasehold.%I()', v_function)) is not null then
      return query execute format('select c.kind, c.subject, c.summary, c.details from leasehold.%I() c', v_function);
    end if;
  end loop;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.deaths_since()
 RETURNS timestamp with time zone
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select greatest(k.now - interval '7 days', least(k.now - interval '1 day', (
    -- A minute for whoever was releasing while that look ended.
    select min(g.ended_at - g.lasted) - interval '1 minute' from leasehold.monitor_gaps g
    where g.ended_at > k.now - interval '1 day' and leasehold.believed(g.ended_at, k.now) is not null)))
  from (select leasehold.clock() as now) k
$function$;

CREATE OR REPLACE FUNCTION leasehold.delete_strays(p_before timestamp with time zone, p_limit integer DEFAULT 1000)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET lock_timeout TO '200ms'
AS $function$
declare
  v_ids bigint[];
begin
  perform leasehold.require_read_committed('delete_strays');
  if leasehold.clock_doubt() is not null then
    return 0;
  end if;
  -- Chosen while nobody waits; what they are is looked at again below, under the lock.
  select array_agg(x.id) into v_ids from (
    select t.id from leasehold.tasks_default t
    cross join lateral (
      select a.final, a.ended_at from leasehold.attempts a where a.task_id = t.id order by a.fence desc limit 1) e
    where e.final and e.ended_at < p_before limit p_limit) x;
  if v_ids is null then
    return 0;
  end if;
  if leasehold.long_holders('leasehold.tasks_default') is not null then
    return null;
  end if;
  begin
    lock table leasehold.tasks_default in access exclusive mode;
  exception when lock_not_available then
    return null;
  end;
  select array_agg(x.id) into v_ids from (
    select t.id from leasehold.tasks_default t
    cross join lateral (
      select a.final, a.ended_at from leasehold.attempts a where a.task_id = t.id order by a.fence desc limit 1) e
    where t.id = any (v_ids) and e.final and e.ended_at < p_before
      and not exists (select from leasehold.dependencies d where d.parent_id = t.id)) x;
  delete from leasehold.tasks_default t where t.id = any (v_ids);
  delete from leasehold.attempts_default a where a.task_id = any (v_ids);
  delete from leasehold.task_progress_default g where g.task_id = any (v_ids);
  delete from leasehold.task_checkpoints_default c where c.task_id = any (v_ids);
  delete from leasehold.task_logs_default l where l.task_id = any (v_ids);
  return coalesce(cardinality(v_ids), 0);
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.drain_slot(slot text)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  update leasehold.workers w set drain_asked = true where w.slot = drain_slot.slot and w.ended_at is null;
  return found;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.drop_leftovers()
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET lock_timeout TO '200ms'
AS $function$
declare
  v_range record;
  v_parent text;
  v_table text;
  v_reason text;
begin
  perform from leasehold.locks where name = 'partitions' for update skip locked;
  if not found then
    return null;
  end if;
  for v_range in select p.first_id from leasehold.partitions p where p.retired_at is not null order by p.first_id loop
    foreach v_parent in array array['attempts', 'task_progress', 'task_checkpoints', 'task_logs'] loop
      v_table := 'leasehold.' || v_parent || '_' || v_range.first_id;
      continue when to_regclass(v_table) is null;
      v_reason := coalesce(leasehold.long_holders(('leasehold.' || v_parent)::regclass), leasehold.long_holders(v_table::regclass));
      if v_reason is null then
        begin
          execute pg_catalog.format('lock table only leasehold.%I in access exclusive mode', v_parent);
          execute 'drop table ' || v_table;
        exception when lock_not_available then
          v_reason := 'others used its tables without a pause';
        end;
      end if;
      update leasehold.partitions p set stays_because = v_reason, tried_at = leasehold.clock() where p.first_id = v_range.first_id;
      return case when v_reason is null then v_table end;
    end loop;
    delete from leasehold.partitions p where p.first_id = v_range.first_id;
  end loop;
  return null;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.drop_range(p_first_id bigint, p_before timestamp with time zone)
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET lock_timeout TO '200ms'
AS $function$
declare
  v_range leasehold.partitions;
  v_started timestamptz;
  v_reason text;
  v_last_ended timestamptz;
  v_doubt text;
begin
  perform leasehold.require_read_committed('drop_range');
  perform from leasehold.locks where name = 'partitions' for update skip locked;
  if not found then
    return 'another process makes or drops ranges right now';
  end if;
  select * into v_range from leasehold.partitions p where p.first_id = p_first_id;
  if not found or v_range.retired_at is not null then
    return 'there is no such range';
  elsif v_range.closed_at is null then
    return 'it takes new tasks';
  elsif v_range.closed_at >= p_before then
    return 'it took new tasks until ' || v_range.closed_at;
  elsif v_range.last_ended_at >= p_before then
    return 'its last task ended at ' || v_range.last_ended_at;
  end if;
  v_doubt := leasehold.clock_doubt();

  v_started := clock_timestamp();
  v_reason := coalesce(v_doubt, leasehold.range_holds(v_range.first_id, v_range.end_id));
  if v_reason is null and clock_timestamp() > v_started + interval '0.2 seconds' then
    -- The same look has to be taken while everybody waits.
    v_reason := 'looking for unfinished tasks takes too long: dead rows are in the way, see "oldest transaction" in database_health';
  end if;
  -- The range's own tables too: a vacuum that nothing may cancel (against wraparound) is not waited for with `tasks` locked.
  v_reason := coalesce(v_reason, leasehold.long_holders('leasehold.tasks'),
    leasehold.long_holders(('leasehold.tasks_' || v_range.first_id)::regclass),
    leasehold.long_holders(('leasehold.attempts_' || v_range.first_id)::regclass));
  if v_reason is null then
    begin
      execute pg_catalog.format('lock table leasehold.%I in share mode', 'attempts_' || v_range.first_id);
      execute pg_catalog.format('select max(ended_at) from leasehold.%I', 'attempts_' || v_range.first_id) into v_last_ended;
      if v_last_ended >= p_before then
        v_reason := 'its last task ended at ' || v_last_ended;
      else
        lock table only leasehold.tasks in access exclusive mode;
        v_reason := leasehold.range_holds(v_range.first_id, v_range.end_id);
        if v_reason is null then
          execute pg_catalog.format('drop table leasehold.%I', 'tasks_' || v_range.first_id);
        end if;
      end if;
    exception when lock_not_available then
      v_reason := 'others used its tables without a pause';
    end;
  end if;
  update leasehold.partitions p set stays_because = v_reason, tried_at = leasehold.clock(),
    last_ended_at = coalesce(v_last_ended, p.last_ended_at),
    retired_at = case when v_reason is null then leasehold.clock() end
  where p.first_id = v_range.first_id;
  return v_reason;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.drop_range_logs(p_first_id bigint, p_before timestamp with time zone)
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET lock_timeout TO '200ms'
AS $function$
declare
  v_range leasehold.partitions;
  v_last_ended timestamptz;
  v_reason text;
begin
  perform leasehold.require_read_committed('drop_range_logs');
  perform from leasehold.locks where name = 'partitions' for update skip locked;
  if not found then
    return 'another process makes or drops ranges right now';
  end if;
  select * into v_range from leasehold.partitions p where p.first_id = p_first_id and p.retired_at is null;
  if not found or v_range.closed_at is null or v_range.closed_at >= p_before then
    return 'it is not closed for long enough';
  elsif leasehold.clock_doubt() is not null then
    return leasehold.clock_doubt();
  end if;
  v_last_ended := v_range.last_ended_at;
  if v_last_ended is null or v_last_ended < p_before then
    execute pg_catalog.format('select max(ended_at) from leasehold.%I', 'attempts_' || v_range.first_id) into v_last_ended;
  end if;
  if v_last_ended >= p_before then
    v_reason := 'its last task ended at ' || v_last_ended;
  else
    begin
      execute pg_catalog.format('lock table leasehold.%I, leasehold.%I in access exclusive mode',
        'task_logs_' || v_range.first_id, 'task_progress_' || v_range.first_id);
      v_reason := leasehold.range_holds(v_range.first_id, v_range.end_id);
      if v_reason is null then
        execute pg_catalog.format('truncate leasehold.%I, leasehold.%I',
          'task_logs_' || v_range.first_id, 'task_progress_' || v_range.first_id);
      end if;
    exception when lock_not_available then
      v_reason := 'others read its logs';
    end;
  end if;
  update leasehold.partitions p set last_ended_at = v_last_ended, tried_at = leasehold.clock(),
    logs_gone_at = case when v_reason is null then leasehold.clock() end
  where p.first_id = v_range.first_id;
  return v_reason;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.due_messages(p_interval interval, p_unfinished boolean DEFAULT false)
 RETURNS TABLE(channel text, purpose text, news jsonb, again interval)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
  v_now timestamptz := leasehold.clock();
  v_day timestamptz := leasehold.alert_day(v_now);
  v_quiet boolean := leasehold.is_quiet(v_now);
  v_policy leasehold.alert_policy;
  v_channel record;
  v_used record;
  v_last record;
  v_picked bigint[];
  v_incidents bigint[];
  v_minor boolean;
  v_until timestamptz;
begin
  select * into strict v_policy from leasehold.alert_policy;
  for v_channel in
    select c.channel, coalesce(c.per_day, v_policy.per_day) as per_day from leasehold.alert_channels c
    where c.channel in (select leasehold.alert_targets()) order by c.channel for update
  loop
    continue when not exists (select from leasehold.alert_news n where n.channel = v_channel.channel and n.told_at is null);
    channel := v_channel.channel; purpose := null; news := null; again := null;
    v_used := leasehold.alerts_used(channel, v_now);
    if not v_quiet and (v_used.waiting or v_used.used < v_channel.per_day)
      and exists (select from leasehold.alert_news n where n.channel = v_channel.channel and n.told_at is null
        and coalesce(leasehold.believed(n.at, v_now), '-infinity') < v_day)
      and not exists (select from leasehold.alerts a
        where a.channel = v_channel.channel and a.purpose = 'digest' and a.created_at >= v_day
          and leasehold.believed(a.created_at, v_now) is not null)
    then
      purpose := 'digest';
      v_picked := array(select n.id from leasehold.alert_news n
        where n.channel = v_channel.channel and n.told_at is null order by n.id);
    else
      select array_agg(n.id order by n.id), array_agg(n.incident_id) filter (where n.what = 'opened'), bool_and(n.minor)
      into v_picked, v_incidents, v_minor
      from leasehold.alert_news n join leasehold.incidents i on i.id = n.incident_id
      cross join lateral leasehold.alert_rule(i.kind) r
      where n.channel = v_channel.channel and n.told_at is null and r.tell = 'now' and (r.through_quiet or not v_quiet);
      continue when v_picked is null;
      continue when not v_used.waiting
        and v_used.used >= v_channel.per_day - case when v_minor then v_policy.reserve else 0 end;
      select a.created_at into v_last from leasehold.alerts a where a.channel = v_channel.channel order by a.id desc limit 1;
      v_until := greatest(leasehold.believed(v_last.created_at, v_now) + v_policy.gap, leasehold.burst_ends_at(v_incidents, p_interval),
        case when p_unfinished and exists (select from leasehold.alert_news n
          where n.id = any (v_picked) having min(leasehold.believed(n.at, v_now)) > v_now - least(p_interval, interval '1 minute')) then v_now + interval '1 ms' end);
      if v_until > v_now then
        again := v_until - v_now;
        return next;
        continue;
      end if;
      purpose := 'alert';
    end if;
    select jsonb_agg(jsonb_build_object('news_id', x.id::text, 'what', x.what,
      'incident', to_jsonb(x.incident) || jsonb_build_object('id', x.incident_id::text)
        || case when x.nr > 100 then jsonb_build_object('details', (x.incident).details - 'held') else '{}' end) order by x.id)
    into news
    from (
      select n.id, n.what, n.incident_id, i as incident, row_number() over (partition by i.kind order by n.id) as nr
      from leasehold.alert_news n join leasehold.incidents i on i.id = n.incident_id where n.id = any (v_picked)
    ) x;
    return next;
  end loop;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.edit_distance(p_a text, p_b text)
 RETURNS integer
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_previous integer[];
  v_current integer[];
begin
  select array_agg(i) into v_previous from generate_series(0, length(p_b)) i;
  for i in 1 .. length(p_a) loop
    v_current := array[i];
    for j in 1 .. length(p_b) loop
      v_current := v_current || least(
        v_previous[j + 1] + 1, v_current[j] + 1,
        v_previous[j] + case when substr(p_a, i, 1) = substr(p_b, j, 1) then 0 else 1 end);
    end loop;
    v_previous := v_current;
  end loop;
  return v_previous[length(p_b) + 1];
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.end_duty(p_duty text, p_by text, p_did jsonb, p_error text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  update leasehold.housekeeping h set ended_at = leasehold.clock(), did = p_did, error = p_error,
    outcome = case when p_error is null then 'done' else 'failed' end,
    succeeded_at = case when p_error is null then leasehold.clock() else h.succeeded_at end,
    failures_in_a_row = case when p_error is null then 0 else h.failures_in_a_row + 1 end
  where h.duty = p_duty and h.started_by = p_by and h.outcome = 'running'
$function$;

CREATE OR REPLACE FUNCTION leasehold.end_forgotten_leases(p_slack interval DEFAULT '00:01:00'::interval, p_limit integer DEFAULT 500)
 RETURNS bigint[]
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_lease record;
  v_ended bigint[] := '{}';
begin
  if leasehold.release_grace_until(interval '1 minute') > leasehold.clock() then
    return v_ended;
  end if;
  for v_lease in
    select l.task_id, l.fence, l.worker_id, l.deadline_at - l.leased_at as timeout
    from leasehold.workers w
    join leasehold.leases l on l.worker_id = w.id and l.fence < w.oldest_fence
    where w.ended_at is null and l.deadline_at < leasehold.clock() - p_slack
    limit p_limit for update of l skip locked
  loop
    perform leasehold.settle_endings(v_lease.worker_id, jsonb_build_array(jsonb_build_object(
      'task_id', v_lease.task_id, 'fence', v_lease.fence, 'outcome', 'fail',
      'error', jsonb_build_object('code', 'timeout', 'message', 'not finished within ' || v_lease.timeout
        || '; its worker had forgotten it'))));
    insert into leasehold.revocations (worker_id, fence, task_id, reason)
    values (v_lease.worker_id, v_lease.fence, v_lease.task_id, 'deadline') on conflict do nothing;
    v_ended := v_ended || v_lease.task_id;
  end loop;
  return v_ended;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.end_unleased(p_task_id bigint, p_outcome text, p_error jsonb)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_failures smallint;
begin
  delete from leasehold.ready where task_id = p_task_id returning failures into v_failures;
  if not found then
    delete from leasehold.scheduled where task_id = p_task_id returning failures into v_failures;
  end if;
  if v_failures is null then
    delete from leasehold.waiting where task_id = p_task_id returning failures into v_failures;
  end if;
  if v_failures is null then
    return false;
  end if;
  insert into leasehold.attempts (task_id, fence, ended_at, attempt, final, outcome, error)
  values (p_task_id, nextval('leasehold.fences'), leasehold.clock(), v_failures, true, p_outcome, p_error);
  delete from leasehold.dependencies d where d.child_id = p_task_id;
  perform leasehold.nudge_keys(array[p_task_id]);
  perform leasehold.after_end(array[p_task_id], p_outcome);
  return true;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.end_worker(p_worker uuid, p_reason text)
 RETURNS TABLE(released bigint[], quarantined bigint[])
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_now timestamptz := leasehold.clock();
  v_crashed constant boolean := p_reason in ('lost', 'superseded');
  v_failures smallint[];
  v_crashes smallint[];
begin
  perform leasehold.require_read_committed('ending a worker');
  update leasehold.workers w set ended_at = v_now, end_reason = p_reason where w.id = p_worker and w.ended_at is null;
  delete from leasehold.sleepers z where z.worker_id = p_worker;
  delete from leasehold.revocations r where r.worker_id = p_worker;
  with gone as (
    delete from leasehold.leases l where l.worker_id = p_worker
    returning l.task_id, l.fence, l.leased_at, l.attempt, l.stage,
      (l.crashes + case when v_crashed then 1 else 0 end)::smallint as crashes
  ), judged as (
    select g.*, v_crashed and g.crashes >= s.max_crashes as dead
    from gone g join leasehold.stages s on s.name = g.stage
  ), recorded as (
    insert into leasehold.attempts (task_id, fence, worker_id, leased_at, ended_at, attempt, final, outcome, error)
    select task_id, fence, p_worker, leased_at, v_now, attempt, dead,
      case when dead then 'dead' when v_crashed then 'lost' else 'released' end,
      case
        when dead then jsonb_build_object('code', 'quarantined', 'message',
          'its worker died while holding it, ' || crashes || ' times; it was set aside so that it takes no more workers down')
        when v_crashed then jsonb_build_object('code', 'worker_' || p_reason, 'message', 'its worker ended: ' || p_reason)
      end
    from judged
  )
  select array_agg(task_id order by fence, task_id) filter (where not dead),
    array_agg((attempt - 1)::smallint order by fence, task_id) filter (where not dead),
    array_agg(crashes order by fence, task_id) filter (where not dead),
    array_agg(task_id order by fence, task_id) filter (where dead)
  into released, v_failures, v_crashes, quarantined from judged;
  if released is not null then
    perform leasehold.nudge_keys(released);
    perform leasehold.enter(released, v_failures, v_crashes, null, true);
  end if;
  if quarantined is not null then
    perform leasehold.nudge_keys(quarantined);
    perform leasehold.after_end(quarantined, 'dead');
  end if;
  return next;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.ensure_partitions(p_ahead integer DEFAULT 2)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET lock_timeout TO '200ms'
AS $function$
declare
  v_tables constant text[] := array['task_logs', 'task_progress', 'task_checkpoints', 'attempts', 'tasks'];
  v_now timestamptz := leasehold.clock();
  v_last_id bigint;
  v_used boolean;
  v_first bigint;
  v_size bigint;
  v_ranges integer;
  v_ids bigint;
  v_wanted double precision;
  v_made bigint[] := '{}';
  v_ends bigint[] := '{}';
  v_table text;
begin
  perform from leasehold.locks where name = 'partitions' for update skip locked;
  if not found then
    return 0;
  end if;
  select last_value, is_called into v_last_id, v_used from leasehold.tasks_id_seq;
  update leasehold.partitions p set opened_at = v_now where p.opened_at is null and v_used and p.first_id <= v_last_id;
  update leasehold.partitions p set closed_at = v_now, last_id = p.end_id - 1
  where p.closed_at is null and p.end_id <= v_last_id;

  select count(*), coalesce(sum(p.end_id - p.first_id), 0) into v_ranges, v_ids
  from leasehold.partitions p where p.first_id > v_last_id;
  v_wanted := leasehold.id_rate() * 180;
  v_size := leasehold.next_range_size();
  select coalesce(max(p.end_id), 0) into v_first from leasehold.partitions p;
  if v_last_id >= v_first and v_first > 0 then
    -- The ranges ran out and rows went to the default partition: go on behind them with room to spare, never below.
    v_first := ((v_last_id + 1000000) / leasehold.partition_size() + 1) * leasehold.partition_size();
  end if;
  while (v_ranges < p_ahead or v_ids < v_wanted or v_first <= v_last_id) and cardinality(v_made) < 20 loop
    v_made := v_made || v_first;
    v_ends := v_ends || (v_first + v_size);
    foreach v_table in array v_tables loop
      execute pg_catalog.format('create table leasehold.%I (like leasehold.%I including constraints)', v_table || '_' || v_first, v_table);
    end loop;
    insert into leasehold.partitions (first_id, end_id, opened_at)
    values (v_first, v_first + v_size, case when v_used and v_first <= v_last_id then v_now end);
    if v_first > v_last_id then
      v_ranges := v_ranges + 1;
      v_ids := v_ids + v_size;
    end if;
    v_first := v_first + v_size;
  end loop;
  if cardinality(v_made) = 0 then
    return 0;
  end if;
  foreach v_table in array v_tables loop
    execute pg_catalog.format('lock table leasehold.%I in access exclusive mode', v_table || '_default');
  end loop;
  foreach v_table in array v_tables loop
    for i in 1 .. cardinality(v_made) loop
      execute pg_catalog.format('alter table leasehold.%I attach partition leasehold.%I for values from (%s) to (%s)',
        v_table, v_table || '_' || v_made[i], v_made[i], v_ends[i]);
    end loop;
  end loop;
  return cardinality(v_made);
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.enter(p_task_ids bigint[], p_failures smallint[], p_crashes smallint[], p_run_ats timestamp with time zone[], p_express boolean)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
  v_woken text[];
begin
  perform pg_catalog.pg_current_xact_id();
  with entering as materialized (
    select t.id, t.stage, t.concurrency_key, e.failures, e.crashes, e.run_at,
      (case
        when e.crashes > 0 and e.crashes >= s.max_crashes - 1 then 11
        when p_express then 10
        else coalesce(t.priority, s.priority)
      end)::smallint as lane,
      coalesce(e.run_at > v_now, false) as later
    from unnest(p_task_ids, p_failures, p_crashes, p_run_ats) with ordinality
      as e(task_id, failures, crashes, run_at, nr)
    cross join lateral (
      select t.id, t.stage, t.priority, t.concurrency_key from leasehold.tasks t where t.id = e.task_id limit 1) t
    join leasehold.stages s on s.name = t.stage
    order by e.nr
  ), into_scheduled as (
    insert into leasehold.scheduled (run_at, task_id, failures, crashes, express, stage)
    select run_at, id, failures, crashes, p_express, stage from entering where later
  ), into_waiting as (
    insert into leasehold.waiting (task_id, failures, crashes, lane, for_parents, stage, concurrency_key, waiting_since)
    select id, failures, crashes, lane, false, stage, concurrency_key, v_now
    from entering where not later and concurrency_key is not null
  ), nudged as (
    insert into leasehold.nudges (stage, concurrency_key)
    select distinct stage, concurrency_key from entering where not later and concurrency_key is not null
  ), into_ready as (
    insert into leasehold.ready (task_id, lane, failures, crashes, stage)
    select id, lane, failures, crashes, stage from entering where not later and concurrency_key is null
  )
  select array_agg(distinct stage) into v_woken from entering where not later;
  if v_woken is not null then
    perform leasehold.wake(v_woken);
  end if;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.epoch_ms(p_at timestamp with time zone)
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN (floor((EXTRACT(epoch FROM p_at) * (1000)::numeric)))::bigint;

CREATE OR REPLACE FUNCTION leasehold.exchange(p_worker uuid, p_done_ids bigint[], p_done_fences bigint[], p_endings jsonb, p_children jsonb, p_notes jsonb, p_stages text[], p_limits integer[], p_run_id text, p_promote boolean, p_wake_ms integer)
 RETURNS TABLE(task_id bigint, fence bigint, stage text, attempt smallint, payload text, extra text)
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select * from leasehold.exchange(
    p_worker, p_done_ids, p_done_fences, p_endings, p_children, p_notes, p_stages, p_limits, p_run_id, p_promote, p_wake_ms, false)
$function$;

CREATE OR REPLACE FUNCTION leasehold.exchange(p_worker uuid, p_done_ids bigint[], p_done_fences bigint[], p_endings jsonb, p_children jsonb, p_notes jsonb, p_stages text[], p_limits integer[], p_run_id text, p_promote boolean, p_wake_ms integer, p_packed boolean)
 RETURNS TABLE(task_id bigint, fence bigint, stage text, attempt smallint, payload text, extra text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_worker record;
  v_locked boolean := p_done_ids is not null or p_endings is not null or p_notes is not null;
  v_accepted bigint[];
  v_keyed bigint[];
  v_special boolean;
  v_nudged boolean := false;
  v_ended bigint[];
  v_refused bigint[];
  v_receipt jsonb := '{"worker": "live"}';
  v_stage record;
  v_due timestamptz;
  v_lanes smallint[];
  v_left integer;
  v_picked tid[];
  v_ids bigint[];
  v_mixed boolean;
  v_order bigint[];
  v_again boolean := true;
  v_first bigint;
  v_last bigint;
  v_fence bigint;
  v_one_fence bigint;
  v_rate record;
  v_held text[];
  v_look_at timestamptz;
begin
  if pg_catalog.current_setting('transaction_isolation') <> 'read committed' then
    perform leasehold.require_read_committed('exchange');
  end if;
  -- The lock keeps anybody from declaring the worker dead halfway. A mere look takes it only when it finds something:
  -- an idle worker's looks write nothing and wait for no disk.
  if v_locked then
    select w.expires_at, w.ended_at, w.end_reason, w.drain_asked,
      exists (select from leasehold.revocations r where r.worker_id = w.id) as revoked,
      exists (select from leasehold.nudges n where n.stage = any (p_stages)) as nudged into v_worker
    from leasehold.workers w where w.id = p_worker for key share;
  else
    select w.expires_at, w.ended_at, w.end_reason, w.drain_asked,
      exists (select from leasehold.revocations r where r.worker_id = w.id) as revoked,
      exists (select from leasehold.nudges n where n.stage = any (p_stages)) as nudged into v_worker
    from leasehold.workers w where w.id = p_worker;
  end if;
  v_now := leasehold.clock(); -- after the lock: waiting for it may have taken the rest of the lease
  if not found or v_worker.ended_at is not null or v_worker.expires_at <= v_now then
    extra := leasehold.receipt_of_the_dead(v_worker.expires_at, v_worker.ended_at, v_worker.end_reason, p_done_ids, p_endings);
    return next;
    return;
  end if;

  if p_notes is not null then
    perform leasehold.write_notes(p_worker, p_notes);
  end if;
  if p_done_ids is not null then
    -- Done without a result, the hot path: one walk of the index over the ids. The pairs are compared inside a case, so
    -- that they are hashed once; as a join they would be compared each with each by a plan made for a few. Leases of one
    -- claim have one fence, and then there is nothing to compare but that.
    if p_done_fences[1] = all (p_done_fences) and cardinality(p_done_fences) = cardinality(p_done_ids) then
      v_one_fence := p_done_fences[1];
    end if;
    with ended as (
      delete from leasehold.leases l
      where l.task_id = any (p_done_ids) and l.deadline_at > v_now
        and l.worker_id is not distinct from p_worker -- not "=": the plan must go by task, never by worker
        and case when v_one_fence is not null then l.fence = v_one_fence when (l.task_id, l.fence) in (
          select d.task_id, d.fence from unnest(p_done_ids, p_done_fences) as d(task_id, fence)) then true else false end
      returning l.task_id, l.fence, l.leased_at, l.attempt, l.run_id, l.key, l.concurrency_key
    ), recorded as (
      insert into leasehold.attempts (task_id, fence, worker_id, leased_at, ended_at, attempt, final, outcome)
      select task_id, fence, p_worker, leased_at, v_now, attempt, true, 'done' from ended
    )
    select array_agg(e.task_id), array_agg(e.task_id) filter (where e.concurrency_key is not null),
      count(e.run_id) + count(e.key) > 0
        or exists (select from leasehold.dependencies d where d.parent_id = any (p_done_ids))
    into v_accepted, v_keyed, v_special from ended e;
    if v_keyed is not null then
      perform leasehold.nudge_keys(v_keyed);
    end if;
    if v_special then
      perform leasehold.after_end(v_accepted, 'done');
    end if;
    v_nudged := v_keyed is not null or v_special;
    if cardinality(v_accepted) is distinct from cardinality(p_done_ids) then
      v_refused := array(select unnest(p_done_ids) except select unnest(v_accepted));
    end if;
  end if;
  if p_endings is not null then
    v_ended := leasehold.settle_endings(p_worker, p_endings);
    v_accepted := v_accepted || v_ended;
    v_refused := v_refused || array(
      select (e ->> 'task_id')::bigint from jsonb_array_elements(p_endings) e except select unnest(v_ended));
  end if;
  if p_children is not null then
    perform leasehold.submit_children(p_children, v_accepted);
  end if;

  if p_stages is not null then
    if p_promote then
      perform leasehold.promote_due(p_stages);
    end if;
    -- Nudges that stood there when the exchange began, or that it may have left itself. Acting on them may leave new ones
    -- (a freed child with a key, children of a cancelled child): a few rounds.
    if v_worker.nudged or ((v_nudged or p_endings is not null or p_children is not null)
      and exists (select from leasehold.nudges n where n.stage = any (p_stages)))
    then
      for i in 1 .. 5 loop
        exit when leasehold.process_nudges(p_stages) not between 1 and 199;
      end loop;
    end if;
    for v_stage in
      select w.name, w.free, s.timeout, s.rate_tasks is not null as limited,
        exists (select from leasehold.ready r where r.stage = w.name and r.lane = 11) as has_suspects
      from unnest(p_stages, p_limits) with ordinality as w(name, free, nr)
      join leasehold.stages s on s.name = w.name
      where w.free > 0 and (s.paused_until is null or s.paused_until <= v_now)
      order by w.nr
    loop
      v_left := v_stage.free;
      if v_stage.limited then
        select * into v_rate from leasehold.may_start(v_stage.name, v_left);
        if v_rate.starts = 0 then
          if v_rate.look_at is not null and p_run_id is null then
            v_held := v_held || v_stage.name;
            v_look_at := least(v_look_at, v_rate.look_at);
          end if;
          continue;
        end if;
        v_left := v_rate.starts;
        v_now := v_rate.at; -- the limit counts these starts at this moment, so their leases must say the same
      end if;
      v_lanes := array[10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0];
      if v_stage.has_suspects then
        -- A suspect goes alone: one at a time per worker, so its neighbours in a crash are never suspects too. A worker may
        -- have two exchanges under way: the one that gets this lock looks and claims, the other passes suspects over.
        perform from leasehold.workers w where w.id = p_worker for no key update skip locked;
        if found and not exists (select from leasehold.leases l join leasehold.stages g on g.name = l.stage
          where l.worker_id = p_worker and l.crashes > 0 and l.crashes >= g.max_crashes - 1)
        then
          v_lanes := array[11];
        end if;
      end if;
      loop
        -- Lanes from high to low, each from its floor, in order of position, passing over rows that others hold.
        if p_run_id is null then
          select array_agg(p.rid), array_agg(p.task_id), min(p.task_id), max(p.task_id), bool_or(p.again),
            min(p.lane) <> max(p.lane)
          into v_picked, v_ids, v_first, v_last, v_again, v_mixed
          from (
            select c.rid, c.task_id, c.again, lanes.lane
            from unnest(v_lanes) as lanes(lane)
            cross join lateral (
              select r.ctid as rid, r.task_id, r.failures + r.crashes > 0 as again from leasehold.ready r
              where r.stage = v_stage.name and r.lane = lanes.lane
                and r.position >= coalesce((
                  select f.floor from leasehold.floors f
                  where f.stage = v_stage.name and f.lane = lanes.lane order by f.floor desc limit 1), 0)
              order by r.position limit v_left for update skip locked
            ) c
            limit case when v_lanes[1] = 11 then 1 else v_left end) p;
        else
          -- Restricted to one run: a debugging mode, which may walk past the tasks of other runs.
          select array_agg(p.rid), min(p.task_id), max(p.task_id) into v_picked, v_first, v_last
          from (
            select c.rid, c.task_id
            from unnest(v_lanes) as lanes(lane)
            cross join lateral (
              select r.ctid as rid, r.task_id from leasehold.ready r
              where r.stage = v_stage.name and r.lane = lanes.lane
                and exists (select from leasehold.tasks t where t.id = r.task_id and t.run_id = p_run_id)
              order by r.position limit v_left for update skip locked
            ) c
            limit case when v_lanes[1] = 11 then 1 else v_left end) p;
        end if;
        if v_picked is not null then
          if v_mixed then
            v_order := v_order || v_ids;
          end if;
          if not v_locked then
            perform from leasehold.workers w
            where w.id = p_worker and w.ended_at is null and w.expires_at > leasehold.clock() for key share;
            exit when not found; -- declared dead since the look began: what was picked stays where it is
            v_locked := true;
          end if;
          v_fence := nextval('leasehold.fences');
          if p_packed and not v_again then
            -- Nothing was tried before: all but the payloads is known, or the same for all of them. One row for the batch
            -- instead of one for each task; what is long goes by itself, so that no text outgrows what a text may be.
            return query
            with taken as (
              delete from leasehold.ready r where r.ctid = any (v_picked)
            ), claimed as materialized (
              select t.*, octet_length(t.payload) + coalesce(octet_length(t.extra), 0) <= 10000 as short
              from (
                select x.id, x.run_id, x.key, x.concurrency_key, x.timeout, x.payload::text as payload,
                  case when x.run_id is null and x.key is null and x.title is null and x.meta is null and x.timeout is null
                      and x.max_attempts is null and x.concurrency_key is null
                    then null else leasehold.task_extra(x, 0::smallint) end as extra
                from leasehold.tasks x where x.id = any (v_ids) and x.id between v_first and v_last) t
            ), leased as (
              insert into leasehold.leases (
                task_id, fence, worker_id, leased_at, deadline_at, attempt, crashes, stage, run_id, key, concurrency_key)
              select c.id, v_fence, p_worker, v_now, v_now + coalesce(c.timeout, v_stage.timeout), 1, 0,
                v_stage.name, c.run_id, c.key, c.concurrency_key
              from claimed c
            )
            select null::bigint, v_fence, v_stage.name, 1::smallint, '[' || string_agg(c.payload, ',') || ']',
              '{"task_ids":["' || string_agg(c.id::text, '","') || '"]'
                || case when count(c.extra) = 0 then '' else ',"extras":[' || string_agg(coalesce(c.extra, 'null'), ',') || ']' end
                || '}'
            from claimed c where c.short having count(*) > 0
            union all
            select c.id, v_fence, v_stage.name, 1::smallint, c.payload, c.extra from claimed c where not c.short;
          else
            return query
            with taken as (
              delete from leasehold.ready r where r.ctid = any (v_picked)
              returning r.task_id, r.failures, r.crashes, r.concurrency_key
            ), claimed as materialized (
              select t.id, k.failures, k.crashes, k.concurrency_key, t.run_id, t.key, t.timeout, t.payload, t.extra
              from taken k
              cross join lateral (
                select x.id, x.run_id, x.key, x.timeout, x.payload::text as payload,
                  case when x.run_id is null and x.key is null and x.title is null and x.meta is null and x.timeout is null
                      and x.max_attempts is null and x.concurrency_key is null and k.crashes = 0
                    then null else leasehold.task_extra(x, k.crashes) end as extra
                -- The bounds let the executor leave all other partitions alone from the start.
                from leasehold.tasks x where x.id = k.task_id and x.id between v_first and v_last limit 1) t
            ), leased as (
              insert into leasehold.leases (
                task_id, fence, worker_id, leased_at, deadline_at, attempt, crashes, stage, run_id, key, concurrency_key)
              select c.id, v_fence, p_worker, v_now, v_now + coalesce(c.timeout, v_stage.timeout), c.failures + 1, c.crashes,
                v_stage.name, c.run_id, c.key, c.concurrency_key
              from claimed c
            )
            select c.id, v_fence, v_stage.name, (c.failures + 1)::smallint, c.payload, c.extra from claimed c;
          end if;
          v_left := v_left - cardinality(v_picked);
        end if;
        exit when v_lanes[1] <> 11 or v_left <= 0;
        v_lanes := array[10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0];
      end loop;
      if v_stage.limited then
        if v_left < v_rate.starts then
          v_rate.look_at := leasehold.note_starts(v_stage.name, v_rate.arrival, v_rate.at, v_rate.starts - v_left,
            v_left = 0 and v_rate.starts < v_stage.free);
          if v_rate.look_at is not null and p_run_id is null then
            v_held := v_held || v_stage.name;
            v_look_at := least(v_look_at, v_rate.look_at);
          end if;
        end if;
      end if;
    end loop;
    -- Nobody is woken for a stage that its rate holds back: each submission would call workers that may start nothing.
    if v_held is not null then
      delete from leasehold.sleepers z
      where z.worker_id = p_worker and z.stage = any (array(
        select y.stage from leasehold.sleepers y
        where y.worker_id = p_worker and y.stage = any (v_held) for update skip locked));
    end if;
    if p_wake_ms is not null then
      insert into leasehold.sleepers as z (stage, worker_id, wake_until)
      select distinct name, p_worker, v_now + p_wake_ms * interval '1 millisecond' from unnest(p_stages) as name
      where name <> all (coalesce(v_held, '{}'))
      on conflict (stage, worker_id) do update set wake_until = excluded.wake_until;
    end if;
    if p_promote or p_endings is not null then -- what was put off in this exchange has a due time too
      select min(n.run_at) into v_due from unnest(p_stages) as name
      cross join lateral (
        select s.run_at from leasehold.scheduled s where s.stage = name order by s.run_at limit 1) n;
    end if;
  end if;

  if cardinality(v_refused) > 0 then
    v_receipt := v_receipt || jsonb_build_object('refused', v_refused::text[]);
  end if;
  if v_held is not null then
    v_receipt := v_receipt || jsonb_build_object('held', v_held);
    v_due := least(v_due, v_look_at);
  end if;
  if v_due is not null then
    v_receipt := v_receipt || jsonb_build_object('due_in_ms', greatest(0, ceil(extract(epoch from v_due - leasehold.clock()) * 1000)));
  end if;
  if v_order is not null then
    v_receipt := v_receipt || jsonb_build_object('order', v_order::text[]);
  end if;
  if v_worker.drain_asked then
    v_receipt := v_receipt || jsonb_build_object('drain', true);
  end if;
  if p_promote is not null and v_worker.revoked then
    v_receipt := v_receipt || jsonb_build_object('revoked', leasehold.take_revocations(p_worker));
  end if;
  extra := v_receipt::text;
  return next;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.expire_deadlines(p_slack interval DEFAULT '00:00:05'::interval, p_limit integer DEFAULT 500)
 RETURNS bigint[]
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_lease record;
  v_ended bigint[] := '{}';
begin
  for v_lease in
    select l.task_id, l.fence, l.worker_id, l.deadline_at - l.leased_at as timeout
    from leasehold.workers w
    join leasehold.leases l on l.worker_id = w.id and l.fence >= w.oldest_fence
    where w.ended_at is null and l.deadline_at < leasehold.clock() - p_slack
    limit p_limit for update of l skip locked
  loop
    perform leasehold.settle_endings(v_lease.worker_id, jsonb_build_array(jsonb_build_object(
      'task_id', v_lease.task_id, 'fence', v_lease.fence, 'outcome', 'fail',
      'error', jsonb_build_object('code', 'timeout', 'message', 'not finished within ' || v_lease.timeout
        || '; its worker did not stop it'))));
    insert into leasehold.revocations (worker_id, fence, task_id, reason)
    values (v_lease.worker_id, v_lease.fence, v_lease.task_id, 'deadline') on conflict do nothing;
    v_ended := v_ended || v_lease.task_id;
  end loop;
  return v_ended;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.explain_task(task_id bigint)
 RETURNS TABLE(state text, reason_code text, reason text, next_step text, details jsonb)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_now timestamptz := leasehold.clock();
  v_task leasehold.tasks;
  v_stage leasehold.stages;
  v_row record;
  v_last record;
  v_live integer;
  v_free integer;
  v_ahead bigint;
  v_next timestamptz;
begin
  select t.* into v_task from leasehold.tasks t where t.id = explain_task.task_id;
  if not found then
    return query select 'unknown', 'no_such_task', 'There is no task ' || explain_task.task_id || '.',
      'Check the id; a task older than the retention period has been dropped.', null::jsonb;
    return;
  end if;
  select s.* into v_stage from leasehold.stages s where s.name = v_task.stage;
  select a.* into v_last from leasehold.attempts a where a.task_id = v_task.id order by a.fence desc limit 1;

  select l.*, w.slot, w.host, w.pid, w.expires_at, w.ended_at into v_row
  from leasehold.leases l left join leasehold.workers w on w.id = l.worker_id where l.task_id = v_task.id;
  if found then
    if v_row.ended_at is not null or v_row.expires_at <= v_now then
      return query select 'running', 'worker_silent',
        'Its worker ' || coalesce(v_row.slot, v_row.worker_id::text) || ' stopped beating; the lease ran out at ' || v_row.expires_at || '.',
        'The heartbeat monitor or another runner releases it at its next look; if none runs, start one: npx leasehold monitor.',
        jsonb_build_object('worker_id', v_row.worker_id, 'expired_at', v_row.expires_at);
    else
      return query select 'running', 'running',
        'It runs on ' || v_row.slot || ' (host ' || v_row.host || ', pid ' || coalesce(v_row.pid::text, '?') || ') since ' || v_row.leased_at
          || ', attempt ' || v_row.attempt || ', until at most ' || v_row.deadline_at || '.',
        'Nothing to do. To stop it: select leasehold.cancel_task(' || v_task.id || ').',
        jsonb_build_object('worker_id', v_row.worker_id, 'slot', v_row.slot, 'attempt', v_row.attempt, 'deadline_at', v_row.deadline_at);
    end if;
    return;
  end if;

  select w.* into v_row from leasehold.waiting w where w.task_id = v_task.id;
  if found then
    if v_row.for_parents then
      return query select 'waiting', 'parents_open',
        'It waits for ' || count(*) || ' parent task(s): ' || string_agg(d.parent_id::text, ', ' order by d.parent_id) || '.',
        'See why the first parent does not end: select * from leasehold.explain_task(' || min(d.parent_id) || ').',
        jsonb_build_object('parents', jsonb_agg(d.parent_id order by d.parent_id))
      from leasehold.dependencies d where d.child_id = v_task.id;
    else
      return query select 'waiting', 'concurrency_key',
        'Its concurrency key ' || quote_literal(v_task.concurrency_key) || ' allows ' || v_stage.key_limit
          || ' task(s) at once and is taken by ' || coalesce(string_agg(h.id::text, ', ' order by h.id), 'none (the next claim admits it)') || '.',
        coalesce('See what holds the key: select * from leasehold.explain_task(' || min(h.id) || ').',
          'Start a worker for stage ' || quote_literal(v_task.stage) || ' if none is alive.'),
        jsonb_build_object('concurrency_key', v_task.concurrency_key, 'limit', v_stage.key_limit,
          'holders', coalesce(jsonb_agg(h.id order by h.id) filter (where h.id is not null), '[]'))
      from (
        select l.task_id as id from leasehold.leases l where l.stage = v_task.stage and l.concurrency_key = v_task.concurrency_key
        union all
        select r.task_id from leasehold.ready r where r.stage = v_task.stage and r.concurrency_key = v_task.concurrency_key
      ) h;
    end if;
    return;
  end if;

  select s.* into v_row from leasehold.scheduled s where s.task_id = v_task.id;
  if found and v_row.run_at > v_now then
    if v_last.outcome = 'retry' then
      return query select 'scheduled', 'backoff',
        'Attempt ' || v_last.attempt || ' failed (' || coalesce(left(v_last.error ->> 'message', 200), 'no message') || '); it is tried again at ' || v_row.run_at || '.',
        'Wait, or start it now: select leasehold.run_now(' || v_task.id || ').',
        jsonb_build_object('run_at', v_row.run_at, 'failures', v_row.failures, 'error', v_last.error);
    else
      return query select 'scheduled', case when v_last.outcome = 'snoozed' then 'snoozed' else 'run_at' end,
        case when v_last.outcome = 'snoozed' then 'Its handler put it off until ' else 'It is to start at ' end || v_row.run_at || '.',
        'Wait, or start it now: select leasehold.run_now(' || v_task.id || ').',
        jsonb_build_object('run_at', v_row.run_at);
    end if;
    return;
  end if;

  if v_last.final then
    return query select v_last.outcome,
      case when v_last.outcome = 'dead' then coalesce(v_last.error ->> 'code', 'failed') else v_last.outcome end,
      case v_last.outcome
        when 'done' then 'It was done at ' || v_last.ended_at || '.'
        when 'dead' then 'It died at ' || v_last.ended_at || ' after attempt ' || v_last.attempt || ': '
          || coalesce(left(v_last.error ->> 'message', 500), 'no message') || '.'
        else 'It was cancelled at ' || v_last.ended_at || ': ' || coalesce(left(v_last.error ->> 'message', 500), 'no reason given') || '.'
      end,
      case v_last.outcome when 'done' then 'Nothing to do.'
        else 'Mend the cause, then: select leasehold.retry_task(' || v_task.id || ').' end,
      jsonb_build_object('ended_at', v_last.ended_at, 'attempt', v_last.attempt, 'error', v_last.error);
    return;
  end if;

  select r.* into v_row from leasehold.ready r where r.task_id = v_task.id;
  if v_stage.paused_until > v_now then
    return query select 'ready', 'stage_paused',
      'Stage ' || quote_literal(v_task.stage) || ' is paused ' || case when v_stage.paused_until = 'infinity' then 'until it is resumed.' else 'until ' || v_stage.paused_until || '.' end,
      'Resume it: select leasehold.resume_stage(' || quote_literal(v_task.stage) || ').',
      jsonb_build_object('paused_until', v_stage.paused_until);
    return;
  end if;
  select count(*), coalesce(sum(greatest(w.concurrency - w.running, 0)) filter (where not w.draining and not w.drain_asked), 0)
  into v_live, v_free
  from leasehold.workers w
  where w.ended_at is null and w.expires_at > v_now and v_task.stage = any (w.stages);
  if v_live = 0 then
    return query select 'ready', 'no_live_worker',
      'No live worker serves stage ' || quote_literal(v_task.stage) || '.',
      'Start one: npx leasehold runner --stage ' || v_task.stage || '. Earlier ones: select * from leasehold.dead_workers.',
      jsonb_build_object('last_seen', (select max(w.beat_at) from leasehold.workers w where v_task.stage = any (w.stages)));
    return;
  end if;
  select count(*) into v_ahead from (
    select from leasehold.ready r
    where r.stage = v_task.stage and (r.lane > v_row.lane or (r.lane = v_row.lane and r.position < v_row.position)) limit 10001
  ) a;
  -- With a free place and more before it than the limit lets start now, it is the limit that holds it back.
  if v_stage.rate_tasks is not null and v_free > 0 then
    select leasehold.rate_next(v_stage.rate_tasks, v_stage.rate_per, v_stage.rate_burst, x.arrival, v_now) into v_next
    from leasehold.stage_rates x
    where x.stage = v_stage.name and v_ahead >= leasehold.rate_starts(
      v_stage.rate_tasks, v_stage.rate_per, v_stage.rate_burst, x.arrival, v_now)
    order by x.arrival desc limit 1;
    if found then
      v_next := greatest(v_next, v_now);
      return query select 'ready', 'rate_limited',
        'Its stage''s rate limit: ' || v_stage.rate_tasks || case when v_stage.rate_tasks = 1 then ' start per ' else ' starts per ' end
          || v_stage.rate_per || ' (burst ' || v_stage.rate_burst
          || '); next start at ' || v_next || '; '
          || case when v_ahead > 10000 then 'more than 10000' else v_ahead::text end || ' ready task(s) in front.',
        case when v_ahead = 0 then 'Wait, or raise the limit (limits.rate) and start the stage''s workers again.'
          else 'Wait, raise the limit (limits.rate) and start the stage''s workers again, or put it first: select leasehold.run_now('
            || v_task.id || ').' end,
        jsonb_build_object('tasks', v_stage.rate_tasks, 'per', v_stage.rate_per, 'burst', v_stage.rate_burst,
          'next_start_at', v_next, 'ahead', v_ahead, 'lane', v_row.lane,
          'starts_about', v_next + v_ahead * (v_stage.rate_per / v_stage.rate_tasks));
      return;
    end if;
  end if;
  return query select 'ready', case when v_free = 0 then 'workers_busy' when v_ahead > 0 then 'others_ahead' else 'about_to_start' end,
    case
      when v_free = 0 then 'All ' || v_live || ' live worker(s) of its stage are full; '
        || case when v_ahead > 10000 then 'more than 10000' else v_ahead::text end || ' task(s) stand before it.'
      when v_ahead > 0 then case when v_ahead > 10000 then 'More than 10000' else v_ahead::text end || ' task(s) stand before it in its lane or in higher ones.'
      else 'It is next; a worker claims it at its next poll.'
    end,
    case when v_free = 0 then 'Wait, add workers, or put it first: select leasehold.run_now(' || v_task.id || ').'
      else 'Wait, or put it first: select leasehold.run_now(' || v_task.id || ').' end,
    jsonb_build_object('live_workers', v_live, 'free_slots', v_free, 'ahead', v_ahead, 'lane', v_row.lane);
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.failing_schedules()
 RETURNS TABLE(kind text, subject text, summary text, details jsonb)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  if to_regclass('leasehold.schedule_firings') is null then
    return;
  end if;
  return query
  select 'schedule_failing', s.name, 'the last task of schedule ' || s.name || ' (' || s.stage || ') ended dead',
    jsonb_build_object('schedule', s.name, 'stage', s.stage, 'slot', l.slot, 'task_id', l.task_id::text,
      'error', (select left(a.error ->> 'message', 500) from leasehold.attempts a
        where a.task_id = l.task_id order by a.fence desc limit 1))
  from leasehold.schedules s
  cross join lateral (
    select f.slot, f.task_id, leasehold.final_outcome(f.task_id) as outcome
    from (select x.slot, x.task_id from leasehold.schedule_firings x
      where x.schedule = s.name and x.task_id is not null order by x.slot desc limit 3) f
  ) l
  where s.enabled and l.outcome = 'dead' and not exists (
    select from leasehold.schedule_firings y where y.schedule = s.name and y.slot > l.slot and y.task_id is not null
      and leasehold.final_outcome(y.task_id) is not null);
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.final_outcome(p_task_id bigint)
 RETURNS text
 LANGUAGE sql
 STABLE PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
  select case when a.final then a.outcome end
  from leasehold.attempts a where a.task_id = p_task_id order by a.fence desc limit 1
$function$;

CREATE OR REPLACE FUNCTION leasehold.fleet_conditions(p_wedge interval, p_lonely interval, p_silent interval)
 RETURNS TABLE(kind text, subject text, summary text, details jsonb)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  with seen as (
    select w.*, w.ended_at is null and w.expires_at > leasehold.clock() as live
    from leasehold.workers w where w.ended_at is null or w.ended_at > leasehold.clock() - interval '1 day'
  ), by_stage as (
    select u.stage, count(*) filter (where w.live) as live_workers,
      count(distinct w.slot) filter (where w.live or coalesce(w.ended_at, w.expires_at) > leasehold.clock() - p_lonely)
        as recent_slots,
      -- A dead worker counts until it was released: its death is news of its own.
      max(coalesce(w.ended_at, w.expires_at)) as last_live, max(w.beat_at) as last_seen
    from seen w cross join lateral unnest(w.stages) as u(stage) group by 1
  ), stage_work as (
    select s.name, s.expected_workers, s.registered_at, b.last_live, b.last_seen,
      coalesce(b.live_workers, 0) as live_workers, coalesce(b.recent_slots, 0) as recent_slots,
      case when coalesce(b.live_workers, 0) = 0 then least(
        (select min(greatest(t.submitted_at, t.run_at)) from generate_series(0, 11) as g(lane)
         cross join lateral (
           select r.task_id from leasehold.ready r
           where r.stage = s.name and r.lane = g.lane::smallint
             and r.position >= coalesce((select f.floor from leasehold.floors f
               where f.stage = s.name and f.lane = g.lane::smallint order by f.floor desc limit 1), 0)
           order by r.position limit 1) first
         join leasehold.tasks t on t.id = first.task_id),
        (select n.run_at from leasehold.scheduled n where n.stage = s.name order by n.run_at limit 1),
        (select w.waiting_since from leasehold.waiting w where w.stage = s.name and not w.for_parents
         order by w.concurrency_key limit 1)
      ) end as oldest
    from leasehold.stages s left join by_stage b on b.stage = s.name
    where s.paused_until is null or s.paused_until <= leasehold.clock()
  ), lonely as (
    select s.* from stage_work s
    where s.live_workers = 0 and greatest(s.oldest, s.last_live) < leasehold.clock() - p_lonely and s.oldest is not null
  )
  -- The last beat tells how old the loop's turn was then; a worker that is silent as well is not wedged but about to be dead.
  select 'worker_wedged', w.id::text,
    'worker ' || w.slot || ' beats but its main loop has not turned for ' || date_trunc('second', w.beat_at - w.loop_at)::text,
    jsonb_build_object('worker_id', w.id, 'slot', w.slot, 'stages', w.stages, 'host', w.host, 'pid', w.pid,
      'loop_at', w.loop_at, 'stands_still_s', round(extract(epoch from w.beat_at - w.loop_at)::numeric, 1), 'running', w.running)
  from seen w where w.live and w.beat_at - w.loop_at > p_wedge
  union all
  select 'stage_without_worker', s.name,
    'stage ' || s.name || ' has work and no live worker',
    jsonb_build_object('stage', s.name, 'oldest', s.oldest, 'last_worker_seen', s.last_seen)
  from lonely s
  union all
  select 'workers_missing', s.name,
    'stage ' || s.name || ' has ' || s.live_workers || ' of ' || s.expected_workers || ' expected workers',
    jsonb_build_object('stage', s.name, 'live', s.live_workers, 'expected', s.expected_workers)
  from stage_work s
  where s.recent_slots < s.expected_workers and s.registered_at < leasehold.clock() - p_lonely
    and s.name not in (select l.name from lonely l)
  union all
  select 'monitor_silent', m.id::text,
    'monitor on ' || m.host || ' (pid ' || coalesce(m.pid::text, '?') || ') has not ticked for ' || date_trunc('second', leasehold.clock() - m.ticked_at)::text,
    jsonb_build_object('monitor_id', m.id, 'host', m.host, 'pid', m.pid, 'ticked_at', m.ticked_at, 'interval_ms', m.interval_ms)
  from leasehold.monitors m
  where m.stopped_at is null
    and m.ticked_at < leasehold.clock() - greatest(p_silent, m.interval_ms * 3 * interval '1 millisecond')
    and m.ticked_at > leasehold.clock() - interval '1 day'
    -- Started again on its host: that process watches in its place.
    and not exists (select from leasehold.monitors n where n.host = m.host and n.started_at > m.ticked_at)
$function$;

CREATE OR REPLACE FUNCTION leasehold.forget_runs(p_after text DEFAULT ''::text, p_limit integer DEFAULT 1000)
 RETURNS TABLE(forgotten integer, looked_to text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
  v_runs text[];
begin
  with recursive run as (
    (select l.run_id, 1 as nr from leasehold.run_ledger l where l.run_id > p_after order by l.run_id limit 1)
    union all
    select n.run_id, run.nr + 1 from run cross join lateral (
      select l.run_id from leasehold.run_ledger l where l.run_id > run.run_id order by l.run_id limit 1) n
    where run.nr < p_limit
  )
  select array_agg(run.run_id) filter (where not exists (select from leasehold.tasks t where t.run_id = run.run_id)
      and (select sum(l.submitted) - sum(l.done) - sum(l.dead) - sum(l.cancelled) from leasehold.run_ledger l
        where l.run_id = run.run_id) = 0),
    case when count(*) = p_limit then max(run.run_id) end
  into v_runs, looked_to from run;
  delete from leasehold.run_ledger l where l.run_id = any (v_runs);
  forgotten := coalesce(cardinality(v_runs), 0);
  return next;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.forgotten_leases()
 RETURNS TABLE(violation text, task_id bigint, stage text, detail text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
  select 'lease that its worker has forgotten', l.task_id, l.stage,
    w.slot || ' says its oldest fence is ' || w.oldest_fence || ', this one is ' || l.fence
  from leasehold.workers w join leasehold.leases l on l.worker_id = w.id and l.fence < w.oldest_fence
  where w.ended_at is null
  union all
  select 'lease far past its deadline', l.task_id, l.stage,
    w.slot || ', by ' || date_trunc('second', leasehold.clock() - l.deadline_at)
  from leasehold.workers w join leasehold.leases l on l.worker_id = w.id and l.fence >= w.oldest_fence
  where w.ended_at is null and w.expires_at > leasehold.clock()
    and l.deadline_at < leasehold.clock() - interval '5 minutes'
    and leasehold.monitor_silence() < interval '3 minutes'
    and leasehold.release_grace_until(interval '3 minutes') < leasehold.clock()
$function$;

CREATE OR REPLACE FUNCTION leasehold.free_child(p_child bigint, p_parent bigint)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_child record;
  v_parent bigint;
  v_outcome text;
  v_again boolean := false;
begin
  select w.* into v_child from leasehold.waiting w where w.task_id = p_child and w.for_parents for update skip locked;
  if not found then
    if exists (select from leasehold.waiting w where w.task_id = p_child and w.for_parents) then
      return false;
    end if;
    if p_parent is null and leasehold.final_outcome(p_child) is not null then
      insert into leasehold.nudges (task_id, parent_id, stage)
      select d.child_id, p_child, t.stage
      from leasehold.dependencies d join leasehold.tasks t on t.id = d.child_id where d.parent_id = p_child;
    end if;
    return true;
  end if;
  for v_parent in
    select d.parent_id from leasehold.dependencies d
    where d.child_id = p_child and (p_parent is null or d.parent_id = p_parent) order by d.parent_id
  loop
    v_outcome := leasehold.final_outcome(v_parent);
    if v_outcome in ('dead', 'cancelled') then
      return leasehold.end_unleased(p_child, 'cancelled',
        pg_catalog.jsonb_build_object('code', 'parent_failed', 'message', 'parent task ' || v_parent || ' ended ' || v_outcome,
          'parent', v_parent::text));
    elsif v_outcome = 'done' then
      delete from leasehold.dependencies d where d.parent_id = v_parent and d.child_id = p_child;
    elsif p_parent is null and not leasehold.stands_still(v_parent) then
      v_again := true;
    end if;
  end loop;
  if v_again or exists (select from leasehold.dependencies d where d.child_id = p_child) then
    return not v_again;
  end if;
  delete from leasehold.waiting w where w.task_id = p_child;
  perform leasehold.enter(array[p_child], array[v_child.failures], array[v_child.crashes],
    (select array[t.run_at] from leasehold.tasks t where t.id = p_child), false);
  return true;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.gather_news()
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
  v_targets text[] := array(select leasehold.alert_targets());
begin
  insert into leasehold.alert_news (channel, incident_id, what, minor, at)
  select t.channel, i.id, 'opened',
    -- The death was told a moment ago, and with it that nobody is left for this stage.
    i.kind in ('stage_without_worker', 'workers_missing') and exists (
      select from leasehold.incidents d join leasehold.alert_news n on n.incident_id = d.id
      where d.kind = 'worker_dead' and d.opened_at > i.opened_at - interval '1 hour'
        and n.channel = t.channel and n.what = 'opened' and n.told_at is not null
        and d.details -> case i.kind when 'workers_missing' then 'stages' else 'unserved' end ? i.subject),
    v_now
  from (
    select x.* from leasehold.incidents x where x.resolved_at is null
    union all select x.* from leasehold.incidents x where x.resolved_at > v_now - interval '6 hours'
  ) i
  cross join lateral leasehold.alert_rule(i.kind) r
  cross join unnest(v_targets) as t(channel)
  where r.tell <> 'never'
    and coalesce(coalesce(i.resolved_at, v_now) - leasehold.believed(i.opened_at, v_now) >= r.min_age, true)
    and (t.channel = any (r.channels) or r.channels is null or not r.channels && v_targets)
    and not (i.kind = 'channel_down' and i.subject = t.channel)
    and not exists (select from leasehold.alert_news n
      where n.incident_id = i.id and n.what = 'opened' and (n.channel = t.channel or i.resolved_at is not null))
  order by i.id;

  -- What was told and is over; not that others go on with a dead worker's stages, which the first message said, nor
  -- that a death was closed after a day although nothing came back.
  with over as (
    update leasehold.alert_news n set followed = true
    from leasehold.incidents i
    where n.what = 'opened' and not n.followed and n.told_at is not null
      and i.id = n.incident_id and i.resolved_at is not null
    returning n.channel, n.incident_id, i.kind, i.details, i.resolved_at - i.opened_at as lasted
  )
  insert into leasehold.alert_news (channel, incident_id, what, minor, at, followed)
  select o.channel, o.incident_id, 'resolved', true, v_now, true
  from over o cross join lateral leasehold.alert_rule(o.kind) r
  where r.recovery and r.tell <> 'never'
    and (o.kind <> 'worker_dead' or (jsonb_array_length(o.details -> 'unserved') > 0 and o.lasted < interval '1 day'))
  order by o.incident_id;

  insert into leasehold.alert_news (channel, incident_id, what, minor, at, followed)
  select n.channel, n.incident_id, 'reminder', true, v_now, true
  from leasehold.alert_news n
  join leasehold.incidents i on i.id = n.incident_id and i.resolved_at is null
  cross join lateral leasehold.alert_rule(i.kind) r
  where n.what = 'opened' and not n.followed and n.told_at is not null and r.tell <> 'never'
    and coalesce(leasehold.believed(n.told_at, v_now), '-infinity') <= v_now - r.remind_after
    and n.channel = any (v_targets)
    and not exists (select from leasehold.alert_news m where m.incident_id = n.incident_id and m.channel = n.channel
      and m.what = 'reminder' and (m.told_at is null or leasehold.believed(m.told_at, v_now) > v_now - r.remind_after))
  order by n.incident_id;

  delete from leasehold.alert_news n using leasehold.incidents i
  where n.told_at is null and i.id = n.incident_id
    and ((n.what = 'reminder' and i.resolved_at is not null) or (leasehold.alert_rule(i.kind)).tell = 'never');
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.has_ready(p_stage text)
 RETURNS boolean
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select exists (
    select from generate_series(0, 11) as g(lane) cross join lateral (
      select from leasehold.ready r
      where r.stage = p_stage and r.lane = g.lane::smallint
        and r.position >= coalesce((select f.floor from leasehold.floors f
          where f.stage = p_stage and f.lane = g.lane::smallint order by f.floor desc limit 1), 0)
      order by r.position limit 1) one)
$function$;

CREATE OR REPLACE FUNCTION leasehold.heartbeat(worker_id uuid, loop_age_ms bigint DEFAULT 0, oldest_fence bigint DEFAULT NULL::bigint, running integer DEFAULT NULL::integer, draining boolean DEFAULT NULL::boolean, renew boolean DEFAULT true, meta jsonb DEFAULT NULL::jsonb)
 RETURNS TABLE(state text, reason text, expires_at timestamp with time zone, drain boolean, revoked jsonb)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
  v_now timestamptz := leasehold.clock();
begin
  update leasehold.workers w set
    beat_at = v_now,
    expires_at = case when heartbeat.renew then v_now + w.ttl else w.expires_at end,
    loop_at = greatest(w.loop_at, v_now - greatest(heartbeat.loop_age_ms, 0) * interval '1 millisecond'),
    oldest_fence = coalesce(heartbeat.oldest_fence, w.oldest_fence),
    running = coalesce(heartbeat.running, w.running),
    draining = coalesce(heartbeat.draining, w.draining),
    meta = coalesce(heartbeat.meta, w.meta)
  where w.id = heartbeat.worker_id and w.ended_at is null
  returning 'live', null, w.expires_at, w.drain_asked into state, reason, expires_at, drain;
  if not found then
    select 'ended', w.end_reason, w.expires_at, false into state, reason, expires_at, drain
    from leasehold.workers w where w.id = heartbeat.worker_id;
    if not found then
      state := 'unknown';
    end if;
  elsif exists (select from leasehold.revocations r where r.worker_id = heartbeat.worker_id) then
    revoked := leasehold.take_revocations(heartbeat.worker_id);
  end if;
  return next;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.id_rate()
 RETURNS double precision
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select coalesce((
    select sum(coalesce(p.last_id, least(s.last_value, p.end_id)) - p.first_id) / extract(epoch from leasehold.clock() - since.opened_at)
    from leasehold.partitions p cross join leasehold.tasks_id_seq s
    where p.first_id >= since.first_id and p.first_id <= s.last_value), 0)
  from (select 1) one
  left join lateral (
    select n.first_id, n.opened_at from leasehold.partitions n
    where n.opened_at <= leasehold.clock() - interval '1 minute' order by n.first_id desc limit 1) since on true
$function$;

CREATE OR REPLACE FUNCTION leasehold.is_held(p_channel text, p_at timestamp with time zone)
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select leasehold.is_quiet(p_at) and coalesce((
    select not bool_or(exists (
      select from leasehold.incidents i cross join lateral leasehold.alert_rule(i.kind) r
      where i.id = any (a.incident_ids) and r.tell = 'now' and r.through_quiet
        and (a.purpose = 'alert' or i.resolved_at is null)))
    from leasehold.alerts a
    where a.channel = p_channel and a.sent_at is null and a.refused_at is null
      and coalesce(leasehold.believed(a.claimed_until, p_at, interval '2 hours') <= p_at, true)), false)
$function$;

CREATE OR REPLACE FUNCTION leasehold.is_held_by_rate(p_stage text)
 RETURNS boolean
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select exists (
    select from leasehold.stages s
    cross join lateral (
      select x.arrival from leasehold.stage_rates x where x.stage = s.name order by x.arrival desc limit 1) r
    where s.name = p_stage and s.rate_tasks is not null
      and leasehold.rate_next(s.rate_tasks, s.rate_per, s.rate_burst, r.arrival, leasehold.clock())
        > leasehold.clock() - interval '10 seconds'
      and exists (select from leasehold.workers w
        where w.ended_at is null and w.expires_at > leasehold.clock() and s.name = any (w.stages)
          and not w.draining and not w.drain_asked
          -- With every place taken it is the places that are too few.
          and w.concurrency > (select count(*) from leasehold.leases l where l.worker_id = w.id and l.fence >= w.oldest_fence)))
$function$;

CREATE OR REPLACE FUNCTION leasehold.is_quiet(p_at timestamp with time zone)
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select coalesce(case
    when p.quiet_from < p.quiet_until then t.local >= p.quiet_from and t.local < p.quiet_until
    else t.local >= p.quiet_from or t.local < p.quiet_until end, false)
  from leasehold.alert_policy p cross join lateral (select (p_at at time zone leasehold.alert_zone())::time as local) t
$function$;

CREATE OR REPLACE FUNCTION leasehold.is_withheld(p_channel text, p_at timestamp with time zone)
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select exists (select from leasehold.alert_doubts d
      where d.channel = p_channel and d.at >= leasehold.alert_day(p_at) and leasehold.believed(d.at, p_at) is not null)
    and u.used - u.waiting::integer >= (select coalesce(c.per_day, p.per_day) from leasehold.alert_policy p
      join leasehold.alert_channels c on c.channel = p_channel)
  from leasehold.alerts_used(p_channel, p_at) u
$function$;

CREATE OR REPLACE FUNCTION leasehold.key_limit_changes()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_surplus bigint;
  v_back bigint;
begin
  perform leasehold.require_read_committed('changing key_limit');
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('leasehold key limit ' || new.name, 0));
  if new.key_limit < old.key_limit then
    -- A row that was claimed, ended or put elsewhere in ready (run_now) while this waited for it did not go back: then what
    -- is there now is looked at again. Nothing is admitted meanwhile, so that comes to an end.
    loop
      with admitted as (
        -- First what runs, then in the order in which they would start.
        select null::tid as rid, true as runs, null::smallint as lane, null::bigint as position, l.concurrency_key
        from leasehold.leases l where l.stage = new.name and l.concurrency_key is not null
        union all
        select r.ctid, false, r.lane, r.position, r.concurrency_key
        from leasehold.ready r where r.stage = new.name and r.concurrency_key is not null
      ), surplus as materialized (
        select n.rid
        from (
          select a.rid, row_number() over (
            partition by a.concurrency_key order by a.runs desc, a.lane desc, a.position) as nr from admitted a
        ) n
        where n.nr > new.key_limit and n.rid is not null
      ), gone as (
        delete from leasehold.ready r where r.ctid = any (array(select s.rid from surplus s))
        returning r.task_id, r.failures, r.crashes, r.lane, r.stage, r.concurrency_key
      ), back as (
        insert into leasehold.waiting (task_id, failures, crashes, lane, for_parents, stage, concurrency_key, waiting_since)
        select g.task_id, g.failures, g.crashes, g.lane, false, g.stage, g.concurrency_key, v.now
        from gone g cross join (select leasehold.clock() as now) v
        returning 1
      )
      select (select count(*) from surplus), (select count(*) from back) into v_surplus, v_back;
      exit when v_back = v_surplus;
    end loop;
    -- After the last look: whatever was claimed before it has begun earlier.
    new.key_limit_lowered_at := leasehold.clock();
  else
    insert into leasehold.nudges (stage, concurrency_key)
    select distinct w.stage, w.concurrency_key from leasehold.waiting w where w.stage = new.name and not w.for_parents;
  end if;
  -- What could not be admitted meanwhile, or may be now.
  perform leasehold.wake(array[new.name]);
  return new;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.late_schedules()
 RETURNS TABLE(kind text, subject text, summary text, details jsonb)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  with scheduler as (
    select bool_or(h.status = 'live') as live, max(h.last_seen) as last_seen from leasehold.scheduler_health h
  ), settled as (
    select leasehold.release_grace_until(interval '1 minute') < leasehold.clock() as yes
  ), open as (
    select i.subject from leasehold.incidents i where i.kind = 'schedule_missed' and i.resolved_at is null
  ), enabled as (
    select s.*, f.outcome, f.reason, f.slot, f.recorded_by,
      case
        when s.next_slot is not null then s.next_at < leasehold.clock() - interval '5 minutes'
        when s.fired_by = 'timer' then s.since < leasehold.clock() - interval '25 hours'
        else s.since < leasehold.clock() - interval '5 minutes'
      end as late
    from leasehold.schedules s
    left join lateral (
      select x.outcome, x.reason, x.slot, x.recorded_by from leasehold.schedule_firings x
      where x.schedule = s.name and x.recorded_by <> 'edit' order by x.slot desc limit 1) f on true
    where s.enabled
  ), orphaned as (
    select e.* from enabled e
    where not coalesce((select live from scheduler), false) and e.fired_by = 'scheduler' and e.recorded_by is distinct from 'command'
  )
  select 'schedule_missed', 'scheduler',
    'no scheduler is running: ' || count(*) || case when count(*) = 1 then ' schedule waits' else ' schedules wait' end,
    jsonb_build_object('problem', 'no_scheduler', 'schedules', count(*), 'late', count(*) filter (where o.late),
      'last_seen', (select last_seen from scheduler), 'first', (array_agg(o.name order by o.next_at, o.name))[1:20])
  from orphaned o
  where (o.since < leasehold.clock() - interval '2 minutes' and (select yes from settled)) or 'scheduler' in (select subject from open)
  having count(*) > 0
  union all
  select 'schedule_missed', e.name, x.summary,
    jsonb_build_object('problem', x.problem, 'schedule', e.name, 'stage', e.stage, 'slot', coalesce(e.next_slot, e.slot),
      'due_at', e.next_at, 'late_s', case when e.late then round(extract(epoch from leasehold.clock() - coalesce(e.next_at, e.since))::numeric, 1) end,
      'reason', coalesce(e.problem, case when x.problem = 'unplanned' then
        'leasehold apply computes it; for a schedule that no manifest keeps: leasehold schedules disable ' || e.name || ', then enable' end))
  from enabled e
  cross join lateral (
    select 'cannot_fire' as problem, 'schedule ' || e.name || ' cannot fire: ' || left(e.problem, 300) as summary
    where e.problem is not null
    union all
    select case when e.next_slot is null then 'unplanned' else 'late' end,
      case when e.next_slot is null
        then 'nobody has computed when schedule ' || e.name || ' fires next, since it was changed at '
          || to_char(e.since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"')
        else 'schedule ' || e.name || ' should have fired at '
          || to_char(e.next_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"') || ' and did not' end
    where e.problem is null and e.late and (e.name in (select subject from open)
      or ((select yes from settled) and not exists (select from orphaned o where o.name = e.name)))
    union all
    select 'unknown_stage', 'schedule ' || e.name || ' fires for stage ' || e.stage || ', which is not known'
    where e.problem is null and e.reason = 'unknown_stage'
      and not exists (select from leasehold.stages t where t.name = e.stage)
    limit 1
  ) x
$function$;

CREATE OR REPLACE FUNCTION leasehold.leave(worker_id uuid, reason text DEFAULT 'graceful-shutdown'::text)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  if reason is null or length(reason) not between 1 and 200 then
    perform leasehold.refuse_field('leave', 'reason', 'a text of 1 to 200 characters', reason);
  end if;
  perform from leasehold.workers w where w.id = leave.worker_id and w.ended_at is null for update;
  if not found then
    return false;
  end if;
  perform leasehold.end_worker(leave.worker_id,
    case when leave.reason in ('lost', 'superseded') then 'left' else leave.reason end);
  return true;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.lock_key(p_stage text, p_key text)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  if not pg_catalog.pg_try_advisory_xact_lock_shared(pg_catalog.hashtextextended('leasehold key limit ' || p_stage, 0)) then
    return false;
  end if;
  perform from leasehold.concurrency_keys k where k.stage = p_stage and k.concurrency_key = p_key for update skip locked;
  if found then
    return true;
  end if;
  if not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended('leasehold key ' || p_stage || ' ' || p_key, 0)) then
    return false;
  end if;
  insert into leasehold.concurrency_keys (stage, concurrency_key) values (p_stage, p_key) on conflict do nothing;
  perform from leasehold.concurrency_keys k where k.stage = p_stage and k.concurrency_key = p_key for update skip locked;
  return found;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.long_holders(p_table regclass)
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_seen text[];
  v_pids text;
  v_vacuum boolean;
begin
  select array_agg(l.virtualtransaction) into v_seen from pg_catalog.pg_locks l
  where l.locktype = 'relation' and l.relation = p_table and l.granted and l.pid is distinct from pg_backend_pid()
    and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database());
  if v_seen is null then
    return null;
  end if;
  perform pg_catalog.pg_sleep(0.25);
  select string_agg(distinct coalesce(l.pid::text, 'prepared'), ', '), bool_or(l.mode = 'ShareUpdateExclusiveLock')
  into v_pids, v_vacuum from pg_catalog.pg_locks l
  where l.locktype = 'relation' and l.relation = p_table and l.granted and l.virtualtransaction = any (v_seen)
    and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database());
  return case when v_vacuum then 'a vacuum or other maintenance of' else 'a transaction that uses' end
    || ' leasehold.' || (select c.relname from pg_catalog.pg_class c where c.oid = p_table)
    || case when v_vacuum then ' goes on (pid ' else ' stays open (pid ' end || v_pids || ')';
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.may_start(p_stage text, p_most integer, OUT starts integer, OUT at timestamp with time zone, OUT arrival timestamp with time zone, OUT look_at timestamp with time zone)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
  v_rate record;
  v_latest timestamptz;
begin
  select s.rate_tasks as tasks, s.rate_per as per, s.rate_burst as burst, r.arrival into v_rate
  from leasehold.stages s
  cross join lateral (
    select x.arrival from leasehold.stage_rates x where x.stage = s.name order by x.arrival desc limit 1) r
  where s.name = p_stage and s.rate_tasks is not null;
  at := leasehold.clock();
  if not found then -- its limit has gone this very moment
    starts := p_most;
    return;
  end if;
  arrival := v_rate.arrival;
  starts := least(p_most, leasehold.rate_starts(v_rate.tasks, v_rate.per, v_rate.burst, arrival, at));
  v_latest := at + leasehold.rate_span(v_rate.tasks, v_rate.per, v_rate.burst);
  if starts > 0 or arrival > v_latest then
    if not leasehold.has_ready(p_stage) then
      starts := 0;
      return;
    end if;
    -- By its arrival: a row that was changed since it was read is another session's.
    perform from leasehold.stage_rates x where x.stage = p_stage and x.arrival = v_rate.arrival for update skip locked;
    if not found then
      starts := 0;
      -- Mostly a claim that commits in a moment. Where starts lie far apart it may as well be a transaction left open.
      look_at := at + least(interval '250 milliseconds',
        greatest(interval '10 milliseconds', leasehold.rate_span(v_rate.tasks, v_rate.per, 1) / 4));
      return;
    end if;
    at := leasehold.clock(); -- under the lock: from one holder to the next it never goes back by itself
    v_latest := at + leasehold.rate_span(v_rate.tasks, v_rate.per, v_rate.burst);
    if arrival > v_latest then
      -- The clock was set back, or the limit was a slower one: the stage goes on after one step, not when that time comes.
      update leasehold.stage_rates x set arrival = v_latest where x.stage = p_stage and x.arrival = v_rate.arrival;
      arrival := v_latest;
    end if;
    starts := least(p_most, leasehold.rate_starts(v_rate.tasks, v_rate.per, v_rate.burst, arrival, at));
  end if;
  if starts = 0 then
    look_at := leasehold.rate_look_at(p_stage, v_rate.tasks, v_rate.per, v_rate.burst, arrival, at);
  end if;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.mend_liveness()
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
  v_mended integer;
  v_count integer;
begin
  update leasehold.workers w
  set beat_at = least(w.beat_at, v_now), loop_at = least(w.loop_at, v_now), expires_at = least(w.expires_at, v_now + w.ttl)
  where w.id = any (array(
    select x.id from leasehold.workers x
    where x.ended_at is null and (leasehold.believed(x.beat_at, v_now) is null or leasehold.believed(x.loop_at, v_now) is null)
    order by x.id for update skip locked));
  get diagnostics v_mended = row_count;
  update leasehold.monitors m set ticked_at = v_now, started_at = least(m.started_at, v_now)
  where m.id = any (array(
    select x.id from leasehold.monitors x
    where x.stopped_at is null and leasehold.believed(x.ticked_at, v_now) is null order by x.id for update skip locked));
  get diagnostics v_count = row_count;
  v_mended := v_mended + v_count;
  update leasehold.schedulers c set ticked_at = v_now, started_at = least(c.started_at, v_now)
  where c.id = any (array(
    select x.id from leasehold.schedulers x
    where x.stopped_at is null and leasehold.believed(x.ticked_at, v_now) is null order by x.id for update skip locked));
  get diagnostics v_count = row_count;
  return v_mended + v_count;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.messages_failed(p_channel text, p_transmission uuid, p_error text, p_delay interval, p_refused boolean DEFAULT false, p_alone boolean DEFAULT false, p_doubtful boolean DEFAULT false)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_now timestamptz;
begin
  perform from leasehold.alert_channels c where c.channel = p_channel for update;
  v_now := leasehold.clock();
  update leasehold.alert_channels c set failing_since = coalesce(c.failing_since, v_now), failures = c.failures + 1,
    last_error = p_error, not_before = case when p_alone then v_now + p_delay end
  where c.channel = p_channel;
  update leasehold.alerts a set claimed_until = null, handing_over_at = null, last_error = p_error,
    next_try_at = v_now + p_delay, refused_at = case when p_refused then v_now end
  where a.transmission = p_transmission and a.channel = p_channel and a.sent_at is null;
  if p_doubtful then
    delete from leasehold.alert_doubts d
    where d.channel = p_channel and (d.at < v_now - interval '7 days' or leasehold.believed(d.at, v_now) is null);
    insert into leasehold.alert_doubts (transmission, channel, at, reason) values (p_transmission, p_channel, v_now, p_error)
    on conflict on constraint doubt_once_per_transmission do nothing;
  end if;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.messages_sent(p_channel text, p_transmission uuid, p_remark text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  update leasehold.alert_channels c set last_sent_at = leasehold.clock(), failing_since = null, failures = 0,
    last_error = null, not_before = null
  where c.channel = p_channel;
  update leasehold.alerts a set sent_at = leasehold.clock(), claimed_until = null, handing_over_at = null, last_error = p_remark
  where a.transmission = p_transmission and a.channel = p_channel and a.sent_at is null;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.microseconds(p_length interval)
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN ((EXTRACT(epoch FROM p_length) * (1000000)::numeric))::bigint;

CREATE OR REPLACE FUNCTION leasehold.monitor_beat(p_monitor uuid, p_host text, p_pid integer, p_version text, p_interval_ms integer, p_away interval DEFAULT '00:00:00'::interval)
 RETURNS interval
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
  v_silent interval;
  v_gap interval;
  v_went_back boolean;
begin
  v_went_back := leasehold.mend_liveness() > 0;
  select v_now - max(leasehold.believed(m.ticked_at, v_now)) into v_silent from leasehold.monitors m;
  v_gap := case
    when v_silent is null or v_went_back then interval '1 day' -- the longest TTL there is
    when v_silent > p_interval_ms * 2 * interval '1 millisecond' then v_silent
    else least(p_away, v_silent)
  end;
  if v_gap > interval '0' then
    insert into leasehold.monitor_gaps (ended_at, lasted) values (v_now, v_gap);
  end if;
  insert into leasehold.monitors as m (id, host, pid, version, interval_ms, started_at, ticked_at, ticks)
  values (p_monitor, p_host, p_pid, p_version, p_interval_ms, v_now, v_now, 1)
  on conflict (id) do update set ticked_at = v_now, ticks = m.ticks + 1, stopped_at = null;
  return v_silent;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.monitor_leave(p_monitor uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  update leasehold.monitors m set stopped_at = leasehold.clock() where m.id = p_monitor;
  return found;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.monitor_silence()
 RETURNS interval
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select c.now - max(leasehold.believed(m.ticked_at, c.now))
  from (select leasehold.clock() as now) c left join leasehold.monitors m on true group by c.now
$function$;

CREATE OR REPLACE FUNCTION leasehold.monitor_tick(p_wedge interval, p_lonely interval, p_silent interval DEFAULT '00:00:30'::interval, p_budget interval DEFAULT '00:00:10'::interval)
 RETURNS TABLE(looked boolean, unfinished boolean, opened jsonb, resolved jsonb)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
  v_now timestamptz := leasehold.clock();
  v_started timestamptz := clock_timestamp();
  v_opened bigint[];
  v_gone bigint[];
  v_conditions jsonb;
  v_count integer;
begin
  opened := '[]'; resolved := '[]'; unfinished := false;
  perform from leasehold.locks where name = 'monitor' for update skip locked;
  looked := found;
  if not looked then
    return next;
    return;
  end if;

  loop
    select count(*) into v_count from leasehold.release_dead_workers(50);
    exit when v_count < 50;
    unfinished := clock_timestamp() > v_started + p_budget;
    exit when unfinished;
  end loop;
  -- A worker that could not settle because the database was away gets a minute to do so.
  if leasehold.release_grace_until(interval '1 minute') < v_now then
    perform leasehold.expire_deadlines();
  end if;
  perform leasehold.process_nudges(array(select s.name from leasehold.stages s), 1000);

  v_opened := leasehold.open_deaths();
  select coalesce(jsonb_agg(to_jsonb(c)), '[]') into v_conditions
  from leasehold.current_conditions(p_wedge, p_lonely, p_silent) c;
  v_opened := v_opened || array(
    select o.id from (
      select leasehold.open_incident(c.kind, c.subject, c.summary, c.details) as id
      from jsonb_to_recordset(v_conditions) as c(kind text, subject text, summary text, details jsonb)) o
    where o.id is not null);

  with gone as (
    update leasehold.incidents i set resolved_at = v_now
    where i.resolved_at is null and not i.id = any (v_opened) and case i.kind
      -- A death is over when its slot lives again, or each of its stages has a live worker, or after a day.
      when 'worker_dead' then
        exists (select from leasehold.workers w
          where w.slot = i.details ->> 'slot' and w.ended_at is null and w.expires_at > v_now)
        or not exists (select from jsonb_array_elements_text(i.details -> 'stages') as u(stage)
          where not exists (select from leasehold.workers w
            where w.ended_at is null and w.expires_at > v_now and u.stage = any (w.stages)))
        or i.opened_at < v_now - interval '1 day'
      -- Whatever somebody has written there must not stop the looks.
      when 'task_quarantined' then coalesce(leasehold.final_outcome(
        case when i.subject ~ '^\d{1,18}$' then i.subject::bigint end), '') <> 'dead'
      when 'mail_undeliverable' then not exists (select from leasehold.alerts a where a.sent_at is null and a.tries > 0)
      else not exists (
        select from jsonb_to_recordset(v_conditions) as c(kind text, subject text) where c.kind = i.kind and c.subject = i.subject)
    end
    returning i.id
  )
  select array_agg(g.id) into v_gone from gone g;

  select coalesce(jsonb_agg(to_jsonb(i) || jsonb_build_object('id', i.id::text) order by i.id), '[]') into opened
  from leasehold.incidents i where i.id = any (v_opened);
  select coalesce(jsonb_agg(to_jsonb(i) || jsonb_build_object('id', i.id::text) order by i.id), '[]') into resolved
  from leasehold.incidents i where i.id = any (v_gone);
  return next;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.next_range_size()
 RETURNS bigint
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select coalesce(r.range_ids, least(100, greatest(1, ceil(leasehold.id_rate()
    * 2 * extract(epoch from coalesce(leasehold.range_span(), interval '7 days')) / leasehold.partition_size()
  )))::bigint * leasehold.partition_size())
  from leasehold.retention r
$function$;

CREATE OR REPLACE FUNCTION leasehold.next_turn(p_period interval)
 RETURNS timestamp with time zone
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select to_timestamp(((floor(extract(epoch from leasehold.clock()) / extract(epoch from p_period)) + 1)
    * extract(epoch from p_period))::float8)
$function$;

CREATE OR REPLACE FUNCTION leasehold.note_alert_test(p_channel text, p_error text)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  update leasehold.alert_channels c set last_error = p_error where c.channel = p_channel and c.failing_since is null
$function$;

CREATE OR REPLACE FUNCTION leasehold.note_starts(p_stage text, p_arrival timestamp with time zone, p_at timestamp with time zone, p_starts integer, p_cut boolean)
 RETURNS timestamp with time zone
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_rate record;
begin
  update leasehold.stage_rates x
  set arrival = greatest(p_arrival, p_at) + leasehold.rate_span(s.rate_tasks, s.rate_per, p_starts)
  from leasehold.stages s
  where s.name = p_stage and s.rate_tasks is not null and x.stage = p_stage and x.arrival = p_arrival
  returning s.rate_tasks as tasks, s.rate_per as per, s.rate_burst as burst, x.arrival into v_rate;
  if not found or not p_cut then
    return null;
  end if;
  return leasehold.rate_look_at(p_stage, v_rate.tasks, v_rate.per, v_rate.burst, v_rate.arrival, p_at);
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.note_uncomputed(p_schedule leasehold.schedules, p_reason text)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  insert into leasehold.schedule_firings (schedule, slot, last_slot, outcome, reason, recorded_at, recorded_by)
  select p_schedule.name, p_schedule.since, c.now, 'skipped', p_reason, c.now, 'edit'
  from (select leasehold.clock() as now) c
  where case when p_schedule.every is null then date_trunc('minute', c.now) > p_schedule.since
    else floor(extract(epoch from c.now - p_schedule.anchor) / extract(epoch from p_schedule.every))
       > floor(extract(epoch from p_schedule.since - p_schedule.anchor) / extract(epoch from p_schedule.every)) end
  on conflict on constraint slot_once_per_schedule do nothing
$function$;

CREATE OR REPLACE FUNCTION leasehold.nudge_keys(p_task_ids bigint[])
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  insert into leasehold.nudges (stage, concurrency_key)
  select distinct t.stage, t.concurrency_key
  from leasehold.tasks t where t.id = any (p_task_ids) and t.concurrency_key is not null
$function$;

CREATE OR REPLACE FUNCTION leasehold.oldest_program()
 RETURNS text
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  if to_regclass('leasehold_migrations.checksums') is null then
    return null;
  end if;
  return (select max(c.name collate "C") from leasehold_migrations.checksums c
    where c.set_name = 'leasehold' and c.drain_first);
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.open_deaths(p_limit integer DEFAULT 1000)
 RETURNS bigint[]
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
  v_since timestamptz := leasehold.deaths_since();
  v_opened bigint[];
begin
  with died as materialized (
    select w.* from leasehold.workers w
    where w.ended_at > v_since and w.end_reason in ('lost', 'superseded')
      and not exists (select from leasehold.incidents i where i.kind = 'worker_dead' and i.subject = w.id::text)
    order by w.ended_at, w.id limit p_limit
  ), held as materialized (
    select d.id as worker_id, a.task_id, a.outcome = 'dead' as quarantined, t.stage, t.title, a.error
    from died d
    join leasehold.attempts a on a.ended_at = d.ended_at and a.worker_id = d.id and a.outcome in ('lost', 'dead')
    join leasehold.tasks t on t.id = a.task_id
  ), opened as (
    insert into leasehold.incidents (kind, subject, opened_at, summary, details)
    select 'worker_dead', d.id::text, v_now, 'worker ' || d.slot || ' died', jsonb_build_object(
      'worker_id', d.id, 'slot', d.slot, 'stages', d.stages, 'host', d.host, 'pid', d.pid, 'end', d.end_reason,
      'last_seen', d.beat_at, 'ended_at', d.ended_at, 'silent_s', round(extract(epoch from v_now - d.beat_at)::numeric, 1),
      'held', h.tasks, 'released_count', h.released, 'quarantined_count', h.quarantined,
      'unserved', (select coalesce(jsonb_agg(u.stage), '[]') from unnest(d.stages) as u(stage)
        where not exists (select from leasehold.workers w
          where w.ended_at is null and w.expires_at > v_now and u.stage = any (w.stages))))
    from died d cross join lateral (
      select count(*) filter (where not x.quarantined) as released, count(*) filter (where x.quarantined) as quarantined,
        coalesce(jsonb_agg(jsonb_build_object('task_id', x.task_id::text, 'stage', x.stage, 'title', left(x.title, 200),
          'quarantined', x.quarantined) order by x.task_id) filter (where x.nr <= 100), '[]') as tasks
      from (select h.*, row_number() over (order by h.quarantined desc, h.task_id) as nr
            from held h where h.worker_id = d.id) x) h
    on conflict (kind, subject) where resolved_at is null do nothing
    returning id
  ), quarantined as (
    insert into leasehold.incidents (kind, subject, opened_at, summary, details)
    select 'task_quarantined', h.task_id::text, v_now,
      'task ' || h.task_id || ' of stage ' || h.stage || ' killed its worker too often and was set aside',
      jsonb_build_object('task_id', h.task_id::text, 'stage', h.stage, 'title', left(h.title, 200), 'error', h.error)
    from held h where h.quarantined
    on conflict (kind, subject) where resolved_at is null do nothing
    returning id
  )
  select array_agg(x.id order by x.id) into v_opened from (select id from opened union all select id from quarantined) x;
  return coalesce(v_opened, '{}');
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.open_incident(p_kind text, p_subject text, p_summary text, p_details jsonb DEFAULT '{}'::jsonb)
 RETURNS bigint
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  insert into leasehold.incidents (kind, subject, opened_at, summary, details)
  values (p_kind, p_subject, leasehold.clock(), p_summary, p_details)
  on conflict (kind, subject) where resolved_at is null do nothing
  returning id
$function$;

CREATE OR REPLACE FUNCTION leasehold.overdue_channels(p_slack interval)
 RETURNS SETOF text
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select c.channel
  from (select leasehold.clock() as now) k cross join leasehold.alert_channels c
  where c.enabled
    and exists (select from leasehold.alerts a
      where a.channel = c.channel and a.sent_at is null and a.refused_at is null
        and coalesce(greatest(leasehold.believed(a.next_try_at, k.now, interval '2 hours'),
          leasehold.believed(a.claimed_until, k.now, interval '2 hours'), leasehold.believed(c.not_before, k.now, interval '2 hours')),
          '-infinity') < k.now - p_slack)
    and not leasehold.is_withheld(c.channel, k.now)
$function$;

CREATE OR REPLACE FUNCTION leasehold.overdue_housekeeping()
 RETURNS TABLE(kind text, subject text, summary text, details jsonb)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select 'housekeeping_overdue', h.duty,
    'housekeeping duty ' || h.duty || case when h.succeeded_at is null then ' has never succeeded'
      else ' has not succeeded for ' || date_trunc('second', c.now - h.succeeded_at)::text end,
    jsonb_build_object('duty', h.duty, 'schedule', h.schedule, 'succeeded_at', h.succeeded_at, 'started_at', h.started_at,
      'failures_in_a_row', h.failures_in_a_row, 'error', left(h.error, 500))
  from (select leasehold.clock() as now) c
  cross join leasehold.housekeeping h
  cross join lateral (select c.now - (h.period * 3 + interval '5 minutes') as moment) late
  where coalesce(greatest(leasehold.believed(h.succeeded_at, c.now), leasehold.believed(h.known_since, c.now)), '-infinity') < late.moment
    and (exists (select from leasehold.incidents i
        where i.kind = 'housekeeping_overdue' and i.subject = h.duty and i.resolved_at is null)
      or (not exists (select from leasehold.monitor_gaps g
          where g.ended_at > late.moment and leasehold.believed(g.ended_at, c.now) is not null)
        and exists (select from leasehold.monitors m where m.stopped_at is null and m.started_at < late.moment
          and m.ticked_at > c.now - greatest(interval '1 minute', m.interval_ms * 3 * interval '1 millisecond'))))
$function$;

CREATE OR REPLACE FUNCTION leasehold.partition_size()
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN (10000000)::bigint;

CREATE OR REPLACE FUNCTION leasehold.pause_stage(name text, until timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  if pause_stage.until <= leasehold.clock() then
    raise exception 'cannot pause until %: that moment has passed', pause_stage.until using errcode = 'invalid_parameter_value';
  end if;
  update leasehold.stages s set paused_until = coalesce(pause_stage.until, 'infinity') where s.name = pause_stage.name;
  if not found then
    perform leasehold.raise_unknown_stage(pause_stage.name);
  end if;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.process_nudges(p_stages text[], p_limit integer DEFAULT 200)
 RETURNS integer
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select leasehold.process_nudges(p_stages, p_limit, 0)
$function$;

CREATE OR REPLACE FUNCTION leasehold.process_nudges(p_stages text[], p_limit integer, p_from bigint)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_nudge record;
  v_seen bigint[] := '{}';
  v_handled integer := 0;
  v_room integer;
  v_admitted text[] := '{}';
begin
  perform leasehold.require_read_committed('process_nudges');
  for v_nudge in
    -- Stage by stage, so that the first ones are found without reading all the others.
    select n.id, n.stage, n.task_id, n.parent_id, n.concurrency_key
    from (select distinct unnest(p_stages) as name) s
    cross join lateral (
      select n.* from leasehold.nudges n
      where n.stage = s.name and n.id >= p_from order by n.id limit p_limit for update skip locked) n
    order by n.id limit p_limit
  loop
    v_seen := v_seen || v_nudge.id;
    if v_nudge.task_id is not null then
      continue when not leasehold.free_child(v_nudge.task_id, v_nudge.parent_id);
    else
      continue when not leasehold.lock_key(v_nudge.stage, v_nudge.concurrency_key);
      select s.key_limit
        - (select count(*) from leasehold.ready r where r.stage = v_nudge.stage and r.concurrency_key = v_nudge.concurrency_key)
        - (select count(*) from leasehold.leases l where l.stage = v_nudge.stage and l.concurrency_key = v_nudge.concurrency_key)
      into v_room from leasehold.stages s where s.name = v_nudge.stage;
      if v_room > 0 then
        with next as (
          select w.task_id from leasehold.waiting w
          where w.stage = v_nudge.stage and w.concurrency_key = v_nudge.concurrency_key and not w.for_parents
          order by w.lane desc, w.task_id limit v_room for update skip locked
        ), admitted as (
          delete from leasehold.waiting w using next where w.task_id = next.task_id
          returning w.task_id, w.lane, w.failures, w.crashes, w.stage, w.concurrency_key
        )
        insert into leasehold.ready (task_id, lane, failures, crashes, stage, concurrency_key)
        select task_id, lane, failures, crashes, stage, concurrency_key from admitted order by lane desc, task_id;
        if found then
          v_admitted := v_admitted || v_nudge.stage;
        end if;
      end if;
    end if;
    delete from leasehold.nudges n where n.id = v_nudge.id;
    v_handled := v_handled + 1;
  end loop;
  -- What is stuck goes to the end, so that it never keeps the rest from being looked at.
  if cardinality(v_seen) >= p_limit and v_handled < p_limit then
    with stuck as (
      delete from leasehold.nudges n where n.id = any (v_seen)
      returning n.id, n.task_id, n.parent_id, n.stage, n.concurrency_key
    )
    insert into leasehold.nudges (task_id, parent_id, stage, concurrency_key)
    select s.task_id, s.parent_id, s.stage, s.concurrency_key from stuck s
    group by s.task_id, s.parent_id, s.stage, s.concurrency_key order by min(s.id);
  end if;
  if cardinality(v_admitted) > 0 then
    perform leasehold.wake(v_admitted);
  end if;
  return v_handled;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.process_nudges_if_allowed(p_task_id bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_from bigint;
begin
  if pg_catalog.current_setting('transaction_isolation') <> 'read committed' then
    return;
  end if;
  -- Its children have been nudged once; its key's newest nudge is the one that is meant.
  select least(min(n.id) filter (where n.parent_id = p_task_id), max(n.id) filter (where n.concurrency_key is not null))
  into v_from from leasehold.nudges n
  where n.parent_id = p_task_id
    or (n.stage, n.concurrency_key) = (select t.stage, t.concurrency_key from leasehold.tasks t where t.id = p_task_id);
  if v_from is null then
    return;
  end if;
  for i in 1 .. 100 loop
    exit when leasehold.process_nudges(
      array(select distinct n.stage from leasehold.nudges n where n.id >= v_from), 200, v_from) = 0;
  end loop;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.promote_due(p_stages text[], p_limit integer DEFAULT 500)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
  v_moved integer := 0;
  v_stage text;
  v_express boolean;
  v_ids bigint[];
  v_failures smallint[];
  v_crashes smallint[];
begin
  foreach v_stage in array p_stages loop
    for v_express, v_ids, v_failures, v_crashes in
      with due as (
        select s.task_id from leasehold.scheduled s
        where s.stage = v_stage and s.run_at <= v_now order by s.run_at limit p_limit for update skip locked
      ), gone as (
        delete from leasehold.scheduled s using due where s.task_id = due.task_id
        returning s.task_id, s.run_at, s.failures, s.crashes, s.express
      )
      select g.express, array_agg(g.task_id order by g.run_at, g.task_id), array_agg(g.failures order by g.run_at, g.task_id),
        array_agg(g.crashes order by g.run_at, g.task_id)
      from gone g group by g.express
    loop
      perform leasehold.enter(v_ids, v_failures, v_crashes, null, v_express);
      v_moved := v_moved + cardinality(v_ids);
    end loop;
  end loop;
  return v_moved;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.raise_unknown_stage(p_stage text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_near text;
begin
  select string_agg(quote_literal(n.name), ', ' order by n.distance, n.name) into v_near
  from (
    select s.name, leasehold.edit_distance(coalesce(left(p_stage, 48), ''), s.name) as distance
    from leasehold.stages s order by 2, 1 limit 3
  ) n;
  raise exception 'unknown stage %', coalesce(quote_literal(left(p_stage, 100)), 'null')
    using errcode = 'LH001',
      hint = coalesce('Known stages with near names: ' || v_near || '.', 'No stage is known yet.')
        || ' A runner registers its stages when it starts; by hand: insert into leasehold.stages (name) values (…).';
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.range_holds(p_first bigint, p_end bigint)
 RETURNS text
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_count bigint;
  v_oldest bigint;
begin
  select count(*), min(x.task_id) into v_count, v_oldest
  from (
    (select r.task_id from leasehold.ready r where r.task_id >= p_first and r.task_id < p_end order by 1 limit 1001)
    union all
    (select s.task_id from leasehold.scheduled s where s.task_id >= p_first and s.task_id < p_end order by 1 limit 1001)
    union all
    (select w.task_id from leasehold.waiting w where w.task_id >= p_first and w.task_id < p_end order by 1 limit 1001)
    union all
    (select l.task_id from leasehold.leases l where l.task_id >= p_first and l.task_id < p_end order by 1 limit 1001)) x;
  if v_count > 0 then
    return case when v_count > 1000 then 'more than 1000' else v_count::text end
      || case v_count when 1 then ' task of it is unfinished: ' else ' tasks of it are unfinished, the oldest is ' end || v_oldest;
  end if;
  select d.parent_id into v_oldest from leasehold.dependencies d
  where d.parent_id >= p_first and d.parent_id < p_end order by d.parent_id limit 1;
  return 'a child of task ' || v_oldest || ' has not heard of its end yet';
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.range_span()
 RETURNS interval
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select coalesce(r.rotate_every, case when r.keep_tasks is not null then greatest(r.keep_tasks / 6, interval '1 minute') end)
  from leasehold.retention r
$function$;

CREATE OR REPLACE FUNCTION leasehold.rate_is_set()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  insert into leasehold.stage_rates (stage, arrival)
  select new.name, leasehold.clock() where not exists (select from leasehold.stage_rates x where x.stage = new.name);
  return null;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.rate_look_at(p_stage text, p_tasks integer, p_per interval, p_burst integer, p_arrival timestamp with time zone, p_at timestamp with time zone)
 RETURNS timestamp with time zone
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select greatest(leasehold.rate_next(p_tasks, p_per, p_burst, p_arrival, p_at),
    p_at + least(interval '25 milliseconds',
      greatest(interval '5 milliseconds', leasehold.rate_span(p_tasks, p_per, (p_burst - 1) / 2))))
  where leasehold.has_ready(p_stage)
$function$;

CREATE OR REPLACE FUNCTION leasehold.rate_next(p_tasks integer, p_per interval, p_burst integer, p_arrival timestamp with time zone, p_at timestamp with time zone)
 RETURNS timestamp with time zone
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN (LEAST(p_arrival, (p_at + leasehold.rate_span(p_tasks, p_per, p_burst))) - (((((p_burst - 1) * leasehold.microseconds(p_per)) / p_tasks))::double precision * '00:00:00.000001'::interval));

CREATE OR REPLACE FUNCTION leasehold.rate_span(p_tasks integer, p_per interval, p_starts integer)
 RETURNS interval
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN ((((((p_starts * leasehold.microseconds(p_per)) + p_tasks) - 1) / p_tasks))::double precision * '00:00:00.000001'::interval);

CREATE OR REPLACE FUNCTION leasehold.rate_starts(p_tasks integer, p_per interval, p_burst integer, p_arrival timestamp with time zone, p_at timestamp with time zone)
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN (GREATEST((0)::bigint, (p_burst - ((((GREATEST((0)::bigint, leasehold.microseconds((LEAST(p_arrival, (p_at + leasehold.rate_span(p_tasks, p_per, p_burst))) - p_at))) * p_tasks) + leasehold.microseconds(p_per)) - 1) / leasehold.microseconds(p_per)))))::integer;

CREATE OR REPLACE FUNCTION leasehold.ready_writers()
 RETURNS TABLE(xid xid8)
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  -- pg_locks shows 32 bits. They lie within 2^31 of our own xid, before or after it.
  with our as (select pg_current_xact_id()::text::bigint as xid)
  select ((o.xid + (t.transactionid::text::bigint - o.xid % 4294967296 + 6442450944) % 4294967296 - 2147483648)::text)::xid8
  from pg_locks r
  join pg_locks t on t.virtualtransaction = r.virtualtransaction and t.locktype = 'transactionid'
    and t.mode = 'ExclusiveLock' and t.granted
  cross join our o
  where r.locktype = 'relation' and r.relation = 'leasehold.ready'::regclass and r.granted
    and r.database = (select d.oid from pg_database d where d.datname = current_database())
    and r.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    and t.transactionid::text::bigint <> o.xid % 4294967296
$function$;

CREATE OR REPLACE FUNCTION leasehold.receipt_of_the_dead(p_expires_at timestamp with time zone, p_ended_at timestamp with time zone, p_reason text, p_done_ids bigint[], p_endings jsonb)
 RETURNS text
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select jsonb_build_object(
    'worker', case when p_ended_at is not null then 'ended' when p_expires_at is null then 'unknown' else 'expired' end,
    'reason', p_reason,
    'refused', coalesce(to_jsonb(p_done_ids::text[]), '[]')
      || coalesce((select jsonb_agg(e ->> 'task_id') from jsonb_array_elements(p_endings) e), '[]'))::text
$function$;

CREATE OR REPLACE FUNCTION leasehold.refuse_field(p_verb text, p_field text, p_wanted text, p_given text)
 RETURNS void
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  raise exception '%: % must be %, not %', p_verb, p_field, p_wanted, coalesce(left(p_given, 100), 'null')
    using errcode = 'invalid_parameter_value', hint = 'Correct ' || p_field || ' and call ' || p_verb || ' again; nothing was changed.';
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.register_duties(p_duties jsonb)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  delete from leasehold.housekeeping h
  where h.duty not in (select d.duty from jsonb_to_recordset(p_duties) as d(duty text));
  insert into leasehold.housekeeping as h (duty, schedule, period, known_since, next_at)
  select d.duty, d.schedule, d.period_ms * interval '1 millisecond', leasehold.clock(),
    leasehold.next_turn(d.period_ms * interval '1 millisecond')
  from jsonb_to_recordset(p_duties) as d(duty text, schedule text, period_ms bigint)
  on conflict (duty) do update set schedule = excluded.schedule, period = excluded.period
  where (h.schedule, h.period) is distinct from (excluded.schedule, excluded.period)
$function$;

CREATE OR REPLACE FUNCTION leasehold.register_stage(p_name text, p_priority integer DEFAULT NULL::integer, p_max_attempts integer DEFAULT NULL::integer, p_timeout interval DEFAULT NULL::interval, p_backoff_min interval DEFAULT NULL::interval, p_backoff_max interval DEFAULT NULL::interval, p_max_crashes integer DEFAULT NULL::integer, p_key_limit integer DEFAULT NULL::integer, p_expected_workers integer DEFAULT NULL::integer, p_rate_tasks integer DEFAULT NULL::integer, p_rate_per interval DEFAULT NULL::interval, p_rate_burst integer DEFAULT NULL::integer)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_keep constant boolean := p_rate_tasks is null;
  v_burst integer := p_rate_burst;
begin
  if (coalesce(p_rate_tasks, 0) = 0 and (p_rate_per is not null or p_rate_burst is not null))
    or (p_rate_tasks <> 0 and p_rate_per is null)
  then
    raise exception 'stage %: the rate limit is not whole: p_rate_tasks %, p_rate_per %, p_rate_burst %', p_name,
      coalesce(p_rate_tasks::text, 'null'), coalesce(p_rate_per::text, 'null'), coalesce(p_rate_burst::text, 'null')
      using errcode = 'invalid_parameter_value',
        hint = 'For example p_rate_tasks => 60, p_rate_per => ''1 minute'' (and p_rate_burst); p_rate_tasks => 0 alone removes the limit, none of the three keeps it.';
  end if;
  if v_burst is null then
    v_burst := case when p_rate_tasks > 0 and p_rate_per >= interval '1 millisecond'
      then least(p_rate_tasks, ceil(p_rate_tasks / extract(epoch from p_rate_per))) else 1 end;
  end if;
  insert into leasehold.stages (name) values (p_name) on conflict (name) do nothing;
  update leasehold.stages s set
    priority = coalesce(p_priority, s.priority), max_attempts = coalesce(p_max_attempts, s.max_attempts),
    timeout = coalesce(p_timeout, s.timeout), backoff_min = coalesce(p_backoff_min, s.backoff_min),
    backoff_max = coalesce(p_backoff_max, s.backoff_max), max_crashes = coalesce(p_max_crashes, s.max_crashes),
    key_limit = coalesce(p_key_limit, s.key_limit), expected_workers = coalesce(p_expected_workers, s.expected_workers),
    rate_tasks = case when v_keep then s.rate_tasks else nullif(p_rate_tasks, 0) end,
    rate_per = case when v_keep then s.rate_per else p_rate_per end,
    rate_burst = case when v_keep then s.rate_burst when p_rate_tasks <> 0 then v_burst end
  where s.name = p_name
    and (s.priority, s.max_attempts, s.timeout, s.backoff_min, s.backoff_max, s.max_crashes, s.key_limit, s.expected_workers,
      s.rate_tasks, s.rate_per, s.rate_burst)
      is distinct from
      (coalesce(p_priority, s.priority), coalesce(p_max_attempts, s.max_attempts), coalesce(p_timeout, s.timeout),
       coalesce(p_backoff_min, s.backoff_min), coalesce(p_backoff_max, s.backoff_max), coalesce(p_max_crashes, s.max_crashes),
       coalesce(p_key_limit, s.key_limit), coalesce(p_expected_workers, s.expected_workers),
       case when v_keep then s.rate_tasks else nullif(p_rate_tasks, 0) end,
       case when v_keep then s.rate_per else p_rate_per end,
       case when v_keep then s.rate_burst when p_rate_tasks <> 0 then v_burst end);
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.register_worker(p_slot text, p_stages text[], p_ttl interval, p_beat_interval interval, p_host text, p_pid integer DEFAULT NULL::integer, p_version text DEFAULT NULL::text, p_concurrency integer DEFAULT 1, p_meta jsonb DEFAULT NULL::jsonb)
 RETURNS TABLE(worker_id uuid, expires_at timestamp with time zone, superseded uuid, released bigint[], quarantined bigint[])
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_restarts integer;
  v_stage text;
  v_needed text;
  v_start text;
begin
  foreach v_stage in array p_stages loop
    if not exists (select from leasehold.stages s where s.name = v_stage) then
      perform leasehold.raise_unknown_stage(v_stage);
    end if;
  end loop;
  -- Two processes that start the same slot at once take turns here.
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('leasehold slot ' || p_slot, 0));
  select w.id, w.meta ->> 'start' into superseded, v_start
  from leasehold.workers w where w.slot = p_slot and w.ended_at is null for update;
  v_now := leasehold.clock();
  if v_start = p_meta ->> 'start' then
    update leasehold.workers w set beat_at = v_now, loop_at = v_now, expires_at = v_now + w.ttl where w.id = superseded
    returning w.id, w.expires_at into worker_id, expires_at;
    superseded := null;
    return next;
    return;
  end if;
  if superseded is not null then
    select e.released, e.quarantined into released, quarantined from leasehold.end_worker(superseded, 'superseded') e;
  end if;
  select w.restarts + 1 into v_restarts from leasehold.workers w where w.slot = p_slot order by w.started_at desc limit 1;
  v_now := leasehold.clock();
  worker_id := pg_catalog.gen_random_uuid();
  expires_at := v_now + p_ttl;
  insert into leasehold.workers (
    id, slot, stages, host, pid, version, concurrency, restarts, meta, ttl, beat_interval,
    started_at, beat_at, expires_at, loop_at)
  values (
    worker_id, p_slot, p_stages, p_host, p_pid, p_version, p_concurrency, coalesce(v_restarts, 0), p_meta, p_ttl,
    p_beat_interval, v_now, v_now, expires_at, v_now);
  -- After the insert: a migration that waits for older programs to end locks this table, and is seen from here on.
  if p_meta ->> 'schema' is not null then
    v_needed := leasehold.oldest_program();
    if (p_meta ->> 'schema') collate "C" < v_needed then
      raise exception 'this program knows the schema up to %, the database needs programs that know %', p_meta ->> 'schema', v_needed
        using errcode = 'LH006', hint = 'Deploy the newer program; an older one must not run here.';
    end if;
  end if;
  return next;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.release(worker_id uuid, task_id bigint, fence bigint)
 RETURNS boolean
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select leasehold.settle(release.worker_id, release.task_id, release.fence, 'release')
$function$;

CREATE OR REPLACE FUNCTION leasehold.release_dead_workers(p_limit integer DEFAULT 100)
 RETURNS TABLE(worker_id uuid, slot text, stages text[], host text, pid integer, started_at timestamp with time zone, beat_at timestamp with time zone, silent interval, released bigint[], quarantined bigint[])
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
  v_worker record;
begin
  for v_worker in
    select w.* from leasehold.workers w
    where w.ended_at is null and w.expires_at < leasehold.clock()
      and leasehold.release_grace_until(w.ttl) < leasehold.clock()
    order by w.expires_at limit p_limit for update skip locked
  loop
    worker_id := v_worker.id; slot := v_worker.slot; stages := v_worker.stages; host := v_worker.host;
    pid := v_worker.pid; started_at := v_worker.started_at; beat_at := v_worker.beat_at;
    silent := leasehold.clock() - v_worker.beat_at;
    select e.released, e.quarantined into released, quarantined from leasehold.end_worker(v_worker.id, 'lost') e;
    return next;
  end loop;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.release_grace_until(p_ttl interval)
 RETURNS timestamp with time zone
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select greatest('-infinity', leasehold.believed(pg_catalog.pg_postmaster_start_time(), c.now),
    (select max(leasehold.believed(g.ended_at, c.now)) from leasehold.monitor_gaps g where g.lasted >= p_ttl / 2)) + p_ttl
  from (select leasehold.clock() as now) c
$function$;

CREATE OR REPLACE FUNCTION leasehold.require_read_committed(p_what text)
 RETURNS void
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  if pg_catalog.current_setting('transaction_isolation') <> 'read committed' then
    raise exception '% needs READ COMMITTED, not %', p_what, upper(pg_catalog.current_setting('transaction_isolation'))
      using errcode = 'LH004', hint = 'Begin the transaction with ISOLATION LEVEL READ COMMITTED.';
  end if;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.resume_stage(name text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  update leasehold.stages s set paused_until = null where s.name = resume_stage.name;
  if not found then
    perform leasehold.raise_unknown_stage(resume_stage.name);
  end if;
  perform leasehold.wake(array[resume_stage.name]);
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.retention_plan()
 RETURNS TABLE(first_id bigint, end_id bigint, opened_at timestamp with time zone, closed_at timestamp with time zone, tasks bigint, bytes bigint, action text, reason text, due_at timestamp with time zone)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
  v_settings leasehold.retention;
  v_now timestamptz := leasehold.clock();
  v_range leasehold.partitions;
  v_ended timestamptz;
  v_doubt text := leasehold.clock_doubt();
begin
  select * into v_settings from leasehold.retention;
  for v_range in select p.* from leasehold.partitions p order by p.first_id loop
    first_id := v_range.first_id; end_id := v_range.end_id;
    opened_at := v_range.opened_at; closed_at := v_range.closed_at;
    due_at := v_range.closed_at + v_settings.keep_tasks;
    select coalesce(sum(greatest(c.reltuples, pg_stat_get_live_tuples(c.oid), 0)) filter (where c.relname like 'tasks\_%'), 0)::bigint,
      coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
    into tasks, bytes
    from unnest(array['tasks', 'attempts', 'task_progress', 'task_checkpoints', 'task_logs']) as n(name)
    join pg_class c on c.oid = to_regclass('leasehold.' || n.name || '_' || v_range.first_id);
    action := 'keep';
    if v_range.retired_at is not null then
      action := 'dropping'; reason := coalesce(v_range.stays_because, 'its tasks are gone, the other tables follow');
    elsif v_range.opened_at is null then
      reason := 'ids have not reached it';
    elsif v_range.closed_at is null then
      reason := 'it takes new tasks';
    else
      reason := leasehold.range_holds(v_range.first_id, v_range.end_id);
      if reason is null and v_range.closed_at < v_now - least(v_settings.keep_tasks, v_settings.keep_logs) then
        v_ended := v_range.last_ended_at;
        if coalesce(v_ended < v_now - least(v_settings.keep_tasks, v_settings.keep_logs), true) then
          execute pg_catalog.format('select max(ended_at) from leasehold.%I', 'attempts_' || v_range.first_id) into v_ended;
        end if;
        due_at := greatest(v_range.closed_at, v_ended) + v_settings.keep_tasks;
        if v_doubt is not null then
          reason := case when due_at <= v_now then v_doubt end;
        elsif due_at <= v_now then
          action := 'drop';
        elsif v_range.logs_gone_at is null and greatest(v_range.closed_at, v_ended) + v_settings.keep_logs <= v_now then
          action := 'drop logs';
        end if;
      end if;
      if action <> 'drop' then
        reason := coalesce(reason, case when due_at is null then 'tasks are kept for ever' else 'its tasks are kept until ' || due_at end);
      end if;
    end if;
    return next;
  end loop;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.retry_alerts(p_channel text DEFAULT NULL::text)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_count integer;
begin
  perform from leasehold.alert_channels c where p_channel is null or c.channel = p_channel order by c.channel for update;
  update leasehold.alerts a set refused_at = null, next_try_at = leasehold.clock()
  where a.refused_at is not null and a.sent_at is null and (p_channel is null or a.channel = p_channel);
  get diagnostics v_count = row_count;
  return v_count;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.retry_task(task_id bigint)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_task leasehold.tasks;
  v_outcome text;
  v_holder bigint;
  v_parent bigint;
begin
  perform leasehold.require_read_committed('retry_task');
  select t.* into v_task from leasehold.tasks t where t.id = retry_task.task_id;
  if not found then
    raise exception 'task % does not exist', retry_task.task_id using errcode = 'LH002',
      hint = 'It may have been dropped by retention.';
  end if;
  -- Two operators may press the button at once: the second waits here and then sees the task unfinished.
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('leasehold retry', retry_task.task_id));
  v_outcome := leasehold.final_outcome(retry_task.task_id);
  if v_outcome is null or v_outcome = 'done' then
    return false;
  end if;
  select p.id into v_parent from unnest(v_task.depends_on) as p(id)
  where leasehold.final_outcome(p.id) in ('dead', 'cancelled') order by p.id limit 1;
  if found then
    raise exception 'task % cannot be retried: its parent task % ended %', v_task.id, v_parent, leasehold.final_outcome(v_parent)
      using errcode = 'LH005', hint = 'Retry the parent first: select leasehold.retry_task(' || v_parent || ').';
  end if;
  if v_task.key is not null then
    insert into leasehold.task_keys (stage, key, task_id) values (v_task.stage, v_task.key, v_task.id)
    on conflict on constraint key_once_per_unfinished_task do nothing;
    if not found then
      select k.task_id into v_holder from leasehold.task_keys k where k.stage = v_task.stage and k.key = v_task.key;
      raise exception 'task % cannot be retried: task % holds its key %', v_task.id, v_holder, quote_literal(v_task.key)
        using errcode = 'unique_violation', constraint = 'key_once_per_unfinished_task',
          hint = 'Cancel the other task first, or leave this one ended.';
    end if;
  end if;
  insert into leasehold.attempts (task_id, fence, ended_at, attempt, final, outcome)
  values (v_task.id, nextval('leasehold.fences'), leasehold.clock(), 0, false, 'reopened');
  if v_task.run_id is not null then
    insert into leasehold.run_ledger (run_id, stage, dead, cancelled)
    values (v_task.run_id, v_task.stage, case when v_outcome = 'dead' then -1 else 0 end,
      case when v_outcome = 'cancelled' then -1 else 0 end);
  end if;
  insert into leasehold.dependencies (parent_id, child_id)
  select distinct p.id, v_task.id from unnest(v_task.depends_on) as p(id)
  where leasehold.final_outcome(p.id) is null and exists (select from leasehold.tasks t where t.id = p.id);
  if found then
    -- As at submission: the nudge makes sure that a parent which ends right now is not missed.
    insert into leasehold.waiting (task_id, lane, for_parents, stage, concurrency_key, waiting_since)
    select v_task.id, coalesce(v_task.priority, s.priority), true, v_task.stage, v_task.concurrency_key, leasehold.clock()
    from leasehold.stages s where s.name = v_task.stage;
    insert into leasehold.nudges (task_id, stage) values (v_task.id, v_task.stage);
    perform leasehold.wake(array[v_task.stage]);
  else
    perform leasehold.enter(array[v_task.id], array[0]::smallint[], array[0]::smallint[], null, false);
  end if;
  return true;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.return_strays(p_worker uuid, p_known bigint[])
 RETURNS bigint[]
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
  select leasehold.return_strays(p_worker, p_known, null)
$function$;

CREATE OR REPLACE FUNCTION leasehold.return_strays(p_worker uuid, p_known bigint[], p_known_fences bigint[])
 RETURNS bigint[]
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_strays jsonb;
begin
  perform from leasehold.workers w
  where w.id = p_worker and w.ended_at is null and w.expires_at > leasehold.clock() for update;
  if not found then
    return null;
  end if;
  select jsonb_agg(jsonb_build_object('task_id', l.task_id, 'fence', l.fence)
    -- What is nearly over could be over when it is settled.
    || case when l.deadline_at > leasehold.clock() + interval '1 second' then jsonb_build_object('outcome', 'release')
       else jsonb_build_object('outcome', 'fail', 'error', jsonb_build_object('code', 'timeout', 'message',
         'the answer to its claim was lost, and its timeout of ' || (l.deadline_at - l.leased_at)
         || ' was over before that was noticed')) end)
  into v_strays
  from leasehold.leases l
  where l.worker_id = p_worker and not exists (
    select from unnest(p_known, p_known_fences) as k(task_id, fence)
    where k.task_id = l.task_id and coalesce(k.fence, l.fence) = l.fence);
  return case when v_strays is null then '{}' else coalesce(leasehold.settle_endings(p_worker, v_strays), '{}') end;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.rotate_partitions()
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET lock_timeout TO '200ms'
AS $function$
declare
  v_last_id bigint;
  v_next bigint;
begin
  perform from leasehold.locks where name = 'partitions' for update skip locked;
  if not found then
    return null;
  end if;
  alter sequence leasehold.tasks_id_seq no cycle; -- takes the lock that nextval() waits for
  select last_value into v_last_id from leasehold.tasks_id_seq;
  select min(first_id) into v_next from leasehold.partitions where first_id > v_last_id;
  if v_next is null then
    return null;
  end if;
  update leasehold.partitions p set closed_at = leasehold.clock(), last_id = least(v_last_id, p.end_id - 1)
  where p.closed_at is null and p.end_id <= v_next;
  update leasehold.partitions set opened_at = leasehold.clock() where first_id = v_next and opened_at is null;
  perform pg_catalog.setval('leasehold.tasks_id_seq', v_next, false);
  return v_next;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.rotation_is_due()
 RETURNS boolean
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select case
    when p.first_id is null then exists (select from leasehold.partitions n where n.first_id > s.last_value)
    else s.is_called and p.opened_at <= leasehold.clock() - leasehold.range_span()
  end is true
  from leasehold.tasks_id_seq s
  left join leasehold.partitions p on p.first_id <= s.last_value and p.end_id > s.last_value
$function$;

CREATE OR REPLACE FUNCTION leasehold.route_special(p_ids bigint[])
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
  v_row record;
  v_simple bigint[];
begin
  for v_row in
    select t.stage from leasehold.tasks t
    where t.id = any (p_ids) and not exists (select from leasehold.stages s where s.name = t.stage) limit 1
  loop
    perform leasehold.raise_unknown_stage(v_row.stage);
  end loop;

  -- Keys: submit() has already taken the row for its own id; any other holder is a conflict.
  insert into leasehold.task_keys (stage, key, task_id)
  select t.stage, t.key, t.id from leasehold.tasks t where t.id = any (p_ids) and t.key is not null order by t.stage, t.key
  on conflict (stage, key) do nothing;
  for v_row in
    select t.stage, t.key, k.task_id from leasehold.tasks t
    left join leasehold.task_keys k on k.stage = t.stage and k.key = t.key
    where t.id = any (p_ids) and t.key is not null and k.task_id is distinct from t.id limit 1
  loop
    raise exception 'stage % already has an unfinished task with key %', quote_literal(v_row.stage), quote_literal(v_row.key)
      using errcode = 'unique_violation', constraint = 'key_once_per_unfinished_task',
        detail = coalesce('It is task ' || v_row.task_id || '.', 'It is in the same statement.'),
        hint = 'Use leasehold.submit(…, on_key_conflict => ''keep'') to get the existing task''s id instead.';
  end loop;

  -- Parents: must be visible tasks older than the child, so a cycle cannot be written down.
  for v_row in
    select t.id, p.parent_id, p.parent_id >= t.id as not_older
    from leasehold.tasks t cross join lateral unnest(t.depends_on) as p(parent_id)
    where t.id = any (p_ids)
      and (p.parent_id is null or p.parent_id >= t.id or not exists (select from leasehold.tasks x where x.id = p.parent_id))
    limit 1
  loop
    if v_row.not_older then
      raise exception 'task % cannot depend on task %: a parent must be submitted before its child', v_row.id, v_row.parent_id
        using errcode = 'LH003', hint = 'This rule is what keeps dependencies free of cycles.';
    end if;
    raise exception 'parent task % does not exist', coalesce(v_row.parent_id::text, 'null')
      using errcode = 'LH003', hint = 'Submit the parent first, in this transaction or in one that has committed.';
  end loop;
  insert into leasehold.dependencies (parent_id, child_id)
  select distinct p.parent_id, t.id
  from leasehold.tasks t cross join lateral unnest(t.depends_on) as p(parent_id)
  where t.id = any (p_ids);
  insert into leasehold.waiting (task_id, lane, for_parents, stage, concurrency_key, waiting_since)
  select t.id, coalesce(t.priority, s.priority), true, t.stage, t.concurrency_key, v_now
  from leasehold.tasks t join leasehold.stages s on s.name = t.stage
  where t.id = any (p_ids) and cardinality(t.depends_on) > 0;
  -- A parent may be ending right now in a transaction that cannot see these edges: so each child is looked at again.
  insert into leasehold.nudges (task_id, stage)
  select t.id, t.stage from leasehold.tasks t where t.id = any (p_ids) and cardinality(t.depends_on) > 0;

  select array_agg(t.id order by t.id) into v_simple from leasehold.tasks t
  where t.id = any (p_ids) and coalesce(cardinality(t.depends_on), 0) = 0;
  if v_simple is not null then
    perform leasehold.enter(
      v_simple, array_fill(0::smallint, array[cardinality(v_simple)]), array_fill(0::smallint, array[cardinality(v_simple)]),
      (select array_agg(t.run_at order by t.id) from leasehold.tasks t where t.id = any (v_simple)), false);
  end if;
  perform leasehold.wake((select array_agg(distinct t.stage) from leasehold.tasks t where t.id = any (p_ids)));
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.route_submitted()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
  v_total bigint;
  v_plain bigint;
  v_runs bigint;
  v_stage text;
  v_other_stage text;
begin
  insert into leasehold.ready (task_id, lane, stage)
  select n.id, coalesce(n.priority, s.priority), n.stage
  from new_tasks n join leasehold.stages s on s.name = n.stage
  where n.key is null and n.depends_on is null and n.concurrency_key is null
    and (n.run_at is null or n.run_at <= v_now)
  order by n.id;
  get diagnostics v_plain = row_count;

  select count(*), count(n.run_id), min(n.stage), max(n.stage) into v_total, v_runs, v_stage, v_other_stage from new_tasks n;
  if v_plain < v_total then
    perform leasehold.route_special(array_agg(n.id order by n.id)) from new_tasks n
    where n.key is not null or n.depends_on is not null or n.concurrency_key is not null or n.run_at > v_now
      or not exists (select from leasehold.stages s where s.name = n.stage);
  end if;
  if v_runs > 0 then
    insert into leasehold.run_ledger (run_id, stage, submitted)
    select n.run_id, n.stage, count(*) from new_tasks n where n.run_id is not null group by 1, 2;
  end if;
  if v_plain > 0 and v_stage = v_other_stage then
    if exists (select from leasehold.sleepers z where z.stage = v_stage and z.wake_until > v_now) then
      perform leasehold.wake(array[v_stage]);
    end if;
  elsif v_plain > 0 then
    perform leasehold.wake((select array_agg(distinct n.stage) from new_tasks n));
  end if;
  return null;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.run_now(task_id bigint)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_failures smallint;
  v_crashes smallint;
  v_key text;
  v_stage text;
  v_lane smallint;
begin
  for i in 1 .. 20 loop
    delete from leasehold.scheduled s where s.task_id = run_now.task_id returning s.failures, s.crashes into v_failures, v_crashes;
    if found then
      perform leasehold.enter(array[run_now.task_id], array[v_failures], array[v_crashes], null, true);
      return true;
    end if;
    delete from leasehold.ready r where r.task_id = run_now.task_id
    returning r.failures, r.crashes, r.concurrency_key, r.stage, r.lane into v_failures, v_crashes, v_key, v_stage, v_lane;
    if found then
      -- It keeps the place its concurrency key has given it.
      insert into leasehold.ready (task_id, lane, failures, crashes, stage, concurrency_key)
      values (run_now.task_id, greatest(v_lane, 10::smallint), v_failures, v_crashes, v_stage, v_key);
      perform leasehold.wake(array[v_stage]);
      return true;
    end if;
    if exists (select from leasehold.waiting w where w.task_id = run_now.task_id) then
      raise exception 'task % cannot run now: %', run_now.task_id, (select e.reason from leasehold.explain_task(run_now.task_id) e)
        using errcode = 'LH005', hint = 'See leasehold.explain_task(id) for what holds it.';
    end if;
    if exists (select from leasehold.leases l where l.task_id = run_now.task_id)
      or leasehold.final_outcome(run_now.task_id) is not null then
      return false;
    end if;
    if not exists (select from leasehold.tasks t where t.id = run_now.task_id) then
      raise exception 'task % does not exist', run_now.task_id using errcode = 'LH002',
        hint = 'It may have been dropped by retention.';
    end if;
  end loop;
  raise exception 'task % kept moving; try again', run_now.task_id using errcode = 'serialization_failure';
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.sample_depths(p_share real DEFAULT 0.02)
 RETURNS interval
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
  v_started timestamptz := clock_timestamp();
  v_last record;
begin
  select x.at, max(x.took) as took into v_last from leasehold.stage_samples x
  where x.at = (select max(y.at) from leasehold.stage_samples y where y.at <= v_now + interval '1 minute') group by 1;
  if v_now < v_last.at + greatest(interval '50 seconds', v_last.took / p_share) then
    return null;
  end if;
  with counted as materialized (
    select s.name, coalesce(r.n, 0) as ready, coalesce(d.n, 0) as scheduled, coalesce(w.n, 0) as waiting, coalesce(l.n, 0) as running
    from leasehold.stages s
    left join (select stage, count(*) n from leasehold.ready group by 1) r on r.stage = s.name
    left join (select stage, count(*) n from leasehold.scheduled group by 1) d on d.stage = s.name
    left join (select stage, count(*) n from leasehold.waiting group by 1) w on w.stage = s.name
    left join (select stage, count(*) n from leasehold.leases group by 1) l on l.stage = s.name
  )
  insert into leasehold.stage_samples (stage, at, ready, scheduled, waiting, running, took)
  select c.name, v_now, c.ready, c.scheduled, c.waiting, c.running, clock_timestamp() - v_started from counted c
  on conflict do nothing;
  delete from leasehold.stage_samples x where x.at < v_now - interval '7 days' or x.at > v_now + interval '1 minute';
  return clock_timestamp() - v_started;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.schedule_due(p_schedule text, p_slot timestamp with time zone, p_jitter interval)
 RETURNS timestamp with time zone
 LANGUAGE sql
 STABLE PARALLEL SAFE
RETURN CASE WHEN (p_jitter = '00:00:00'::interval) THEN p_slot ELSE (p_slot + make_interval(secs => (trunc((((((('x'::text || "left"(md5(((p_schedule || ' '::text) || (EXTRACT(epoch FROM p_slot))::bigint)), 8)))::bit(32))::bigint)::numeric / 4294967296.0) * EXTRACT(epoch FROM p_jitter)), 3))::double precision)) END;

CREATE OR REPLACE FUNCTION leasehold.schedule_edited()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
  v_switched boolean;
begin
  begin
    perform v_now at time zone new.zone;
  exception when invalid_parameter_value then
    raise exception '% is no time zone', quote_literal(left(new.zone, 100))
      using errcode = 'invalid_parameter_value', hint = 'Names are IANA''s, such as Europe/London: select name from pg_timezone_names.';
  end;
  new.updated_at := v_now;
  if tg_op = 'INSERT' then
    new.created_at := v_now; new.since := v_now; new.revision := 1;
    new.next_slot := null; new.next_at := null; new.planned_at := null; new.problem := null; new.problem_at := null;
    new.held_since := null;
    return new;
  end if;
  if new.name <> old.name then
    raise exception 'schedule % cannot be renamed', quote_literal(old.name)
      using errcode = 'feature_not_supported', hint = 'Its history goes by its name: delete it and insert another one.';
  end if;
  v_switched := new.enabled <> old.enabled;
  if v_switched or (new.cron, new.every, new.anchor, new.zone, new.jitter)
      is distinct from (old.cron, old.every, old.anchor, old.zone, old.jitter) then
    if old.enabled and old.next_slot <= v_now then
      insert into leasehold.schedule_firings (schedule, slot, last_slot, outcome, reason, due_at, recorded_at, recorded_by)
      values (old.name, old.next_slot, v_now, 'skipped', case when v_switched then 'disabled' else 'changed' end,
        old.next_at, v_now, 'edit')
      on conflict on constraint slot_once_per_schedule do nothing;
    elsif old.enabled and old.next_slot is null then
      perform leasehold.note_uncomputed(old, case when v_switched then 'disabled' else 'changed' end);
    elsif new.enabled and v_switched then
      insert into leasehold.schedule_firings (schedule, slot, last_slot, outcome, reason, recorded_at, recorded_by)
      values (old.name, old.since, v_now, 'skipped', 'disabled', v_now, 'edit')
      on conflict on constraint slot_once_per_schedule do nothing;
    end if;
    new.since := v_now; new.next_slot := null; new.next_at := null; new.planned_at := null;
    new.problem := null; new.problem_at := null; new.held_since := null;
    new.revision := old.revision + 1;
  elsif new.catch_up <> old.catch_up then
    new.revision := old.revision + 1;
  end if;
  return new;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.schedule_facts(p_schedule leasehold.schedules)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
RETURN jsonb_build_object('name', (p_schedule).name, 'revision', (p_schedule).revision, 'enabled', (p_schedule).enabled, 'cron', (p_schedule).cron, 'every_ms', (floor((EXTRACT(epoch FROM (p_schedule).every) * (1000)::numeric)))::bigint, 'anchor', leasehold.epoch_ms((p_schedule).anchor), 'zone', (p_schedule).zone, 'catch_up', (p_schedule).catch_up, 'jitter_ms', (floor((EXTRACT(epoch FROM (p_schedule).jitter) * (1000)::numeric)))::bigint, 'next_slot', leasehold.epoch_ms((p_schedule).next_slot), 'since', leasehold.epoch_ms(LEAST((p_schedule).since, leasehold.clock())));

CREATE OR REPLACE FUNCTION leasehold.schedule_removed()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
begin
  if old.enabled and old.next_slot <= v_now then
    insert into leasehold.schedule_firings (schedule, slot, last_slot, outcome, reason, due_at, recorded_at, recorded_by)
    values (old.name, old.next_slot, v_now, 'skipped', 'deleted', old.next_at, v_now, 'edit')
    on conflict on constraint slot_once_per_schedule do nothing;
  elsif old.enabled and old.next_slot is null then
    perform leasehold.note_uncomputed(old, 'deleted');
  end if;
  return null;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.scheduler_leave(p_scheduler uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  update leasehold.schedulers c set stopped_at = leasehold.clock() where c.id = p_scheduler;
  return found;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.scheduler_tick(p_scheduler uuid, p_host text, p_pid integer, p_version text, p_poll_ms integer, p_limit integer DEFAULT 500)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
  v_due jsonb;
  v_next timestamptz;
begin
  insert into leasehold.schedulers as c (id, host, pid, version, poll_ms, started_at, ticked_at, ticks)
  values (p_scheduler, p_host, p_pid, p_version, p_poll_ms, v_now, v_now, 1)
  on conflict (id) do update set ticked_at = v_now, ticks = c.ticks + 1, stopped_at = null;
  select jsonb_agg(leasehold.schedule_facts(f.one) || jsonb_build_object('anew', f.anew)) into v_due
  from (
    (select s as one, false as anew from leasehold.schedules s
     where s.enabled and s.next_slot is not null and s.next_at <= v_now order by s.next_at limit p_limit)
    union all
    (select s, false from leasehold.schedules s
     where s.enabled and s.next_slot is null and (s.problem is null
       or coalesce(leasehold.believed(s.problem_at, v_now), '-infinity') < v_now - interval '10 minutes')
     order by s.name limit p_limit)
    union all
    (select s, true from leasehold.schedules s -- as believed() has it, in the words of an index
     where s.enabled and s.planned_at > v_now + interval '1 minute' and s.next_at > v_now order by s.planned_at limit p_limit)
  ) f;
  if v_due is null then
    select s.next_at into v_next from leasehold.schedules s
    where s.enabled and s.next_slot is not null order by s.next_at limit 1;
  end if;
  return jsonb_build_object('now', leasehold.epoch_ms(v_now), 'due', coalesce(v_due, '[]'),
    'wait_ms', case when v_due is not null then 0 else leasehold.epoch_ms(v_next) - leasehold.epoch_ms(v_now) end);
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.schema_version()
 RETURNS text
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  if to_regclass('leasehold_migrations.checksums') is null then
    return null;
  end if;
  return (select max(c.name collate "C") from leasehold_migrations.checksums c where c.set_name = 'leasehold');
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.serve_channels(p_channels text[])
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_now timestamptz;
begin
  perform from leasehold.alert_channels c order by c.channel for update;
  v_now := leasehold.clock();
  update leasehold.alert_channels c set served_at = v_now
  where c.channel = any (p_channels)
    and coalesce(leasehold.believed(c.served_at, v_now), '-infinity') < v_now - interval '30 seconds';
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.set_alert_channel(p_channel text, p_change jsonb)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_old leasehold.alert_channels;
  v_new leasehold.alert_channels;
begin
  perform leasehold.check_change(p_change, array['enabled', 'per_day']);
  select * into v_old from leasehold.alert_channels c where c.channel = p_channel for update;
  if not found then
    raise exception 'there is no alert channel ''%''', left(p_channel, 60)
      using errcode = '22023', hint = 'Known: email, telegram, webhook, command.';
  end if;
  v_new := jsonb_populate_record(v_old, p_change);
  if v_new is not distinct from v_old then
    return false;
  end if;
  update leasehold.alert_channels c set enabled = v_new.enabled, per_day = v_new.per_day where c.channel = p_channel;
  return true;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.set_alert_policy(p_change jsonb)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_old leasehold.alert_policy;
  v_new leasehold.alert_policy;
begin
  perform leasehold.check_change(p_change,
    array['per_day', 'reserve', 'zone', 'digest_at', 'quiet_from', 'quiet_until', 'gap']);
  select * into strict v_old from leasehold.alert_policy for update;
  v_new := jsonb_populate_record(v_old, p_change);
  if v_new is not distinct from v_old then
    return false;
  end if;
  update leasehold.alert_policy set per_day = v_new.per_day, reserve = v_new.reserve, zone = v_new.zone,
    digest_at = v_new.digest_at, quiet_from = v_new.quiet_from, quiet_until = v_new.quiet_until, gap = v_new.gap;
  return true;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.set_alert_rule(p_kind text, p_change jsonb)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_old leasehold.alert_rules;
  v_new leasehold.alert_rules;
  v_found boolean;
begin
  if p_change is null then
    delete from leasehold.alert_rules r where r.kind = p_kind;
    return found;
  end if;
  perform leasehold.check_change(p_change,
    array['tell', 'min_age', 'remind_after', 'channels', 'recovery', 'through_quiet']);
  select * into v_old from leasehold.alert_rules r where r.kind = p_kind for update;
  v_found := found;
  if not v_found then
    v_old := leasehold.alert_rule('*');
    v_old.kind := p_kind;
  end if;
  v_new := jsonb_populate_record(v_old, p_change);
  if v_found and v_new is not distinct from v_old then
    return false;
  end if;
  insert into leasehold.alert_rules as r select v_new.*
  on conflict (kind) do update set tell = excluded.tell, min_age = excluded.min_age, remind_after = excluded.remind_after,
    channels = excluded.channels, recovery = excluded.recovery, through_quiet = excluded.through_quiet;
  return true;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.set_backlog_limit(p_stage text, p_older_than interval)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  if p_older_than is null then
    delete from leasehold.backlog_limits b where b.stage = p_stage;
    return found;
  end if;
  insert into leasehold.backlog_limits as b (stage, older_than) values (p_stage, p_older_than)
  on conflict (stage) do update set older_than = excluded.older_than where b.older_than <> excluded.older_than;
  return found;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.set_retention(p_changes jsonb)
 RETURNS leasehold.retention
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_known constant text[] := array['keep_tasks', 'keep_logs', 'rotate_every', 'range_ids', 'keep_workers',
    'keep_incidents', 'keep_monitors', 'keep_firings'];
  v_unknown text;
  v_rule text;
  v_new leasehold.retention;
begin
  select k into v_unknown from jsonb_object_keys(p_changes) k where not k = any (v_known) limit 1;
  if found then
    raise exception 'retention has no setting %', quote_literal(v_unknown) using errcode = 'invalid_parameter_value',
      hint = 'There are ' || array_to_string(v_known, ', ') || '.';
  end if;
  select * into v_new from leasehold.retention for update;
  v_new := jsonb_populate_record(v_new, p_changes);
  update leasehold.retention r set keep_tasks = v_new.keep_tasks, keep_logs = v_new.keep_logs,
    rotate_every = v_new.rotate_every, range_ids = v_new.range_ids, keep_workers = v_new.keep_workers,
    keep_incidents = v_new.keep_incidents, keep_monitors = v_new.keep_monitors, keep_firings = v_new.keep_firings;
  return v_new;
exception when check_violation then
  -- The constraint's name is the rule, in words.
  get stacked diagnostics v_rule = constraint_name;
  raise exception '%, so % is refused', replace(v_rule, '_', ' '), p_changes
    using errcode = 'check_violation', constraint = v_rule;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.settle(worker_id uuid, task_id bigint, fence bigint, outcome text, result jsonb DEFAULT NULL::jsonb, error jsonb DEFAULT NULL::jsonb, retry_after interval DEFAULT NULL::interval, retryable boolean DEFAULT true, children jsonb DEFAULT NULL::jsonb)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_receipt jsonb;
  v_wrong text;
begin
  if outcome is null or outcome not in ('done', 'fail', 'release', 'snooze', 'cancel') then
    perform leasehold.refuse_field('settle', 'outcome', 'done, fail, release, snooze or cancel', quote_literal(outcome));
  end if;
  if worker_id is null or task_id is null or fence is null then
    v_wrong := case when worker_id is null then 'worker_id' when task_id is null then 'task_id' else 'fence' end;
    perform leasehold.refuse_field('settle', v_wrong, 'what claim() or register_worker() returned', null);
  end if;
  if jsonb_typeof(error) not in ('object', 'null') then
    perform leasehold.refuse_field('settle', 'error', 'an object, {"code": …, "message": …}', error::text);
  end if;
  if jsonb_typeof(children) not in ('array', 'null') then
    perform leasehold.refuse_field('settle', 'children', 'an array of objects, [{"stage": …, "payload": …}]', children::text);
  elsif jsonb_typeof(children) = 'array' then
    select c.child::text into v_wrong from jsonb_array_elements(children) as c(child)
    where jsonb_typeof(c.child) <> 'object' or jsonb_typeof(c.child -> 'stage') is distinct from 'string' limit 1;
    if found then
      perform leasehold.refuse_field('settle', 'each of children', 'an object with a stage, {"stage": …, "payload": …}', v_wrong);
    end if;
  end if;
  select x.extra::jsonb into v_receipt
  from leasehold.exchange(worker_id, null, null,
    jsonb_build_array(jsonb_strip_nulls(jsonb_build_object('task_id', task_id, 'fence', fence, 'outcome', outcome,
      'after_ms', (extract(epoch from retry_after) * 1000)::bigint, 'retryable', retryable))
      || case when result is null then '{}' else jsonb_build_object('result', result) end
      || case when error is null then '{}' else jsonb_build_object('error', error) end),
    case when jsonb_typeof(children) = 'array' then
      (select jsonb_agg(c || jsonb_build_object('parent_id', settle.task_id)) from jsonb_array_elements(children) c) end,
    null, null, null, null, null, null) x
  where x.task_id is null;
  return v_receipt ->> 'worker' = 'live' and not (v_receipt ? 'refused');
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.settle_endings(p_worker uuid, p_endings jsonb)
 RETURNS bigint[]
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
  v_accepted bigint[];
  v_keyed bigint[];
  v_special boolean;
  v_done bigint[];
  v_dead bigint[];
  v_cancelled bigint[];
  v_again bigint[];
  v_again_failures smallint[];
  v_again_crashes smallint[];
  v_again_at timestamptz[];
begin
  with asked as materialized (
    select e.task_id, e.outcome, e.result, e.error,
      case when e.after_ms is not null then least(greatest(e.after_ms, 0), 2592000000)::bigint end as after_ms,
      coalesce(e.retryable, true) as retryable, f.rid
    from jsonb_to_recordset(p_endings) as e(
      task_id bigint, fence bigint, outcome text, result jsonb, error jsonb, after_ms numeric, retryable boolean)
    cross join lateral (
      select l.ctid as rid from leasehold.leases l
      where l.task_id = e.task_id and l.fence is not distinct from e.fence and l.worker_id is not distinct from p_worker
        and (l.deadline_at > v_now or e.outcome = 'fail')
      limit 1) f
    where e.outcome in ('done', 'fail', 'release', 'snooze', 'cancel')
  ), gone as (
    delete from leasehold.leases l where l.ctid = any (array(select a.rid from asked a))
    returning l.task_id, l.fence, l.leased_at, l.attempt, l.crashes, l.stage, l.run_id, l.key, l.concurrency_key
  ), ended as (
    select distinct on (g.task_id) g.*, a.outcome, a.result, a.error, a.after_ms, a.retryable
    from gone g join asked a on a.task_id = g.task_id
  ), judged as (
    select n.*, s.backoff_min, s.backoff_max,
      case n.outcome
        when 'done' then 'done'
        when 'cancel' then 'cancelled'
        when 'release' then 'released'
        when 'snooze' then 'snoozed'
        else case
          when n.retryable and n.attempt < coalesce(
            (select t.max_attempts from leasehold.tasks t where t.id = n.task_id), s.max_attempts) then 'retry'
          else 'dead'
        end
      end as ending
    from ended n join leasehold.stages s on s.name = n.stage
  ), recorded as (
    insert into leasehold.attempts (task_id, fence, worker_id, leased_at, ended_at, attempt, final, outcome, error, result)
    select task_id, fence, p_worker, leased_at, v_now, attempt, ending in ('done', 'dead', 'cancelled'), ending, error, result
    from judged
  )
  select array_agg(task_id),
    array_agg(task_id) filter (where concurrency_key is not null),
    count(run_id) + count(key) > 0,
    array_agg(task_id) filter (where ending = 'done'),
    array_agg(task_id) filter (where ending = 'dead'),
    array_agg(task_id) filter (where ending = 'cancelled'),
    array_agg(task_id order by task_id) filter (where ending in ('retry', 'released', 'snoozed')),
    array_agg((attempt - case when ending = 'retry' then 0 else 1 end)::smallint order by task_id)
      filter (where ending in ('retry', 'released', 'snoozed')),
    array_agg(crashes order by task_id) filter (where ending in ('retry', 'released', 'snoozed')),
    array_agg(
      case ending
        when 'released' then null
        when 'snoozed' then v_now + greatest(coalesce(after_ms, 1000), 1000) * interval '1 millisecond'
        else v_now + coalesce(after_ms * interval '1 millisecond', leasehold.backoff(attempt, backoff_min, backoff_max))
      end order by task_id) filter (where ending in ('retry', 'released', 'snoozed'))
  into v_accepted, v_keyed, v_special, v_done, v_dead, v_cancelled, v_again, v_again_failures, v_again_crashes, v_again_at
  from judged;
  if v_keyed is not null then
    perform leasehold.nudge_keys(v_keyed);
  end if;
  -- Without key, run and children nothing follows from an end; a transaction with an old snapshot may not see all children.
  if v_special
    or exists (select from leasehold.dependencies d where d.parent_id = any (v_accepted))
    or pg_catalog.current_setting('transaction_isolation') <> 'read committed'
  then
    if v_done is not null then
      perform leasehold.after_end(v_done, 'done');
    end if;
    if v_dead is not null then
      perform leasehold.after_end(v_dead, 'dead');
    end if;
    if v_cancelled is not null then
      perform leasehold.after_end(v_cancelled, 'cancelled');
    end if;
  end if;
  if v_again is not null then
    perform leasehold.enter(v_again, v_again_failures, v_again_crashes, v_again_at, false);
  end if;
  return v_accepted;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.stands_still(p_task_id bigint)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  perform from leasehold.leases where task_id = p_task_id for key share skip locked;
  if found then return true; end if;
  perform from leasehold.ready where task_id = p_task_id for key share skip locked;
  if found then return true; end if;
  perform from leasehold.scheduled where task_id = p_task_id for key share skip locked;
  if found then return true; end if;
  perform from leasehold.waiting where task_id = p_task_id for key share skip locked;
  return found;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.storage_health()
 RETURNS TABLE(name text, status text, value text, advice text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  with relation as materialized (
    select coalesce(i.inhparent, c.oid)::regclass as base, sum(pg_total_relation_size(c.oid)) as bytes
    from pg_class c left join pg_inherits i on i.inhrelid = c.oid
    where c.relnamespace = 'leasehold'::regnamespace and c.relkind = 'r' group by 1
  ), churning as materialized (
    select u.relname::text as relname, u.n_dead_tup as dead, u.n_live_tup as live, pg_total_relation_size(u.relid) as bytes
    from pg_stat_user_tables u
    where u.schemaname = 'leasehold' and u.relname in ('ready', 'leases', 'scheduled', 'waiting', 'nudges', 'task_keys', 'workers',
      'sleepers', 'run_ledger', 'floors')
  ), waiting_ranges as materialized (
    select p.*, p.closed_at + r.keep_tasks as due_at
    from leasehold.partitions p cross join leasehold.retention r where p.closed_at is not null
  )
  select 'largest tables', 'ok',
    (select string_agg(replace(x.base::text, 'leasehold.', '') || ' ' || pg_size_pretty(x.bytes), ', ' order by x.bytes desc)
     from (select * from relation order by bytes desc limit 4) x),
    'With all partitions and indexes. How long history is kept: npx leasehold retention.'
  union all
  select 'dead share', case when coalesce(bool_or(c.bytes > 268435456 and c.dead > 4 * c.live), false) then 'warn' else 'ok' end,
    coalesce(string_agg(c.relname || ' ' || round(100.0 * c.dead / (c.dead + c.live)) || ' % of '
      || pg_size_pretty(c.bytes), ', ' order by c.dead desc) filter (where c.dead > 1000), 'nothing worth telling'),
    'Vacuum does not keep up, or may not: look for old transactions, then for autovacuum_max_workers and its cost limit.'
  from churning c
  union all
  select 'oldest range', 'ok',
    coalesce((select 'ids from ' || p.first_id || ', taken since ' || date_trunc('second', p.opened_at) from leasehold.partitions p
      where p.opened_at is not null order by p.first_id limit 1), 'none'),
    'All ranges and what becomes of them: npx leasehold retention plan.'
  union all
  select 'tasks outside of ranges', case when x.n > 0 then 'warn' else 'ok' end, case when x.n > 1000 then 'more than 1000' else x.n::text end,
    'The ranges had run out. Nothing is lost; ended ones go by and by. See npx leasehold housekeeping for why.'
  from (select count(*) as n from (select from leasehold.tasks_default limit 1001) y) x
  union all
  select 'retention lag',
    case when min(w.due_at) < leasehold.clock() - greatest(interval '1 hour', (select r.keep_tasks / 4 from leasehold.retention r))
      then 'warn' else 'ok' end,
    coalesce((select 'ids from ' || v.first_id || ' stay since ' || date_trunc('second', v.due_at) || ': '
        || coalesce(v.stays_because, 'not tried yet')
      from waiting_ranges v where v.due_at < leasehold.clock() order by v.first_id limit 1), 'none'),
    'End or cancel what is unfinished in it, or wait: npx leasehold retention plan.'
  from waiting_ranges w
  union all
  select 'housekeeping', case when count(*) > 0 then 'bad' else 'ok' end,
    coalesce(string_agg(o.subject, ', ' order by o.subject) || ' overdue', 'on time'),
    'What failed: npx leasehold housekeeping.'
  from leasehold.overdue_housekeeping() o
$function$;

CREATE OR REPLACE FUNCTION leasehold.submit(stage text, payload jsonb DEFAULT '{}'::jsonb, priority integer DEFAULT NULL::integer, run_at timestamp with time zone DEFAULT NULL::timestamp with time zone, key text DEFAULT NULL::text, run_id text DEFAULT NULL::text, title text DEFAULT NULL::text, max_attempts integer DEFAULT NULL::integer, timeout interval DEFAULT NULL::interval, depends_on bigint[] DEFAULT NULL::bigint[], concurrency_key text DEFAULT NULL::text, meta jsonb DEFAULT NULL::jsonb, on_key_conflict text DEFAULT 'error'::text)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_id bigint;
  v_holder bigint;
begin
  if submit.on_key_conflict is null or submit.on_key_conflict not in ('error', 'keep', 'replace') then
    raise exception 'on_key_conflict must be error, keep or replace, not %', coalesce(quote_literal(submit.on_key_conflict), 'null')
      using errcode = 'invalid_parameter_value';
  end if;
  if submit.payload is null then
    raise exception 'payload must not be null' using errcode = 'not_null_violation', hint = 'Use ''{}'' for none.';
  end if;
  if not exists (select from leasehold.stages s where s.name = submit.stage) then
    perform leasehold.raise_unknown_stage(submit.stage);
  end if;
  v_id := nextval('leasehold.tasks_id_seq');
  if submit.key is not null and submit.on_key_conflict <> 'error' then
    loop
      -- Waits for a submitter that has inserted the same key and not yet committed.
      insert into leasehold.task_keys (stage, key, task_id) values (submit.stage, submit.key, v_id)
      on conflict on constraint key_once_per_unfinished_task do nothing;
      exit when found;
      select k.task_id into v_holder from leasehold.task_keys k where k.stage = submit.stage and k.key = submit.key;
      continue when not found;
      if submit.on_key_conflict = 'keep' then
        return v_holder;
      end if;
      -- Only where no lease is: a task that is claimed meanwhile is never cancelled to run beside its own replacement.
      if leasehold.end_unleased(v_holder, 'cancelled',
        jsonb_build_object('code', 'replaced', 'message', 'replaced by task ' || v_id)) then
        perform leasehold.process_nudges_if_allowed(v_holder);
      elsif exists (select from leasehold.leases l where l.task_id = v_holder) then
        raise exception 'task % holds key % of stage % and is running', v_holder, quote_literal(submit.key), quote_literal(submit.stage)
          using errcode = 'object_in_use', hint = 'Cancel it first, or submit with on_key_conflict => ''keep''.';
      end if;
    end loop;
  end if;
  insert into leasehold.tasks (
    id, stage, payload, priority, run_at, key, run_id, title, max_attempts, timeout, depends_on, concurrency_key, meta)
  overriding system value
  values (
    v_id, submit.stage, submit.payload, submit.priority, submit.run_at, submit.key, submit.run_id, submit.title,
    submit.max_attempts, submit.timeout, submit.depends_on, submit.concurrency_key, submit.meta);
  return v_id;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.submit_children(p_children jsonb, p_parents bigint[])
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  insert into leasehold.tasks (
    stage, payload, priority, run_at, key, run_id, title, max_attempts, timeout, depends_on, concurrency_key, meta)
  select c.stage, coalesce(e.child -> 'payload', '{}'), c.priority, c.run_at, c.key, coalesce(c.run_id, p.run_id), c.title,
    c.max_attempts, c.timeout_ms * interval '1 millisecond', c.depends_on, c.concurrency_key, c.meta
  from jsonb_array_elements(p_children) with ordinality as e(child, nr)
  cross join lateral jsonb_to_record(e.child) as c(
    parent_id bigint, stage text, priority smallint, run_at timestamptz, key text, run_id text, title text,
    max_attempts smallint, timeout_ms bigint, depends_on bigint[], concurrency_key text, meta jsonb)
  join leasehold.tasks p on p.id = c.parent_id
  where c.parent_id = any (p_parents)
  order by e.nr
$function$;

CREATE OR REPLACE FUNCTION leasehold.tables_to_vacuum()
 RETURNS TABLE(name text, dead bigint)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select u.relname::text, u.n_dead_tup
  from pg_catalog.pg_stat_user_tables u
  where u.schemaname = 'leasehold' and u.n_dead_tup > greatest(20000, u.n_live_tup)
    and u.relname in ('ready', 'leases', 'scheduled', 'waiting', 'nudges', 'task_keys', 'dependencies', 'concurrency_keys',
      'sleepers', 'workers', 'revocations', 'run_ledger', 'floors', 'floor_probes', 'stage_samples',
      'stage_rates')
    and coalesce(greatest(leasehold.believed(u.last_vacuum, clock_timestamp()), leasehold.believed(u.last_autovacuum, clock_timestamp())),
      '-infinity') < clock_timestamp() - interval '3 minutes'
  order by u.n_dead_tup desc
$function$;

CREATE OR REPLACE FUNCTION leasehold.take_revocations(p_worker uuid)
 RETURNS jsonb
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  with taken as (delete from leasehold.revocations r where r.worker_id = p_worker returning r.task_id, r.fence, r.reason)
  select coalesce(jsonb_agg(jsonb_build_object('task_id', task_id::text, 'fence', fence::text, 'reason', reason)), '[]') from taken
$function$;

CREATE OR REPLACE FUNCTION leasehold.task_extra(p_task leasehold.tasks, p_crashes smallint)
 RETURNS text
 LANGUAGE sql
 STABLE PARALLEL SAFE
RETURN (jsonb_strip_nulls(jsonb_build_object('run_id', (p_task).run_id, 'key', (p_task).key, 'title', (p_task).title, 'meta', (p_task).meta, 'priority', (p_task).priority, 'concurrency_key', (p_task).concurrency_key, 'max_attempts', (p_task).max_attempts, 'timeout_ms', ((EXTRACT(epoch FROM (p_task).timeout) * (1000)::numeric))::bigint, 'crashes', NULLIF(p_crashes, 0))))::text;

CREATE OR REPLACE FUNCTION leasehold.tidy()
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  select leasehold.tidy_rows()
$function$;

CREATE OR REPLACE FUNCTION leasehold.tidy_rows(p_limit integer DEFAULT 10000)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_settings leasehold.retention;
  v_now timestamptz := leasehold.clock();
  v_gone jsonb := '{}';
  v_count bigint;
begin
  select * into v_settings from leasehold.retention;
  with idle as (
    select k.ctid as rid from leasehold.concurrency_keys k
    where not exists (select from leasehold.ready r where r.stage = k.stage and r.concurrency_key = k.concurrency_key)
      and not exists (select from leasehold.leases l where l.stage = k.stage and l.concurrency_key = k.concurrency_key)
      and not exists (select from leasehold.waiting w where w.stage = k.stage and w.concurrency_key = k.concurrency_key and not w.for_parents)
      and not exists (select from leasehold.nudges n where n.stage = k.stage and n.concurrency_key = k.concurrency_key)
    limit p_limit for update skip locked
  )
  delete from leasehold.concurrency_keys k where k.ctid = any (array(select i.rid from idle i));
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('concurrency_keys', v_count);
  -- Left by a cancel that met the end of its worker: nobody will read them.
  delete from leasehold.revocations r
  where not exists (select from leasehold.workers w where w.id = r.worker_id and w.ended_at is null);
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('revocations', v_count);
  delete from leasehold.sleepers z where z.wake_until < v_now - interval '1 hour';
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('sleepers', v_count);
  -- What goes by its age stays while the clock is in doubt.
  if leasehold.clock_doubt() is not null then
    return (select coalesce(jsonb_object_agg(e.key, e.value), '{}') from jsonb_each(v_gone) e where e.value <> '0');
  end if;
  delete from leasehold.workers w where w.ctid = any (array(
    select x.ctid from leasehold.workers x where x.ended_at < v_now - v_settings.keep_workers limit p_limit));
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('workers', v_count);
  delete from leasehold.alerts a where a.ctid = any (array(
    select x.ctid from leasehold.alerts x where x.created_at < v_now - v_settings.keep_incidents limit p_limit));
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('alerts', v_count);
  delete from leasehold.incidents i where i.ctid = any (array(
    select x.ctid from leasehold.incidents x where x.resolved_at < v_now - v_settings.keep_incidents limit p_limit));
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('incidents', v_count);
  delete from leasehold.monitors m where m.ticked_at < v_now - v_settings.keep_monitors;
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('monitors', v_count);
  delete from leasehold.monitor_gaps g where g.ended_at < v_now - v_settings.keep_monitors;
  get diagnostics v_count = row_count;
  v_gone := v_gone || jsonb_build_object('monitor_gaps', v_count);
  if to_regproc('leasehold.trim_schedule_firings') is not null then
    execute 'select leasehold.trim_schedule_firings($1, $2)' into v_count using v_settings.keep_firings, p_limit;
    v_gone := v_gone || jsonb_build_object('schedule_firings', v_count);
  end if;
  return (select coalesce(jsonb_object_agg(e.key, e.value), '{}') from jsonb_each(v_gone) e where e.value <> '0');
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.trim_schedule_firings(p_keep interval DEFAULT '90 days'::interval, p_limit integer DEFAULT 10000)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_removed integer;
begin
  delete from leasehold.schedulers c where c.ticked_at < leasehold.clock() - interval '7 days';
  delete from leasehold.schedule_firings f
  where f.ctid = any (array(
    select x.ctid from leasehold.schedule_firings x
    where x.recorded_at < (select leasehold.clock() - greatest(p_keep, interval '31 days'))
      -- One step in the index for each; as a join it would compare all rows of a schedule with each other.
      and (x.slot < (select n.slot from leasehold.schedule_firings n where n.schedule = x.schedule order by n.slot desc limit 1)
        or not exists (select from leasehold.schedules s where s.name = x.schedule))
    order by x.recorded_at limit p_limit));
  get diagnostics v_removed = row_count;
  return v_removed;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.violations()
 RETURNS TABLE(violation text, task_id bigint, stage text, detail text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
  select 'ready row below its floor' as violation, b.task_id, b.stage, 'position ' || b.ready_position || ' < floor ' || b.floor as detail
  from leasehold.below_floors() b
  where not exists (select from leasehold.stragglers)
  union all
  -- "offset 0" keeps each of these questions from becoming a join.
  select 'running and ready', l.task_id, l.stage, null from leasehold.workers w
  join leasehold.leases l on l.worker_id = w.id and l.fence >= w.oldest_fence
  where w.ended_at is null and exists (select from leasehold.ready r where r.task_id = l.task_id offset 0)
  union all
  select 'lease of an ended worker', l.task_id, l.stage, w.slot || ' ended ' || w.end_reason
  from leasehold.workers w join leasehold.leases l on l.worker_id = w.id
  where w.ended_at > leasehold.clock() - interval '1 hour'
  union all
  select f.violation, f.task_id, f.stage, f.detail from leasehold.forgotten_leases() f
  union all
  select 'more tasks of a key admitted than its limit', min(h.task_id), h.stage, h.concurrency_key || ': ' || count(*) || ' > ' || s.key_limit
  from (
    select l.task_id, l.stage, l.concurrency_key, l.leased_at from leasehold.leases l where l.concurrency_key is not null
    union all
    select r.task_id, r.stage, r.concurrency_key, null from leasehold.ready r where r.concurrency_key is not null
  ) h join leasehold.stages s on s.name = h.stage
  group by h.stage, h.concurrency_key, s.key_limit
  having count(*) > greatest(s.key_limit, count(*) filter (where h.leased_at <= s.key_limit_lowered_at))
  union all
  select 'task in no state', t.id, t.stage, null
  from (select x.id, x.stage from leasehold.tasks x order by x.id desc limit 200) t
  where not exists (select from leasehold.ready r where r.task_id = t.id offset 0)
    and not exists (select from leasehold.leases l where l.task_id = t.id offset 0)
    and not exists (select from leasehold.scheduled d where d.task_id = t.id offset 0)
    and not exists (select from leasehold.waiting w where w.task_id = t.id offset 0)
    and leasehold.final_outcome(t.id) is null
$function$;

CREATE OR REPLACE FUNCTION leasehold.wake(p_stages text[])
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
begin
  perform pg_catalog.pg_notify('leasehold:' || s.stage, '')
  from (
    select distinct z.stage from leasehold.sleepers z
    where z.stage = any (p_stages) and z.wake_until > leasehold.clock()) s
  where pg_catalog.pg_notification_queue_usage() < 0.25;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.why_untold()
 RETURNS text
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  with channel as (
    select c.channel, c.served_at is not null as known,
      coalesce(leasehold.believed(c.served_at, k.now) > k.now - interval '1 day', false) as served,
      (select i.summary from leasehold.incidents i
        where i.kind = 'channel_down' and i.subject = c.channel and i.resolved_at is null) as down,
      leasehold.is_withheld(c.channel, k.now) as withheld
    from (select leasehold.clock() as now) k cross join leasehold.alert_channels c
    where c.enabled
  )
  select coalesce(
    (select string_agg(coalesce(c.down, 'alerts by ' || c.channel || ' are withheld until the next digest''s hour'), '; '
      order by c.channel) from channel c where c.known and (c.down is not null or c.withheld)),
    'no channel is switched on and configured in a monitor')
  from (select leasehold.clock() as now) k
  where not exists (select from channel c where c.served and c.down is null and not c.withheld)
    and (
      exists (select from leasehold.incidents i cross join lateral leasehold.alert_rule(i.kind) r
        where i.resolved_at is null and r.tell = 'now'
          and coalesce(k.now - leasehold.believed(i.opened_at, k.now) >= r.min_age, true)
          and (i.kind <> 'channel_down' or exists (select from channel c where c.channel = i.subject and c.known))
          and not exists (select from leasehold.alert_news n left join leasehold.alerts a on a.id = n.alert_id
            where n.incident_id = i.id and n.told_at is not null and (a.id is null or a.sent_at is not null)))
      or exists (select from leasehold.alerts a join channel c on c.channel = a.channel and c.known
        where a.sent_at is null and a.refused_at is null))
$function$;

CREATE OR REPLACE FUNCTION leasehold.work_conditions()
 RETURNS TABLE(kind text, subject text, summary text, details jsonb)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
  with failed as (
    select a.task_id, a.outcome, a.ended_at, a.error from leasehold.attempts a
    -- The moment once, in a subquery: the clock is volatile, and a filter would walk the whole history of failures.
    where a.outcome in ('dead', 'retry', 'lost') and a.ended_at > (select leasehold.clock() - interval '1 hour')
      and a.ended_at <= (select leasehold.clock() + interval '1 minute')
    order by a.ended_at desc limit 5000
  ), dead as (
    select t.stage, count(*) as n, max(f.ended_at) as last_at,
      (array_agg(jsonb_build_object('task_id', t.id::text, 'title', left(t.title, 200), 'error', left(f.error ->> 'message', 500))
        order by f.ended_at desc))[1] as last
    from failed f join leasehold.tasks t on t.id = f.task_id
    where f.outcome = 'dead' and f.error ->> 'code' is distinct from 'quarantined'
    group by t.stage
  ), late as (
    select b.stage, b.older_than, leasehold.clock() - (
      select min(greatest(t.submitted_at, t.run_at)) from generate_series(0, 11) as g(lane)
      cross join lateral (
        select r.task_id from leasehold.ready r
        where r.stage = b.stage and r.lane = g.lane::smallint
          and r.position >= coalesce((select f.floor from leasehold.floors f
            where f.stage = b.stage and f.lane = g.lane::smallint order by f.floor desc limit 1), 0)
        order by r.position limit 1) first
      join leasehold.tasks t on t.id = first.task_id) as age
    from leasehold.backlog_limits b
    where not exists (select from leasehold.stages s where s.name = b.stage and s.paused_until > leasehold.clock())
      and not leasehold.is_held_by_rate(b.stage)
  )
  select 'tasks_failing', d.stage, 'tasks of stage ' || d.stage || ' end dead',
    jsonb_build_object('stage', d.stage, 'dead', d.n, 'last_at', d.last_at, 'last', d.last)
  from dead d
  union all
  select 'backlog_old', l.stage,
    'the oldest ready task of stage ' || l.stage || ' is older than ' || l.older_than::text,
    jsonb_build_object('stage', l.stage, 'age_s', round(extract(epoch from l.age)::numeric, 1),
      'limit_s', round(extract(epoch from l.older_than)::numeric, 1))
  from late l where l.age > l.older_than
$function$;

CREATE OR REPLACE FUNCTION leasehold.write_message(p_channel text, p_purpose text, p_news bigint[], p_subject text, p_body text)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
  v_id bigint;
begin
  insert into leasehold.alerts (channel, purpose, incident_ids, subject, body, created_at, next_try_at)
  values (p_channel, p_purpose, array(select distinct n.incident_id from leasehold.alert_news n
    where n.id = any (p_news) order by 1), p_subject, p_body, v_now, v_now)
  returning id into v_id;
  -- What is over when it is told for the first time was told as over: nothing more will come of it.
  update leasehold.alert_news n set told_at = v_now, alert_id = v_id, followed = n.followed or i.resolved_at is not null
  from leasehold.incidents i where n.id = any (p_news) and i.id = n.incident_id;
  return v_id;
end
$function$;

CREATE OR REPLACE FUNCTION leasehold.write_notes(p_worker uuid, p_notes jsonb)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'leasehold', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now timestamptz := leasehold.clock();
  v_written integer;
  v_wrong record;
begin
  if jsonb_typeof(p_notes) <> 'array' then
    perform leasehold.refuse_field('write_notes', 'p_notes', 'an array of objects', p_notes::text);
  end if;
  select e.note, case
      when jsonb_typeof(e.note) <> 'object' then 'each note'
      when (e.note ->> 'kind') in ('log', 'progress', 'checkpoint') is not true then 'kind'
      when e.note ->> 'task_id' is null then 'task_id'
      when e.note ->> 'fence' is null then 'fence'
      when e.note ->> 'kind' = 'checkpoint' and e.note ->> 'name' is null then 'name'
    end as field into v_wrong
  from jsonb_array_elements(p_notes) as e(note)
  where jsonb_typeof(e.note) <> 'object' or (e.note ->> 'kind') in ('log', 'progress', 'checkpoint') is not true
    or e.note ->> 'task_id' is null or e.note ->> 'fence' is null
    or (e.note ->> 'kind' = 'checkpoint' and e.note ->> 'name' is null)
  limit 1;
  if found then
    perform leasehold.refuse_field('write_notes', v_wrong.field, case v_wrong.field
      when 'each note' then 'an object' when 'kind' then 'log, progress or checkpoint'
      when 'name' then 'the name of the checkpoint' else 'what claim() returned' end,
      case when v_wrong.field = 'each note' then v_wrong.note::text else v_wrong.note ->> v_wrong.field end);
  end if;
  perform from leasehold.workers w
  where w.id = p_worker and w.ended_at is null and w.expires_at > v_now for key share;
  if not found then
    return 0;
  end if;
  with noted as materialized (
    select n.*, e.nr
    from jsonb_array_elements(p_notes) with ordinality as e(note, nr)
    cross join lateral jsonb_to_record(e.note) as n(
      task_id bigint, fence bigint, kind text, level text, message text, fields jsonb, fraction real, name text,
      value jsonb, at_ms_ago bigint)
    cross join lateral (
      select from leasehold.leases l
      where l.task_id = n.task_id and l.fence is not distinct from n.fence and l.worker_id is not distinct from p_worker
      limit 1 for key share) held
  ), logs as (
    insert into leasehold.task_logs (task_id, fence, at, level, message, fields)
    select task_id, fence, v_now - coalesce(at_ms_ago, 0) * interval '1 millisecond', coalesce(level, 'info'),
      coalesce(message, ''), fields
    from noted where kind = 'log' order by nr
  ), progress as (
    insert into leasehold.task_progress (task_id, at, fence, fraction, message)
    select distinct on (task_id) task_id, v_now, fence, fraction, message
    from noted where kind = 'progress' order by task_id, nr desc
    on conflict do nothing
  ), checkpoints as (
    insert into leasehold.task_checkpoints (task_id, name, fence, at, value)
    select task_id, name, fence, v_now, value from noted where kind = 'checkpoint'
    on conflict (task_id, name) do nothing
  )
  select count(*) into v_written from noted;
  return v_written;
end
$function$;

grant delete, select on table leasehold.schedules to leasehold_operator;
grant execute on function leasehold.advance_floors(p_patience interval, p_step bigint) to leasehold_worker;
grant execute on function leasehold.advance_floors_every(p_every interval) to leasehold_worker;
grant execute on function leasehold.advance_schedules(p_plans jsonb, p_by text, p_scheduler uuid) to leasehold_operator;
grant execute on function leasehold.audit() to leasehold_operator;
grant execute on function leasehold.below_floors(p_from bigint) to leasehold_observer;
grant execute on function leasehold.below_floors(p_from bigint) to leasehold_submitter;
grant execute on function leasehold.cancel_task(task_id bigint, reason text) to leasehold_operator;
grant execute on function leasehold.claim(worker_id uuid, stage text, max_tasks integer) to leasehold_worker;
grant execute on function leasehold.clock() to public;
grant execute on function leasehold.clock_doubt() to leasehold_observer;
grant execute on function leasehold.drain_slot(slot text) to leasehold_operator;
grant execute on function leasehold.epoch_ms(p_at timestamp with time zone) to leasehold_operator;
grant execute on function leasehold.exchange(p_worker uuid, p_done_ids bigint[], p_done_fences bigint[], p_endings jsonb, p_children jsonb, p_notes jsonb, p_stages text[], p_limits integer[], p_run_id text, p_promote boolean, p_wake_ms integer) to leasehold_worker;
grant execute on function leasehold.exchange(p_worker uuid, p_done_ids bigint[], p_done_fences bigint[], p_endings jsonb, p_children jsonb, p_notes jsonb, p_stages text[], p_limits integer[], p_run_id text, p_promote boolean, p_wake_ms integer, p_packed boolean) to leasehold_worker;
grant execute on function leasehold.explain_task(task_id bigint) to leasehold_observer;
grant execute on function leasehold.explain_task(task_id bigint) to leasehold_submitter;
grant execute on function leasehold.final_outcome(p_task_id bigint) to leasehold_observer;
grant execute on function leasehold.final_outcome(p_task_id bigint) to leasehold_submitter;
grant execute on function leasehold.forgotten_leases() to leasehold_observer;
grant execute on function leasehold.heartbeat(worker_id uuid, loop_age_ms bigint, oldest_fence bigint, running integer, draining boolean, renew boolean, meta jsonb) to leasehold_worker;
grant execute on function leasehold.late_schedules() to leasehold_observer;
grant execute on function leasehold.leave(worker_id uuid, reason text) to leasehold_worker;
grant execute on function leasehold.microseconds(p_length interval) to leasehold_observer;
grant execute on function leasehold.monitor_silence() to leasehold_observer;
grant execute on function leasehold.monitor_silence() to leasehold_submitter;
grant execute on function leasehold.monitor_silence() to leasehold_worker;
grant execute on function leasehold.note_alert_test(p_channel text, p_error text) to leasehold_operator;
grant execute on function leasehold.overdue_housekeeping() to leasehold_observer;
grant execute on function leasehold.pause_stage(name text, until timestamp with time zone) to leasehold_operator;
grant execute on function leasehold.process_nudges(p_stages text[], p_limit integer) to leasehold_worker;
grant execute on function leasehold.promote_due(p_stages text[], p_limit integer) to leasehold_worker;
grant execute on function leasehold.range_span() to leasehold_observer;
grant execute on function leasehold.rate_next(p_tasks integer, p_per interval, p_burst integer, p_arrival timestamp with time zone, p_at timestamp with time zone) to leasehold_observer;
grant execute on function leasehold.rate_span(p_tasks integer, p_per interval, p_starts integer) to leasehold_observer;
grant execute on function leasehold.register_stage(p_name text, p_priority integer, p_max_attempts integer, p_timeout interval, p_backoff_min interval, p_backoff_max interval, p_max_crashes integer, p_key_limit integer, p_expected_workers integer, p_rate_tasks integer, p_rate_per interval, p_rate_burst integer) to leasehold_worker;
grant execute on function leasehold.register_worker(p_slot text, p_stages text[], p_ttl interval, p_beat_interval interval, p_host text, p_pid integer, p_version text, p_concurrency integer, p_meta jsonb) to leasehold_worker;
grant execute on function leasehold.release(worker_id uuid, task_id bigint, fence bigint) to leasehold_worker;
grant execute on function leasehold.release_dead_workers(p_limit integer) to leasehold_worker;
grant execute on function leasehold.resume_stage(name text) to leasehold_operator;
grant execute on function leasehold.retention_plan() to leasehold_observer;
grant execute on function leasehold.retry_alerts(p_channel text) to leasehold_operator;
grant execute on function leasehold.retry_task(task_id bigint) to leasehold_operator;
grant execute on function leasehold.return_strays(p_worker uuid, p_known bigint[]) to leasehold_worker;
grant execute on function leasehold.return_strays(p_worker uuid, p_known bigint[], p_known_fences bigint[]) to leasehold_worker;
grant execute on function leasehold.run_now(task_id bigint) to leasehold_operator;
grant execute on function leasehold.schedule_facts(p_schedule leasehold.schedules) to leasehold_operator;
grant execute on function leasehold.scheduler_leave(p_scheduler uuid) to leasehold_operator;
grant execute on function leasehold.scheduler_tick(p_scheduler uuid, p_host text, p_pid integer, p_version text, p_poll_ms integer, p_limit integer) to leasehold_operator;
grant execute on function leasehold.schema_version() to leasehold_observer;
grant execute on function leasehold.schema_version() to leasehold_worker;
grant execute on function leasehold.set_alert_channel(p_channel text, p_change jsonb) to leasehold_operator;
grant execute on function leasehold.set_alert_policy(p_change jsonb) to leasehold_operator;
grant execute on function leasehold.set_alert_rule(p_kind text, p_change jsonb) to leasehold_operator;
grant execute on function leasehold.set_backlog_limit(p_stage text, p_older_than interval) to leasehold_operator;
grant execute on function leasehold.settle(worker_id uuid, task_id bigint, fence bigint, outcome text, result jsonb, error jsonb, retry_after interval, retryable boolean, children jsonb) to leasehold_worker;
grant execute on function leasehold.storage_health() to leasehold_observer;
grant execute on function leasehold.submit(stage text, payload jsonb, priority integer, run_at timestamp with time zone, key text, run_id text, title text, max_attempts integer, timeout interval, depends_on bigint[], concurrency_key text, meta jsonb, on_key_conflict text) to leasehold_submitter;
grant execute on function leasehold.violations() to leasehold_observer;
grant execute on function leasehold.write_notes(p_worker uuid, p_notes jsonb) to leasehold_worker;
grant insert (anchor), update (anchor) on table leasehold.schedules to leasehold_operator;
grant insert (catch_up), update (catch_up) on table leasehold.schedules to leasehold_operator;
grant insert (concurrency_key) on table leasehold.tasks to leasehold_submitter;
grant insert (cron), update (cron) on table leasehold.schedules to leasehold_operator;
grant insert (depends_on) on table leasehold.tasks to leasehold_submitter;
grant insert (enabled), update (enabled) on table leasehold.schedules to leasehold_operator;
grant insert (every), update (every) on table leasehold.schedules to leasehold_operator;
grant insert (fired_by), update (fired_by) on table leasehold.schedules to leasehold_operator;
grant insert (jitter), update (jitter) on table leasehold.schedules to leasehold_operator;
grant insert (key) on table leasehold.tasks to leasehold_submitter;
grant insert (key), update (key) on table leasehold.schedules to leasehold_operator;
grant insert (max_attempts) on table leasehold.tasks to leasehold_submitter;
grant insert (meta) on table leasehold.tasks to leasehold_submitter;
grant insert (name) on table leasehold.schedules to leasehold_operator;
grant insert (owner), update (owner) on table leasehold.schedules to leasehold_operator;
grant insert (payload) on table leasehold.tasks to leasehold_submitter;
grant insert (payload), update (payload) on table leasehold.schedules to leasehold_operator;
grant insert (priority) on table leasehold.tasks to leasehold_submitter;
grant insert (priority), update (priority) on table leasehold.schedules to leasehold_operator;
grant insert (run_at) on table leasehold.tasks to leasehold_submitter;
grant insert (run_id) on table leasehold.tasks to leasehold_submitter;
grant insert (stage) on table leasehold.tasks to leasehold_submitter;
grant insert (stage), update (stage) on table leasehold.schedules to leasehold_operator;
grant insert (timeout) on table leasehold.tasks to leasehold_submitter;
grant insert (title) on table leasehold.tasks to leasehold_submitter;
grant insert (zone), update (zone) on table leasehold.schedules to leasehold_operator;
grant select (id) on table leasehold.tasks to leasehold_submitter;
grant select on table leasehold.active_leases to leasehold_observer;
grant select on table leasehold.alert_channels to leasehold_observer;
grant select on table leasehold.alert_doubts to leasehold_observer;
grant select on table leasehold.alert_news to leasehold_observer;
grant select on table leasehold.alert_policy to leasehold_observer;
grant select on table leasehold.alert_rules to leasehold_observer;
grant select on table leasehold.alerts to leasehold_observer;
grant select on table leasehold.attempts to leasehold_observer;
grant select on table leasehold.backlog_limits to leasehold_observer;
grant select on table leasehold.database_health to leasehold_observer;
grant select on table leasehold.dead_workers to leasehold_observer;
grant select on table leasehold.housekeeping to leasehold_observer;
grant select on table leasehold.incidents to leasehold_observer;
grant select on table leasehold.invariant_violations to leasehold_observer;
grant select on table leasehold.monitors to leasehold_observer;
grant select on table leasehold.open_incidents to leasehold_observer;
grant select on table leasehold.partitions to leasehold_observer;
grant select on table leasehold.ready to leasehold_observer;
grant select on table leasehold.recent_failures to leasehold_observer;
grant select on table leasehold.retention to leasehold_observer;
grant select on table leasehold.run_progress to leasehold_observer;
grant select on table leasehold.run_progress to leasehold_submitter;
grant select on table leasehold.schedule_firings to leasehold_observer;
grant select on table leasehold.schedule_health to leasehold_observer;
grant select on table leasehold.scheduled to leasehold_observer;
grant select on table leasehold.scheduler_health to leasehold_observer;
grant select on table leasehold.stage_health to leasehold_observer;
grant select on table leasehold.stage_samples to leasehold_observer;
grant select on table leasehold.stages to leasehold_observer;
grant select on table leasehold.task_checkpoints to leasehold_worker;
grant select on table leasehold.task_logs to leasehold_observer;
grant select on table leasehold.task_status to leasehold_observer;
grant select on table leasehold.task_status to leasehold_submitter;
grant select on table leasehold.waiting to leasehold_observer;
grant select on table leasehold.worker_health to leasehold_observer;
grant select on table leasehold.worker_versions to leasehold_observer;
grant usage on schema leasehold to leasehold_observer;
grant usage on schema leasehold to leasehold_operator;
grant usage on schema leasehold to leasehold_submitter;
grant usage on schema leasehold to leasehold_worker;
revoke execute on function leasehold.advance_floors(p_patience interval, p_step bigint) from public;
revoke execute on function leasehold.advance_floors_every(p_every interval) from public;
revoke execute on function leasehold.advance_schedules(p_plans jsonb, p_by text, p_scheduler uuid) from public;
revoke execute on function leasehold.after_end(p_task_ids bigint[], p_outcome text) from public;
revoke execute on function leasehold.alert_day(p_at timestamp with time zone) from public;
revoke execute on function leasehold.alert_rule(p_kind text) from public;
revoke execute on function leasehold.alert_targets() from public;
revoke execute on function leasehold.alert_zone() from public;
revoke execute on function leasehold.alerts_used(p_channel text, p_at timestamp with time zone, OUT used integer, OUT waiting boolean) from public;
revoke execute on function leasehold.audit() from public;
revoke execute on function leasehold.backoff(p_failures integer, p_min interval, p_max interval) from public;
revoke execute on function leasehold.begin_duty(p_duty text, p_schedule text, p_period interval, p_by text) from public;
revoke execute on function leasehold.begin_handover(p_channel text, p_transmission uuid, p_for interval) from public;
revoke execute on function leasehold.believed(p_at timestamp with time zone, p_now timestamp with time zone, p_ahead interval) from public;
revoke execute on function leasehold.below_floors(p_from bigint) from public;
revoke execute on function leasehold.burst_ends_at(p_incidents bigint[], p_interval interval) from public;
revoke execute on function leasehold.cancel_task(task_id bigint, reason text) from public;
revoke execute on function leasehold.channel_conditions() from public;
revoke execute on function leasehold.channel_rests(p_channel text) from public;
revoke execute on function leasehold.check_alert_zone() from public;
revoke execute on function leasehold.check_change(p_change jsonb, p_known text[]) from public;
revoke execute on function leasehold.claim(worker_id uuid, stage text, max_tasks integer) from public;
revoke execute on function leasehold.claim_messages(p_channel text, p_for interval) from public;
revoke execute on function leasehold.clock_doubt() from public;
revoke execute on function leasehold.collect_stragglers() from public;
revoke execute on function leasehold.compact_run_ledger(p_limit integer) from public;
revoke execute on function leasehold.current_conditions(p_wedge interval, p_lonely interval, p_silent interval) from public;
revoke execute on function leasehold.deaths_since() from public;
revoke execute on function leasehold.delete_strays(p_before timestamp with time zone, p_limit integer) from public;
revoke execute on function leasehold.drain_slot(slot text) from public;
revoke execute on function leasehold.drop_leftovers() from public;
revoke execute on function leasehold.drop_range(p_first_id bigint, p_before timestamp with time zone) from public;
revoke execute on function leasehold.drop_range_logs(p_first_id bigint, p_before timestamp with time zone) from public;
revoke execute on function leasehold.due_messages(p_interval interval, p_unfinished boolean) from public;
revoke execute on function leasehold.edit_distance(p_a text, p_b text) from public;
revoke execute on function leasehold.end_duty(p_duty text, p_by text, p_did jsonb, p_error text) from public;
revoke execute on function leasehold.end_forgotten_leases(p_slack interval, p_limit integer) from public;
revoke execute on function leasehold.end_unleased(p_task_id bigint, p_outcome text, p_error jsonb) from public;
revoke execute on function leasehold.end_worker(p_worker uuid, p_reason text) from public;
revoke execute on function leasehold.ensure_partitions(p_ahead integer) from public;
revoke execute on function leasehold.enter(p_task_ids bigint[], p_failures smallint[], p_crashes smallint[], p_run_ats timestamp with time zone[], p_express boolean) from public;
revoke execute on function leasehold.epoch_ms(p_at timestamp with time zone) from public;
revoke execute on function leasehold.exchange(p_worker uuid, p_done_ids bigint[], p_done_fences bigint[], p_endings jsonb, p_children jsonb, p_notes jsonb, p_stages text[], p_limits integer[], p_run_id text, p_promote boolean, p_wake_ms integer) from public;
revoke execute on function leasehold.exchange(p_worker uuid, p_done_ids bigint[], p_done_fences bigint[], p_endings jsonb, p_children jsonb, p_notes jsonb, p_stages text[], p_limits integer[], p_run_id text, p_promote boolean, p_wake_ms integer, p_packed boolean) from public;
revoke execute on function leasehold.expire_deadlines(p_slack interval, p_limit integer) from public;
revoke execute on function leasehold.explain_task(task_id bigint) from public;
revoke execute on function leasehold.failing_schedules() from public;
revoke execute on function leasehold.final_outcome(p_task_id bigint) from public;
revoke execute on function leasehold.fleet_conditions(p_wedge interval, p_lonely interval, p_silent interval) from public;
revoke execute on function leasehold.forget_runs(p_after text, p_limit integer) from public;
revoke execute on function leasehold.forgotten_leases() from public;
revoke execute on function leasehold.free_child(p_child bigint, p_parent bigint) from public;
revoke execute on function leasehold.gather_news() from public;
revoke execute on function leasehold.has_ready(p_stage text) from public;
revoke execute on function leasehold.heartbeat(worker_id uuid, loop_age_ms bigint, oldest_fence bigint, running integer, draining boolean, renew boolean, meta jsonb) from public;
revoke execute on function leasehold.id_rate() from public;
revoke execute on function leasehold.is_held(p_channel text, p_at timestamp with time zone) from public;
revoke execute on function leasehold.is_held_by_rate(p_stage text) from public;
revoke execute on function leasehold.is_quiet(p_at timestamp with time zone) from public;
revoke execute on function leasehold.is_withheld(p_channel text, p_at timestamp with time zone) from public;
revoke execute on function leasehold.key_limit_changes() from public;
revoke execute on function leasehold.late_schedules() from public;
revoke execute on function leasehold.leave(worker_id uuid, reason text) from public;
revoke execute on function leasehold.lock_key(p_stage text, p_key text) from public;
revoke execute on function leasehold.long_holders(p_table regclass) from public;
revoke execute on function leasehold.may_start(p_stage text, p_most integer, OUT starts integer, OUT at timestamp with time zone, OUT arrival timestamp with time zone, OUT look_at timestamp with time zone) from public;
revoke execute on function leasehold.mend_liveness() from public;
revoke execute on function leasehold.messages_failed(p_channel text, p_transmission uuid, p_error text, p_delay interval, p_refused boolean, p_alone boolean, p_doubtful boolean) from public;
revoke execute on function leasehold.messages_sent(p_channel text, p_transmission uuid, p_remark text) from public;
revoke execute on function leasehold.microseconds(p_length interval) from public;
revoke execute on function leasehold.monitor_beat(p_monitor uuid, p_host text, p_pid integer, p_version text, p_interval_ms integer, p_away interval) from public;
revoke execute on function leasehold.monitor_leave(p_monitor uuid) from public;
revoke execute on function leasehold.monitor_silence() from public;
revoke execute on function leasehold.monitor_tick(p_wedge interval, p_lonely interval, p_silent interval, p_budget interval) from public;
revoke execute on function leasehold.next_range_size() from public;
revoke execute on function leasehold.next_turn(p_period interval) from public;
revoke execute on function leasehold.note_alert_test(p_channel text, p_error text) from public;
revoke execute on function leasehold.note_starts(p_stage text, p_arrival timestamp with time zone, p_at timestamp with time zone, p_starts integer, p_cut boolean) from public;
revoke execute on function leasehold.note_uncomputed(p_schedule leasehold.schedules, p_reason text) from public;
revoke execute on function leasehold.nudge_keys(p_task_ids bigint[]) from public;
revoke execute on function leasehold.oldest_program() from public;
revoke execute on function leasehold.open_deaths(p_limit integer) from public;
revoke execute on function leasehold.open_incident(p_kind text, p_subject text, p_summary text, p_details jsonb) from public;
revoke execute on function leasehold.overdue_channels(p_slack interval) from public;
revoke execute on function leasehold.overdue_housekeeping() from public;
revoke execute on function leasehold.partition_size() from public;
revoke execute on function leasehold.pause_stage(name text, until timestamp with time zone) from public;
revoke execute on function leasehold.process_nudges(p_stages text[], p_limit integer) from public;
revoke execute on function leasehold.process_nudges(p_stages text[], p_limit integer, p_from bigint) from public;
revoke execute on function leasehold.process_nudges_if_allowed(p_task_id bigint) from public;
revoke execute on function leasehold.promote_due(p_stages text[], p_limit integer) from public;
revoke execute on function leasehold.raise_unknown_stage(p_stage text) from public;
revoke execute on function leasehold.range_holds(p_first bigint, p_end bigint) from public;
revoke execute on function leasehold.range_span() from public;
revoke execute on function leasehold.rate_is_set() from public;
revoke execute on function leasehold.rate_look_at(p_stage text, p_tasks integer, p_per interval, p_burst integer, p_arrival timestamp with time zone, p_at timestamp with time zone) from public;
revoke execute on function leasehold.rate_next(p_tasks integer, p_per interval, p_burst integer, p_arrival timestamp with time zone, p_at timestamp with time zone) from public;
revoke execute on function leasehold.rate_span(p_tasks integer, p_per interval, p_starts integer) from public;
revoke execute on function leasehold.rate_starts(p_tasks integer, p_per interval, p_burst integer, p_arrival timestamp with time zone, p_at timestamp with time zone) from public;
revoke execute on function leasehold.ready_writers() from public;
revoke execute on function leasehold.receipt_of_the_dead(p_expires_at timestamp with time zone, p_ended_at timestamp with time zone, p_reason text, p_done_ids bigint[], p_endings jsonb) from public;
revoke execute on function leasehold.refuse_field(p_verb text, p_field text, p_wanted text, p_given text) from public;
revoke execute on function leasehold.register_duties(p_duties jsonb) from public;
revoke execute on function leasehold.register_stage(p_name text, p_priority integer, p_max_attempts integer, p_timeout interval, p_backoff_min interval, p_backoff_max interval, p_max_crashes integer, p_key_limit integer, p_expected_workers integer, p_rate_tasks integer, p_rate_per interval, p_rate_burst integer) from public;
revoke execute on function leasehold.register_worker(p_slot text, p_stages text[], p_ttl interval, p_beat_interval interval, p_host text, p_pid integer, p_version text, p_concurrency integer, p_meta jsonb) from public;
revoke execute on function leasehold.release(worker_id uuid, task_id bigint, fence bigint) from public;
revoke execute on function leasehold.release_dead_workers(p_limit integer) from public;
revoke execute on function leasehold.release_grace_until(p_ttl interval) from public;
revoke execute on function leasehold.require_read_committed(p_what text) from public;
revoke execute on function leasehold.resume_stage(name text) from public;
revoke execute on function leasehold.retention_plan() from public;
revoke execute on function leasehold.retry_alerts(p_channel text) from public;
revoke execute on function leasehold.retry_task(task_id bigint) from public;
revoke execute on function leasehold.return_strays(p_worker uuid, p_known bigint[]) from public;
revoke execute on function leasehold.return_strays(p_worker uuid, p_known bigint[], p_known_fences bigint[]) from public;
revoke execute on function leasehold.rotate_partitions() from public;
revoke execute on function leasehold.rotation_is_due() from public;
revoke execute on function leasehold.route_special(p_ids bigint[]) from public;
revoke execute on function leasehold.route_submitted() from public;
revoke execute on function leasehold.run_now(task_id bigint) from public;
revoke execute on function leasehold.sample_depths(p_share real) from public;
revoke execute on function leasehold.schedule_due(p_schedule text, p_slot timestamp with time zone, p_jitter interval) from public;
revoke execute on function leasehold.schedule_edited() from public;
revoke execute on function leasehold.schedule_facts(p_schedule leasehold.schedules) from public;
revoke execute on function leasehold.schedule_removed() from public;
revoke execute on function leasehold.scheduler_leave(p_scheduler uuid) from public;
revoke execute on function leasehold.scheduler_tick(p_scheduler uuid, p_host text, p_pid integer, p_version text, p_poll_ms integer, p_limit integer) from public;
revoke execute on function leasehold.schema_version() from public;
revoke execute on function leasehold.serve_channels(p_channels text[]) from public;
revoke execute on function leasehold.set_alert_channel(p_channel text, p_change jsonb) from public;
revoke execute on function leasehold.set_alert_policy(p_change jsonb) from public;
revoke execute on function leasehold.set_alert_rule(p_kind text, p_change jsonb) from public;
revoke execute on function leasehold.set_backlog_limit(p_stage text, p_older_than interval) from public;
revoke execute on function leasehold.set_retention(p_changes jsonb) from public;
revoke execute on function leasehold.settle(worker_id uuid, task_id bigint, fence bigint, outcome text, result jsonb, error jsonb, retry_after interval, retryable boolean, children jsonb) from public;
revoke execute on function leasehold.settle_endings(p_worker uuid, p_endings jsonb) from public;
revoke execute on function leasehold.stands_still(p_task_id bigint) from public;
revoke execute on function leasehold.storage_health() from public;
revoke execute on function leasehold.submit(stage text, payload jsonb, priority integer, run_at timestamp with time zone, key text, run_id text, title text, max_attempts integer, timeout interval, depends_on bigint[], concurrency_key text, meta jsonb, on_key_conflict text) from public;
revoke execute on function leasehold.submit_children(p_children jsonb, p_parents bigint[]) from public;
revoke execute on function leasehold.tables_to_vacuum() from public;
revoke execute on function leasehold.take_revocations(p_worker uuid) from public;
revoke execute on function leasehold.task_extra(p_task leasehold.tasks, p_crashes smallint) from public;
revoke execute on function leasehold.tidy() from public;
revoke execute on function leasehold.tidy_rows(p_limit integer) from public;
revoke execute on function leasehold.trim_schedule_firings(p_keep interval, p_limit integer) from public;
revoke execute on function leasehold.violations() from public;
revoke execute on function leasehold.wake(p_stages text[]) from public;
revoke execute on function leasehold.why_untold() from public;
revoke execute on function leasehold.work_conditions() from public;
revoke execute on function leasehold.write_message(p_channel text, p_purpose text, p_news bigint[], p_subject text, p_body text) from public;
revoke execute on function leasehold.write_notes(p_worker uuid, p_notes jsonb) from public;
