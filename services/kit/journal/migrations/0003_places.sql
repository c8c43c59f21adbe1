-- Pipelines that wait for their next attempt hold no place, and one owner has a share of the places.
ALTER TABLE kit_pipelines ADD COLUMN owner text NOT NULL DEFAULT '';
COMMENT ON COLUMN kit_pipelines.owner IS
    'Whose share of the places it takes. Empty: nobody''s; it shares with no other.';
ALTER TABLE kit_pipelines ADD COLUMN holds_place boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN kit_pipelines.holds_place IS
    'False while it waits for a place: for the next attempt at a step, or for its first. What was '
    'begun without a queue needs none, and is said to hold one.';
CREATE INDEX kit_pipelines_waiting ON kit_pipelines (definition, wake_time)
    WHERE state = 1 AND NOT holds_place;
