-- What similar_items answers from, of a whole run, for a reader that answers by itself: in the order of positions, binary.
CREATE OR REPLACE FUNCTION lookalike.run_vectors(asked int) RETURNS TABLE (head text, image_sha256 bytea, embedding bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT '"product_id":' || to_json(p.product_id) || ',"name":' || coalesce(to_json(p.name)::text, 'null') || ',"score":',
        p.image_sha256, public.halfvec_send(p.embedding)
    FROM lookalike.catalogue p WHERE p.run_id = run_vectors.asked ORDER BY p.position;
END $$;
COMMENT ON FUNCTION lookalike.run_vectors IS 'Of each product of a run how it begins as an item, its image, and its embedding as halfvec_send writes it';

CREATE OR REPLACE FUNCTION lookalike.run_shortlists(asked int) RETURNS TABLE (narrow boolean, items bytea, filled_at bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT n.items IS NOT NULL, coalesce(array_send(n.items), array_send(s.items)), array_send(coalesce(n.filled_at, s.filled_at))
    FROM lookalike.catalogue p
    LEFT JOIN lookalike.narrow_shortlists n ON n.run_id = p.run_id AND n.position = p.position
    LEFT JOIN lookalike.shortlists s ON s.run_id = p.run_id AND s.position = p.position
    WHERE p.run_id = run_shortlists.asked ORDER BY p.position;
END $$;
COMMENT ON FUNCTION lookalike.run_shortlists IS 'Of each product of a run the shortlist, as array_send writes it; narrow: each item is a position less 32,768';

CREATE OR REPLACE FUNCTION lookalike.run_cells(asked int) RETURNS TABLE (base_cells bytea, depth int, is_widest boolean, nth int)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT varbit_send(c.base_cells), n.depths[c.cell + 1], c.cell = ANY (n.widest), array_position(n.widest, c.cell)
    FROM lookalike.cells c JOIN lookalike.numberings n ON n.run_id = c.run_id WHERE c.run_id = run_cells.asked ORDER BY c.cell;
END $$;
COMMENT ON FUNCTION lookalike.run_cells IS 'Precomputed cells of a run: base cells, depth, and the place among the widest';

CREATE OR REPLACE FUNCTION lookalike.live_vectors(product_ids text[]) RETURNS TABLE (product_id text, embedding bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT p.product_id, public.halfvec_send(p.embedding) FROM lookalike.catalogue p
    WHERE p.run_id = (SELECT l.run_id FROM lookalike.live l) AND p.product_id = ANY (product_ids);
END $$;
COMMENT ON FUNCTION lookalike.live_vectors IS 'Embeddings of products of the live run, as halfvec_send writes them';
