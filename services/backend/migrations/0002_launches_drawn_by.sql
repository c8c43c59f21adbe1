CREATE INDEX launches_drawn_by ON launches (drawn_by) WHERE drawn_by IS NOT NULL;
