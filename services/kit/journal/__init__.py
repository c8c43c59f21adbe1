"""Pipelines that survive anything: each finished step is a row, and whoever is alive goes on."""
