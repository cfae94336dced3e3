/**
 * Importing a manifest that lies where no node_modules is, such as /etc/leasehold: it finds our own packages all the same.
 *
 * Invariant: only names of ours that cannot be found from the manifest are looked for here, and only while it is imported; a
 * package that the manifest's folder has wins.
 */
import { registerHooks } from 'node:module'

/** Imports a module by its address. */
export async function importWithOwnPackages(address: string): Promise<object> {
  const hooks = registerHooks({
    resolve(specifier, context, next) {
      try {
        return next(specifier, context)
      } catch (error) {
        if (
          !specifier.startsWith('@leasehold/') ||
          (error as { code?: string }).code !== 'ERR_MODULE_NOT_FOUND'
        )
          throw error
        return next(specifier, { ...context, parentURL: import.meta.url })
      }
    },
  })
  try {
    return (await import(address)) as object
  } finally {
    hooks.deregister()
  }
}
