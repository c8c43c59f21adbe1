"""What the audit is told: the outbox, and where its events go."""
