/**
 * The fingerprint of a schema: one digest for each object, taken from the catalogs.
 *
 * Invariant: it depends on what the migrations made and on nothing else: not on data, grants, storage settings,
 * partitions (they come and go) nor on `clock()`, which test databases replace. Only fingerprints of the same
 * PostgreSQL major compare, because each major prints definitions in its own way.
 * When it is taken and compared is schema-status.ts's and migrate.ts's business.
 */
import type { ClientBase, Pool } from 'pg'

/** Object description (`function leasehold.claim(text)`) to the md5 of its definition. */
export type Fingerprint = Readonly<Record<string, string>>

// search_path decides whether the server prints a name with its schema. Pinned for this statement only.
const catalogListing = `
with pinned as materialized (select set_config('search_path', 'pg_catalog', true) as path),
rel as (
  select c.*, format('%I.%I', n.nspname, c.relname) as title
  from pinned, pg_class c join pg_namespace n on n.oid = c.relnamespace
  where pinned.path is not null and n.nspname = $1 and not c.relispartition
),
object (title, definition) as (
  select format('%s %I.%I(%s)', case p.prokind when 'p' then 'procedure' else 'function' end,
                n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
         jsonb_build_array(pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), l.lanname, p.prosrc,
                           pg_get_function_sqlbody(p.oid), p.proconfig, p.prosecdef, p.provolatile, p.proparallel,
                           p.proisstrict, p.proleakproof)::text
  from pinned, pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
  where pinned.path is not null and n.nspname = $1
    and not (p.proname = 'clock' and p.pronargs = 0)
    and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
  union all
  select format('table %s', r.title), jsonb_build_array(r.relkind, r.relpersistence, r.relrowsecurity,
         r.relforcerowsecurity, case when r.relkind = 'p' then pg_get_partkeydef(r.oid) end)::text
  from rel r where r.relkind in ('r', 'p')
  union all
  select format('column %s.%I', r.title, a.attname),
         jsonb_build_array(a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
                           pg_get_expr(d.adbin, d.adrelid))::text
  from rel r join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  where r.relkind in ('r', 'p', 'c')
  union all
  -- PostgreSQL 18 lists NOT NULL here as well (contype n); the column says it in every version.
  select format('constraint %I on %s', k.conname, r.title),
         jsonb_build_array(pg_get_constraintdef(k.oid), k.convalidated)::text
  from rel r join pg_constraint k on k.conrelid = r.oid where k.contype <> 'n' and r.relkind in ('r', 'p')
  union all
  select format('trigger %I on %s', t.tgname, r.title), jsonb_build_array(pg_get_triggerdef(t.oid), t.tgenabled)::text
  from rel r join pg_trigger t on t.tgrelid = r.oid where not t.tgisinternal
  union all
  select format('policy %I on %s', p.polname, r.title),
         jsonb_build_array(p.polcmd, p.polpermissive, pg_get_expr(p.polqual, p.polrelid),
                           pg_get_expr(p.polwithcheck, p.polrelid))::text
  from rel r join pg_policy p on p.polrelid = r.oid
  union all
  select format('view %s', r.title), jsonb_build_array(r.relkind, pg_get_viewdef(r.oid), r.reloptions)::text
  from rel r where r.relkind in ('v', 'm')
  union all
  select format('%s %s', case when i.indisunique then 'unique index' else 'index' end, r.title),
         jsonb_build_array(pg_get_indexdef(i.indexrelid), i.indisvalid)::text
  from pg_index i join rel r on r.oid = i.indexrelid
  union all
  select format('sequence %s', r.title),
         jsonb_build_array(s.seqstart, s.seqincrement, s.seqmax, s.seqmin, s.seqcycle, format_type(s.seqtypid, null))::text
  from rel r join pg_sequence s on s.seqrelid = r.oid
  union all
  select format('type %I.%I', n.nspname, t.typname),
         jsonb_build_array(t.typtype, format_type(t.typbasetype, t.typtypmod), t.typnotnull, t.typdefault,
           (select jsonb_agg(e.enumlabel order by e.enumsortorder) from pg_enum e where e.enumtypid = t.oid),
           (select jsonb_agg(pg_get_constraintdef(k.oid) order by k.conname) from pg_constraint k where k.contypid = t.oid and k.contype <> 'n'))::text
  from pinned, pg_type t join pg_namespace n on n.oid = t.typnamespace
  where pinned.path is not null and n.nspname = $1 and t.typtype in ('d', 'e')
)
select title, md5(definition) as digest from object order by title collate "C"`

/** Takes the fingerprint of a schema, and the server's major version with it. A schema that does not exist gives an empty one. */
export async function takeFingerprint(
  db: Pool | ClientBase,
  schema: string,
): Promise<{ objects: Fingerprint; major: number }> {
  const { rows } = await db.query<{ title: string; digest: string }>(catalogListing, [schema])
  const version = await db.query<{ major: number }>(
    "select current_setting('server_version_num')::int / 10000 as major",
  )
  const objects = Object.fromEntries(rows.map((row) => [row.title, row.digest]))
  return { objects, major: version.rows[0]?.major ?? 0 }
}

/**
 * Names what differs: tables first, then the rest, sorted. Of a table that was dropped, or added (which is said), nothing
 * else is named. An index or view that somebody added counts for nothing, because it cannot change what the schema's own
 * objects do; everything else that was added, altered or dropped does.
 */
export function differences(stored: Fingerprint, live: Fingerprint): string[] {
  const titles = new Set([...Object.keys(stored), ...Object.keys(live)])
  const differing = [...titles]
    .filter((title) => stored[title] !== live[title])
    .filter((title) => stored[title] !== undefined || !/^(index|view) /.test(title))
    .sort()
  const tables = differing.filter((title) => title.startsWith('table '))
  const whole = tables
    .filter((title) => stored[title] === undefined || live[title] === undefined)
    .map((title) => title.slice('table '.length))
  const rest = differing.filter(
    (title) => !tables.includes(title) && !whole.some((table) => belongsTo(title, table)),
  )
  return [...tables.map((title) => (stored[title] === undefined ? `${title} (added)` : title)), ...rest]
}

/** By its name: what PostgreSQL names by itself (indexes, sequences) begins with the table's. */
function belongsTo(quoted: string, quotedTable: string): boolean {
  const [title, table] = [quoted.replaceAll('"', ''), quotedTable.replaceAll('"', '')]
  return (
    title.startsWith(`column ${table}.`) ||
    title.endsWith(` on ${table}`) ||
    (/^(unique )?(index|sequence) /.test(title) && title.includes(` ${table}_`))
  )
}
