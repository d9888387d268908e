-- The positions of base cells, as ranges: where each begins and ends, and how many positions that is.
--
-- A run of ones in the string of bits begins after each 01; up to the next one follow its other ones, and zeros.
CREATE OR REPLACE FUNCTION lookalike.ranges(base_cells varbit, starts int[], OUT firsts int[], OUT ends int[], OUT positions int)
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT array_agg(starts[r.first + 1]), array_agg(starts[r.first + r.ones + 1]),
        coalesce(sum(starts[r.first + r.ones + 1] - starts[r.first + 1]), 0)
    INTO firsts, ends, positions
    FROM (
        SELECT s.at, (sum(length(s.piece) + 2) OVER (ORDER BY s.at) - length(s.piece))::int - 4 AS first,
            1 + length(s.piece) - length(ltrim(s.piece, '1')) AS ones
        FROM string_to_table('0' || base_cells::text, '01') WITH ORDINALITY AS s(piece, at)
    ) r WHERE r.at > 1;
END $$;
COMMENT ON FUNCTION lookalike.ranges IS 'The positions of base cells, as ranges; for the other functions, not for readers';
