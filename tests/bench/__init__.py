"""Measurements of a real installation, each beside its reference. See `__main__`."""
