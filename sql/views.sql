-- What readers may see of the live run.
CREATE OR REPLACE VIEW lookalike.live_run AS
    SELECT run, figures, loaded_at FROM lookalike.runs JOIN lookalike.live USING (run_id);
COMMENT ON VIEW lookalike.live_run IS 'Name, figures and load time of the run that answers';

CREATE OR REPLACE VIEW lookalike.live_products AS
    SELECT product_id, gender, "masterCategory", "subCategory", "articleType", "baseColour", season, year, usage,
           "productDisplayName", "derivedType", image_sha256
    FROM lookalike.products WHERE run_id = (SELECT run_id FROM lookalike.live);
COMMENT ON VIEW lookalike.live_products IS 'Products of the live run';
