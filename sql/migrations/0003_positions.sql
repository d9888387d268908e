-- Lists of positions: half the bytes of lists of ids and scores, and twice as fast to load.
--
-- A product's position is its place, from 0, among the run's products by ascending product_id. Lists hold positions and no
-- scores: embeddings are fixed-point unit vectors, so the dot product computed on read is the one that ranked the list, to
-- the bit. A base cell (the data cube's word for it: Gray et al. 1997) is one distinct tuple of the run's fields; the members
-- of any filter combination are the products of the base cells that pass it.
--
-- Runs of the layout before have neither, so they are removed: nothing is live until the next publish, which loads anew.
DROP VIEW IF EXISTS lookalike.live_products;  -- views.sql makes it again
DROP TABLE lookalike.products, lookalike.combinations, lookalike.lists;
DELETE FROM lookalike.live;
DELETE FROM lookalike.runs;

CREATE TABLE lookalike.products (
    run_id int NOT NULL,
    position int NOT NULL,
    base_cell int NOT NULL,
    product_id bigint NOT NULL,
    gender text, "masterCategory" text, "subCategory" text, "articleType" text, "baseColour" text,
    season text, year text, usage text, "productDisplayName" text,
    "derivedType" text,
    image_sha256 text NOT NULL,
    embedding halfvec NOT NULL
) PARTITION BY LIST (run_id);
-- Entries are multiples of 2^-11, which halfvec holds exactly. EXTERNAL, not PLAIN, since the widest (4,032 dimensions) do not
-- fit into a page with their attributes; partitions set toast_tuple_target so that all others stay in the row.
ALTER TABLE lookalike.products ALTER COLUMN embedding SET STORAGE EXTERNAL;
COMMENT ON TABLE lookalike.products IS
    'Products of each run, ordered by base cell, with the embedding that similarity is measured on';

CREATE TABLE lookalike.base_cells (
    run_id int NOT NULL,
    base_cell int NOT NULL,
    attributes jsonb NOT NULL
) PARTITION BY LIST (run_id);
COMMENT ON TABLE lookalike.base_cells IS
    'Distinct tuples of the run''s fields as {field: value} without the missing ones; a filter combination contains some of them';

CREATE TABLE lookalike.combinations (
    run_id int NOT NULL,
    filters jsonb NOT NULL,
    cell int NOT NULL
) PARTITION BY LIST (run_id);
COMMENT ON TABLE lookalike.combinations IS 'Filter combination -> precomputed cell; combinations with the same members share one';

CREATE TABLE lookalike.lists (
    run_id int NOT NULL,
    cell int NOT NULL,
    position int NOT NULL,
    items int[] NOT NULL
) PARTITION BY LIST (run_id);
COMMENT ON TABLE lookalike.lists IS
    'For the product at each position and every precomputed cell the positions of its ten most similar members, best first';
