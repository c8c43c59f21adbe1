"""Who calls through the mesh, beside its services."""

from typing import Final

OPERATOR: Final = "operator"
"""Mesh identity of whoever holds the run directory. It calls; nothing calls it."""
PROXY: Final = "envoy"
"""Mesh identity of Envoy itself, when it has something to tell."""
GATEWAY: Final = "gateway"
"""The service that speaks for the whole mesh at the edge: sign-in, health, reflection."""
EVERY_SERVICE: Final = "*"
