-- Alerts whose fate is unknown, channels that nobody serves, and moments that a wrong clock wrote.
--
-- A try that ended without an answer, after everything had been handed over, may have been taken: so may one whose sender
-- died. Such a transmission is a doubt, and doubts count towards the day's cap: when they have used it up, what waits is
-- withheld until the next day, because a server that takes every mail and answers none would be sent it for ever.
-- Incidents are opened by looks alone (0013 opened channel_down from a sender, against the lock order): a sender writes
-- down how its channel fares, channel_conditions() reads that. Every stored moment is asked of believed() (0018): what was
-- written as "now" with its minute, what is planned (a claim, a try, a pause: an hour at most) with two hours.

create table leasehold.alert_doubts (
  transmission uuid not null,
  channel text collate "C" not null,
  at timestamptz not null,
  reason text not null,
  constraint doubt_once_per_transmission primary key (transmission)
);
comment on table leasehold.alert_doubts is 'Transmissions that may have been taken although no answer came; they count towards the cap. Kept for a week.';
create index alert_doubts_by_channel on leasehold.alert_doubts (channel, at);

-- ------------------------------------------------------------------------------------------- who is told when

-- The channels that news are for: switched on, and served by a monitor within a day. When there is none, e-mail: the
-- messages then wait for a monitor that can send them. Nobody at all when every channel is switched off.
create or replace function leasehold.alert_targets() returns setof text
  language sql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  with served as (
    select c.channel from leasehold.alert_channels c
    where c.enabled and leasehold.believed(c.served_at, leasehold.clock()) > leasehold.clock() - interval '1 day'
  )
  select s.channel from served s
  union all
  select c.channel from leasehold.alert_channels c
  where c.channel = 'email' and c.enabled and not exists (select from served)
$$;

-- Makes news of what has changed: incidents to tell for the first time, again, or as over. Reads the state and not what
-- one look found, so a look that could not tell leaves it to the next ones, for six hours also what was over meanwhile.
-- Deliberately no news: rules that say never, what was over before min_age, an outage of the channel itself.
create or replace function leasehold.gather_news() returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
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
$$;

-- How many messages of a channel's day are used: handed over since it began, perhaps handed over (doubts), on their way, and
-- one for all that wait. waiting: some wait and are not on their way, so that one more goes with them and costs nothing.
create or replace function leasehold.alerts_used(p_channel text, p_at timestamptz, out used integer, out waiting boolean)
  language sql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
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
$$;

-- True when doubts have used up what was left of a channel's day: nothing goes out before the next one.
create function leasehold.is_withheld(p_channel text, p_at timestamptz) returns boolean
  language sql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select exists (select from leasehold.alert_doubts d
      where d.channel = p_channel and d.at >= leasehold.alert_day(p_at) and leasehold.believed(d.at, p_at) is not null)
    and u.used - u.waiting::integer >= (select coalesce(c.per_day, p.per_day) from leasehold.alert_policy p
      join leasehold.alert_channels c on c.channel = p_channel)
  from leasehold.alerts_used(p_channel, p_at) u
$$;

-- While other workers have missed two beats as well, a burst of deaths is still unfolding: until when to wait for the
-- rest of it. Null: nobody else is late. Never so long that the first of the dead is told later than one interval after
-- its lease ran out.
create or replace function leasehold.burst_ends_at(p_incidents bigint[], p_interval interval) returns timestamptz
  language sql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  with dead as (
    select min(w.expires_at) + least(p_interval, interval '1 minute') as latest
    from leasehold.incidents i join leasehold.workers w on i.kind = 'worker_dead' and w.id::text = i.subject
    where i.id = any (p_incidents)
  )
  select least(max(w.expires_at), min(d.latest)) + interval '10 milliseconds'
  from dead d join leasehold.workers w on w.ended_at is null and w.expires_at > leasehold.clock()
    and w.beat_at < leasehold.clock() - w.beat_interval * 2
  where d.latest > leasehold.clock()
$$;

-- --------------------------------------------------------------------------------------------- handing it over

-- Channels with a message that has been due for p_slack and that nobody has in hand: its job must have been lost. Not those that
-- are switched off or withheld.
create or replace function leasehold.overdue_channels(p_slack interval) returns setof text
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select c.channel
  from (select leasehold.clock() as now) k cross join leasehold.alert_channels c
  where c.enabled
    and exists (select from leasehold.alerts a
      where a.channel = c.channel and a.sent_at is null and a.refused_at is null
        and coalesce(greatest(leasehold.believed(a.next_try_at, k.now, interval '2 hours'),
          leasehold.believed(a.claimed_until, k.now, interval '2 hours'), leasehold.believed(c.not_before, k.now, interval '2 hours')),
          '-infinity') < k.now - p_slack)
    and not leasehold.is_withheld(c.channel, k.now)
$$;

-- --------------------------------------------------------------------------------------------- what is wrong right now
-- Channels that are switched on and do not get out what they should. down: three failures in a row, a refusal, or a day's
-- cap used up by doubts, until something is taken again (or no monitor has served it for a day). unserved: something has
-- been due for five minutes, although a monitor looks, and nobody takes it: no monitor sends there any more. After a gap
-- the monitors' jobs get those five minutes first, but what is an open incident stays one until it is gone.
create function leasehold.channel_conditions()
  returns table (kind text, subject text, summary text, details jsonb)
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
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
$$;

