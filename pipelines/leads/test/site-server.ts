/**
 * A made-up company's web site on loopback, for tests: paths and their HTML, and what was asked for.
 *
 * Which names lead to it is the business of the test's DNS server (test/harness/dns-server.ts).
 */
import { createServer } from 'node:http'
import { listenOnLoopback } from '../../../test/harness/loopback.ts'

/** A running site; `pages` may be changed while it runs. */
export type SiteServer = { port: number; pages: Record<string, string>; requests: string[]; close(): void }

export async function startSiteServer(pages: Record<string, string>): Promise<SiteServer> {
  const server = createServer((request, response) => {
    site.requests.push(`${request.headers.host?.split(':')[0]}${request.url}`)
    const html = site.pages[request.url ?? '']
    if (html === undefined) response.writeHead(404).end()
    else response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end(html)
  })
  const site: SiteServer = {
    port: 0,
    pages,
    requests: [],
    close() {
      server.closeAllConnections()
      server.close()
    },
  }
  site.port = await listenOnLoopback(server)
  return site
}
