-- The k products most like an embedding that need not be in the catalogue; always computed on read.
-- A vector that is no embedding of the pipeline (a unit vector of multiples of 2^-11) is first made one.
-- The settings are for the reasons given in similar_items.sql.
CREATE OR REPLACE FUNCTION lookalike.similar_items_by_vector(
    embedding public.vector, filters jsonb DEFAULT '{}', k int DEFAULT 10
) RETURNS TABLE (rank int, item bigint, score real, precomputed boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    live_id int := lookalike.checked_run(filters, k);
    asked int := public.vector_dims(similar_items_by_vector.embedding);
    known int;
BEGIN
    IF asked IS NULL THEN
        RAISE EXCEPTION 'the embedding is NULL' USING HINT = 'give a vector such as ''[0.6, 0.8]''';
    END IF;
    SELECT public.vector_dims(p.embedding) INTO known FROM lookalike.products p WHERE p.run_id = live_id AND p.position = 0;
    IF asked <> known THEN
        RAISE EXCEPTION 'the embedding has % dimensions, those of the live run have %', asked, known
            USING HINT = 'make it with the backbone that the live run was made with';
    END IF;
    RETURN QUERY SELECT * FROM lookalike.best_members(
        live_id, lookalike.to_embedding(similar_items_by_vector.embedding), filters, k, NULL);
END $$;
COMMENT ON FUNCTION lookalike.similar_items_by_vector IS
    'The k (1 to 100) products of the live run most like an embedding, among those that pass the filters: best first, ties to the smaller id';
