"""Which package has the tables of a mesh service: no list of services is kept anywhere."""

from importlib import resources
from importlib.resources.abc import Traversable


def package_of(mesh_name: str) -> str:
    """The package of a mesh service: below `services`, or a top-level room of the house."""
    inside = resources.files("services") / mesh_name
    return f"services.{mesh_name}" if inside.is_dir() else mesh_name


def folder_of(package: str) -> Traversable:
    """The folder of a package, of which nothing is run but the package at its top."""
    top, *below = package.split(".")
    return resources.files(top).joinpath(*below)
