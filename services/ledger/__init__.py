"""The ledger of many tokens: ICRC-1 accounts, transfers and blocks."""
