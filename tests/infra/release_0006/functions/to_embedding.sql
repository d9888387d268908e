-- A vector as the pipeline's embeddings are (ml/similarity.py, to_embedding): of unit length, rounded to multiples of 2^-11.
--
-- What is an embedding already is used as it is: on the grid, and as near to unit length as rounding d entries by at most 2^-12
-- each can leave it (or all zeros, which has no direction). round() of float8 rounds half to even, as numpy.rint does.
CREATE OR REPLACE FUNCTION lookalike.to_embedding(features public.vector) RETURNS public.halfvec
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    entries float8[] := features::real[]::float8[];
    norm float8;
    on_grid boolean;
BEGIN
    SELECT sqrt(sum(x * x)), bool_and(x * 2048 = round(x * 2048)) INTO norm, on_grid FROM unnest(entries) AS x;
    IF norm = 0 OR on_grid AND abs(norm - 1) <= sqrt(cardinality(entries)) / 4096 THEN
        RETURN features::public.halfvec;
    END IF;
    RETURN (SELECT array_agg(round(x / norm * 2048) / 2048 ORDER BY place)
            FROM unnest(entries) WITH ORDINALITY AS u(x, place))::public.halfvec;
END $$;
COMMENT ON FUNCTION lookalike.to_embedding IS
    'A vector as a unit vector rounded to multiples of 2^-11; an embedding stays as it is; for the other functions, not for readers';
