-- The k products most like a product, among those of the live run that pass a filter combination.
--
-- A precomputed cell is looked up (k <= 10); any other combination is computed on read, exactly, by ordering its members.
-- Embeddings are fixed-point unit vectors, so both ways give the same scores to the bit.
-- pg_temp stands last in search_path: unnamed it would come first, and a caller's temporary type would run as the owner.
CREATE OR REPLACE FUNCTION lookalike.similar_items(
    product_id bigint, filters jsonb DEFAULT '{}', k int DEFAULT 10
) RETURNS TABLE (rank int, item bigint, score real, precomputed boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lookalike, pg_temp AS $$
#variable_conflict use_column
DECLARE
    asked bigint := similar_items.product_id;
    live_id int;
    live_fields text[];
    field text;
    value jsonb;
    found_items bigint[];
    found_scores real[];
    query halfvec;
    conditions text := '';
BEGIN
    SELECT r.run_id, r.fields INTO live_id, live_fields FROM lookalike.live l JOIN lookalike.runs r USING (run_id);
    IF live_id IS NULL THEN
        RAISE EXCEPTION 'no run is live' USING HINT = 'publish one with make refresh';
    END IF;
    IF k IS NULL OR k < 1 OR k > 100 THEN
        RAISE EXCEPTION 'k = % is not between 1 and 100', k USING HINT = 'ask for 1 to 100 items';
    END IF;
    IF k <= 10 THEN
        SELECT l.items, l.scores INTO found_items, found_scores
        FROM lookalike.combinations c JOIN lookalike.lists l ON l.run_id = live_id AND l.cell = c.cell
        WHERE c.run_id = live_id AND c.filters = similar_items.filters AND l.product_id = asked;
        IF FOUND THEN
            RETURN QUERY SELECT u.place::int, u.item, u.score, true
            FROM unnest(found_items[:k], found_scores[:k]) WITH ORDINALITY AS u(item, score, place);
            RETURN;
        END IF;
    END IF;
    IF jsonb_typeof(filters) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'filters is no JSON object: %', filters USING HINT = 'write {"field": "value"}, or {} for no filter';
    END IF;
    FOR field, value IN SELECT * FROM jsonb_each(filters) LOOP
        IF field <> ALL (live_fields) THEN
            RAISE EXCEPTION 'unknown field %', quote_literal(field)
                USING HINT = 'known fields: ' || array_to_string(live_fields, ', ');
        END IF;
        IF jsonb_typeof(value) <> 'string' THEN
            RAISE EXCEPTION 'the value of field % is no string: %', quote_literal(field), value
                USING HINT = 'write {"field": "value"}';
        END IF;
        conditions := conditions || format(' AND %I = %L', field, value #>> '{}');
    END LOOP;
    SELECT p.embedding INTO query FROM lookalike.products p WHERE p.run_id = live_id AND p.product_id = asked;
    IF query IS NULL THEN
        RAISE EXCEPTION 'the live run has no product %', asked USING HINT = 'its id may be wrong, or it was rejected: see the table rejects';
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT row_number() OVER (ORDER BY distance, product_id)::int, product_id, (-distance)::real, false FROM (
             SELECT product_id, embedding <#> $1 AS distance FROM lookalike.products
             WHERE run_id = %s AND product_id <> $2 %s ORDER BY distance, product_id LIMIT $3) best
         ORDER BY 1', live_id, conditions) USING query, asked, k;
END $$;
COMMENT ON FUNCTION lookalike.similar_items IS
    'The k (1 to 100) products most like a product among those of the live run that pass the filters: best first, ties to the smaller id';
