/**
 * The manifest: one typed file that declares a whole installation: what runs, how often, and who is told.
 */
