"""The audit: append-only, chained by hash, with signed checkpoints kept outside the database too."""
