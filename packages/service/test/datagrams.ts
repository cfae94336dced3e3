/**
 * A Unix datagram socket, which Node lacks: libc's own, by way of koffi. Linux only, as systemd is.
 *
 * Receives without blocking: what a process that has ended had sent lies in the socket's buffer.
 */
import { createRequire } from 'node:module'

interface LibC {
  func(definition: string): (...args: unknown[]) => number
}

/** Opens a socket at a path; `received` gives all messages so far, oldest first. */
export function receiveDatagrams(path: string): { path: string; received(): string[]; close(): void } {
  const koffi: { load(library: string): LibC } = createRequire(import.meta.url)('koffi')
  const libc = koffi.load('libc.so.6')
  const [AF_UNIX, SOCK_DGRAM, MSG_DONTWAIT] = [1, 2, 0x40]
  const fd = libc.func('int socket(int, int, int)')(AF_UNIX, SOCK_DGRAM, 0)
  const address = Buffer.alloc(110)
  address.writeUInt16LE(AF_UNIX, 0)
  address.write(path, 2)
  const bound = libc.func('int bind(int, const void *, uint32_t)')(fd, address, address.length)
  if (fd < 0 || bound !== 0) throw new Error(`no datagram socket at ${path}`)
  const receive = libc.func('int recv(int, _Out_ uint8_t *, size_t, int)')
  const close = libc.func('int close(int)')
  const messages: string[] = []
  return {
    path,
    received() {
      for (;;) {
        const buffer = Buffer.alloc(4096)
        const length = receive(fd, buffer, buffer.length, MSG_DONTWAIT)
        if (length <= 0) return messages
        messages.push(buffer.toString('utf8', 0, length))
      }
    },
    close: () => void close(fd),
  }
}
