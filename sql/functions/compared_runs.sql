-- Before they took `exclude`: beside those that do, a name alone would be of two functions.
DROP FUNCTION IF EXISTS lookalike.items_of_run(int, text, jsonb, int);
DROP FUNCTION IF EXISTS lookalike.compared_runs(int, int, text, jsonb, int);

-- The k products of any complete run most like one of its products, as items of JSON: what similar_items answered, or would, were it
-- live. None where the run has no such product.
CREATE OR REPLACE FUNCTION lookalike.items_of_run(asked int, product_id text, filters jsonb, k int, exclude text[]) RETURNS json
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET max_parallel_workers_per_gather = 0 AS $$
#variable_conflict use_column
BEGIN
    RETURN (
        SELECT coalesce(json_agg(lookalike.item_as_json(s.rank, s.item, i.name, s.score, i.image_sha256)::json ORDER BY s.rank), '[]')
        FROM lookalike.catalogue p
        LEFT JOIN lookalike.narrow_shortlists n ON n.run_id = asked AND n.position = p.position
        LEFT JOIN lookalike.shortlists w ON w.run_id = asked AND w.position = p.position
        CROSS JOIN LATERAL lookalike.best_items(
            asked, p.embedding, p.position, coalesce(w.items, ARRAY(SELECT u.item + 32768 FROM unnest(n.items) AS u(item))),
            coalesce(n.filled_at, w.filled_at), filters, k, items_of_run.exclude) s
        JOIN lookalike.catalogue i ON i.run_id = asked AND i.product_id = s.item
        WHERE p.run_id = asked AND p.product_id = items_of_run.product_id);
END $$;
COMMENT ON FUNCTION lookalike.items_of_run IS 'The products of a run most like one of its products, as JSON; for the other functions';

-- Two complete runs side by side: how many products they share, and either the ten of a product in both, or the products whose tens
-- without a filter have least in common. These are the first ten of shortlists: the cell of all products is always precomputed.
-- Filters and what is excluded are for the ten of a product. Of the others there are 1,000 more than the server shows, the most that
-- somebody excludes: it compares two runs once for all who ask.
CREATE OR REPLACE FUNCTION lookalike.compared_runs(
    a int, b int, product_id text, filters jsonb, k int, exclude text[] DEFAULT '{}', OUT tag text, OUT answer json
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    missing int;
    shared json;
    of_product json;
    changed json;
BEGIN
    SELECT min(u.id) INTO missing FROM unnest(ARRAY[compared_runs.a, compared_runs.b]) AS u(id)
    WHERE NOT EXISTS (SELECT FROM lookalike.runs r JOIN lookalike.attribute_names n ON n.run_id = r.run_id
                      WHERE r.run_id = u.id AND r.loaded_at IS NOT NULL);
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'the store has no run % that can be compared', missing USING HINT = 'choose two of those that GET /runs lists';
    END IF;
    SELECT json_build_object('both', count(*) FILTER (WHERE x.product_id = y.product_id),
        'only_a', count(*) FILTER (WHERE y.product_id IS NULL), 'only_b', count(*) FILTER (WHERE x.product_id IS NULL))
    INTO shared
    FROM (SELECT c.product_id FROM lookalike.catalogue c WHERE c.run_id = compared_runs.a) x
    FULL JOIN (SELECT c.product_id FROM lookalike.catalogue c WHERE c.run_id = compared_runs.b) y ON y.product_id = x.product_id;
    IF compared_runs.product_id IS NOT NULL THEN
        IF NOT EXISTS (SELECT FROM lookalike.catalogue c WHERE c.run_id IN (compared_runs.a, compared_runs.b)
                       AND c.product_id = compared_runs.product_id) THEN
            RAISE EXCEPTION 'neither run has a product %', compared_runs.product_id USING HINT = 'its id may be wrong, or it was rejected';
        END IF;
        of_product := json_build_object(
            'a', lookalike.items_of_run(compared_runs.a, compared_runs.product_id, filters, k, compared_runs.exclude),
            'b', lookalike.items_of_run(compared_runs.b, compared_runs.product_id, filters, k, compared_runs.exclude));
    ELSE
        WITH tens AS (
            SELECT l.run_id, l.position, u.position AS item, row_number() OVER (PARTITION BY l.run_id, l.position) AS rank
            FROM (
                SELECT n.run_id, n.position, n.items[:10]::int[] AS items, 32768 AS above FROM lookalike.narrow_shortlists n
                WHERE n.run_id IN (compared_runs.a, compared_runs.b)
                UNION ALL
                SELECT w.run_id, w.position, w.items[:10], 0 FROM lookalike.shortlists w
                WHERE w.run_id IN (compared_runs.a, compared_runs.b)
            ) l CROSS JOIN LATERAL (SELECT i + l.above AS position FROM unnest(l.items) AS i) u
        ), named AS (
            SELECT t.run_id, p.product_id, i.product_id AS item
            FROM tens t
            JOIN lookalike.catalogue p ON p.run_id = t.run_id AND p.position = t.position
            JOIN lookalike.catalogue i ON i.run_id = t.run_id AND i.position = t.item
        ), kept AS (
            SELECT x.product_id, count(y.item) AS kept FROM (SELECT * FROM named WHERE run_id = compared_runs.a) x
            LEFT JOIN (SELECT * FROM named WHERE run_id = compared_runs.b) y ON y.product_id = x.product_id AND y.item = x.item
            GROUP BY x.product_id HAVING count(y.item) < count(*)
        )
        SELECT coalesce(json_agg(json_build_object(
            'product_id', c.product_id, 'name', c.name, 'image', '/images/' || encode(c.image_sha256, 'hex'), 'kept', c.kept)
            ORDER BY c.kept, c.id_order), '[]')
        INTO changed
        FROM (SELECT p.product_id, p.name, p.image_sha256, p.id_order, k.kept FROM kept k
              JOIN lookalike.catalogue p ON p.run_id = compared_runs.b AND p.product_id = k.product_id
              ORDER BY k.kept, p.id_order LIMIT 1050) c;
    END IF;
    SELECT s.tag, json_build_object(
        'run', json_build_object('run_id', s.run_id, 'run', s.run),
        'a', (SELECT json_build_object('run_id', r.run_id, 'run', r.run) FROM lookalike.runs r WHERE r.run_id = compared_runs.a),
        'b', (SELECT json_build_object('run_id', r.run_id, 'run', r.run) FROM lookalike.runs r WHERE r.run_id = compared_runs.b),
        'products', shared, 'product', of_product, 'changed', changed)
    INTO compared_runs.tag, compared_runs.answer FROM lookalike.served_run() s;
END $$;
COMMENT ON FUNCTION lookalike.compared_runs IS 'Two runs side by side as JSON: the products they share, the items of one product, or what changed most';
