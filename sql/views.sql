-- What readers may see of the live run. New columns stand last: a view can only be replaced by one that begins with its columns.
CREATE OR REPLACE VIEW lookalike.live_run AS
    SELECT run, figures, loaded_at, run_id, content_hash, manifest, published_at
    FROM lookalike.runs JOIN lookalike.live USING (run_id);
COMMENT ON VIEW lookalike.live_run IS 'The run that answers: its name, its figures, what it was made of, when it was loaded and published';

CREATE OR REPLACE VIEW lookalike.live_products AS
    SELECT p.product_id, gender, "masterCategory", "subCategory", "articleType", "baseColour", season, year, usage,
           p.name AS "productDisplayName", gender || ' ' || "articleType" AS "derivedType", encode(p.image_sha256, 'hex') AS image_sha256,
           p.name, p.attributes[array_position(n.attributes, n.kind)] AS kind,
           jsonb_strip_nulls(jsonb_object(n.attributes, p.attributes) || CASE WHEN n.lists IS NULL THEN '{}' ELSE (
               SELECT jsonb_object_agg(l.name, p.attributes[array_position(n.attributes, l.name)]::jsonb) FROM unnest(n.lists) AS l(name)
           ) END) AS attributes
    FROM lookalike.catalogue p JOIN lookalike.attribute_names n USING (run_id) CROSS JOIN LATERAL (VALUES (
        p.attributes[array_position(n.attributes, 'gender')], p.attributes[array_position(n.attributes, 'masterCategory')],
        p.attributes[array_position(n.attributes, 'subCategory')], p.attributes[array_position(n.attributes, 'articleType')],
        p.attributes[array_position(n.attributes, 'baseColour')], p.attributes[array_position(n.attributes, 'season')],
        p.attributes[array_position(n.attributes, 'year')], p.attributes[array_position(n.attributes, 'usage')]
    )) AS a(gender, "masterCategory", "subCategory", "articleType", "baseColour", season, year, usage)
    WHERE p.run_id = (SELECT run_id FROM lookalike.live)
    UNION ALL  -- the live run where it is one before migration 0007
    SELECT product_id::text COLLATE "C", gender, "masterCategory", "subCategory", "articleType", "baseColour", season, year, usage,
           "productDisplayName", "derivedType", image_sha256, "productDisplayName", "articleType", jsonb_strip_nulls(jsonb_build_object(
               'gender', gender, 'masterCategory', "masterCategory", 'subCategory', "subCategory", 'articleType', "articleType",
               'baseColour', "baseColour", 'season', season, 'year', year, 'usage', usage))
    FROM lookalike.products WHERE run_id = (SELECT run_id FROM lookalike.live);
COMMENT ON VIEW lookalike.live_products IS
    'Products of the live run: Kaggle''s columns, where its catalogue has them, then what every catalogue has';

CREATE OR REPLACE VIEW lookalike.live_images AS
    SELECT p.product_id, i.number, encode(i.image_sha256, 'hex') AS image_sha256
    FROM lookalike.catalogue p CROSS JOIN LATERAL (
        SELECT 1 AS number, p.image_sha256
        UNION ALL SELECT o.number, o.image_sha256 FROM lookalike.other_images o WHERE o.run_id = p.run_id AND o.position = p.position
    ) i
    WHERE p.run_id = (SELECT run_id FROM lookalike.live);
COMMENT ON VIEW lookalike.live_images IS 'Images of the products of the live run; number 1 is the main one';
