-- The k products nearest to an embedding among those of a run that pass filters and are not left out, exactly.
-- Ties go to the id that comes first.
--
-- The rule, and why it is exact: ml/cube.py. `met` are the items of the shortlist that pass and are not left out, `last` is the rank
-- of the last of them. Products outside of settled cells are compared, range by range of positions: those of a range lie side by side.
-- Where products are compared by the best pair of their images, the distance is the least of all pairs.
-- Without a shortlist all that pass are. Settled are: that of all products, if fewer items come before than it is deep; of the cells
-- inside what passes those of which fewer items come before, and these are among those that pass; and of the widest those that are
-- filled no earlier.
-- The union of cells is that of those which no other one of them contains.
-- One plan serves all filters: to make one for each takes longer than to answer from a small cell. Only with nested loops it reads
-- no more than those ranges; OFFSET 0 lets each be a query of its own: where the store holds one run Postgres, left to itself, takes
-- the scan of that for cheaper than the ranges that it expects, though seqscan is off.
CREATE OR REPLACE FUNCTION lookalike.best_items(
    asked int, query public.halfvec, place int, shortlist int[], filled_at smallint[], filters jsonb, k int, exclude text[]
) RETURNS TABLE (rank int, item text, score real, scanned int, run_id int)
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
    best_pair boolean;
    queries public.halfvec[];
    left_out int[] := coalesce(best_items.place, -1) || ARRAY(
        SELECT p.position FROM lookalike.catalogue p WHERE p.run_id = asked AND p.product_id = ANY (best_items.exclude));
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
    SELECT n.starts, n.depths, n.widest, n.best_pair INTO starts, depths, widest, best_pair FROM lookalike.numberings n WHERE n.run_id = asked;
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
    IF best_pair THEN
        queries := ARRAY[query] || ARRAY(
            SELECT o.embedding FROM lookalike.other_images o WHERE o.run_id = asked AND o.position = best_items.place);
        RETURN QUERY
        SELECT (row_number() OVER (ORDER BY best.distance, best.id_order))::int, best.product_id, (-best.distance)::real, compared, asked
        FROM (
            SELECT p.product_id, p.id_order, (
                SELECT min(i.embedding OPERATOR(public.<#>) q.embedding)
                FROM (SELECT p.embedding UNION ALL
                      SELECT o.embedding FROM lookalike.other_images o WHERE o.run_id = asked AND o.position = p.position) i
                    CROSS JOIN unnest(queries) AS q(embedding)
            ) AS distance
            FROM (
                SELECT u.position FROM unnest(met) AS u(position)
                UNION SELECT s.position FROM unnest(firsts, ends) AS r(first, after)
                    CROSS JOIN LATERAL generate_series(r.first, r.after - 1) AS s(position)
            ) u JOIN lookalike.catalogue p ON p.position = u.position
            WHERE p.run_id = asked AND p.position <> ALL (left_out)
            ORDER BY distance, p.id_order LIMIT best_items.k
        ) best
        ORDER BY best.distance, best.id_order;
        RETURN;
    END IF;
    RETURN QUERY
    SELECT (row_number() OVER (ORDER BY best.distance, best.id_order))::int, best.product_id, (-best.distance)::real, compared, asked
    FROM (
        SELECT * FROM (
            SELECT p.product_id, p.id_order, p.embedding OPERATOR(public.<#>) best_items.query AS distance
            FROM unnest(firsts, ends) AS r(first, after) CROSS JOIN LATERAL (
                SELECT * FROM lookalike.catalogue p
                WHERE p.run_id = asked AND p.position >= r.first AND p.position < r.after OFFSET 0
            ) p
            WHERE p.position <> ALL (left_out)
            ORDER BY distance, p.id_order LIMIT best_items.k
        ) outside
        UNION
        SELECT p.product_id, p.id_order, p.embedding OPERATOR(public.<#>) best_items.query
        FROM unnest(met) AS u(position) JOIN lookalike.catalogue p ON p.position = u.position WHERE p.run_id = asked
    ) best
    ORDER BY best.distance, best.id_order LIMIT best_items.k;
END $$;
COMMENT ON FUNCTION lookalike.best_items(int, public.halfvec, int, int[], smallint[], jsonb, int, text[]) IS
    'The k products of a run nearest to an embedding that pass filters and are not left out; for the other functions, not for readers';
