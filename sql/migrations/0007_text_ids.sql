-- Ids are text, and a product has attributes of any name.
--
-- `products`, which could hold numbers and nine attributes alone, stays for the runs that are there, and so do the functions that
-- answer from it, in a schema of their own; they use lookalike.passing, joined, ranges and to_embedding, too. Positions and all that
-- is made of them are as they were.
CREATE TABLE lookalike.catalogue (
    run_id int NOT NULL,
    position int NOT NULL,
    id_order int NOT NULL,
    product_id text COLLATE "C" NOT NULL,
    name text,
    attributes text[] NOT NULL,
    image_sha256 bytea NOT NULL,
    embedding public.halfvec NOT NULL
) PARTITION BY LIST (run_id);
ALTER TABLE lookalike.catalogue ALTER COLUMN embedding SET STORAGE EXTERNAL;
COMMENT ON TABLE lookalike.catalogue IS
    'Products of each run, ordered by base cell, with the embedding that similarity is measured on; id_order is the place of the id in the'
    ' order of ids, attributes are the values of attribute_names, in turn';

CREATE TABLE lookalike.attribute_names (
    run_id int NOT NULL,
    attributes text[] NOT NULL,
    kind text
) PARTITION BY LIST (run_id);
COMMENT ON TABLE lookalike.attribute_names IS
    'What the attributes of a run''s products are called, and which of them says what kind of product it is; of runs before migration 0007 nothing';

-- Its product_id becomes text, for which there is no other way.
DROP VIEW IF EXISTS lookalike.live_products;

CREATE SCHEMA lookalike_numbers;
COMMENT ON SCHEMA lookalike_numbers IS 'Functions that answer from runs before migration 0007, whose ids are numbers; for those of lookalike';
-- Moved and not made anew: views may have been made upon it, which go on. The former best_items stays where it is: a question that is
-- being answered may be about to call it.
DO $$
BEGIN
    IF to_regprocedure('lookalike.similar_items_by_vector(public.vector, jsonb, int, bigint[])') IS NOT NULL THEN
        ALTER FUNCTION lookalike.similar_items_by_vector(public.vector, jsonb, int, bigint[]) SET SCHEMA lookalike_numbers;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION lookalike_numbers.best_items(
    asked int, query public.halfvec, place int, shortlist int[], filled_at smallint[], filters jsonb, k int, exclude bigint[]
) RETURNS TABLE (rank int, item bigint, score real, scanned int, run_id int)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    passing varbit;
    inside varbit;
    settled varbit;
    rest varbit;
    starts int[];
    depths int[];
    widest int[];
    left_out int[] := coalesce(best_items.place, -1) || ARRAY(
        SELECT p.position FROM lookalike.products p WHERE p.run_id = asked AND p.product_id = ANY (best_items.exclude));
    base_cells int[];
    ranks int[];
    met int[] := '{}';
    last int;
    passed int;
    passed_before int[];
    no_cell varbit;
    firsts int[];
    ends int[];
    compared int := 0;
