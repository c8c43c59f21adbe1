-- What a revocation took back of a share: less than the fee was left of it, which nobody could claim.
ALTER TABLE lock_shares
    ADD COLUMN returned numeric(39,0) NOT NULL DEFAULT 0,
    ADD CONSTRAINT lock_shares_conserved CHECK (claimed + returned <= amount);
