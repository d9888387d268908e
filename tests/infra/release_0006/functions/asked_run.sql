-- The live run, if k may be asked of it. What similar_items and its twin share.
--
-- A transaction that has a table locked is not told that a partition was attached to it; another lock makes it look (Postgres reads
-- what others changed whenever it locks an object). Without, a client that asks twice in one transaction may see in the second answer
-- the new run live and without products.
CREATE OR REPLACE FUNCTION lookalike.asked_run(k int) RETURNS int
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    live_id int;
BEGIN
    PERFORM pg_get_object_address('schema', '{lookalike}', '{}');  -- locks that schema against being dropped
    SELECT l.run_id INTO live_id FROM lookalike.live l;
    IF live_id IS NULL THEN
        RAISE EXCEPTION 'no run is live' USING HINT = 'publish one with make refresh';
    END IF;
    IF k IS NULL OR k < 1 OR k > 100 THEN
        RAISE EXCEPTION 'k = % is not between 1 and 100', k USING HINT = 'ask for 1 to 100 items';
    END IF;
    RETURN live_id;
END $$;
COMMENT ON FUNCTION lookalike.asked_run IS
    'run_id of the live run, or an error where none is or k is wrong; for the other functions, not for readers';
