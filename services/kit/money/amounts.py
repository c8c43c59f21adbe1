"""Token amounts: integers in base units inside, canonical decimal strings on the wire."""

import re
from typing import Final

from contract.errors import invalid

MAX_AMOUNT: Final = 2**128 - 1
_CANONICAL: Final = re.compile(r"0|[1-9][0-9]{0,38}", re.ASCII)


def parse(text: str, field: str) -> int:
    """The amount that a canonical decimal string stands for.

    Raises:
        Error: INVALID_ARGUMENT, it has a sign, a leading zero or another character, or is not
            below 2^128.
    """
    value = int(text) if _CANONICAL.fullmatch(text) else -1
    if not 0 <= value <= MAX_AMOUNT:
        raise invalid(
            field,
            "must be a whole number of base units from 0 to 2^128-1, without sign or leading zero",
            "INVALID_AMOUNT",
        )
    return value
