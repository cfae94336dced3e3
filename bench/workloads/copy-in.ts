/**
 * COPY … FROM STDIN over `pg`, whose own protocol objects suffice: sends prepared chunks of text rows.
 */
import type { Client, Connection, Submittable } from 'pg'

interface CopyConnection extends Connection {
  query(text: string): void
  sendCopyFromChunk(chunk: Buffer): void
  endCopyFrom(): void
}

/** Runs `copy` (a COPY … FROM STDIN statement) with these chunks; resolves when it is committed. */
export function copyIn(client: Client, copy: string, chunks: readonly Buffer[]): Promise<void> {
  return new Promise((resolve, reject) => {
    let failure: Error | null = null
    const statement = {
      submit: (connection: Connection) => (connection as CopyConnection).query(copy),
      handleCopyInResponse(connection: CopyConnection) {
        for (const chunk of chunks) connection.sendCopyFromChunk(chunk)
        connection.endCopyFrom()
      },
      handleCommandComplete() {},
      handleError(error: Error) {
        failure = error
      },
      handleReadyForQuery() {
        if (failure === null) resolve()
        else reject(failure)
      },
    }
    client.query(statement as unknown as Submittable)
  })
}
