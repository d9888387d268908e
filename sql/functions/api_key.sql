-- Which unrevoked key has this hash; null: none. A hash tells nothing about the keys that are there.
CREATE OR REPLACE FUNCTION lookalike.api_key(sha256 bytea) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT k.key_id FROM lookalike.api_keys k WHERE k.sha256 = api_key.sha256 AND k.revoked_at IS NULL);
END $$;
COMMENT ON FUNCTION lookalike.api_key IS 'The id of the unrevoked key that has this SHA-256';
