"""Deploys tokens on a chain and keeps the registry of those that exist."""
