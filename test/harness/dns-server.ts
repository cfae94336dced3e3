/**
 * A real DNS server on loopback for tests: answers A, AAAA and MX from a table, and can stay silent or fail.
 *
 * It speaks just enough of RFC 1035 over UDP. Names not in the table do not exist (NXDOMAIN).
 */
import { createSocket } from 'node:dgram'
import { once } from 'node:events'

/** What the server knows of a name. `silent` gives no answer at all, `broken` is SERVFAIL. */
export type Zone = Record<
  string,
  {
    a?: string[]
    aaaa?: string[]
    mx?: { priority: number; exchange: string }[]
    silent?: boolean
    broken?: boolean
  }
>

/** A running server; `zone` may be changed while it runs, `queries` counts what it was asked. */
export type DnsServer = {
  address: string
  zone: Zone
  queries: string[]
  mode: 'answer' | 'silent'
  close(): Promise<void>
}

const TYPES = { 1: 'a', 15: 'mx', 28: 'aaaa' } as const

export async function startDnsServer(zone: Zone): Promise<DnsServer> {
  const socket = createSocket('udp4')
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  const server: DnsServer = {
    address: `127.0.0.1:${socket.address().port}`,
    zone,
    queries: [],
    mode: 'answer',
    async close() {
      socket.close()
      await once(socket, 'close')
    },
  }
  socket.on('message', (message, sender) => {
    const { name, type, end } = readQuestion(message)
    server.queries.push(`${name} ${type}`)
    const known = server.zone[name]
    if (server.mode === 'silent' || known?.silent === true) return
    const records = type === 1 ? known?.a : type === 28 ? known?.aaaa : undefined
    const answers =
      type === 15
        ? (known?.mx ?? []).map((mx) =>
            resource(15, Buffer.concat([uint16(mx.priority), encodeName(mx.exchange)])),
          )
        : (records ?? []).map((address) => resource(type, type === 1 ? ipv4(address) : ipv6(address)))
    const code = known?.broken === true ? 2 : known === undefined ? 3 : 0
    const header = Buffer.concat([
      message.subarray(0, 2),
      uint16(0x8180 | code),
      uint16(1),
      uint16(code === 0 ? answers.length : 0),
      uint16(0),
      uint16(0),
    ])
    const parts = [header, message.subarray(12, end), ...(code === 0 ? answers : [])]
    socket.send(Buffer.concat(parts), sender.port, sender.address)
  })
  return server
}

function readQuestion(message: Buffer): { name: string; type: keyof typeof TYPES; end: number } {
  const labels: string[] = []
  let at = 12
  for (let length = message.readUInt8(at); length > 0; length = message.readUInt8(at)) {
    labels.push(message.toString('latin1', at + 1, at + 1 + length))
    at += 1 + length
  }
  const type = message.readUInt16BE(at + 1)
  if (type !== 1 && type !== 15 && type !== 28) throw new Error(`unexpected query type ${type}`)
  return { name: labels.join('.').toLowerCase(), type, end: at + 5 }
}

function resource(type: number, data: Buffer): Buffer {
  // 0xc00c points back at the question's name.
  return Buffer.concat([
    uint16(0xc00c),
    uint16(type),
    uint16(1),
    Buffer.from([0, 0, 0, 1]),
    uint16(data.length),
    data,
  ])
}

function encodeName(name: string): Buffer {
  const labels = name === '' ? [] : name.split('.')
  return Buffer.concat([
    ...labels.map((label) => Buffer.from(`${String.fromCharCode(label.length)}${label}`, 'latin1')),
    Buffer.from([0]),
  ])
}

function uint16(value: number): Buffer {
  return Buffer.from([value >> 8, value & 255])
}

function ipv4(address: string): Buffer {
  return Buffer.from(address.split('.').map(Number))
}

function ipv6(address: string): Buffer {
  const [head = '', tail = ''] = address.split('::')
  const left = hexWords(head)
  const right = hexWords(tail)
  const all = [...left, ...Array.from({ length: 8 - left.length - right.length }, () => 0), ...right]
  return Buffer.concat(all.map(uint16))
}

function hexWords(text: string): number[] {
  return text === '' ? [] : text.split(':').map((word) => Number.parseInt(word, 16))
}
