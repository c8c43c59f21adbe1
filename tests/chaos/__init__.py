"""The crash harness: a seeded schedule of faults under load, and what must hold after it."""
