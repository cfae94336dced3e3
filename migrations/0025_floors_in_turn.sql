-- Floors move four times a second, however many runners see to it. Each of them used to tick by itself: sixty ticked two
-- hundred times a second, each time with a commit and a look at all locks, and for nothing.

-- advance_floors(), unless anybody has ticked within p_every; then null, without a lock, a write or a transaction id. A
-- probe of the future (the clock was set back) holds nobody up.
create function leasehold.advance_floors_every(p_every interval) returns integer
  language plpgsql security definer
  set search_path = pg_catalog, leasehold, pg_temp
as $$
declare
  v_now timestamptz := leasehold.clock();
begin
  if exists (select from leasehold.floor_probes p where p.taken_at > v_now - p_every and p.taken_at <= v_now) then
    return null;
  end if;
  return leasehold.advance_floors();
end
$$;
revoke all on function leasehold.advance_floors_every(interval) from public;

do $$
begin
  if (select pg_get_userbyid(n.nspowner) <> 'leasehold_owner' from pg_catalog.pg_namespace n where n.nspname = 'leasehold') then
    return; -- 0010 has said so
  end if;
  alter function leasehold.advance_floors_every(interval) owner to leasehold_owner;
  grant execute on function leasehold.advance_floors_every(interval) to leasehold_worker;
end
$$;
