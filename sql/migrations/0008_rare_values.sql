-- Values that few products have, in fields of many values: their base cells by number. Strings of bits would take the number of
-- values times that of base cells, which can be as many as products.
CREATE TABLE lookalike.rare_values (
    run_id int NOT NULL,
    field text NOT NULL,
    value text NOT NULL,
    base_cells int[] NOT NULL,
    cells varbit NOT NULL
) PARTITION BY LIST (run_id);
COMMENT ON TABLE lookalike.rare_values IS
    'The base cells that have a value of a field which no precomputed cell has alone, and the precomputed cells that have such a member;'
    ' all such values of a field together are the value '''' in field_values';
