-- Quotes that no payment followed are counted for each user, and forgotten after a while.
CREATE INDEX quotes_unused ON quotes (owner, expire_time) WHERE used_by IS NULL;
CREATE INDEX quotes_over ON quotes (expire_time) WHERE used_by IS NULL;
CREATE INDEX payments_quotes ON payments (quote_id);
