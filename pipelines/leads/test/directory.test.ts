/**
 * Holds the directory reader against real files: dialects, malformed rows with their lines, going on in the middle.
 */
import { createWriteStream } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { finished } from 'node:stream/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openDirectory, type Directory, type Position } from '../src/discovery/directory.ts'
import { DirectoryInvalidError } from '../src/discovery/header.ts'
import { readRows, type DirectoryRow } from '../src/discovery/rows.ts'

let folder: string
let files = 0

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'leasehold-directory-'))
})
afterAll(async () => {
  await rm(folder, { recursive: true })
})

async function directoryOf(content: string | Buffer): Promise<Directory> {
  const path = join(folder, `${++files}.csv`)
  await writeFile(path, content)
  return openDirectory(path)
}

async function rowsOf(directory: Directory, from?: Position): Promise<DirectoryRow[]> {
  const rows: DirectoryRow[] = []
  for await (const row of readRows(directory, from)) rows.push(row)
  return rows
}

/** Rows as `line:name` or `line!problem`. */
function brief(rows: readonly DirectoryRow[]): string[] {
  return rows.map((row) =>
    'company' in row ? `${row.line}:${row.company.name}` : `${row.line}!${row.problem}`,
  )
}

/** What this process has read so far, by the kernel's count. */
async function bytesRead(): Promise<number> {
  return Number(/^rchar: (\d+)/m.exec(await readFile('/proc/self/io', 'utf8'))![1])
}

describe('dialects', () => {
  test('a byte-order mark, CRLF and quotes with commas and line breaks are read', async () => {
    const directory = await directoryOf(
      '\ufeffCompany,City,Description\r\n"Acme, Inc.",Austin,"Two\r\nlines, ""quoted"""\r\n\r\nBeta,Dallas,plain\r\n',
    )
    const rows = await rowsOf(directory)
    expect(brief(rows)).toEqual(['2:Acme, Inc.', '5:Beta'])
    expect(rows[0]).toMatchObject({ company: { city: 'Austin', description: 'Two lines, "quoted"' } })
  })

  test.each([
    [';', 'semicolons'],
    ['\t', 'tabs'],
    ['|', 'bars'],
  ])('%j delimits', async (delimiter) => {
    const directory = await directoryOf(`name${delimiter}city\nAcme, Inc.${delimiter}Austin\n`)
    expect(directory.delimiter).toBe(delimiter)
    expect(brief(await rowsOf(directory))).toEqual(['2:Acme, Inc.'])
  })

  test('a comma inside quotes does not decide the delimiter', async () => {
    const directory = await directoryOf('"name, legal, full";company;city\nx;Acme;Austin\n')
    expect(directory.delimiter).toBe(';')
  })

  test('UTF-16 with a mark and Latin-1 are read, the latter with a note', async () => {
    const utf16 = await directoryOf(
      Buffer.from('\ufeffcompany,city\nCafé Ā,Austin\n"Two\nlines",Dallas\n', 'utf16le'),
    )
    expect(brief(await rowsOf(utf16))).toEqual(['2:Café Ā', '3:Two lines'])
    const latin = await directoryOf(Buffer.from('company,city\nCafé,Austin\n', 'latin1'))
    expect(brief(await rowsOf(latin))).toEqual(['2:Café'])
    expect(latin.notes).toHaveLength(1)
  })

  test('a file without a final line end, or with old Mac line ends, is read to its end', async () => {
    expect(brief(await rowsOf(await directoryOf('company\nAcme\nBeta')))).toEqual(['2:Acme', '3:Beta'])
    expect(brief(await rowsOf(await directoryOf('company,city\rAcme,A\rBeta,B\r')))).toEqual([
      '2:Acme',
      '3:Beta',
    ])
  })

  test('a header alone is an empty directory', async () => {
    expect(await rowsOf(await directoryOf('company,city\n'))).toEqual([])
    expect(await rowsOf(await directoryOf('company,city'))).toEqual([])
  })
})

