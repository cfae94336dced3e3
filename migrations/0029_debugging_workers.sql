-- A worker that takes the tasks of one run only (RUN_FILTER_ID) says so under meta.run and serves no stage: it is not there
-- for the others, which would wait behind it with nobody being told that no worker is.
alter table leasehold.workers
  drop constraint worker_serves_1_to_100_stages,
  add constraint worker_serves_1_to_100_stages check (cardinality(stages) between 1 and 100 or (cardinality(stages) = 0 and coalesce(meta ? 'run', false)));
