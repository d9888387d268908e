-- The base cells of some cells together: of those which no other one of them contains. Null for no cell.
CREATE OR REPLACE FUNCTION lookalike.joined(asked int, chosen varbit) RETURNS varbit
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN (
        SELECT bit_or(c.base_cells) FROM lookalike.cells c
        WHERE c.run_id = asked AND get_bit(chosen, c.cell) = 1 AND bit_count(c.supersets & chosen) = 0);
END $$;
COMMENT ON FUNCTION lookalike.joined IS 'The base cells of some precomputed cells together; for the other functions, not for readers';
