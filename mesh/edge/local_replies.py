"""What callers are told when Envoy itself refuses a call: reason and words for each cause.

Rows are looked through from top to bottom; `when` is a CEL condition over Envoy's response
attributes. Envoy's own texts stay inside: they name filters and sockets, and help nobody outside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Final

from contract.errors import Code
from contract.loader import load
from contract.oversize import instead_of_many


@dataclass(frozen=True, slots=True)
class LocalReply:
    """One cause for which Envoy answers by itself."""

    when: str
    reason: str
    detail: str


def _details(prefix: str) -> str:
    return f"response.code_details.startsWith('{prefix}')"


_MALFORMED: Final = "The body, the path or a query parameter does not fit this method."

LOCAL_REPLIES: Final = (
    LocalReply(
        "response.code_details.contains('Jwt_is_missing')",
        "TOKEN_MISSING",
        "Sign in and send the access token as 'Authorization: Bearer ...'.",
    ),
    LocalReply(
        "response.code_details.contains('Jwt_is_expired')",
        "TOKEN_EXPIRED",
        "The access token has expired; sign in again.",
    ),
    LocalReply(_details("jwt_authn"), "TOKEN_INVALID", "The access token is not valid here."),
    LocalReply(
        "response.code_details.contains('deny_list')",
        "USER_SUSPENDED",
        "This user is suspended. Reading own data and claiming what is vested still work.",
    ),
    LocalReply(_details("rbac"), "ACCESS_DENIED", "You do not hold the role that this needs."),
    LocalReply(
        _details("local_rate_limited"), "RATE_LIMITED", "Too many calls; wait a second and go on."
    ),
    LocalReply(
        "response.code == 415",
        "MEDIA_TYPE_UNSUPPORTED",
        "Send the body as JSON, with the header 'Content-Type: application/json'.",
    ),
    LocalReply("response.code == 413", "REQUEST_TOO_LARGE", "The request is too large."),
    LocalReply(
        _details("grpc_json_transcode_failure{NOT_FOUND")
        + " || "
        + _details("early_grpc_json_transcode_failure{NOT_FOUND"),
        "METHOD_NOT_FOUND",
        "There is nothing at this path.",
    ),
    LocalReply(
        "response.code_details.contains('response_buffer_size_limit')"
        " || response.code_details.startsWith('response_payload_too_large')",
        "RESPONSE_TOO_LARGE",
        "The answer is too large to be sent. There is nothing wrong with the request; a list"
        " answers a smaller page.",
    ),
    LocalReply(
        "response.code_details.contains('json_transcode_failure')", "MALFORMED_REQUEST", _MALFORMED
    ),
    LocalReply(
        "response.code_details.contains('{overflow}')",
        "OVERLOADED",
        "The service has too much to do; try again in a moment.",
    ),
    LocalReply(
        _details("no_healthy_upstream"),
        "SERVICE_UNAVAILABLE",
        "No replica of the service is up; try again in a moment.",
    ),
    LocalReply(
        "response.code == 504", "DEADLINE_EXCEEDED", "The call took longer than its deadline."
    ),
    LocalReply("response.code == 404", "METHOD_NOT_FOUND", "There is nothing at this path."),
    LocalReply("response.code == 431", "HEADERS_TOO_LARGE", "The request's headers are too large."),
    LocalReply(
        "response.code >= 500",
        "SERVICE_UNAVAILABLE",
        "The service cannot be reached; try again in a moment.",
    ),
)
"""Why Envoy answers by itself, most particular first."""

_EVERY_SERVICE: Final = "test"
"""The environment in which every service exists."""

TITLES: Final = {
    status.value: status.phrase for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST
} | {
    499: "Client Closed Request"  # what Envoy says when the caller went away
}
"""Titles of problems, by HTTP status."""

FALLBACK: Final = LocalReply("true", "BAD_REQUEST", "The request cannot be understood.")


@cache
def replies() -> tuple[LocalReply, ...]:
    """Every cause; first what is too large for methods whose protos know another way."""
    paths: dict[str, list[str]] = {}
    for method in load(_EVERY_SERVICE).methods():
        if words := instead_of_many(method.request_type):
            paths.setdefault(words, []).extend((method.path, *(http.path for http in method.http)))
    too_large = (
        LocalReply(
            f"response.code == 413 && request.url_path in [{', '.join(map(_quoted, taken))}]",
            "REQUEST_TOO_LARGE",
            f"The request is too large. {words}",
        )
        for words, taken in paths.items()
    )
    return (*too_large, *LOCAL_REPLIES)


def cel(field: str) -> str:
    """A CEL expression that picks a field of the row that applies.

    Nested without parentheses: Envoy's CEL parser refuses deeper nesting than 32.
    """
    rows = [(reply.when, getattr(reply, field)) for reply in replies()]
    return _choose(rows, getattr(FALLBACK, field))


def title_cel() -> str:
    """A CEL expression for the title of a problem."""
    used = (400, 401, 403, 404, 405, 413, 415, 429, 431, 500, 503, 504)
    return _choose([(f"response.code == {code}", TITLES[code]) for code in used], "Error")


def lua_tables() -> str:
    """Titles by HTTP status, names of gRPC codes and words about bodies, as Lua values."""
    codes = {code.value: code.name for code in Code}
    malformed = f'local MALFORMED = "{_MALFORMED}"'
    return f"local TITLES = {_lua(TITLES)}\nlocal CODES = {_lua(codes)}\n{malformed}"


def _lua(texts: Mapping[int, str]) -> str:
    return "{" + ", ".join(f'[{number}] = "{text}"' for number, text in texts.items()) + "}"


def _choose(rows: Sequence[tuple[str, str]], otherwise: str) -> str:
    branches = [f"{when} ? {_quoted(text)}" for when, text in rows]
    return " : ".join((*branches, _quoted(otherwise)))


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
