-- Fields of which a product may have several values, and products that have several images.
--
-- The tables are locked in the order in which those who ask read them, so that none of them waits for this while this waits for it.
ALTER TABLE lookalike.attribute_names ADD COLUMN lists text[];
COMMENT ON COLUMN lookalike.attribute_names.lists IS 'Those of the attributes whose values are lists, as JSON';
ALTER TABLE lookalike.field_values ADD COLUMN held varbit;
COMMENT ON COLUMN lookalike.field_values.held IS
    'The precomputed cells all of whose members have the value, where a product may have several values of the field';
ALTER TABLE lookalike.numberings ADD COLUMN best_pair boolean;
COMMENT ON COLUMN lookalike.numberings.best_pair IS
    'Whether two products are as alike as the most alike pair of their images, not as their main images';

CREATE TABLE lookalike.other_images (
    run_id int NOT NULL,
    position int NOT NULL,
    number int NOT NULL,
    image_sha256 bytea NOT NULL,
    embedding public.halfvec
) PARTITION BY LIST (run_id);
ALTER TABLE lookalike.other_images ALTER COLUMN embedding SET STORAGE EXTERNAL;
COMMENT ON TABLE lookalike.other_images IS
    'The images of products beside the main one, numbered from 2, with their embeddings where the run compares the best pair of images';
