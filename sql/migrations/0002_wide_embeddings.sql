-- The widest embeddings (4,032 dimensions, 8,064 bytes) do not fit into a page with their attributes; PLAIN refuses them.
-- EXTERNAL lets them move out, uncompressed. Partitions set toast_tuple_target so that all others stay in the row, because
-- computing on read reads them all.
ALTER TABLE lookalike.products ALTER COLUMN embedding SET STORAGE EXTERNAL;
