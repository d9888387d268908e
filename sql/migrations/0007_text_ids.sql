-- Ids are text, and a product has attributes of any name.
--
-- `products`, which could hold numbers and nine attributes alone, stays for the runs that are there, and so do the functions that
-- answer from it, in a schema of their own; they use lookalike.passing, joined, ranges and to_embedding, too. Positions and all that
-- is made of them are as they were.
CREATE TABLE lookalike.catalogue (
    run_id int NOT NULL,
    position int NOT NULL,
    id_order int NOT NULL,
    product_id text COLLATE "C" NOT NULL,
    name text,
    attributes text[] NOT NULL,
    image_sha256 bytea NOT NULL,
    embedding public.halfvec NOT NULL
) PARTITION BY LIST (run_id);
ALTER TABLE lookalike.catalogue ALTER COLUMN embedding SET STORAGE EXTERNAL;
COMMENT ON TABLE lookalike.catalogue IS
    'Products of each run, ordered by base cell, with the embedding that similarity is measured on; id_order is the place of the id in the'
    ' order of ids, attributes are the values of attribute_names, in turn';

CREATE TABLE lookalike.attribute_names (
    run_id int NOT NULL,
    attributes text[] NOT NULL,
    kind text
) PARTITION BY LIST (run_id);
COMMENT ON TABLE lookalike.attribute_names IS
    'What the attributes of a run''s products are called, and which of them says what kind of product it is; of runs before migration 0007 nothing';

-- Its product_id becomes text, for which there is no other way than another view. What it shows is said by views.sql, which replaces it;
-- what others may do with it, and with single columns of it, is granted here as it was.
DO $$
DECLARE
    former regclass := to_regclass('lookalike.live_products');
    grants text[];
    again text;
BEGIN
    IF former IS NULL THEN
        RETURN;
    END IF;
    SELECT array_agg(format('GRANT %s%s ON lookalike.live_products TO %s%s', item.privilege_type, item.of_column,
            CASE item.grantee WHEN 0 THEN 'PUBLIC' ELSE item.grantee::regrole::text END,
            CASE WHEN item.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END))
        INTO grants
        FROM (
            SELECT '' AS of_column, acl.*
            FROM pg_class, aclexplode(relacl) acl WHERE oid = former AND acl.grantee <> relowner
            UNION ALL
            SELECT format(' (%I)', attname), acl.* FROM pg_attribute, aclexplode(attacl) acl WHERE attrelid = former
        ) item;
    DROP VIEW lookalike.live_products;
    CREATE VIEW lookalike.live_products AS
        SELECT product_id, name AS gender, name AS "masterCategory", name AS "subCategory", name AS "articleType", name AS "baseColour",
               name AS season, name AS year, name AS usage, name AS "productDisplayName", name AS "derivedType", name AS image_sha256
        FROM lookalike.catalogue;
    FOREACH again IN ARRAY coalesce(grants, '{}') LOOP
        EXECUTE again;
    END LOOP;
END $$;

CREATE SCHEMA lookalike_numbers;
COMMENT ON SCHEMA lookalike_numbers IS 'Functions that answer from runs before migration 0007, whose ids are numbers; for those of lookalike';
-- Copies of what the release before has left, if one has: what it says in lookalike.prepared it made itself, and nobody slipped under it.
-- The former best_items stays where it is, since the copies call it. And a view that somebody made upon similar_items_by_vector goes on
-- with the function that is handed on here, which asks the one that takes its name.
DO $$
DECLARE
    former regprocedure;
BEGIN
    IF NOT EXISTS (SELECT FROM lookalike.prepared WHERE file = '0006_narrow_shortlists.sql') THEN
        RETURN;
    END IF;
    FOREACH former IN ARRAY ARRAY[
        'lookalike.similar_items(bigint, jsonb, int, bigint[])',
        'lookalike.similar_items_by_vector(public.vector, jsonb, int, bigint[])'
    ]::regprocedure[] LOOP
        EXECUTE replace(pg_get_functiondef(former), 'FUNCTION lookalike.', 'FUNCTION lookalike_numbers.');
    END LOOP;
    ALTER FUNCTION lookalike.similar_items_by_vector(public.vector, jsonb, int, bigint[]) RENAME TO numbers_by_vector;
    ALTER FUNCTION lookalike.numbers_by_vector(public.vector, jsonb, int, bigint[]) SET SCHEMA lookalike_numbers;
    CREATE OR REPLACE FUNCTION lookalike_numbers.numbers_by_vector(
        embedding public.vector, filters jsonb DEFAULT '{}', k int DEFAULT 10, exclude bigint[] DEFAULT '{}'
    ) RETURNS TABLE (rank int, item bigint, score real, scanned int, run_id int)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $of_views$
    BEGIN
        RETURN QUERY SELECT o.rank, o.item::bigint, o.score, o.scanned, o.run_id
        FROM lookalike.similar_items_by_vector(embedding, filters, k, exclude::text[]) o;
    END $of_views$;
END $$;
