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

-- A monitor says where it can send. Written at most once in half a minute by each channel.
create or replace function leasehold.serve_channels(p_channels text[]) returns void
  language sql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  update leasehold.alert_channels c set served_at = leasehold.clock()
  where c.channel = any (p_channels) and coalesce(leasehold.believed(c.served_at, leasehold.clock()), '-infinity') < leasehold.clock() - interval '30 seconds'
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

-- What has to be told now: a row for each channel with a message to write, and how long what waits has to wait.
-- news: [{news_id, what, incident}] in the order in which it happened; of a kind's incidents beyond the first hundred
-- the long lists are left out. Locks the channels, so that the count of their messages stands until the caller commits.
-- p_interval: the monitor's. p_unfinished: more dead workers are about to be released.
create or replace function leasehold.due_messages(p_interval interval, p_unfinished boolean default false)
  returns table (channel text, purpose text, news jsonb, again interval)
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
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
    if (v_used.waiting or v_used.used < v_channel.per_day)
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
$$;

-- --------------------------------------------------------------------------------------------- handing it over

-- Takes all messages of a channel that wait, to hand them over as one; nobody else gets them within p_for, and a sender
-- that dies leaves nothing behind but that wait. No row: nothing waits, or the channel asked to be left alone; then
-- `leasehold.alert_channels.not_before` says until when. Nothing either while the channel is switched off or withheld.
-- What its rules never tell since it was written is set aside as refused. Bodies beyond the first hundred are null.
create or replace function leasehold.claim_messages(p_channel text, p_for interval)
  returns table (id bigint, subject text, body text, purpose text, created_at timestamptz, tries integer,
    incidents jsonb, transmission uuid)
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
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
  where a.channel = p_channel and a.sent_at is null and a.refused_at is null and a.claimed_until is not null
    and coalesce(leasehold.believed(a.claimed_until, v_now, interval '2 hours') <= v_now, true)
  on conflict on constraint doubt_once_per_transmission do nothing;
  if found then
    update leasehold.alert_channels c set failing_since = coalesce(c.failing_since, v_now), failures = c.failures + 1,
      last_error = 'a sender ended without a word'
    where c.channel = p_channel;
    -- They wait again, so that what was withheld goes on being told with them.
    update leasehold.alerts a set claimed_until = null
    where a.channel = p_channel and a.sent_at is null and a.refused_at is null
      and coalesce(leasehold.believed(a.claimed_until, v_now, interval '2 hours') <= v_now, true);
  end if;
  if leasehold.is_withheld(p_channel, v_now) then
    return;
  end if;
  update leasehold.alerts a set refused_at = v_now, last_error = 'the rules say never since it was written'
  where a.channel = p_channel and a.sent_at is null and a.refused_at is null and a.claimed_until is null
    and exists (select from leasehold.incidents i where i.id = any (a.incident_ids))
    and not exists (select from leasehold.incidents i cross join lateral leasehold.alert_rule(i.kind) r
      where i.id = any (a.incident_ids) and r.tell <> 'never');
  return query
  with claimed as (
    update leasehold.alerts a set tries = a.tries + 1, claimed_until = v_now + p_for, transmission = v_transmission
    where a.channel = p_channel and a.sent_at is null and a.refused_at is null
      and coalesce(leasehold.believed(a.claimed_until, v_now, interval '2 hours') <= v_now, true)
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
$$;

-- A transmission was not taken: its messages go back and are due again after p_delay; with p_refused they stay until
-- somebody asks for them (retry_alerts). p_alone: the other side wants to be left alone until p_delay has passed.
-- p_doubtful: everything was handed over and no answer came, so it may have been taken. Zero effect on messages that
-- somebody else has claimed meanwhile. Locks: the channel, then alerts, as in a look; the incident is the next look's.
drop function leasehold.messages_failed(text, uuid, text, interval, boolean, boolean);
create function leasehold.messages_failed(
  p_channel text, p_transmission uuid, p_error text, p_delay interval, p_refused boolean default false,
  p_alone boolean default false, p_doubtful boolean default false
) returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz;
begin
  perform from leasehold.alert_channels c where c.channel = p_channel for update;
  v_now := leasehold.clock();
  update leasehold.alert_channels c set failing_since = coalesce(c.failing_since, v_now), failures = c.failures + 1,
    last_error = p_error, not_before = case when p_alone then v_now + p_delay end
  where c.channel = p_channel;
  update leasehold.alerts a set claimed_until = null, last_error = p_error, next_try_at = v_now + p_delay,
    refused_at = case when p_refused then v_now end
  where a.transmission = p_transmission and a.channel = p_channel and a.sent_at is null;
  if p_doubtful then
    delete from leasehold.alert_doubts d
    where d.channel = p_channel and (d.at < v_now - interval '7 days' or leasehold.believed(d.at, v_now) is null);
    insert into leasehold.alert_doubts (transmission, channel, at, reason) values (p_transmission, p_channel, v_now, p_error)
    on conflict on constraint doubt_once_per_transmission do nothing;
  end if;
end
$$;

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

-- In how long a channel that has something to send may be asked again; null: now, or nothing waits. Not for those that are
-- switched off or withheld: looks find when that is over.
create function leasehold.channel_rests(p_channel text) returns interval
  language sql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select leasehold.believed(c.not_before, k.now, interval '2 hours') - k.now
  from (select leasehold.clock() as now) k join leasehold.alert_channels c on c.channel = p_channel
  where c.enabled and leasehold.believed(c.not_before, k.now, interval '2 hours') > k.now
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
revoke all on function leasehold.is_withheld(text, timestamptz), leasehold.channel_rests(text), leasehold.channel_conditions(),
  leasehold.messages_failed(text, uuid, text, interval, boolean, boolean, boolean) from public;

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
