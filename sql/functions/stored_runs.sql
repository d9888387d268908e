-- The complete runs of the store, newest first, as the HTTP server lists them.
CREATE OR REPLACE FUNCTION lookalike.stored_runs() RETURNS json
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (
        SELECT coalesce(json_agg(json_build_object(
            'run_id', r.run_id, 'run', r.run, 'live', l.run_id IS NOT NULL, 'products', coalesce((r.figures ->> 'products')::int, 0),
            'loaded_at', r.loaded_at, 'published_at', r.published_at) ORDER BY r.run_id DESC), '[]')
        FROM lookalike.runs r LEFT JOIN lookalike.live l ON l.run_id = r.run_id WHERE r.loaded_at IS NOT NULL);
END $$;
COMMENT ON FUNCTION lookalike.stored_runs IS 'The runs that the store holds, as JSON, newest first';
