-- One ranked item of an answer over HTTP. Concatenated: json_build_object takes three times as long.
CREATE OR REPLACE FUNCTION lookalike.item_as_json(rank int, product_id text, name text, score real, image_sha256 bytea) RETURNS text
LANGUAGE sql STABLE
RETURN '{"rank":' || rank || ',"product_id":' || to_json(product_id) || ',"name":' || coalesce(to_json(name)::text, 'null')
    || ',"score":' || score::float8 || ',"image":' || coalesce('"/images/' || encode(image_sha256, 'hex') || '"', 'null') || '}';
COMMENT ON FUNCTION lookalike.item_as_json IS 'An item of an answer over HTTP; for the other functions, not for readers';
