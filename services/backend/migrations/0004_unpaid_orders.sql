-- Orders that ended without having been charged are forgotten after a while.
CREATE INDEX launches_unpaid ON launches (id) WHERE ended AND payment = '' AND quote <> '';
CREATE INDEX deployments_unpaid ON deployments (id) WHERE payment = '' AND token = '' AND quote <> '';
CREATE INDEX launches_earlier ON launches (earlier) WHERE earlier IS NOT NULL;
