-- Lists that no distribution uses are forgotten some time after their last change. For those that
-- are there already the time begins now.
ALTER TABLE recipient_lists ADD COLUMN change_time timestamptz NOT NULL DEFAULT kit_now();
COMMENT ON COLUMN recipient_lists.change_time IS
    'When it was begun, grew, was sealed, or was given back by a distribution that failed.';
CREATE INDEX recipient_lists_unused ON recipient_lists (change_time) WHERE distribution_id IS NULL;
