"""The rules of users, projects and deployments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from contract import ids
from contract.errors import Code, Error, invalid, not_found
from services.kit import lookalikes

PROJECT_NAME_LENGTH: Final = range(3, 101)
_PROFILE_FIELDS: Final = ("display_name", "email", "website")
_PROJECT_FIELDS: Final = ("display_name", "description")


@dataclass(frozen=True, slots=True)
class Profile:
    """What a user told about themselves."""

    principal: str
    display_name: str = ""
    email: str = ""
    website: str = ""
    deployment_count: int = 0
    create_time: datetime | None = None
    update_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """A creator's project. `revision` grows with every change."""

    id: UUID
    owner: str
    display_name: str
    description: str
    token: str = ""
    deployment: UUID | None = None
    revision: int = 1
    create_time: datetime | None = None
    update_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Approval:
    """What the ledger lets us take for a quote. Base units of the fee token.

    Attributes:
        required: what the charge takes, the ledger's fee included.
        problem: why it does not cover the quote, in words; "" when it does.
    """

    required: int
    allowance: int
    balance: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A token deployment as it was accepted. How far it is, its pipeline tells."""

    id: UUID
    owner: str
    project_id: UUID | None
    spec: bytes
    trace_id: str
    quote: str = ""
    cost: str = ""
    payment: str = ""
    token: str = ""
    create_time: datetime | None = None

    @property
    def accept_time(self) -> datetime:
        """When it was accepted; of one that is not stored yet, as its id says."""
        return self.create_time or ids.time_of(self.id)


def changed_fields(
    present: Mapping[str, str], mask: list[str], allowed: tuple[str, ...]
) -> dict[str, str]:
    """Fields to change (AIP-134): those in the mask, or without a mask those that are present.

    Raises:
        Error: INVALID_ARGUMENT, the mask names a field that cannot be changed.
    """
    unknown = set(mask) - set(allowed) - {"*"}
    if unknown:
        raise invalid("update_mask", f"names {', '.join(sorted(unknown))}, which cannot be changed")
    if "*" in mask:
        mask = list(allowed)
    return {name: present.get(name, "") for name in (mask or present) if name in allowed}


def profile_changes(present: Mapping[str, str], mask: list[str]) -> dict[str, str]:
    """Changes to a profile.

    Raises:
        Error: INVALID_ARGUMENT.
    """
    changes = changed_fields(present, mask, _PROFILE_FIELDS)
    email = changes.get("email", "")
    if email and ("@" not in email[1:-1] or not email.isprintable() or " " in email):
        raise invalid("profile.email", "must be an email address")
    return changes


def project_changes(present: Mapping[str, str], mask: list[str]) -> dict[str, str]:
    """Changes to a project.

    Raises:
        Error: INVALID_ARGUMENT.
    """
    changes = changed_fields(present, mask, _PROJECT_FIELDS)
    if "display_name" in changes:
        changes["display_name"] = project_name(changes["display_name"])
    return changes


def project_name(name: str) -> str:
    """A project's name without space around it.

    Raises:
        Error: INVALID_ARGUMENT, it is not 3 to 100 characters.
    """
    name = name.strip()
    if len(name) not in PROJECT_NAME_LENGTH:
        raise invalid("project.display_name", "must have 3 to 100 characters")
    lookalikes.check_scripts("project.display_name", name)
    return name


def check_etag(given: str, current: str) -> None:
    """Passes when the caller saw the current revision, or did not say.

    Raises:
        Error: ABORTED, it changed meanwhile (AIP-154).
    """
    if given and given != current:
        raise Error(
            Code.ABORTED, "ETAG_MISMATCH", "It was changed meanwhile; read it and try again."
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """What one user may do."""

    tokens: int
    per_day: int
    cooldown: timedelta


TOO_MANY_TOKENS: Final = (
    Code.RESOURCE_EXHAUSTED,
    "TOKEN_LIMIT",
    "You have as many tokens as one user may have.",
)
TOO_MANY_TODAY: Final = (
    Code.RESOURCE_EXHAUSTED,
    "DAILY_LIMIT",
    "You have asked for as many deployments as one user may in 24 hours.",
)
TOO_SOON: Final = (
    Code.RESOURCE_EXHAUSTED,
    "COOLDOWN",
    "Wait a little between two deployments.",
)


@dataclass(frozen=True, slots=True)
class Ordered:
    """What a user has ordered by now, as of `now`.

    Attributes:
        tokens: delivered and on their way.
        day_count: orders in the 24 hours that began at `day_start`.
        last: when the newest was ordered; None when there is none.
    """

    now: datetime
    tokens: int
    day_start: datetime
    day_count: int
    last: datetime | None


_DAY: Final = timedelta(hours=24)


def check_limits(ordered: Ordered, limits: Limits) -> None:
    """Passes when a user may order now; says from when on they may.

    Raises:
        Error: RESOURCE_EXHAUSTED, they have too many tokens, or ordered too often or just now.
    """
    if ordered.tokens >= limits.tokens:
        raise Error(*TOO_MANY_TOKENS)
    next_day = ordered.day_start + _DAY
    if ordered.day_count >= limits.per_day and next_day > ordered.now:
        raise _not_before(TOO_MANY_TODAY, next_day, ordered.now)
    if ordered.last is not None and ordered.last + limits.cooldown > ordered.now:
        raise _not_before(TOO_SOON, ordered.last + limits.cooldown, ordered.now)


def _not_before(refusal: tuple[Code, str, str], moment: datetime, now: datetime) -> Error:
    code, reason, message = refusal
    until = f"You may order again from {moment:%Y-%m-%d %H:%M:%S} UTC on."
    return Error(
        code,
        reason,
        f"{message} {until}",
        metadata={"ready_time": moment.isoformat()},
        retry_after=(moment - now).total_seconds(),
    )


def check_project_count(count: int, limit: int) -> None:
    """Passes when a user may have another project.

    Raises:
        Error: RESOURCE_EXHAUSTED, they have as many as one may have.
    """
    if count >= limit:
        raise Error(
            Code.RESOURCE_EXHAUSTED,
            "PROJECT_LIMIT",
            f"You have {count} projects, as many as one user may have.",
        )


def check_quote(steps: Sequence[str], wanted: Sequence[str]) -> None:
    """Passes when a quote is for exactly the steps of an order.

    Raises:
        Error: FAILED_PRECONDITION, it is for something else.
    """
    if sorted(steps) != sorted(wanted):
        raise Error(
            Code.FAILED_PRECONDITION,
            "QUOTE_MISMATCH",
            f"The quote is for {', '.join(steps)}; this needs one for {', '.join(wanted)}.",
        )


def quote_mismatch() -> Error:
    """A quote names the right steps, but something cheaper for one of them."""
    return Error(
        Code.FAILED_PRECONDITION, "QUOTE_MISMATCH", "The quote is for other services than these."
    )


def check_approved(approval: Approval) -> None:
    """Passes when an approval on the ledger covers a quote.

    Raises:
        Error: FAILED_PRECONDITION, it does not; nothing was stored or charged.
    """
    if not approval.problem:
        return
    short = approval.allowance >= approval.required > approval.balance
    raise Error(
        Code.FAILED_PRECONDITION,
        "INSUFFICIENT_FUNDS" if short else "INSUFFICIENT_ALLOWANCE",
        approval.problem,
        metadata={
            "required": str(approval.required),
            "allowance": str(approval.allowance),
            "balance": str(approval.balance),
        },
    )


def quote_required() -> Error:
    """Nothing was said about how to pay."""
    return Error(
        Code.FAILED_PRECONDITION,
        "QUOTE_REQUIRED",
        "Ask for a quote (CreateQuote), approve it on the ledger, and send its name along.",
    )


def check_project_free(project: Project) -> None:
    """Passes when a token may be deployed for the project: a project has one token.

    Raises:
        Error: FAILED_PRECONDITION.
    """
    if project.token:
        raise Error(
            Code.FAILED_PRECONDITION,
            "PROJECT_HAS_TOKEN",
            f"The project has its token already: {project.token}.",
        )
    if project.deployment is not None:
        raise Error(
            Code.FAILED_PRECONDITION,
            "PROJECT_BUSY",
            f"deployments/{project.deployment} is under way for this project.",
        )


def project_not_found(name: str) -> Error:
    """The project is missing or somebody else's: told alike."""
    return not_found("project", name)
