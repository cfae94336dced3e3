/**
 * Two kinds of plots as SVG text: bars with ranges, and lines with direct labels. Nothing is loaded from anywhere, and
 * the colours follow the reader's light or dark scheme, so the files can stand in a README.
 */
import { number } from './record.ts'

/** A bar: the median, and a whisker from the lowest to the highest. */
export interface Bar {
  readonly label: string
  readonly note: string
  readonly median: number
  readonly lowest: number
  readonly highest: number
  readonly emphasis: 'own' | 'peer' | 'control'
}

/** A line with its label at its end. */
export interface Line {
  readonly label: string
  readonly emphasis: 'own' | 'peer' | 'control'
  readonly points: readonly { x: number; median: number; lowest: number; highest: number }[]
}

const style = `<style>
  .page { fill: #ffffff } .ink { fill: #1f2328 } .soft { fill: #59636e } .grid { stroke: #d1d9e0 } .axis { stroke: #818b98 }
  .whisker { stroke: #1f2328 }
  .own { fill: #0b6bcb } .peer { fill: #9aa4af } .control { fill: #c9bfa5 }
  .c0 { stroke: #0b6bcb; fill: #0b6bcb } .c1 { stroke: #b35900; fill: #b35900 } .c2 { stroke: #8250df; fill: #8250df }
  .c3 { stroke: #1a7f37; fill: #1a7f37 } .c4 { stroke: #bf3989; fill: #bf3989 } .c5 { stroke: #6e7781; fill: #6e7781 }
  .c6 { stroke: #9a6700; fill: #9a6700 } .c7 { stroke: #0a7ea4; fill: #0a7ea4 }
  .line { fill: none; stroke-width: 2 } .own-line { stroke-width: 3.5 } .band { stroke: none; opacity: 0.13 } .name { stroke: none }
  text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif } .title { font-size: 15px; font-weight: 600 } .bold { font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .ink { fill: #f0f6fc } .soft { fill: #9198a1 } .grid { stroke: #2a313c } .axis { stroke: #656c76 }
    .whisker { stroke: #f0f6fc }
    .own { fill: #4493f8 } .peer { fill: #656c76 } .control { fill: #57503a }
    .c0 { stroke: #4493f8; fill: #4493f8 } .c1 { stroke: #f0883e; fill: #f0883e } .c2 { stroke: #ab7df8; fill: #ab7df8 }
    .c3 { stroke: #3fb950; fill: #3fb950 } .c4 { stroke: #db61a2; fill: #db61a2 } .c5 { stroke: #9198a1; fill: #9198a1 }
    .c6 { stroke: #d29922; fill: #d29922 } .c7 { stroke: #39c5cf; fill: #39c5cf }
  }
</style>`

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}

function page(
  width: number,
  height: number,
  title: string,
  subtitle: string,
  body: readonly string[],
): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${escape(title).replaceAll('"', '&quot;')}">`,
    style,
    `<rect class="page" width="${width}" height="${height}"/>`,
    `<text class="ink title" x="16" y="26">${escape(title)}</text>`,
    `<text class="soft" x="16" y="45">${escape(subtitle)}</text>`,
    ...body,
    '</svg>',
    '',
  ].join('\n')
}

function text(
  css: string,
  x: number,
  y: number,
  words: string,
  anchor: 'start' | 'middle' | 'end' = 'start',
): string {
  return `<text class="${css}" x="${round(x)}" y="${round(y)}" text-anchor="${anchor}">${escape(words)}</text>`
}

function stroke(css: string, x1: number, y1: number, x2: number, y2: number): string {
  return `<line class="${css}" x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}"/>`
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}

/** Round numbers from 0 to at least `most`, four to six of them. */
export function ticks(most: number): number[] {
  if (!(most > 0)) return [0, 1]
  const rough = most / 5
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 2.5, 5, 10].map((unit) => unit * power).find((candidate) => candidate >= rough)!
  const count = Math.ceil(most / step - 1e-9)
  return Array.from({ length: count + 1 }, (_, i) => Number((i * step).toPrecision(6)))
}

/** Horizontal bars, the best first as given. */
export function bars(title: string, subtitle: string, unit: string, all: readonly Bar[]): string {
  const [width, left, right, top, row] = [860, 270, 150, 66, 34]
  const bottom = top + all.length * row
  const scale = ticks(Math.max(...all.map(({ highest }) => highest)))
  const x = (value: number) => left + (value / scale.at(-1)!) * (width - left - right)
  const body = scale.flatMap((tick) => [
    stroke('grid', x(tick), top, x(tick), bottom),
    text('soft', x(tick), bottom + 18, number(tick), 'middle'),
  ])
  for (const [i, bar] of all.entries()) {
    const y = top + i * row
    const middle = y + row / 2
    body.push(
      text(
        `ink${bar.emphasis === 'own' ? ' bold' : ''}`,
        left - 10,
        middle - (bar.note === '' ? -4 : 2),
        bar.label,
        'end',
      ),
      text('soft', left - 10, middle + 12, bar.note, 'end'),
      `<rect class="${bar.emphasis}" x="${left}" y="${y + 7}" width="${round(Math.max(1, x(bar.median) - left))}" height="${row - 14}" rx="2"/>`,
    )
    if (bar.highest > bar.lowest)
      body.push(
        stroke('whisker', x(bar.lowest), middle, x(bar.highest), middle),
        stroke('whisker', x(bar.lowest), middle - 4, x(bar.lowest), middle + 4),
        stroke('whisker', x(bar.highest), middle - 4, x(bar.highest), middle + 4),
      )
    body.push(text('ink bold', x(bar.highest) + 8, middle + 4, number(bar.median)))
  }
  body.push(
    stroke('axis', left, top, left, bottom),
    text('soft', left + (width - left - right) / 2, bottom + 38, unit, 'middle'),
  )
  return page(width, bottom + 52, title, subtitle, body)
}

