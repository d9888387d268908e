-- Runs, the pointer to the live one, and the tables that each run has a partition of.
CREATE SCHEMA IF NOT EXISTS lookalike;
CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE lookalike.applied (
    file text PRIMARY KEY,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE lookalike.applied IS 'Files of sql/ that this database has, with their SHA-256';

CREATE TABLE lookalike.runs (
    run_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run text NOT NULL,
    fingerprint text NOT NULL,
    fields text[] NOT NULL,
    figures jsonb NOT NULL DEFAULT '{}',
    loaded_at timestamptz
);
COMMENT ON TABLE lookalike.runs IS 'A published refresh, named by its logical date; loaded_at is null until it is complete';

CREATE TABLE lookalike.live (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    run_id int NOT NULL REFERENCES lookalike.runs
);
COMMENT ON TABLE lookalike.live IS 'The one run that answers; flipped in one transaction';

CREATE TABLE lookalike.products (
    run_id int NOT NULL,
    product_id bigint NOT NULL,
    gender text, "masterCategory" text, "subCategory" text, "articleType" text, "baseColour" text,
    season text, year text, usage text, "productDisplayName" text,
    "derivedType" text,
    image_sha256 text NOT NULL,
    embedding halfvec NOT NULL
) PARTITION BY LIST (run_id);
-- Entries are multiples of 2^-11, which halfvec holds exactly. In the row, not beside it: computing on read reads them all.
ALTER TABLE lookalike.products ALTER COLUMN embedding SET STORAGE PLAIN;
COMMENT ON TABLE lookalike.products IS 'Products of each run with the embedding that similarity is measured on';

CREATE TABLE lookalike.combinations (
    run_id int NOT NULL,
    filters jsonb NOT NULL,
    cell int NOT NULL
) PARTITION BY LIST (run_id);
COMMENT ON TABLE lookalike.combinations IS 'Filter combination -> precomputed cell; combinations with the same members share one';

CREATE TABLE lookalike.lists (
    run_id int NOT NULL,
    cell int NOT NULL,
    product_id bigint NOT NULL,
    items bigint[] NOT NULL,
    scores real[] NOT NULL
) PARTITION BY LIST (run_id);
COMMENT ON TABLE lookalike.lists IS 'For every product and precomputed cell its ten most similar members, best first';
