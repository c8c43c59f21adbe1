"""Distributes tokens to communities: campaigns, their recipients, claims."""
