"""How large what travels may be: bounds that both sides of a call keep."""

from typing import Final

from contract.sizes import Size

DEFAULT_MAX_REQUEST_BYTES: Final = 64 * 1024
"""What a method admits that says nothing. A method that admits more is large."""
PAGE_SIZE_LIMIT: Final = 100
PAGE_BYTES: Final = 1024 * 1024
"""Bytes of JSON by which a page of a list ends, whatever number was asked for."""
LARGEST_ANSWER: Final = Size(wire=4 * 1024 * 1024, json=24 * 1024 * 1024)
"""The largest message that a method may answer with. gRPC clients take 4 MiB unless told otherwise.
Nobody bounds JSON; this much of it keeps the memory of the edge in bounds."""
JSON_FACTOR: Final = 2
"""How many times as large as what it says JSON may be."""
MAX_HEADER_KB: Final = 16
"""Largest head of a call that the edge lets in, in KiB. Replicas take twice that: Envoy adds to it,
and what they refuse themselves has no shape of ours."""
