-- The base cells that pass filters, and the precomputed cells inside; or an error that says what is wrong with the filters.
--
-- A condition on a field is a value to have, null for no value, a list of such of which one is to be had, or {"not": …} of any of
-- these, which is the complement: a product without a value passes {"not": "Yellow"}. {"is": …, "not": …} is both at once, which differs
-- from what is left of the first where products have several values. A value that no product has is no error.
-- Of a field of many values the rare ones stand apart, and '' is all of them together: no product has that as a value.
-- A precomputed cell lies inside where it has no member with a value that the condition on a field leaves out. Where products have
-- several values in a field, also where all its members have one that is wanted.
CREATE OR REPLACE FUNCTION lookalike.passing(asked int, filters jsonb, OUT base_cells varbit, OUT cells varbit)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    known text[];
    named text;
    condition jsonb;
    has_not boolean;
    complement boolean;
    part jsonb;
    wanted text[];
    none_wanted boolean;
    having_one varbit;
    leaving_out varbit;
    holding varbit;
    some_rare boolean;
BEGIN
    SELECT r.fields INTO known FROM lookalike.runs r WHERE r.run_id = asked;
    IF jsonb_typeof(filters) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'filters is no JSON object: %', filters USING HINT = 'write {"field": "value"}, or {} for no filter';
    END IF;
    SELECT c.base_cells, ~c.supersets INTO base_cells, cells FROM lookalike.cells c WHERE c.run_id = asked AND c.cell = 0;
    FOR named, condition IN SELECT * FROM jsonb_each(filters) LOOP
        IF named <> ALL (known) THEN
            RAISE EXCEPTION 'unknown field %', quote_literal(named) USING HINT = 'known fields: ' || array_to_string(known, ', ');
        END IF;
        has_not := jsonb_typeof(condition) = 'object' AND condition ? 'not' AND condition - '{is,not}'::text[] = '{}';
        FOREACH complement IN ARRAY CASE WHEN NOT has_not THEN ARRAY[false] WHEN condition ? 'is' THEN ARRAY[false, true] ELSE ARRAY[true] END LOOP
            part := CASE WHEN NOT has_not THEN condition WHEN complement THEN condition -> 'not' ELSE condition -> 'is' END;
            IF jsonb_typeof(part) <> 'array' THEN
                part := jsonb_build_array(part);
            END IF;
            IF part = '[]' OR jsonb_path_exists(part, 'strict $[*] ? (@.type() != "string" && @.type() != "null")') THEN
                RAISE EXCEPTION 'the condition on field % is none: %', quote_literal(named), condition
                    USING HINT = 'write a value, null for none, a list of them, {"not": …} with one of these, or {"is": …, "not": …}';
            END IF;
            wanted := ARRAY(SELECT value FROM jsonb_array_elements_text(part) AS e(value) WHERE value <> '');
            none_wanted := part @> 'null';
            SELECT bit_or(v.base_cells) FILTER (WHERE v.hit), bit_or(v.cells) FILTER (WHERE v.hit = complement), bool_or(v.value = ''),
                bit_or(v.held) FILTER (WHERE v.hit AND NOT complement)
            INTO having_one, leaving_out, some_rare, holding
            FROM (
                SELECT v.value, v.base_cells, v.cells, v.held, CASE WHEN v.value IS NULL THEN none_wanted ELSE v.value = ANY (wanted) END AS hit
                FROM lookalike.field_values v WHERE v.run_id = asked AND v.field = named
            ) v;
            having_one := coalesce(having_one, base_cells & ~base_cells);
            leaving_out := coalesce(leaving_out, cells & ~cells);
            cells := cells & (~leaving_out | coalesce(holding, cells & ~cells));
            IF some_rare THEN
                having_one := having_one | lookalike.to_bits(ARRAY(
                    SELECT DISTINCT unnest(r.base_cells) FROM lookalike.rare_values r
                    WHERE r.run_id = asked AND r.field = named AND r.value = ANY (wanted)), length(having_one));
                cells := cells & ~coalesce((
                    SELECT bit_or(r.cells) FROM lookalike.rare_values r
                    WHERE complement AND r.run_id = asked AND r.field = named AND r.value = ANY (wanted)), cells & ~cells);
            END IF;
            base_cells := base_cells & CASE WHEN complement THEN ~having_one ELSE having_one END;
        END LOOP;
    END LOOP;
END $$;
COMMENT ON FUNCTION lookalike.passing IS
    'The base cells of a run that pass filters, and the precomputed cells inside; for the other functions, not for readers';
