-- A product of the live run as the HTTP server sends it, and the tag of that run.
CREATE OR REPLACE FUNCTION lookalike.product_as_json(product_id text, OUT tag text, OUT answer text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET max_parallel_workers_per_gather = 0 AS $$
#variable_conflict use_column
DECLARE
    live_id int;
    head text;
    product text;
BEGIN
    SELECT r.run_id, '{"run":{"run_id":' || r.run_id || ',"run":' || to_json(r.run) || '},"product":', r.tag
    INTO live_id, head, product_as_json.tag FROM lookalike.served_run() r;
    IF live_id IS NULL THEN
        RAISE EXCEPTION 'no run is live' USING HINT = 'publish one with make refresh';
    END IF;
    SELECT '{"product_id":' || to_json(p.product_id) || ',"name":' || coalesce(to_json(p.name)::text, 'null')
        || ',"kind":' || coalesce(to_json(p.attributes[array_position(n.attributes, n.kind)])::text, 'null')
        || ',"attributes":' || json_object(n.attributes, p.attributes)
        || ',"image":"/images/' || encode(p.image_sha256, 'hex') || '","images":["/images/' || encode(p.image_sha256, 'hex') || '"]}}'
    INTO product
    FROM lookalike.catalogue p JOIN lookalike.attribute_names n ON n.run_id = live_id
    WHERE p.run_id = live_id AND p.product_id = product_as_json.product_id;
    IF product IS NULL THEN
        RAISE EXCEPTION 'the live run has no product %', product_as_json.product_id
            USING HINT = 'its id may be wrong, or it was rejected: see the table rejects';
    END IF;
    answer := head || product;
END $$;
COMMENT ON FUNCTION lookalike.product_as_json IS 'A product of the live run as JSON, and a tag of that run';
