ALTER TABLE kit_steps ADD COLUMN counted int NOT NULL DEFAULT 0;
COMMENT ON COLUMN kit_steps.counted IS
    'Attempts that count against its patience: all but those that found somebody away, since a '
    'person last looked.';
