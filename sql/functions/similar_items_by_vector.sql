-- The k products most like an embedding that need not be in the catalogue; all that pass the filters are compared.
-- A vector that is no embedding of the pipeline (a unit vector of multiples of 2^-11) is first made one.
-- The settings are for the reasons given in similar_items.sql.
CREATE OR REPLACE FUNCTION lookalike.similar_items_by_vector(
    embedding public.vector, filters jsonb DEFAULT '{}', k int DEFAULT 10, exclude text[] DEFAULT '{}'
) RETURNS TABLE (rank int, item text, score real, scanned int, run_id int)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET max_parallel_workers_per_gather = 0 AS $$
#variable_conflict use_column
DECLARE
    live_id int := lookalike.asked_run(k);
    asked int := public.vector_dims(similar_items_by_vector.embedding);
    known int;
BEGIN
    IF NOT EXISTS (SELECT FROM lookalike.attribute_names n WHERE n.run_id = live_id) THEN  -- a run before migration 0007
        IF NOT EXISTS (SELECT FROM lookalike.cells c WHERE c.run_id = live_id) THEN  -- nor any since migration 0005: it has lists
            IF similar_items_by_vector.exclude <> '{}' THEN
                RAISE EXCEPTION 'the live run was published by an earlier release, which excludes no products'
                    USING HINT = 'publish a run with this release';
            END IF;
            RETURN QUERY SELECT o.rank, o.item::text, o.score, NULL::int, live_id
            FROM lookalike_lists.similar_items_by_vector(similar_items_by_vector.embedding, filters, k) o;
            RETURN;
        END IF;
        RETURN QUERY SELECT o.rank, o.item::text, o.score, o.scanned, o.run_id FROM lookalike_numbers.similar_items_by_vector(
            similar_items_by_vector.embedding, filters, k,
            ARRAY(
                SELECT u.id::bigint FROM unnest(similar_items_by_vector.exclude) AS u(id)
                WHERE CASE WHEN u.id ~ '^(0|[1-9][0-9]{0,18})$' THEN u.id::numeric < 2::numeric ^ 63 ELSE false END)) o;
        RETURN;
    END IF;
    IF asked IS NULL THEN
        RAISE EXCEPTION 'the embedding is NULL' USING HINT = 'give a vector such as ''[0.6, 0.8]''';
    END IF;
    SELECT public.vector_dims(p.embedding) INTO known FROM lookalike.catalogue p WHERE p.run_id = live_id AND p.position = 0;
    IF asked <> known THEN
        RAISE EXCEPTION 'the embedding has % dimensions, those of the live run have %', asked, known
            USING HINT = 'make it with the backbone that the live run was made with';
    END IF;
    RETURN QUERY SELECT * FROM lookalike.best_items(
        live_id, lookalike.to_embedding(similar_items_by_vector.embedding), NULL, NULL, NULL, filters, k, exclude);
END $$;
COMMENT ON FUNCTION lookalike.similar_items_by_vector IS
    'The k (1 to 100) products of the live run most like an embedding, among those that pass the filters and are not excluded: best first, ties to the id that comes first';
