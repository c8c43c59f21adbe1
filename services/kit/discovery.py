"""Finds a service's code by its mesh name: no list of services is kept anywhere.

The mesh service `ledger` is the module `services.ledger.service`; a service that is a top-level
room of the house, as the gateway, is `gateway.service`. Each proto service that it serves is the
class of the same name in that module.
"""

import importlib
import importlib.util
from types import ModuleType
from typing import Any

from contract.service import Service
from services.kit.kit import Kit


class IncompleteServiceError(Exception):
    """A service lacks a class or a method that its proto declares. The message names it."""


def package_of(mesh_name: str) -> str:
    """The package of a mesh service."""
    inside = f"services.{mesh_name}"
    return inside if importlib.util.find_spec(inside) else mesh_name


def module_of(mesh_name: str) -> ModuleType:
    """The module with the handlers of a mesh service."""
    return importlib.import_module(f"{package_of(mesh_name)}.service")


def instances(module: ModuleType, service: Service, kit: Kit) -> dict[str, Any]:
    """An instance for each proto service, by the proto service's full name.

    Raises:
        IncompleteServiceError: a class or a method is missing.
    """
    made: dict[type, Any] = {}
    found: dict[str, Any] = {}
    for method in service.methods:
        short = method.service.rpartition(".")[2]
        kind = getattr(module, short, None)
        if kind is None:
            raise IncompleteServiceError(f"{module.__name__} has no class {short}")
        if not callable(getattr(kind, method.name, None)):
            raise IncompleteServiceError(f"{module.__name__}.{short} has no method {method.name}")
        if kind not in made:
            made[kind] = kind(kit)
        found[method.service] = made[kind]
    return found
