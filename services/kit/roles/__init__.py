"""Who holds which role, and what takes two people."""
