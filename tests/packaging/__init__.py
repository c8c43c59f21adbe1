"""What is tried once, in CI: it downloads."""
