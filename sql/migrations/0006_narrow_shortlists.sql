-- Shortlists of runs of at most 65,536 products take half the bytes: a position fits into two of them.
--
-- A table of its own: to add a column to `shortlists` would wait for those who read it, and make others wait. A run's shortlists are
-- in the one or in the other.
CREATE TABLE lookalike.narrow_shortlists (
    run_id int NOT NULL,
    position int NOT NULL,
    items smallint[] NOT NULL,
    filled_at smallint[] NOT NULL
) PARTITION BY LIST (run_id);
ALTER TABLE lookalike.narrow_shortlists ALTER COLUMN items SET STORAGE EXTERNAL;
COMMENT ON TABLE lookalike.narrow_shortlists IS
    'As shortlists, of runs of at most 65,536 products: each item is a position less 32,768';