describe('columns', () => {
  test('are mapped by name and the rest are kept', async () => {
    const directory = await directoryOf(
      ',CompanyName,Homepage URL,Locality,Size Range,Founded,Founded,__proto__,First Name,Last Name,Job Title\n' +
        '0,Acme,www.acme.example/en,"austin, texas, united states",51-200,1999,2000,x,Jo,Doe,Owner\n',
    )
    const [row] = await rowsOf(directory)
    expect(row).toMatchObject({
      company: {
        name: 'Acme',
        domain: 'acme.example',
        website: 'https://www.acme.example/en',
        city: 'austin',
        state: 'texas',
        country: 'united states',
        employees: 51,
        contactName: 'Jo Doe',
        contactTitle: 'Owner',
      },
    })
    const extra = row !== undefined && 'company' in row ? row.company.extra : {}
    expect(Object.entries(extra)).toEqual([
      ['column 1', '0'],
      ['Founded', '1999'],
      ['Founded (2)', '2000'],
      ['__proto__', 'x'],
    ])
  })

  test('without a website, an own mail domain is the domain and a free mailbox is not', async () => {
    const directory = await directoryOf('company,email\nAcme,jo@acme.example\nBeta,beta@gmail.com\n')
    const rows = await rowsOf(directory)
    expect(rows[0]).toMatchObject({ company: { domain: 'acme.example', website: 'https://acme.example/' } })
    expect(rows[1]).toMatchObject({ company: { domain: null, website: null, email: 'beta@gmail.com' } })
  })

  test.each([
    ['foo,bar\n1,2\n', /names no company column \(found "foo", "bar"\)/],
    ['', /empty/],
    ['PK\u0003\u0004rest', /spreadsheet/],
    ['\n\n\n', /no header line/],
  ])('%j is refused with what to do', async (content, message) => {
    const opening = directoryOf(content)
    await expect(opening).rejects.toBeInstanceOf(DirectoryInvalidError)
    await expect(opening).rejects.toThrow(message)
  })

  test('a missing file and a folder are refused by name', async () => {
    await expect(openDirectory(join(folder, 'none.csv'))).rejects.toThrow(/none\.csv.*no such file/)
    await expect(openDirectory(folder)).rejects.toThrow(/not a file/)
  })
})

describe('malformed rows', () => {
  test('are reported with their lines and the good ones around them are kept', async () => {
    const directory = await directoryOf(
      [
        'company,city,state',
        'Acme,Austin,TX',
        'Short,Austin',
        'Long,Austin,TX,extra',
        'Surplus,Austin,TX,,',
        ',Austin,TX',
        'N\u0000L,Austin,TX',
        ',,',
        '',
        'Last,Austin,TX',
      ].join('\n'),
    )
    expect(brief(await rowsOf(directory))).toEqual([
      '2:Acme',
      '3!has 2 columns where the header has 3',
      '4!has 4 columns where the header has 3',
      '5:Surplus',
      '6!has no company name',
      '7!holds a NUL byte',
      '10:Last',
    ])
  })

  test('an unclosed quote costs its own line, a stray one nothing', async () => {
    const directory = await directoryOf(
      'company,city\nAcme,Austin\n\n"Open,Austin\nBeta,Austin\nJoe "J" Doe,Austin\n"Bad"x,Austin\n"Two\nlines",Austin\nEnd,Austin\n',
    )
    expect(brief(await rowsOf(directory))).toEqual([
      '2:Acme',
      '4!has an unclosed or stray quote',
      '5:Beta',
      '6:Joe "J" Doe',
      '7:"Bad"x',
      '8:Two lines',
      '10:End',
    ])
  })

  test('a thousand good rows ahead of a broken one in the same read survive it', async () => {
    const good = Array.from({ length: 3000 }, (_, i) => `Company ${i},Austin`)
    const directory = await directoryOf(['company,city', ...good, '"open,Austin', 'After,Austin'].join('\n'))
    const rows = await rowsOf(directory)
    expect(rows).toHaveLength(3002)
    expect(brief(rows.slice(-2))).toEqual(['3002!has an unclosed or stray quote', '3003:After'])
  })

  test('a quote that would swallow megabytes costs one line', async () => {
    const tail = Array.from({ length: 60_000 }, (_, i) => `Company number ${i} of the long tail,Austin`)
    const directory = await directoryOf(['company,city', '"open,Austin', ...tail].join('\n'))
    const rows = await rowsOf(directory)
    expect(rows).toHaveLength(60_001)
    expect(brief(rows.slice(0, 2))).toEqual([
      '2!has an unclosed or stray quote',
      '3:Company number 0 of the long tail',
    ])
    expect(brief(rows.slice(-1))).toEqual(['60002:Company number 59999 of the long tail'])
  })

  test('a file is read once, however many of its quotes are stray or unclosed', async () => {
    const rows = Array.from({ length: 3000 }, (_, i) => [
      `Joe "J" Doe ${i},Austin`,
      `"open ${i},Austin`,
    ]).flat()
    const directory = await directoryOf(['company,city', ...rows].join('\n'))
    const before = await bytesRead()
    const read = await rowsOf(directory)
    expect((await bytesRead()) - before).toBeLessThan(directory.size + 1e6)
    expect(read.map((row) => row.line)).toEqual(rows.map((_, i) => i + 2))
    expect(read.filter((row) => 'company' in row)).toHaveLength(3000)
  })

  test('blank lines by the megabyte count as lines and cost nothing', async () => {
    const blank = '\n'.repeat(700_000)
    const directory = await directoryOf(`company,city\nAcme,Austin\n${blank}Beta,Austin\n${blank}`)
    expect(brief(await rowsOf(directory))).toEqual(['2:Acme', '700003:Beta'])
  })

  test('a line beyond the size limit is skipped', async () => {
    const directory = await directoryOf(`company,city\n${'x'.repeat(1_500_000)},Austin\nAcme,Austin\n`)
    expect(brief(await rowsOf(directory))).toEqual(['2!is longer than 1000000 bytes', '3:Acme'])
  })
})

