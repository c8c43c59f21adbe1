-- Each block says what its accounts held after it, so that a balance of the past is read and not
-- added up. Blocks from before this are told here, from the first of their chain on.

ALTER TABLE blocks
    ADD from_balance numeric(39,0),
    ADD to_balance numeric(39,0),
    ADD fee_balance numeric(39,0);
COMMENT ON COLUMN blocks.from_balance IS 'What the account held after this block; so to_balance.';
COMMENT ON COLUMN blocks.fee_balance IS
    'What the fee collector held after this block; NULL when it paid no fee to one.';

-- 5 approves: it moves nothing but its fee.
CREATE TABLE running AS
SELECT ledger_id, index, owner, subaccount, sum(sum(change)) OVER (
    PARTITION BY ledger_id, owner, subaccount ORDER BY index) AS balance
FROM (
    SELECT ledger_id, index, from_owner, from_subaccount,
        - CASE WHEN operation = 5 THEN fee ELSE amount + fee END
    FROM blocks WHERE from_owner IS NOT NULL
    UNION ALL
    SELECT ledger_id, index, to_owner, to_subaccount, amount
    FROM blocks WHERE to_owner IS NOT NULL AND operation <> 5
    UNION ALL
    SELECT ledger_id, index, fee_owner, fee_subaccount, fee
    FROM blocks JOIN ledgers ON id = ledger_id WHERE fee > 0 AND fee_owner IS NOT NULL
) AS moves (ledger_id, index, owner, subaccount, change)
GROUP BY ledger_id, index, owner, subaccount;
CREATE INDEX ON running (ledger_id, index);
ANALYZE running;

UPDATE blocks SET
    from_balance = payer.balance, to_balance = payee.balance, fee_balance = collector.balance
FROM blocks AS old JOIN ledgers ON id = old.ledger_id
LEFT JOIN running AS payer ON payer.ledger_id = old.ledger_id AND payer.index = old.index
    AND payer.owner = from_owner AND payer.subaccount = from_subaccount
LEFT JOIN running AS payee ON payee.ledger_id = old.ledger_id AND payee.index = old.index
    AND payee.owner = to_owner AND payee.subaccount = to_subaccount
LEFT JOIN running AS collector ON collector.ledger_id = old.ledger_id
    AND collector.index = old.index AND old.fee > 0
    AND collector.owner = fee_owner AND collector.subaccount = fee_subaccount
WHERE blocks.ledger_id = old.ledger_id AND blocks.index = old.index;
DROP TABLE running;

-- An owner may have many accounts, a service as many as it holds tokens for.
DROP INDEX blocks_from, blocks_to;
CREATE INDEX blocks_from ON blocks (ledger_id, from_owner, from_subaccount, index)
    WHERE from_owner IS NOT NULL;
CREATE INDEX blocks_to ON blocks (ledger_id, to_owner, to_subaccount, index)
    WHERE to_owner IS NOT NULL;
CREATE INDEX blocks_fee ON blocks (ledger_id, index) WHERE fee_balance IS NOT NULL;
