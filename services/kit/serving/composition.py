"""What a service does: a handler for each of its methods, and work that goes on beside calls."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Serving:
    """What `compose(kit)` in a service's module makes of its parts.

    Attributes:
        handlers: by the path of their method, as the functions beside the Protocols in
            `icto.<area>.v1.<proto>_handlers` return them.
        work: what runs until it is cancelled, as long as the replica lives.
    """

    handlers: Mapping[str, Callable[..., Any]]
    work: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
