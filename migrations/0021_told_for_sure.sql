-- Alerts that do not arrive, and those that arrive at night.
--
-- Whether anybody can be told is asked of the state: why_untold(). A try is a doubt only when its sender had begun to hand
-- over (alerts.handing_over_at, written just before) and nobody knows how it went: who died before that has told nobody.
-- Quiet hours hold a message back when it is taken to be sent, not only when it is written. A death that a runner noticed
-- while no monitor looked is told by the first look after that.
-- Locks as 0013 says: 'monitor', then rows of alert_channels in order of their name, then alerts and alert_news.

alter table leasehold.alerts add column handing_over_at timestamptz;
comment on column leasehold.alerts.handing_over_at is 'A sender has begun to hand it over and has not said how that went.';

-- ------------------------------------------------------------------------------------------- who is told when

-- A monitor says where it can send. Written at most once in half a minute by each channel. Locks every channel first, in
-- order of its name: those that a look asks about later (due_messages) are then taken already.
create or replace function leasehold.serve_channels(p_channels text[]) returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz;
begin
  perform from leasehold.alert_channels c order by c.channel for update;
  v_now := leasehold.clock();
  update leasehold.alert_channels c set served_at = v_now
  where c.channel = any (p_channels)
    and coalesce(leasehold.believed(c.served_at, v_now), '-infinity') < v_now - interval '30 seconds';
end
$$;

-- True while quiet hours hold back what waits for a channel: nothing of it may pass. When something may, everything goes
-- with it, as one message: somebody is woken anyway, and what waits has been counted as one. A digest may pass only for
-- what is still open.
create function leasehold.is_held(p_channel text, p_at timestamptz) returns boolean
  language sql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select leasehold.is_quiet(p_at) and coalesce((
    select not bool_or(exists (
      select from leasehold.incidents i cross join lateral leasehold.alert_rule(i.kind) r
      where i.id = any (a.incident_ids) and r.tell = 'now' and r.through_quiet
        and (a.purpose = 'alert' or i.resolved_at is null)))
    from leasehold.alerts a
    where a.channel = p_channel and a.sent_at is null and a.refused_at is null
      and coalesce(leasehold.believed(a.claimed_until, p_at, interval '2 hours') <= p_at, true)), false)
$$;

-- What has to be told now: a row for each channel with a message to write, and how long what waits has to wait.
-- news: [{news_id, what, incident}] in the order in which it happened; of a kind's incidents beyond the first hundred
-- the long lists are left out. Locks the channels, so that the count of their messages stands until the caller commits.
-- A digest waits for the end of quiet hours. p_interval: the monitor's. p_unfinished: more dead workers are about to be
-- released.
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
$$;

-- Why nobody can be told, in words; null: whoever has to be told can be, or nobody has to. Nobody can be while every channel
-- that is switched on and served by a monitor is down or withheld. Somebody has to be while an incident that is told at
-- once is open and no message about it was taken, or a message waits for a channel that monitors have served. What only
-- waits for a channel that no monitor ever served counts for nothing: where no channel was ever configured, this follows
-- the incidents that are open.
create function leasehold.why_untold() returns text
  language sql stable security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
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
$$;

-- --------------------------------------------------------------------------------------------- handing it over

-- Takes all messages of a channel that wait, to hand them over as one; nobody else gets them within p_for, and a sender
-- that dies leaves nothing behind but that wait. No row: nothing waits, or the channel asked to be left alone; then
-- `leasehold.alert_channels.not_before` says until when. Nothing either while the channel is switched off or withheld, nor
-- in quiet hours unless something may pass; what is held back is due again a minute later. What its rules never tell since
-- it was written is set aside as refused. Bodies beyond the first hundred are null.
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
$$;

-- claimed → being handed over, just before the first byte; the claim counts anew for p_for. From here until messages_sent or
-- messages_failed nobody knows whether it was taken. False: the messages are somebody else's by now, or wait again; the
-- caller must not send. Locks: the channel, then alerts.
create function leasehold.begin_handover(p_channel text, p_transmission uuid, p_for interval) returns boolean
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
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
$$;

