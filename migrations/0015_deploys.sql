-- formerly d9196577b948f0acd1088634e13062637a9b114fa12524f092e2ad3f317d0c65
-- Deploys, and nudges that cannot be acted on.
--
-- Older programs go on working against a newer schema unless one of its migrations says that it must not be applied while
-- they run (a line `-- drain` at its head). The migrator keeps that beside the file's checksum, outside of this schema.

-- The newest migration that older programs cannot work with; null when there is none, or when the schema was not made by
-- the migrator.
create function leasehold.oldest_program() returns text
  language plpgsql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  if to_regclass('leasehold_migrations.checksums') is null then
    return null;
  end if;
  return (select max(c.name collate "C") from leasehold_migrations.checksums c
    where c.set_name = 'leasehold' and c.drain_first);
end
$$;

-- The newest migration that was applied; null when the schema was not made by the migrator.
create function leasehold.schema_version() returns text
  language plpgsql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  if to_regclass('leasehold_migrations.checksums') is null then
    return null;
  end if;
  return (select max(c.name collate "C") from leasehold_migrations.checksums c where c.set_name = 'leasehold');
end
$$;

create view leasehold.worker_versions as
select w.version, w.meta ->> 'schema' as schema, count(*)::integer as workers, array_agg(w.slot order by w.slot) as slots,
  coalesce((w.meta ->> 'schema') collate "C" < leasehold.schema_version(), false) as older_than_schema
from leasehold.workers w
where w.ended_at is null and w.expires_at > leasehold.clock()
group by w.version, w.meta ->> 'schema';
comment on view leasehold.worker_versions is 'Live workers by their program''s version and the newest migration it knows; more than one row is a deploy under way.';

-- Registers a new incarnation of a slot and returns its id. An earlier incarnation that has not ended is superseded in
-- the same transaction: its tasks are free at once, and its writes are refused from then on.
-- p_meta may say under `schema` which migration is the newest that the program knows. A program that does not know the
-- last one which had to wait for older programs to end is refused (LH006) and takes no slot.
create or replace function leasehold.register_worker(
  p_slot text, p_stages text[], p_ttl interval, p_beat_interval interval, p_host text, p_pid integer default null,
  p_version text default null, p_concurrency integer default 1, p_meta jsonb default null
) returns table (worker_id uuid, expires_at timestamptz, superseded uuid, released bigint[], quarantined bigint[])
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_restarts integer;
  v_stage text;
  v_needed text;
begin
  foreach v_stage in array p_stages loop
    if not exists (select from leasehold.stages s where s.name = v_stage) then
      perform leasehold.raise_unknown_stage(v_stage);
    end if;
  end loop;
  -- Two processes that start the same slot at once take turns here.
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('leasehold slot ' || p_slot, 0));
  select w.id into superseded from leasehold.workers w where w.slot = p_slot and w.ended_at is null for update;
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
$$;

-- Acts on up to p_limit nudges of the stages: admits waiting tasks of a key up to its limit, frees children whose
-- parents are all done, cancels children of a parent that ended otherwise. Returns the number handled. A nudge whose
-- key or parent is being changed by another transaction stays for the next time; nothing here waits. When as many as were
-- looked at fill the whole view, those that stay go to the end of the line, each only once however often it was left:
-- however many they are, they do not hold up the others. Needs READ COMMITTED (else LH004): counting a key must see what
-- was committed before its lock was granted.
create or replace function leasehold.process_nudges(p_stages text[], p_limit integer default 200) returns integer
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_nudge record;
  v_seen bigint[] := '{}';
  v_handled integer := 0;
  v_room integer;
  v_admitted text[] := '{}';
begin
  perform leasehold.require_read_committed('process_nudges');
  for v_nudge in
    select n.id, n.stage, n.task_id, n.parent_id, n.concurrency_key from leasehold.nudges n
    where n.stage = any (p_stages) order by n.id limit p_limit for update skip locked
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
$$;

revoke all on function leasehold.oldest_program(), leasehold.schema_version() from public;

do $$
begin
  if (select pg_get_userbyid(n.nspowner) <> 'leasehold_owner' from pg_catalog.pg_namespace n where n.nspname = 'leasehold') then
    return; -- 0010 has said so
  end if;
  grant select on leasehold.worker_versions to leasehold_observer;
  grant execute on function leasehold.schema_version() to leasehold_observer, leasehold_worker;
  alter view leasehold.worker_versions owner to leasehold_owner;
  alter function leasehold.oldest_program() owner to leasehold_owner;
  alter function leasehold.schema_version() owner to leasehold_owner;
end
$$;
