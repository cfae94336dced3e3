-- Which kinds of incident there are is decided where they are noticed and worded: the database checks their form only, so
-- that a new kind needs no change of this table.
alter table leasehold.incidents drop constraint incident_kind_is_known;
alter table leasehold.incidents add constraint incident_kind_is_plain check (kind ~ '^[a-z][a-z_]{0,47}$');