-- Everything that is wrong right now and stays an open incident for as long as it is. Other parts bring conditions of
-- their own (the scheduler's and the housekeeping's migrations): each function named here is asked when it is there.
create or replace function leasehold.current_conditions(p_wedge interval, p_lonely interval, p_silent interval)
  returns table (kind text, subject text, summary text, details jsonb)
  language plpgsql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
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
$$;

-- One look of the monitor: releases dead workers and overdue leases, opens and resolves incidents. One monitor looks at
-- a time; another gets looked = false at once. Releasing stops after p_budget with unfinished = true: look again.
-- Returns the incidents this call opened and resolved; ids of incidents and tasks are texts.
create or replace function leasehold.monitor_tick(
  p_wedge interval, p_lonely interval, p_silent interval default '30 seconds', p_budget interval default '10 seconds'
) returns table (looked boolean, unfinished boolean, opened jsonb, resolved jsonb)
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
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
$$;

-- ------------------------------------------------------------------------------------------------------- health

create or replace view leasehold.database_health as
select c.name, c.status, c.value, c.advice
from (
  select 'monitor' as name,
    case when leasehold.monitor_silence() is null then 'bad'
      when leasehold.monitor_silence() > (select greatest(interval '3 minutes', max(m.interval_ms) * 3 * interval '1 millisecond') from leasehold.monitors m) then 'bad'
      else 'ok' end as status,
    coalesce('last looked ' || date_trunc('second', leasehold.monitor_silence())::text || ' ago', 'never looked') as value,
    'Start one: npx leasehold monitor. Without it nobody is told of dead workers.' as advice
  union all
  select 'unsent alerts', case when count(*) = 0 then 'ok' else 'bad' end, count(*)::text, 'See leasehold.alerts.last_error; check SMTP_*.'
  from leasehold.alerts a
  where a.sent_at is null and a.refused_at is null and a.created_at < leasehold.clock() - interval '2 minutes'
    and exists (select from leasehold.alert_channels c where c.channel = a.channel and c.enabled)
  union all
  select 'refused alerts', case when count(*) = 0 then 'ok' else 'warn' end, count(*)::text,
    'Of the last week. Correct the setting that leasehold.alerts.last_error names, then npx leasehold alerts retry.'
  from leasehold.alerts a
  where a.sent_at is null and a.refused_at > leasehold.clock() - interval '7 days'
  union all
  select 'oldest transaction', case when max(leasehold.clock() - a.xact_start) > interval '10 minutes' then 'warn' else 'ok' end,
    coalesce(date_trunc('second', max(leasehold.clock() - a.xact_start))::text, 'none'),
    'A long transaction keeps dead rows of every table. Claims do not slow down here, other queries do. See pg_stat_activity.'
  from pg_catalog.pg_stat_activity a where a.datname = current_database() and a.pid <> pg_backend_pid() and a.backend_type = 'client backend'
  union all
  select 'submitters held open', case when count(*) > 0 then 'warn' else 'ok' end, count(*)::text,
    'A transaction that inserted tasks stays open; its tasks are invisible until it commits.'
  from leasehold.stragglers
  union all
  select 'notify queue', case when pg_catalog.pg_notification_queue_usage() > 0.25 then 'warn' else 'ok' end,
    round((pg_catalog.pg_notification_queue_usage() * 100)::numeric, 1)::text || ' %',
    'A session that listens and stays in a transaction keeps it; above 25 % workers are polled instead of woken.'
  union all
  select 'dead rows', case when sum(u.n_dead_tup) > 5000000 then 'warn' else 'ok' end, coalesce(sum(u.n_dead_tup), 0)::text,
    'ready and leases are vacuumed less than they churn: look for old transactions, lower autovacuum_naptime.'
  from pg_catalog.pg_stat_user_tables u where u.schemaname = 'leasehold' and u.relname in ('ready', 'leases', 'scheduled', 'waiting')
  union all
  select 'id partitions ahead', case when count(*) < 1 then 'warn' else 'ok' end, count(*)::text,
    'npx leasehold housekeeping run partitions; a running monitor does it.'
  from leasehold.partitions p where p.first_id > (select q.last_value from leasehold.tasks_id_seq q)
  union all
  select 'transaction id age', case when age(d.datfrozenxid) > 1000000000 then 'warn' else 'ok' end, age(d.datfrozenxid)::text,
    'Autovacuum has to freeze this database soon.'
  from pg_catalog.pg_database d where d.datname = current_database()
  union all
  select s.name, s.status, s.value, s.advice from leasehold.storage_health() s
) c;

-- ------------------------------------------------------------------------------------------------------- grants
revoke all on function leasehold.is_withheld(text, timestamptz), leasehold.channel_conditions() from public;

do $$
declare
  v_signature regprocedure;
begin
  if (select pg_get_userbyid(n.nspowner) <> 'leasehold_owner' from pg_catalog.pg_namespace n where n.nspname = 'leasehold') then
    return; -- 0010 has said so
  end if;
  grant select on leasehold.alert_doubts to leasehold_observer;
  alter table leasehold.alert_doubts owner to leasehold_owner;
  for v_signature in
    select p.oid::regprocedure from pg_catalog.pg_proc p
    where p.pronamespace = 'leasehold'::regnamespace and p.proowner <> 'leasehold_owner'::regrole
  loop
    execute pg_catalog.format('alter function %s owner to leasehold_owner', v_signature);
  end loop;
end
$$;
