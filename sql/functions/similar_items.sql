-- The k products most like a product, among those of the live run that pass filters and are not excluded.
--
-- What a precomputed cell answers is read off the shortlist at once; all else is the work of best_items.sql. Embeddings are
-- fixed-point unit vectors, so both ways give the same scores to the bit.
-- Plans are made once a connection: left to itself Postgres makes one for every question as soon as it holds several runs, since
-- it takes naming the run's partition for a gain, and planning takes three times as long as the look-up.
-- One process answers: while the store holds one run, its partition would be scanned by several, for 30 ms and more.
-- It runs as lookalike_lookup (roles.sql), and search_path names nothing that others create in: what they had created there would
-- run as that role. pg_temp stands last, since unnamed it comes first, with a caller's temporary types.
CREATE OR REPLACE FUNCTION lookalike.similar_items(
    product_id text, filters jsonb DEFAULT '{}', k int DEFAULT 10, exclude text[] DEFAULT '{}'
) RETURNS TABLE (rank int, item text, score real, scanned int, run_id int)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET max_parallel_workers_per_gather = 0 AS $$
#variable_conflict use_column
DECLARE
    asked text := similar_items.product_id;
    number text := '^(0|[1-9][0-9]{0,18})$';  -- or one too large for bigint
    by_look_up boolean := k BETWEEN 1 AND 10 AND similar_items.exclude = '{}';  -- no cell is less deep than 10
    live_id int;
    place int;
    query public.halfvec;
    shortlist int[];
    narrow smallint[];
    filled_at smallint[];
    passing float8[];
