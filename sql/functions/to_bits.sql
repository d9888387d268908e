-- A string of bits with ones at some places, each once and counted from 0.
CREATE OR REPLACE FUNCTION lookalike.to_bits(places int[], width int) RETURNS varbit
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (
        SELECT coalesce(string_agg(repeat('0', u.place - u.before - 1) || '1', '' ORDER BY u.place), '')
            || repeat('0', width - 1 - coalesce(max(u.place), -1))
        FROM (SELECT p.place, lag(p.place, 1, -1) OVER (ORDER BY p.place) AS before FROM unnest(places) AS p(place)) u
    )::varbit;
END $$;
COMMENT ON FUNCTION lookalike.to_bits IS 'A string of bits with ones at some places; for the other functions, not for readers';
