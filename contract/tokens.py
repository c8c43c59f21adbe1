"""Access tokens: what the gateway writes into them, and Envoy looks for."""

from typing import Final

ISSUER: Final = "icto"
COOKIE: Final = "icto_session"
"""Cookie with a token, for what a browser follows by EventSource."""


def cookie_audience(audience: str) -> str:
    """Audience of the token in the cookie, which lives longer and opens event streams alone."""
    return f"{audience}/events"