describe('positions', () => {
  test('reading from the position after any row gives exactly the rest', async () => {
    const directory = await directoryOf(
      Buffer.from(
        '\ufeffcompany;city\r\nÄcme;Köln\r\n\r\n"Two\r\nlines";Köln\r\nshort\r\n"open;Köln\r\n日本;Köln\r\nLast;Köln',
      ),
    )
    const all = await rowsOf(directory)
    expect(brief(all)).toEqual([
      '2:Äcme',
      '4:Two lines',
      '6!has 1 columns where the header has 2',
      '7!has an unclosed or stray quote',
      '8:日本',
      '9:Last',
    ])
    for (const [index, row] of all.entries()) {
      expect(brief(await rowsOf(directory, row.next))).toEqual(brief(all.slice(index + 1)))
    }
  })

  test('an abort ends the reading', async () => {
    const directory = await directoryOf(`company\n${'Acme\n'.repeat(50_000)}`)
    const abort = new AbortController()
    let seen = 0
    const reading = (async () => {
      for await (const row of readRows(directory, undefined, abort.signal)) {
        expect(row.line).toBeGreaterThan(1)
        if (++seen === 10) abort.abort()
      }
    })()
    await expect(reading).rejects.toThrow(/abort/i)
    expect(seen).toBeLessThan(50_000)
  })
})

setFlagsFromString('--expose-gc')
const collectGarbage: () => void = runInNewContext('gc')

/** Bytes of the heap that are in use after all garbage is gone. */
function retained(): number {
  collectGarbage()
  return process.memoryUsage().heapUsed
}

test('memory stays flat over 100,000 rows', async () => {
  const path = join(folder, 'big.csv')
  const out = createWriteStream(path)
  out.write('company,website,city,description\n')
  for (let i = 0; i < 100_000; i++) {
    out.write(
      `Made Up Company ${i},https://www.made-up-${i}.example,Austin,"Residential property management, since 1990"\n`,
    )
  }
  out.end()
  await finished(out)
  const directory = await openDirectory(path)
  let rows = 0
  let peak = 0
  const before = retained()
  for await (const row of readRows(directory)) {
    if ('company' in row) rows++
    if (rows % 20_000 === 0) peak = Math.max(peak, retained())
  }
  expect(rows).toBe(100_000)
  // The rows as objects would be some 60 MB; what may stay is one read of the file with its rows.
  expect(peak - before).toBeLessThan(15e6)
})
