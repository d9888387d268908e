-- The k products most like a product, among those of the live run that pass a filter combination.
--
-- A precomputed cell is looked up (k <= 10); any other combination is computed on read, exactly, by ordering its members.
-- Embeddings are fixed-point unit vectors, so both ways give the same scores to the bit.
-- Plans are made once a connection: left to itself Postgres makes one for every question as soon as it holds several runs, since
-- it takes naming the run's partition for a gain, and planning takes three times as long as the look-up.
-- It runs as lookalike_lookup (roles.sql), and search_path names nothing that others create in: what they had created there would
-- run as that role. pg_temp stands last, since unnamed it comes first, with a caller's temporary types.
CREATE OR REPLACE FUNCTION lookalike.similar_items(
    product_id bigint, filters jsonb DEFAULT '{}', k int DEFAULT 10
) RETURNS TABLE (rank int, item bigint, score real, precomputed boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    asked bigint := similar_items.product_id;
    live_id int;
    place int;
    query public.halfvec;
BEGIN
    SELECT l.run_id, p.position, p.embedding INTO live_id, place, query
    FROM lookalike.live l JOIN lookalike.products p USING (run_id) WHERE p.product_id = asked;
    IF NOT FOUND THEN  -- or not in the tables as this transaction knew them before a publish: see checked_run.sql
        live_id := lookalike.checked_run(filters, k);
        SELECT p.position, p.embedding INTO place, query
        FROM lookalike.products p WHERE p.run_id = live_id AND p.product_id = asked;
    END IF;
    IF k BETWEEN 1 AND 10 THEN
        RETURN QUERY
        SELECT u.rank::int, p.product_id, (-(p.embedding OPERATOR(public.<#>) query))::real, true
        FROM lookalike.combinations c
        JOIN lookalike.lists l ON l.run_id = live_id AND l.position = place AND l.cell = c.cell
        CROSS JOIN unnest(l.items[:k]) WITH ORDINALITY AS u(position, rank)
        JOIN lookalike.products p ON p.run_id = live_id AND p.position = u.position
        WHERE c.run_id = live_id AND c.filters = similar_items.filters
        ORDER BY u.rank;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    live_id := lookalike.checked_run(filters, k);
    IF query IS NULL THEN
        RAISE EXCEPTION 'the live run has no product %', asked USING HINT = 'its id may be wrong, or it was rejected: see the table rejects';
    END IF;
    RETURN QUERY SELECT * FROM lookalike.best_members(live_id, query, filters, k, asked);
END $$;
COMMENT ON FUNCTION lookalike.similar_items IS
    'The k (1 to 100) products most like a product among those of the live run that pass the filters: best first, ties to the smaller id';
