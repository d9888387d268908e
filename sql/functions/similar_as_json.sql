-- The answer of similar_items as the HTTP server sends it, and the tag of the run that gave it: one statement, so one run.
CREATE OR REPLACE FUNCTION lookalike.similar_as_json(product_id text, filters jsonb, k int, exclude text[], OUT tag text, OUT answer text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET max_parallel_workers_per_gather = 0 AS $$
#variable_conflict use_column
DECLARE
    live_id int;
    named text;
    items text;
    compared text;
BEGIN
    SELECT r.run_id, r.run, r.tag INTO live_id, named, similar_as_json.tag FROM lookalike.served_run() r;
    SELECT string_agg(lookalike.item_as_json(s.rank, s.item, p.name, s.score, p.image_sha256), ',' ORDER BY s.rank), min(s.scanned)::text
    INTO items, compared
    FROM lookalike.similar_items(similar_as_json.product_id, filters, k, exclude) s
    LEFT JOIN lookalike.catalogue p ON p.run_id = live_id AND p.product_id = s.item;
    answer := '{"run":{"run_id":' || live_id || ',"run":' || to_json(named) || '},"product_id":' || to_json(similar_as_json.product_id)
        || ',"items":[' || coalesce(items, '') || '],"scanned":' || coalesce(compared, CASE WHEN items IS NULL THEN '0' ELSE 'null' END) || '}';
END $$;
COMMENT ON FUNCTION lookalike.similar_as_json IS 'What similar_items answers, as JSON with names and images, and a tag of the run that answered';
