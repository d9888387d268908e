-- The answers of similar_items to several products, each as JSON: a row a product, in their order; of one that the run lacks no items.
-- What is wrong with the rest of the question is an error, also where no product is asked for.
CREATE OR REPLACE FUNCTION lookalike.similar_of_many(product_ids text[], filters jsonb, k int, exclude text[])
RETURNS TABLE (run_id int, run text, tag text, product_id text, items text, scanned int)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET max_parallel_workers_per_gather = 0 AS $$
#variable_conflict use_column
DECLARE
    live_id int := lookalike.asked_run(k);
BEGIN
    PERFORM lookalike.passing(live_id, filters);
    RETURN QUERY
    SELECT r.run_id, r.run, r.tag, a.product_id,
        CASE WHEN p.product_id IS NOT NULL THEN '[' || coalesce(found.items, '') || ']' END, coalesce(found.scanned, 0)
    FROM lookalike.served_run() r CROSS JOIN unnest(product_ids) WITH ORDINALITY AS a(product_id, place)
    LEFT JOIN lookalike.catalogue p ON p.run_id = live_id AND p.product_id = a.product_id
    LEFT JOIN LATERAL (
        SELECT string_agg(lookalike.item_as_json(s.rank, s.item, i.name, s.score, i.image_sha256), ',' ORDER BY s.rank), min(s.scanned)
        FROM lookalike.similar_items(p.product_id, filters, k, exclude) s
        LEFT JOIN lookalike.catalogue i ON i.run_id = live_id AND i.product_id = s.item
        WHERE p.product_id IS NOT NULL
    ) found(items, scanned) ON p.product_id IS NOT NULL
    ORDER BY a.place;
END $$;
COMMENT ON FUNCTION lookalike.similar_of_many IS 'What similar_items answers to each of several products, as JSON';
