"""What kind of installation this is, and how the variables begin by which its processes are told.

The contract of each kind has the services that exist there. Nothing is imported here that may be
missing: the first steps of `icto` need it.
"""

from enum import StrEnum
from typing import Final

PREFIX: Final = "ICTO_"
"""Of variables that are for us."""


class Environment(StrEnum):
    """What kind of installation this is."""

    PRODUCTION = "production"
    LOCAL = "local"
    TEST = "test"

    @property
    def is_play(self) -> bool:
        """Whether tokens are worth nothing here, so that they may be given away."""
        return self is not Environment.PRODUCTION
