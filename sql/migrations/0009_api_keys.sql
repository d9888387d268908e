-- Keys of those who ask over HTTP: of each its hash alone, so that who reads the table can ask as nobody.
CREATE TABLE lookalike.api_keys (
    key_id text PRIMARY KEY,
    name text NOT NULL,
    sha256 bytea NOT NULL UNIQUE CHECK (length(sha256) = 32),
    added_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    revoked_at timestamptz
);
COMMENT ON TABLE lookalike.api_keys IS
    'Keys for the HTTP server by the SHA-256 of each, which is drawn at random; written by members of lookalike_keys alone';
