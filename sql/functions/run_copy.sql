-- What a run's products are, by position, for a reader's own copy: no embedding, and of the attributes the kind alone.
CREATE OR REPLACE FUNCTION lookalike.run_products(asked int)
RETURNS TABLE (id_order int, product_id text, name text, kind text, image_sha256 bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT p.id_order, p.product_id, p.name, p.attributes[array_position(n.attributes, n.kind)], p.image_sha256
    FROM lookalike.catalogue p JOIN lookalike.attribute_names n ON n.run_id = run_products.asked
    WHERE p.run_id = run_products.asked ORDER BY p.position;
END $$;
COMMENT ON FUNCTION lookalike.run_products IS 'Products of a run by position: place of the id in the order of ids, id, name, kind, image';

-- Which base cells, and precomputed cells, have a value of a field: bits for some, numbers for those that are rare, which the value ''
-- stands for together. And where base cells begin.
CREATE OR REPLACE FUNCTION lookalike.run_values(asked int) RETURNS TABLE (field text, value text, bits bytea, places int[], cells bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT v.field, v.value, varbit_send(v.base_cells), NULL::int[], varbit_send(v.cells) FROM lookalike.field_values v
    WHERE v.run_id = run_values.asked
    UNION ALL
    SELECT v.field, v.value, NULL, v.base_cells, varbit_send(v.cells) FROM lookalike.rare_values v WHERE v.run_id = run_values.asked;
END $$;
COMMENT ON FUNCTION lookalike.run_values IS 'Values of a run''s fields with the base cells that have them, as varbit_send writes them or by number';

CREATE OR REPLACE FUNCTION lookalike.run_starts(asked int) RETURNS int[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT n.starts FROM lookalike.numberings n WHERE n.run_id = run_starts.asked);
END $$;
COMMENT ON FUNCTION lookalike.run_starts IS 'The position at which each base cell of a run begins, and the number of products';