BEGIN
    -- Apart, so that what follows begins with the partitions of that run alone.
    SELECT l.run_id INTO live_id FROM lookalike.live l;
    IF by_look_up THEN
        -- The look-up of narrow shortlists is one statement, which ends at once where the filters are not precomputed. Its items are
        -- found by one scan of an index, and their distances give the order in which the shortlist had them.
        RETURN QUERY
        SELECT (row_number() OVER (ORDER BY i.distance, i.id_order))::int, i.product_id, (-i.distance)::real, 0, live_id
        FROM (
            SELECT p.product_id, p.id_order, p.embedding OPERATOR(public.<#>) q.embedding AS distance
            FROM lookalike.precomputed c
            CROSS JOIN LATERAL (SELECT c.members::float8[] AS edges OFFSET 0) e  -- once, not for every item
            CROSS JOIN lookalike.catalogue q
            JOIN lookalike.narrow_shortlists n ON n.run_id = live_id AND n.position = q.position
            JOIN lookalike.catalogue p ON p.run_id = live_id AND p.position = ANY (ARRAY(
                SELECT s.item + 32768 FROM (SELECT unnest(n.items) AS item) s
                -- Within a range where an odd number of edges lie before. Numbers of other types than float8 are compared by calls of
                -- a function.
                WHERE width_bucket((s.item + 32768)::float8, e.edges) & 1 = 1 LIMIT k))
            WHERE c.run_id = live_id AND c.filters = similar_items.filters AND q.run_id = live_id AND q.product_id = asked
            OFFSET 0  -- a query of its own, so that distances are sorted and not embeddings
        ) i
        ORDER BY i.distance, i.id_order;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    SELECT p.position, p.embedding, s.items, n.items, coalesce(n.filled_at, s.filled_at), c.members::float8[]
    INTO place, query, shortlist, narrow, filled_at, passing
    FROM lookalike.catalogue p
    LEFT JOIN lookalike.narrow_shortlists n ON n.run_id = live_id AND n.position = p.position
    LEFT JOIN lookalike.shortlists s ON s.run_id = live_id AND s.position = p.position
    LEFT JOIN lookalike.precomputed c ON c.run_id = live_id AND c.filters = similar_items.filters
    WHERE p.run_id = live_id AND p.product_id = asked;
    IF by_look_up AND passing IS NOT NULL AND shortlist IS NOT NULL THEN  -- the same of a larger catalogue
        RETURN QUERY
        SELECT u.rank::int, p.product_id, (-(p.embedding OPERATOR(public.<#>) query))::real, 0, live_id
        FROM (SELECT s.position, row_number() OVER () AS rank FROM (SELECT unnest(shortlist) AS position) s
              -- A variable's array would be copied for every call.
              WHERE width_bucket(s.position::float8, (SELECT passing || '{}'::float8[])) & 1 = 1 LIMIT k) u
        JOIN lookalike.catalogue p ON p.run_id = live_id AND p.position = u.position
        ORDER BY u.rank;
        RETURN;
    END IF;
    live_id := lookalike.asked_run(k);
    IF NOT EXISTS (SELECT FROM lookalike.attribute_names n WHERE n.run_id = live_id) THEN  -- a run before migration 0007
        IF NOT (CASE WHEN asked ~ number THEN asked::numeric < 2::numeric ^ 63 ELSE false END) THEN
            RAISE EXCEPTION 'the live run has no product %', asked USING HINT = 'its id may be wrong, or it was rejected: see the table rejects';
        END IF;
        IF NOT EXISTS (SELECT FROM lookalike.cells c WHERE c.run_id = live_id) THEN  -- nor any since migration 0005: it has lists
            IF similar_items.exclude <> '{}' THEN
                RAISE EXCEPTION 'the live run was published by an earlier release, which excludes no products'
                    USING HINT = 'publish a run with this release';
            END IF;
            RETURN QUERY SELECT o.rank, o.item::text, o.score, CASE WHEN o.precomputed THEN 0 END, live_id
            FROM lookalike_lists.similar_items(asked::bigint, filters, k) o;
            RETURN;
        END IF;
        RETURN QUERY SELECT o.rank, o.item::text, o.score, o.scanned, o.run_id FROM lookalike_numbers.similar_items(
            asked::bigint, filters, k, ARRAY(
                SELECT u.id::bigint FROM unnest(similar_items.exclude) AS u(id)
                WHERE CASE WHEN u.id ~ number THEN u.id::numeric < 2::numeric ^ 63 ELSE false END)) o;
        RETURN;
    END IF;
    IF filled_at IS NULL THEN  -- unknown, or not in the tables as this transaction knew them before a publish: see asked_run.sql
        SELECT p.position, p.embedding, s.items, n.items, coalesce(n.filled_at, s.filled_at)
        INTO place, query, shortlist, narrow, filled_at
        FROM lookalike.catalogue p
        LEFT JOIN lookalike.narrow_shortlists n ON n.run_id = p.run_id AND n.position = p.position
        LEFT JOIN lookalike.shortlists s ON s.run_id = p.run_id AND s.position = p.position
        WHERE p.run_id = live_id AND p.product_id = asked;
    END IF;
    IF query IS NULL THEN
        PERFORM lookalike.passing(live_id, filters);  -- what is wrong with the filters is said first
        RAISE EXCEPTION 'the live run has no product %', asked USING HINT = 'its id may be wrong, or it was rejected: see the table rejects';
    END IF;
    IF narrow IS NOT NULL THEN
        shortlist := ARRAY(SELECT u.item + 32768 FROM unnest(narrow) AS u(item));
    END IF;
    RETURN QUERY SELECT * FROM lookalike.best_items(live_id, query, place, shortlist, filled_at, filters, k, exclude);
END $$;
COMMENT ON FUNCTION lookalike.similar_items(text, jsonb, int, text[]) IS
    'The k (1 to 100) products most like a product among those of the live run that pass the filters and are not excluded: best first, ties to the id that comes first';

-- For those whose ids are numbers. It has no settings of its own, so that Postgres puts the other one in its place. Where an id is none,
-- such as 007, which is not 7, the cast fails and says so.
CREATE OR REPLACE FUNCTION lookalike.similar_items(
    product_id bigint, filters jsonb DEFAULT '{}', k int DEFAULT 10, exclude bigint[] DEFAULT '{}'
) RETURNS TABLE (rank int, item bigint, score real, scanned int, run_id int)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT o.rank, (o.item || CASE WHEN o.item ~ '^(0|[1-9][0-9]*)$' THEN '' ELSE ' is no whole number: ask by text' END)::bigint,
        o.score, o.scanned, o.run_id
    FROM lookalike.similar_items(similar_items.product_id::text, filters, k, similar_items.exclude::text[]) o;
END;
COMMENT ON FUNCTION lookalike.similar_items(bigint, jsonb, int, bigint[]) IS
    'The same for a catalogue all of whose ids are numbers';
