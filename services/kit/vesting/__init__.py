"""Vesting: when what is locked may be claimed."""
