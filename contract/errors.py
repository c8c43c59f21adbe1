"""The one error type.

    Error                 what a caller is told: code, reason, message, metadata
    └── RemoteError       the same, as another service told it to us

A reason is a constant that a program can switch on; the message tells a person what to do. Both
leave the platform as `google.rpc.ErrorInfo`, so they never hold a secret or a stack trace.

Three questions are asked of a failure, each by one who has something else to decide:

    May it be recorded as the end?         definite          the journal; a charge
    May it have taken effect?              outcome_unknown   what must not happen twice
    May another replica be asked at once?  retriable         Envoy, where repeats are safe

    code                                          definite  outcome_unknown  retriable
    CANCELLED, UNKNOWN, DEADLINE_EXCEEDED,
      INTERNAL, UNAVAILABLE                       no        yes              no
    ABORTED, RESOURCE_EXHAUSTED                   no        no               no
    every other                                   yes       no               no
    any, for REQUEST_TOO_LARGE or
      HEADERS_TOO_LARGE                           yes       as its code      no
    any, marked as retriable                      no        as its code      yes
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final


class Code(IntEnum):
    """gRPC status codes, by number. There is no OK: it is not an error."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


MAX_MESSAGE: Final = 900
"""Bytes of a message that are passed on, and kept: it is for people, not for dumps."""
OUTCOME_UNKNOWN = frozenset(
    {Code.CANCELLED, Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.UNAVAILABLE}
)
"""Codes that leave open whether the call took effect."""
_OF_THE_MOMENT: Final = frozenset({Code.ABORTED, Code.RESOURCE_EXHAUSTED})
"""Codes of a call without effect that the same call may not meet again a moment later."""
_OF_THE_CALL: Final = frozenset({"REQUEST_TOO_LARGE", "HEADERS_TOO_LARGE"})
"""Reasons that say something of the call, though their codes are of the moment elsewhere."""


SERVICE: Final = "service"
"""Fact about a failure: the mesh service that did not answer as it should."""


class Error(Exception):
    """What a caller is told when a call fails.

    Attributes:
        code: the gRPC status code.
        reason: UPPER_SNAKE_CASE, stable.
        message: for a person: what is wrong and what to do.
        metadata: facts about the failure, for instance the balance that did not suffice.
        violations: field path and what is wrong with it, for INVALID_ARGUMENT.
        retry_after: seconds after which a repeat makes sense.
        retriable: another replica may serve the call, where the contract says that repeats are
            safe.
    """

    def __init__(
        self,
        code: Code,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: tuple[tuple[str, str], ...] = (),
        retry_after: float | None = None,
        retriable: bool = False,
    ) -> None:
        super().__init__(f"{code.name} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.retry_after = retry_after
        self.retriable = retriable

    @property
    def definite(self) -> bool:
        """Whether the call had no effect, and a repeat would be told the same.

        Only this may be recorded as how something ended. An unknown outcome may have been a
        success; a conflict, a limit, an overload or a replica that is still starting says something
        of the moment and nothing of the call.
        """
        of_the_call = self.code not in OUTCOME_UNKNOWN | _OF_THE_MOMENT
        return (of_the_call or self.reason in _OF_THE_CALL) and not self.retriable


class RemoteError(Error):
    """An error that another service answered with.

    Attributes:
        service: mesh name of the service that failed: the one that was asked, or one that it needed
            in turn and did not reach.
    """

    def __init__(
        self, code: Code, reason: str, message: str, *, service: str = "", **more: Any
    ) -> None:
        super().__init__(code, reason, message, **more)
        self.service = self.metadata.get(SERVICE, service)

    @property
    def outcome_unknown(self) -> bool:
        """Whether the call may have taken effect all the same.

        Also when it is retriable: an attempt before this one, which Envoy repeated, may have.
        """
        return self.code in OUTCOME_UNKNOWN

    def passed_on(self) -> Error:
        """The error as our own caller is told it: one that the hop before us does not repeat.

        The hop after us has done so already, and attempts would multiply. CANCELLED there is not
        our caller's doing, and Envoy repeats it.
        """
        code = Code.UNAVAILABLE if self.code is Code.CANCELLED else self.code
        named = {SERVICE: self.service} if self.service and self.outcome_unknown else {}
        return Error(code, self.reason, self.message, metadata={**self.metadata, **named})

    def about(self, theirs: str, ours: str) -> Error:
        """The error where a field that they call `theirs` is what our caller calls `ours`."""
        if not self.violations:
            return self
        violations = tuple(
            (ours + field.removeprefix(theirs), problem) for field, problem in self.violations
        )
        message = "; ".join(" ".join(violation) for violation in violations)
        return Error(self.code, self.reason, message, metadata=self.metadata, violations=violations)


def invalid(field: str, problem: str, reason: str = "INVALID_FIELD") -> Error:
    """A field that cannot be accepted. `problem` completes "<field> …"."""
    return Error(
        Code.INVALID_ARGUMENT, reason, f"{field} {problem}.", violations=((field, f"{problem}."),)
    )


def internal() -> Error:
    """What is told of an error that we do not know: nothing but where to find it."""
    return Error(
        Code.INTERNAL, "INTERNAL", "Something went wrong on our side. The trace id finds it."
    )


def not_found(resource: str, name: str) -> Error:
    """No such resource, or none that the caller may see: both are answered alike."""
    return Error(
        Code.NOT_FOUND,
        f"{resource.upper()}_NOT_FOUND",
        f"There is no {resource} {name!r} that you may see.",
        metadata={"name": name},
    )
