"""Amounts, transfers and escrow: money that a service moves."""