-- A transmission was taken. p_remark: what the other side said about part of it, or null. The channel works again. May be
-- said again when the answer got lost.
create or replace function leasehold.messages_sent(p_channel text, p_transmission uuid, p_remark text default null) returns void
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
begin
  update leasehold.alert_channels c set last_sent_at = leasehold.clock(), failing_since = null, failures = 0,
    last_error = null, not_before = null
  where c.channel = p_channel;
  update leasehold.alerts a set sent_at = leasehold.clock(), claimed_until = null, handing_over_at = null, last_error = p_remark
  where a.transmission = p_transmission and a.channel = p_channel and a.sent_at is null;
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
$$;

-- In how long a channel that has something to send may be asked again; null: now, or nothing waits. What quiet hours hold
-- back is asked about every minute, so that a change of the policy counts. Not for those that are switched off or
-- withheld: looks find when that is over.
create function leasehold.channel_rests(p_channel text) returns interval
  language sql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select case when c.not_before > k.now then c.not_before - k.now
    when not leasehold.is_withheld(c.channel, k.now) and leasehold.is_held(c.channel, k.now) then interval '1 minute' end
  from (select leasehold.clock() as now) k
  cross join lateral (select x.channel, leasehold.believed(x.not_before, k.now, interval '2 hours') as not_before
    from leasehold.alert_channels x where x.channel = p_channel and x.enabled) c
$$;

-- Keeps how a test of a channel went, which somebody ran by hand, by the settings of a shell. It says nothing about those of
-- the monitor, so a channel that fails the monitor goes on failing until the monitor has sent something. p_error null: taken.
create or replace function leasehold.note_alert_test(p_channel text, p_error text) returns void
  language sql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  update leasehold.alert_channels c set last_error = p_error where c.channel = p_channel and c.failing_since is null
$$;

-- --------------------------------------------------------------------------------------------- what is wrong right now

-- The moment from which deaths are asked for: a day ago, or when the last look before a gap was, if that gap ended within
-- the day; a week at most. Deaths of a gap are written down by the first look after it, and not again once retention has
-- taken their incidents.
create function leasehold.deaths_since() returns timestamptz
  language sql stable
  set search_path = pg_catalog, leasehold, pg_temp
as $$
  select greatest(k.now - interval '7 days', least(k.now - interval '1 day', (
    -- A minute for whoever was releasing while that look ended.
    select min(g.ended_at - g.lasted) - interval '1 minute' from leasehold.monitor_gaps g
    where g.ended_at > k.now - interval '1 day' and leasehold.believed(g.ended_at, k.now) is not null)))
  from (select leasehold.clock() as now) k
$$;

-- Opens an incident for every worker that ended without leaving (whoever noticed: a monitor, a runner, or its successor in
-- the slot) since deaths_since() and has none yet, and one for every task that was quarantined with it. Returns their
-- ids. What a worker held is read from the attempts that ended in the same instant, written by end_worker.
create or replace function leasehold.open_deaths(p_limit integer default 1000) returns bigint[]
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
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
$$;

-- ------------------------------------------------------------------------------------------------------- grants
revoke all on function leasehold.is_held(text, timestamptz), leasehold.why_untold(),
  leasehold.begin_handover(text, uuid, interval), leasehold.deaths_since(), leasehold.channel_rests(text),
  leasehold.messages_failed(text, uuid, text, interval, boolean, boolean, boolean) from public;

do $$
declare
  v_signature regprocedure;
begin
  if (select pg_get_userbyid(n.nspowner) <> 'leasehold_owner' from pg_catalog.pg_namespace n where n.nspname = 'leasehold') then
    return; -- 0010 has said so
  end if;
  for v_signature in
    select p.oid::regprocedure from pg_catalog.pg_proc p
    where p.pronamespace = 'leasehold'::regnamespace and p.proowner <> 'leasehold_owner'::regrole
  loop
    execute pg_catalog.format('alter function %s owner to leasehold_owner', v_signature);
  end loop;
end
$$;
