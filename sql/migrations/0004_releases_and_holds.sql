-- The store says by whom it was prepared, what its runs were made of, and which content may not come back.
--
-- Releases before this one compare the hashes in lookalike.applied with their files whenever they connect. The row left there
-- makes them stop, in words, before they change anything; their publishing is waited for by their lock.
SELECT pg_advisory_xact_lock(268520478);  -- LOCK of those releases

CREATE TABLE lookalike.prepared (
    file text PRIMARY KEY,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE lookalike.prepared IS 'Files of sql/ that this store was prepared with, with their SHA-256';
DELETE FROM lookalike.applied;
INSERT INTO lookalike.applied (file, sha256) VALUES
    ('0001_runs_and_lists.sql', 'not the file''s hash: a later release of Lookalike prepared this store; use that one');
COMMENT ON TABLE lookalike.applied IS 'Stops releases that do not know lookalike.prepared';

ALTER TABLE lookalike.runs RENAME COLUMN fingerprint TO content_hash;
ALTER TABLE lookalike.runs ADD COLUMN manifest jsonb NOT NULL DEFAULT '{}';
ALTER TABLE lookalike.runs ALTER COLUMN manifest DROP DEFAULT;
ALTER TABLE lookalike.runs ADD COLUMN published_at timestamptz;
UPDATE lookalike.runs SET published_at = loaded_at;
COMMENT ON COLUMN lookalike.runs.content_hash IS 'Two runs that have it in common have the same rows';
COMMENT ON COLUMN lookalike.runs.manifest IS 'What the run was made of, as publish wrote it; {} of runs that an older release loaded';
COMMENT ON COLUMN lookalike.runs.published_at IS 'When a publish last made it live; going back to it does not count';

CREATE TABLE lookalike.holds (
    content_hash text PRIMARY KEY,
    run text NOT NULL,
    reason text NOT NULL,
    held_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE lookalike.holds IS 'Content that was rolled back from: publish refuses it, under whatever name';

-- Whoever loads creates tables here and nowhere else: what can be created in lookalike could be called by its readers.
CREATE SCHEMA lookalike_runs;
COMMENT ON SCHEMA lookalike_runs IS 'Partitions of the tables of lookalike, named <table>_<run_id>';
DO $$
DECLARE
    part regclass;
BEGIN
    FOR part IN
        SELECT inhrelid FROM pg_inherits JOIN pg_class ON pg_class.oid = inhparent
        WHERE relnamespace = 'lookalike'::regnamespace
    LOOP
        EXECUTE format('ALTER TABLE %s SET SCHEMA lookalike_runs', part);
    END LOOP;
END $$;
