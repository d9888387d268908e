-- The live run, once the rest of a question fits it: k and the filters. What similar_items and its twin share.
--
-- A transaction that has a table locked is not told that a partition was attached to it; another lock makes it look (Postgres reads
-- what others changed whenever it locks an object). Without, a client that asks twice in one transaction may see in the second answer
-- the new run live and without products.
CREATE OR REPLACE FUNCTION lookalike.checked_run(filters jsonb, k int) RETURNS int
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    live_id int;
    live_fields text[];
    field text;
    value jsonb;
BEGIN
    PERFORM pg_get_object_address('schema', '{lookalike}', '{}');  -- locks that schema against being dropped
    SELECT r.run_id, r.fields INTO live_id, live_fields FROM lookalike.live l JOIN lookalike.runs r USING (run_id);
    IF live_id IS NULL THEN
        RAISE EXCEPTION 'no run is live' USING HINT = 'publish one with make refresh';
    END IF;
    IF k IS NULL OR k < 1 OR k > 100 THEN
        RAISE EXCEPTION 'k = % is not between 1 and 100', k USING HINT = 'ask for 1 to 100 items';
    END IF;
    IF jsonb_typeof(filters) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'filters is no JSON object: %', filters USING HINT = 'write {"field": "value"}, or {} for no filter';
    END IF;
    FOR field, value IN SELECT * FROM jsonb_each(filters) LOOP
        IF field <> ALL (live_fields) THEN
            RAISE EXCEPTION 'unknown field %', quote_literal(field)
                USING HINT = 'known fields: ' || array_to_string(live_fields, ', ');
        END IF;
        IF jsonb_typeof(value) <> 'string' THEN
            RAISE EXCEPTION 'the value of field % is no string: %', quote_literal(field), value
                USING HINT = 'write {"field": "value"}';
        END IF;
    END LOOP;
    RETURN live_id;
END $$;
COMMENT ON FUNCTION lookalike.checked_run IS
    'run_id of the live run, or an error that says what is wrong with the filters or k; for the other functions, not for readers';