BEGIN
    SELECT f.base_cells, f.cells INTO passing, inside FROM lookalike.passing(best_items.asked, best_items.filters) f;
    SELECT n.starts, n.depths, n.widest INTO starts, depths, widest FROM lookalike.numberings n WHERE n.run_id = asked;
    rest := passing;
    IF best_items.shortlist IS NOT NULL THEN
        -- A variable's array would be copied for every call; what the inner SELECT gives is not.
        base_cells := ARRAY(
            SELECT width_bucket(u.position, (SELECT starts || '{}'::int[])) - 1 FROM unnest(best_items.shortlist) AS u(position));
        ranks := ARRAY(
            SELECT u.rank FROM unnest(base_cells) WITH ORDINALITY AS u(base_cell, rank)
            WHERE get_bit(passing, u.base_cell) = 1 LIMIT best_items.k + cardinality(left_out));
        SELECT array_agg(best_items.shortlist[u.rank] ORDER BY u.at), max(u.rank), max(u.at) - 1 INTO met, last, passed
        FROM (SELECT * FROM unnest(ranks) WITH ORDINALITY AS u(rank, at)
              WHERE best_items.shortlist[u.rank] <> ALL (left_out) ORDER BY u.at LIMIT best_items.k) u;
        IF cardinality(met) IS DISTINCT FROM best_items.k THEN
            last := 32767;  -- all come before
            passed := cardinality(ranks);
        END IF;
        IF least(last - 1, cardinality(best_items.shortlist)) < depths[1] THEN
            rest := rest & ~rest;
        ELSE
            settled := inside;
            no_cell := inside & ~inside;
            IF passed >= 10 THEN  -- no cell is less deep
                passed_before := ARRAY(SELECT base_cells[u.rank] FROM unnest(ranks[:passed]) AS u(rank));
                settled := settled & ~coalesce(
                    (SELECT bit_or(set_bit(no_cell, c.cell, 1)) FROM lookalike.cells c
                     WHERE c.run_id = asked AND get_bit(inside, c.cell) = 1 AND depths[c.cell + 1] <= (
                        SELECT count(*) FROM unnest(passed_before) AS u(base_cell) WHERE get_bit(c.base_cells, u.base_cell) = 1)
                    ), no_cell);
            END IF;
            settled := settled | coalesce(
                (SELECT bit_or(set_bit(no_cell, w.cell, 1)) FROM unnest(widest, best_items.filled_at) AS w(cell, rank)
                 WHERE last <= w.rank), no_cell);
            rest := rest & ~coalesce(lookalike.joined(asked, settled), rest & ~rest);
        END IF;
    END IF;
    IF bit_count(rest) > 0 THEN
        SELECT r.firsts, r.ends, r.positions INTO firsts, ends, compared FROM lookalike.ranges(rest, starts) r;
        compared := compared - (
            SELECT count(*) FROM unnest(base_cells) AS u(base_cell) WHERE get_bit(rest, u.base_cell) = 1
        ) - (
            SELECT count(*) FROM (SELECT DISTINCT unnest(left_out) AS position) u
            WHERE u.position >= 0 AND u.position <> ALL (coalesce(best_items.shortlist, '{}'))
                AND get_bit(rest, width_bucket(u.position, starts) - 1) = 1
        );
    END IF;
    RETURN QUERY
    SELECT (row_number() OVER (ORDER BY best.distance, best.product_id))::int, best.product_id, (-best.distance)::real, compared, asked
    FROM (
        SELECT * FROM (
            SELECT p.product_id, p.embedding OPERATOR(public.<#>) best_items.query AS distance
            FROM unnest(firsts, ends) AS r(first, after) CROSS JOIN LATERAL (
                SELECT * FROM lookalike.products p
                WHERE p.run_id = asked AND p.position >= r.first AND p.position < r.after OFFSET 0
            ) p
            WHERE p.position <> ALL (left_out)
            ORDER BY distance, p.product_id LIMIT best_items.k
        ) outside
        UNION
        SELECT p.product_id, p.embedding OPERATOR(public.<#>) best_items.query
        FROM unnest(met) AS u(position) JOIN lookalike.products p ON p.position = u.position WHERE p.run_id = asked
    ) best
    ORDER BY best.distance, best.product_id LIMIT best_items.k;
END $$;

CREATE OR REPLACE FUNCTION lookalike_numbers.similar_items(
    product_id bigint, filters jsonb DEFAULT '{}', k int DEFAULT 10, exclude bigint[] DEFAULT '{}'
) RETURNS TABLE (rank int, item bigint, score real, scanned int, run_id int)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET max_parallel_workers_per_gather = 0 AS $$
#variable_conflict use_column
DECLARE
    asked bigint := similar_items.product_id;
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
    SELECT p.position, p.embedding, s.items, n.items, coalesce(n.filled_at, s.filled_at), c.members::float8[]
    INTO place, query, shortlist, narrow, filled_at, passing
    FROM lookalike.products p
    LEFT JOIN lookalike.narrow_shortlists n ON n.run_id = live_id AND n.position = p.position
    LEFT JOIN lookalike.shortlists s ON s.run_id = live_id AND s.position = p.position
    LEFT JOIN lookalike.precomputed c ON c.run_id = live_id AND c.filters = similar_items.filters
    WHERE p.run_id = live_id AND p.product_id = asked;
    IF passing IS NOT NULL AND k BETWEEN 1 AND 10 AND similar_items.exclude = '{}' THEN  -- no cell is less deep than 10
        RETURN QUERY
        SELECT u.rank::int, p.product_id, (-(p.embedding OPERATOR(public.<#>) query))::real, 0, live_id
        FROM (SELECT s.position, row_number() OVER () AS rank
              FROM (SELECT unnest(narrow) + 32768 AS position UNION ALL SELECT unnest(shortlist)) s
              -- Within a range where an odd number of edges lie before. A variable's array would be copied for every call; and
              -- numbers of other types than float8 are compared by calls of a function.
              WHERE width_bucket(s.position::float8, (SELECT passing || '{}'::float8[])) & 1 = 1 LIMIT k) u
        JOIN lookalike.products p ON p.run_id = live_id AND p.position = u.position
        ORDER BY u.rank;
        RETURN;
    END IF;
    live_id := lookalike.asked_run(k);
    IF NOT EXISTS (SELECT FROM lookalike.cells c WHERE c.run_id = live_id) THEN  -- a run of the release before, which has lists
        IF similar_items.exclude <> '{}' THEN
            RAISE EXCEPTION 'the live run was published by an earlier release, which excludes no products'
                USING HINT = 'publish a run with this release';
        END IF;
        RETURN QUERY SELECT o.rank, o.item, o.score, CASE WHEN o.precomputed THEN 0 END, live_id
        FROM lookalike_lists.similar_items(asked, filters, k) o;
        RETURN;
    END IF;
    IF filled_at IS NULL THEN  -- unknown, or not in the tables as this transaction knew them before a publish: see asked_run.sql
        SELECT p.position, p.embedding, s.items, n.items, coalesce(n.filled_at, s.filled_at)
        INTO place, query, shortlist, narrow, filled_at
        FROM lookalike.products p
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
    RETURN QUERY SELECT * FROM lookalike_numbers.best_items(live_id, query, place, shortlist, filled_at, filters, k, exclude);
END $$;

CREATE OR REPLACE FUNCTION lookalike_numbers.similar_items_by_vector(
    embedding public.vector, filters jsonb DEFAULT '{}', k int DEFAULT 10, exclude bigint[] DEFAULT '{}'
) RETURNS TABLE (rank int, item bigint, score real, scanned int, run_id int)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET max_parallel_workers_per_gather = 0 AS $$
#variable_conflict use_column
DECLARE
    live_id int := lookalike.asked_run(k);
    asked int := public.vector_dims(similar_items_by_vector.embedding);
    known int;
BEGIN
    IF EXISTS (SELECT FROM lookalike.attribute_names n WHERE n.run_id = live_id) THEN  -- a view of a user asks
        RETURN QUERY SELECT o.rank, o.item::bigint, o.score, o.scanned, o.run_id
        FROM lookalike.similar_items_by_vector(similar_items_by_vector.embedding, filters, k, exclude::text[]) o;
        RETURN;
    END IF;
    IF asked IS NULL THEN
        RAISE EXCEPTION 'the embedding is NULL' USING HINT = 'give a vector such as ''[0.6, 0.8]''';
    END IF;
    SELECT public.vector_dims(p.embedding) INTO known FROM lookalike.products p WHERE p.run_id = live_id AND p.position = 0;
    IF asked <> known THEN
        RAISE EXCEPTION 'the embedding has % dimensions, those of the live run have %', asked, known
            USING HINT = 'make it with the backbone that the live run was made with';
    END IF;
    IF NOT EXISTS (SELECT FROM lookalike.cells c WHERE c.run_id = live_id) THEN  -- a run of the release before, which has lists
        IF similar_items_by_vector.exclude <> '{}' THEN
            RAISE EXCEPTION 'the live run was published by an earlier release, which excludes no products'
                USING HINT = 'publish a run with this release';
        END IF;
        RETURN QUERY SELECT o.rank, o.item, o.score, NULL::int, live_id
        FROM lookalike_lists.similar_items_by_vector(similar_items_by_vector.embedding, filters, k) o;
        RETURN;
    END IF;
    RETURN QUERY SELECT * FROM lookalike_numbers.best_items(
        live_id, lookalike.to_embedding(similar_items_by_vector.embedding), NULL, NULL, NULL, filters, k, exclude);
END $$;
