"""Traces, metrics and logs: their names in one module, their set-up in one call."""
