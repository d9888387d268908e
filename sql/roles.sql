-- Least privilege. Roles belong to the whole server: where this user may not create them, an administrator runs this file.
DO $$
BEGIN
    IF to_regrole('lookalike_reader') IS NULL THEN
        CREATE ROLE lookalike_reader NOLOGIN;
    END IF;
    IF to_regrole('lookalike_loader') IS NULL THEN
        CREATE ROLE lookalike_loader NOLOGIN;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'roles lookalike_reader and lookalike_loader were not created: this user may not';
    WHEN duplicate_object OR unique_violation THEN
        NULL;  -- another database of this server has just done it
END $$;

REVOKE ALL ON ALL TABLES IN SCHEMA lookalike FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA lookalike FROM PUBLIC;
DO $$
BEGIN
    IF to_regrole('lookalike_reader') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA lookalike TO lookalike_reader;
        GRANT SELECT ON lookalike.live_run, lookalike.live_products TO lookalike_reader;
        GRANT SELECT ON lookalike.applied TO lookalike_reader;  -- hashes of these files: tells a client whether to migrate
        GRANT EXECUTE ON FUNCTION lookalike.similar_items, lookalike.similar_items_by_vector TO lookalike_reader;
    END IF;
    IF to_regrole('lookalike_loader') IS NOT NULL THEN
        GRANT USAGE, CREATE ON SCHEMA lookalike TO lookalike_loader;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA lookalike TO lookalike_loader;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA lookalike TO lookalike_loader;
    END IF;
END $$;

-- Only the owner of a table may attach and drop its partitions.
DO $$
DECLARE
    relation regclass;
BEGIN
    IF to_regrole('lookalike_loader') IS NOT NULL THEN
        FOR relation IN
            SELECT oid FROM pg_class
            WHERE relnamespace = 'lookalike'::regnamespace AND relkind IN ('r', 'p') AND (relkind = 'p' OR relispartition)
        LOOP
            EXECUTE format('ALTER TABLE %s OWNER TO lookalike_loader', relation);
        END LOOP;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'lookalike_loader does not own the tables: only their present owner can load';
END $$;
