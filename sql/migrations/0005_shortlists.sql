-- A shortlist a product instead of a list a product and cell: a fourteenth of the bytes, and answers under every filter.
--
-- A product's position is its place, from 0, among the run's products ordered by base cell, and these by the fields: so what a
-- filter leaves is a few ranges of positions. Runs of the layout before stay as they are, with their positions
-- by ascending product_id and their lists; the functions that answer from these are kept for them, in a schema of their own. The
-- tables of lists go when the last such run is pruned: readers are not made to wait for it.
CREATE TABLE lookalike.shortlists (
    run_id int NOT NULL,
    position int NOT NULL,
    items int[] NOT NULL,
    filled_at smallint[] NOT NULL
) PARTITION BY LIST (run_id);
ALTER TABLE lookalike.shortlists ALTER COLUMN items SET STORAGE EXTERNAL;
COMMENT ON TABLE lookalike.shortlists IS
    'For the product at each position the positions of all that are among the most similar of at least one precomputed cell, best first;'
    ' and for each of the widest cells the rank, from 1, of the item with which there are as many of its members as it is deep, or 32767';

-- Sets of base cells and of cells are strings of bits: bit i, counted from 0 on the left, is number i. Cell 0 has all products.
CREATE TABLE lookalike.numberings (
    run_id int NOT NULL,
    starts int[] NOT NULL,
    depths int[] NOT NULL CHECK (10 <= ALL (depths)),
    widest int[] NOT NULL
) PARTITION BY LIST (run_id);
ALTER TABLE lookalike.numberings ALTER COLUMN starts SET STORAGE EXTERNAL;
COMMENT ON TABLE lookalike.numberings IS
    'The position at which each base cell begins and the number of products; how many members of each cell every shortlist holds;'
    ' and the widest cells, which only the cell of all products contains';

CREATE TABLE lookalike.cells (
    run_id int NOT NULL,
    cell int NOT NULL,
    base_cells varbit NOT NULL,
    supersets varbit NOT NULL
) PARTITION BY LIST (run_id);
ALTER TABLE lookalike.cells ALTER COLUMN base_cells SET STORAGE EXTERNAL;
COMMENT ON TABLE lookalike.cells IS 'Precomputed cells: their base cells, and the cells that contain them';

CREATE TABLE lookalike.field_values (
    run_id int NOT NULL,
    field text NOT NULL,
    value text,
    base_cells varbit NOT NULL,
    cells varbit NOT NULL
) PARTITION BY LIST (run_id);
ALTER TABLE lookalike.field_values ALTER COLUMN base_cells SET STORAGE EXTERNAL;
COMMENT ON TABLE lookalike.field_values IS
    'The base cells that have a value of a field, or none where it is null, and the precomputed cells that have such a member';

-- A table of its own: to add a column to `combinations` would wait for those who read it, and make others wait.
CREATE TABLE lookalike.precomputed (
    run_id int NOT NULL,
    filters jsonb NOT NULL,
    members int[] NOT NULL
) PARTITION BY LIST (run_id);
ALTER TABLE lookalike.precomputed ALTER COLUMN members SET STORAGE EXTERNAL;
COMMENT ON TABLE lookalike.precomputed IS
    'Filters that leave just a precomputed cell, and where ranges of positions begin and end, in turn, that have its members';

CREATE SCHEMA lookalike_lists;
COMMENT ON SCHEMA lookalike_lists IS 'Functions that answer from the lists of runs before migration 0005; for those of lookalike';
DO $$
DECLARE
    former regprocedure;
BEGIN
    FOR former IN
        SELECT to_regprocedure(f.name) FROM unnest(ARRAY[
            'lookalike.similar_items(bigint, jsonb, int)', 'lookalike.similar_items_by_vector(public.vector, jsonb, int)'
        ]) AS f(name) WHERE to_regprocedure(f.name) IS NOT NULL
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET SCHEMA lookalike_lists', former);
    END LOOP;
END $$;