/** How lines are laid out: what the axes are called, and whether they are logarithmic. */
export interface Axes {
  readonly x: string
  readonly y: string
  readonly logX?: boolean
  readonly logY?: boolean
}

interface Scale {
  readonly ticks: readonly number[]
  /** 0 at the start of the axis, 1 at its end. */
  at(value: number): number
}

function linear(values: readonly number[]): Scale {
  const marks = ticks(Math.max(...values))
  return { ticks: marks, at: (value) => value / marks.at(-1)! }
}

function logarithmic(values: readonly number[]): Scale {
  const positive = values.filter((value) => value > 0)
  const low = Math.floor(Math.log10(Math.min(...positive)) + 1e-9)
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...positive)) - 1e-9))
  const marks = Array.from({ length: high - low + 1 }, (_, i) => Number((10 ** (low + i)).toPrecision(6)))
  return { ticks: marks, at: (value) => (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low) }
}

/** The points attribute of a polyline or polygon. */
function path(of: readonly (readonly [number, number])[]): string {
  return of.map(([x, y]) => `${round(x)},${round(y)}`).join(' ')
}

const labelHeight = 17

/** Where each line ends and where its label is shown: as near as the other labels and the page allow. */
function labelPlaces(
  all: readonly Line[],
  y: (value: number) => number,
  lowest: number,
): { line: Line; index: number; at: number; shown: number }[] {
  const places = all
    .map((line, index) => ({ line, index, at: y(line.points.at(-1)!.median), shown: 0 }))
    .toSorted((a, b) => a.at - b.at)
  let free = -Infinity
  for (const place of places) {
    place.shown = Math.max(place.at, free)
    free = place.shown + labelHeight
  }
  let limit = lowest
  for (const place of places.toReversed()) {
    place.shown = Math.min(place.shown, limit)
    limit = place.shown - labelHeight
  }
  return places
}

/** Lines over a common axis; ranges are bands around them. */
export function lines(title: string, subtitle: string, axes: Axes, all: readonly Line[]): string {
  const [width, height, left, right, top, bottom] = [860, 440, 76, 250, 88, 54]
  const points = all.flatMap((line) => line.points)
  const along = (axes.logX ? logarithmic : linear)(points.map(({ x }) => x))
  const up = (axes.logY ? logarithmic : linear)(
    points.map(({ highest }) => highest).concat(axes.logY ? points.map((p) => p.lowest) : []),
  )
  const x = (value: number) => left + along.at(value) * (width - left - right)
  const y = (value: number) => height - bottom - up.at(value) * (height - top - bottom)
  const body = [
    ...up.ticks.flatMap((tick) => [
      stroke('grid', left, y(tick), width - right, y(tick)),
      text('soft', left - 8, y(tick) + 4, number(tick), 'end'),
    ]),
    ...along.ticks.map((tick) => text('soft', x(tick), height - bottom + 18, number(tick), 'middle')),
    stroke('axis', left, height - bottom, width - right, height - bottom),
    text('soft', left + (width - left - right) / 2, height - bottom + 40, axes.x, 'middle'),
    text('soft', left - 8, top - 8, axes.y),
  ]
  for (const [i, line] of all.entries()) {
    const there = line.points.map((p) => [x(p.x), y(p.highest)] as const)
    const back = line.points.toReversed().map((p) => [x(p.x), y(p.lowest)] as const)
    if (line.points.some((p) => p.highest > p.lowest))
      body.push(`<polygon class="c${i % 8} band" points="${path([...there, ...back])}"/>`)
    body.push(
      `<polyline class="c${i % 8} line${line.emphasis === 'own' ? ' own-line' : ''}" style="fill:none" points="${path(line.points.map((p) => [x(p.x), y(p.median)] as const))}"/>`,
    )
  }
  for (const { line, index, at, shown } of labelPlaces(all, y, height - 12)) {
    const last = line.points.at(-1)!
    const name = `c${index % 8} name${line.emphasis === 'own' ? ' bold' : ''}`
    body.push(
      stroke(`c${index % 8}`, x(last.x) + 3, at, width - right + 14, shown),
      text(name, width - right + 18, shown + 4, `${line.label}  ${number(last.median)}`),
    )
  }
  return page(width, height, title, subtitle, body)
}
