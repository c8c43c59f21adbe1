ALTER TABLE kit_steps ADD COLUMN error_service text NOT NULL DEFAULT '';
ALTER TABLE kit_changes ADD COLUMN error_service text NOT NULL DEFAULT '';
COMMENT ON COLUMN kit_steps.error_service IS
    'Mesh service that the error is of. Empty: the one that runs the step.';
