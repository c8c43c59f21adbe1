"""Launches: accepting them, the pipeline that does them, and following it."""
