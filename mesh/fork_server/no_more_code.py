"""A forked replica has all of our code from its fork server, and loads none from disk after that.

What lies there may have changed meanwhile: half of one version and half of another is neither.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from mesh.fork_server.installed_code import PACKAGES


class NoMoreCode:
    """A finder that refuses what is ours and exists; what does not exist, others look for."""

    @classmethod
    def install(cls) -> None:
        """Refuses from now on."""
        sys.meta_path.insert(0, cls())

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """None, for what is not ours or does not exist.

        Raises:
            ImportError: it is a module of ours that the fork server should have loaded.
        """
        if name.partition(".")[0] in PACKAGES and PathFinder.find_spec(name, path, target):
            raise ImportError(f"{name} was not loaded before this process was forked", name=name)
        return None
