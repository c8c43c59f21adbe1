"""The audit: append-only, chained by hash, its head signed outside of the database."""
