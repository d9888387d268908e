-- Computing on read: the k members of a filter combination nearest to an embedding, exactly; ties go to the smaller id.
--
-- The base cells that pass come from an index, and the products of each lie side by side. One plan serves all filters: to make
-- one for each takes longer than to answer from a small cell.
CREATE OR REPLACE FUNCTION lookalike.best_members(
    run_id int, query public.halfvec, filters jsonb, k int, excluded bigint
) RETURNS TABLE (rank int, item bigint, score real, precomputed boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT row_number() OVER (ORDER BY distance, product_id)::int, product_id, (-distance)::real, false
    FROM (
        SELECT p.product_id, p.embedding OPERATOR(public.<#>) best_members.query AS distance
        FROM lookalike.base_cells b JOIN lookalike.products p USING (run_id, base_cell)
        WHERE b.run_id = best_members.run_id AND p.run_id = best_members.run_id
          AND b.attributes @> best_members.filters AND p.product_id IS DISTINCT FROM best_members.excluded
        ORDER BY distance, product_id LIMIT best_members.k
    ) best
    ORDER BY 1;
END $$;
COMMENT ON FUNCTION lookalike.best_members IS
    'The k members of a filter combination of a run nearest to an embedding, but one; for the other functions, not for readers';
