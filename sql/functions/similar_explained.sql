-- The answer of similar_items with what explains it: of the product and of each item the attributes, the embedding, and the rank that
-- an item has without filters, for which all products of the run are compared.
CREATE OR REPLACE FUNCTION lookalike.similar_explained(
    product_id text, filters jsonb, k int, exclude text[], OUT tag text, OUT answer json, OUT manifest jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET max_parallel_workers_per_gather = 0 AS $$
#variable_conflict use_column
DECLARE
    live_id int;
    place int;
    query public.halfvec;
    items json;
    compared int;
    distances float8[];
    orders int[];
    ranks int[];
BEGIN
    SELECT r.run_id, s.tag, r.manifest INTO live_id, similar_explained.tag, similar_explained.manifest
    FROM lookalike.served_run() s JOIN lookalike.runs r ON r.run_id = s.run_id;
    SELECT p.position, p.embedding INTO place, query FROM lookalike.catalogue p
    WHERE p.run_id = live_id AND p.product_id = similar_explained.product_id;
    SELECT array_agg(i.embedding OPERATOR(public.<#>) query ORDER BY s.rank), array_agg(i.id_order ORDER BY s.rank), min(s.scanned),
        json_agg(json_build_object(
            'rank', s.rank, 'product_id', s.item, 'name', i.name, 'score', s.score::float8,
            'image', '/images/' || encode(i.image_sha256, 'hex'), 'attributes', i.attributes, 'embedding', encode(public.halfvec_send(i.embedding), 'hex')
        ) ORDER BY s.rank)
    INTO distances, orders, compared, items
    FROM lookalike.similar_items(similar_explained.product_id, filters, k, exclude) s
    LEFT JOIN lookalike.catalogue i ON i.run_id = live_id AND i.product_id = s.item;
    -- Of each product the first item that it does not rank behind, of an item that itself: ranks are sums of how many these are.
    ranks := ARRAY(
        SELECT (sum(coalesce(before.n, 0)) OVER (ORDER BY u.at))::int
        FROM generate_series(1, cardinality(distances)) AS u(at)
        LEFT JOIN (
            SELECT first.at, count(*) AS n
            FROM (
                SELECT (SELECT min(i.at) FROM unnest(distances, orders) WITH ORDINALITY AS i(distance, id_order, at)
                        WHERE (p.distance, p.id_order) <= (i.distance, i.id_order)) AS at
                FROM (SELECT c.embedding OPERATOR(public.<#>) query AS distance, c.id_order FROM lookalike.catalogue c
                      WHERE c.run_id = live_id AND c.position <> place OFFSET 0) p
                WHERE (p.distance, p.id_order) <= (distances[cardinality(distances)], orders[cardinality(orders)])
            ) first GROUP BY first.at
        ) before ON before.at = u.at
        ORDER BY u.at);
    SELECT json_build_object(
        'run', json_build_object('run_id', s.run_id, 'run', s.run), 'product_id', similar_explained.product_id,
        'items', coalesce(items, '[]'), 'scanned', CASE WHEN items IS NULL THEN 0 ELSE compared END,
        'names', n.attributes, 'ranks', ranks, 'attributes', p.attributes, 'embedding', encode(public.halfvec_send(p.embedding), 'hex'))
    INTO answer
    FROM lookalike.served_run() s JOIN lookalike.attribute_names n ON n.run_id = live_id
    JOIN lookalike.catalogue p ON p.run_id = live_id AND p.product_id = similar_explained.product_id;
    IF answer IS NULL THEN
        RAISE EXCEPTION 'the live run was published by an earlier release, whose answers cannot be explained'
            USING HINT = 'publish a run with this release';
    END IF;
END $$;
COMMENT ON FUNCTION lookalike.similar_explained IS
    'What similar_items answers, as JSON with attributes, embeddings and ranks without filters, and the manifest of the run';
