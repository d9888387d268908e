-- The live run as the HTTP server names it: one row, or none where no run is live. `tag` changes with the content and the name.
CREATE OR REPLACE FUNCTION lookalike.served_run()
RETURNS TABLE (run_id int, run text, tag text, fields text[], products int)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT r.run_id, r.run, left(md5(concat_ws(' ', r.run_id, r.run, r.content_hash)), 16), r.fields,
        coalesce((r.figures ->> 'products')::int, 0)
    FROM lookalike.live l JOIN lookalike.runs r ON r.run_id = l.run_id;
END $$;
COMMENT ON FUNCTION lookalike.served_run IS 'The live run, its fields, and a tag that changes with its content and name';
