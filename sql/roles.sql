-- Least privilege. Roles belong to the whole server: where this user may not create them, an administrator runs this file.
--
-- lookalike_reader asks. lookalike_loader publishes: it owns the tables that runs are partitions of, as only an owner may attach
-- and detach, and creates in lookalike_runs alone; in lookalike it could slip a function of its own under a caller's. The functions
-- run as lookalike_lookup, which may only read: what a loader does to its tables, they do with no more rights than it has.
-- lookalike_keys alone writes who may ask over HTTP; readers learn of a key no more than whether one with its hash is there.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['lookalike_reader', 'lookalike_loader', 'lookalike_lookup', 'lookalike_keys'] LOOP
        IF to_regrole(name) IS NULL THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'roles lookalike_reader, lookalike_loader, lookalike_lookup and lookalike_keys were not all created: this user may not';
    WHEN duplicate_object OR unique_violation THEN
        NULL;  -- another database of this server has just done it
END $$;

-- What a reader asks wrongly is told to it, and need not stand in the server's log.
DO $$
BEGIN
    IF to_regrole('lookalike_reader') IS NOT NULL THEN
        GRANT SET ON PARAMETER log_min_messages TO lookalike_reader;
    END IF;
EXCEPTION
    WHEN insufficient_privilege OR syntax_error THEN  -- no superuser, or a server before Postgres 15
        RAISE NOTICE 'lookalike_reader may not keep what it asks wrongly out of the log';
END $$;

REVOKE ALL ON ALL TABLES IN SCHEMA lookalike FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA lookalike, lookalike_numbers, lookalike_lists FROM PUBLIC;
DO $$
BEGIN
    IF to_regrole('lookalike_reader') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA lookalike TO lookalike_reader;
        GRANT SELECT ON lookalike.live_run, lookalike.live_products TO lookalike_reader;
        -- Which release prepared the store; releases before 0004 look into the other one.
        GRANT SELECT ON lookalike.prepared, lookalike.applied TO lookalike_reader;
        REVOKE ALL ON ALL FUNCTIONS IN SCHEMA lookalike FROM lookalike_reader;
        GRANT EXECUTE ON FUNCTION lookalike.similar_items(text, jsonb, int, text[]),
            lookalike.similar_items(bigint, jsonb, int, bigint[]), lookalike.similar_items_by_vector TO lookalike_reader;
        -- What `lookalike serve` asks: it is a reader.
        GRANT EXECUTE ON FUNCTION lookalike.served_run, lookalike.stored_runs, lookalike.similar_as_json, lookalike.similar_of_many,
            lookalike.similar_explained, lookalike.product_as_json, lookalike.run_products, lookalike.run_values, lookalike.run_starts,
            lookalike.run_vectors, lookalike.run_shortlists, lookalike.run_cells, lookalike.live_vectors,
            lookalike.compared_runs, lookalike.api_key TO lookalike_reader;
    END IF;
    IF to_regrole('lookalike_loader') IS NOT NULL THEN
        REVOKE CREATE ON SCHEMA lookalike FROM lookalike_loader;
        GRANT USAGE ON SCHEMA lookalike TO lookalike_loader;
        GRANT USAGE, CREATE ON SCHEMA lookalike_runs TO lookalike_loader;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA lookalike TO lookalike_loader;
        REVOKE INSERT, UPDATE, DELETE ON lookalike.prepared, lookalike.applied FROM lookalike_loader;
        REVOKE ALL ON lookalike.api_keys FROM lookalike_loader;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA lookalike TO lookalike_loader;
    END IF;
    IF to_regrole('lookalike_keys') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA lookalike TO lookalike_keys;
        GRANT SELECT, INSERT, UPDATE (revoked_at) ON lookalike.api_keys TO lookalike_keys;
        GRANT SELECT ON lookalike.prepared, lookalike.applied TO lookalike_keys;
    END IF;
    IF to_regrole('lookalike_lookup') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA lookalike TO lookalike_lookup;
        GRANT SELECT ON lookalike.live, lookalike.runs, lookalike.catalogue, lookalike.attribute_names, lookalike.products,
            lookalike.shortlists, lookalike.narrow_shortlists, lookalike.numberings, lookalike.cells, lookalike.field_values,
            lookalike.rare_values, lookalike.precomputed, lookalike.api_keys TO lookalike_lookup;
        GRANT USAGE ON SCHEMA lookalike_numbers, lookalike_lists TO lookalike_lookup;
        IF to_regclass('lookalike.lists') IS NOT NULL THEN  -- until the last run that has lists is pruned
            GRANT SELECT ON lookalike.lists, lookalike.base_cells, lookalike.combinations TO lookalike_lookup;
        END IF;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA lookalike, lookalike_numbers, lookalike_lists TO lookalike_lookup;
    END IF;
END $$;

-- An owner must be a role that whoever makes it one can become (who may create roles but is no superuser is made a member) and
-- that may create in the schema, if only now.
DO $$
DECLARE
    relation regclass;
BEGIN
    IF to_regrole('lookalike_loader') IS NOT NULL THEN
        IF NOT pg_has_role('lookalike_loader', 'SET') THEN
            GRANT lookalike_loader TO CURRENT_USER;
        END IF;
        GRANT CREATE ON SCHEMA lookalike TO lookalike_loader;
        FOR relation IN
            SELECT oid FROM pg_class
            WHERE (relnamespace = 'lookalike'::regnamespace AND relkind = 'p'
                   OR relnamespace = 'lookalike_runs'::regnamespace AND relkind = 'r')
                AND relowner <> to_regrole('lookalike_loader')  -- readers would wait for nothing, and could end in a deadlock
        LOOP
            EXECUTE format('ALTER TABLE %s OWNER TO lookalike_loader', relation);
        END LOOP;
        REVOKE CREATE ON SCHEMA lookalike FROM lookalike_loader;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'lookalike_loader does not own the tables: only their present owner can load';
END $$;

DO $$
DECLARE
    called regprocedure;
BEGIN
    IF to_regrole('lookalike_lookup') IS NOT NULL THEN
        IF NOT pg_has_role('lookalike_lookup', 'SET') THEN
            GRANT lookalike_lookup TO CURRENT_USER;
        END IF;
        GRANT CREATE ON SCHEMA lookalike, lookalike_numbers, lookalike_lists TO lookalike_lookup;
        FOR called IN
            SELECT oid FROM pg_proc
            WHERE pronamespace IN ('lookalike'::regnamespace, 'lookalike_numbers'::regnamespace, 'lookalike_lists'::regnamespace) AND prosecdef
        LOOP
            EXECUTE format('ALTER FUNCTION %s OWNER TO lookalike_lookup', called);
        END LOOP;
        REVOKE CREATE ON SCHEMA lookalike, lookalike_numbers, lookalike_lists FROM lookalike_lookup;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'lookalike_lookup does not own the functions: they run with the rights of their present owner';
END $$;
