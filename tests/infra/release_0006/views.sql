-- What readers may see of the live run. New columns stand last: a view can only be replaced by one that begins with its columns.
CREATE OR REPLACE VIEW lookalike.live_run AS
    SELECT run, figures, loaded_at, run_id, content_hash, manifest, published_at
    FROM lookalike.runs JOIN lookalike.live USING (run_id);
COMMENT ON VIEW lookalike.live_run IS 'The run that answers: its name, its figures, what it was made of, when it was loaded and published';

CREATE OR REPLACE VIEW lookalike.live_products AS
    SELECT product_id, gender, "masterCategory", "subCategory", "articleType", "baseColour", season, year, usage,
           "productDisplayName", "derivedType", image_sha256
    FROM lookalike.products WHERE run_id = (SELECT run_id FROM lookalike.live);
COMMENT ON VIEW lookalike.live_products IS 'Products of the live run';
