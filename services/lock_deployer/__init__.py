"""Holds locked tokens in escrow and pays them out as they vest."""
