/**
 * Tells public internet addresses from all others, so that no page fetched on somebody's behalf reaches into our own network.
 *
 * Refused are loopback, private, link-local, shared, documentation, multicast and reserved ranges of both families, and IPv6
 * forms that carry an IPv4 address (mapped, NAT64, 6to4, Teredo) whose inner address is not looked at but refused as a whole, except
 * mapped ones, which are judged by it.
 */
import { BlockList, isIP } from 'node:net'

const blocked = new BlockList()
for (const range of (
  '0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 ' +
  '192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4'
).split(' ')) {
  const [net = '', prefix = ''] = range.split('/')
  blocked.addSubnet(net, Number(prefix), 'ipv4')
}
for (const range of '::/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32 2002::/16 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8'.split(
  ' ',
)) {
  const [net = '', prefix = ''] = range.split('/')
  blocked.addSubnet(net, Number(prefix), 'ipv6')
}

/** Whether `address` (an IP address in text) is one of the public internet. False for what is no address. */
export function isPublicAddress(address: string): boolean {
  const bare = address.replace(/^\[|\]$/g, '').replace(/%.*$/, '')
  const family = isIP(bare)
  if (family === 4) return !blocked.check(bare, 'ipv4')
  if (family !== 6) return false
  const mapped = mappedIpv4(bare)
  return mapped === null ? !blocked.check(bare, 'ipv6') : !blocked.check(mapped, 'ipv4')
}

/** The IPv4 address inside `::ffff:a.b.c.d`, in either spelling. */
function mappedIpv4(address: string): string | null {
  const hostname = URL.parse(`http://[${address}]/`)?.hostname
  const match = hostname === undefined ? null : /^\[::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})\]$/.exec(hostname)
  if (match === null) return null
  const high = Number.parseInt(match[1] ?? '', 16)
  const low = Number.parseInt(match[2] ?? '', 16)
  return `${high >> 8}.${high & 255}.${low >> 8}.${low & 255}`
}
