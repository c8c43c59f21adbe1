"""The rules of the platform's configuration: what it is at first, and what it may become.

Values are the "Rec" decisions of the domain (2.1, 4.1, C3 to C5, C14). Amounts are base units of
the fee token, e8s.
"""

from typing import Final

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration

from contract.errors import Code, Error, invalid
from contract.ids import FEE_LEDGER
from icto.config.v1 import config_pb2 as pb
from icto.payment.v1 import payment_pb2 as payment
from services.kit.money import amounts

MINIMUM_PAYMENT_FLOOR: Final = 1_000_000
_QUOTE_SECONDS: Final = range(60, 24 * 3600 + 1)
_COOLDOWN_SECONDS: Final = range(24 * 3600 + 1)
_BASIS_POINTS: Final = 10_000

_E8S: Final = 100_000_000
_PRICES: Final = {
    payment.PAID_SERVICE_TOKEN: _E8S,
    payment.PAID_SERVICE_LOCK: _E8S // 2,
    payment.PAID_SERVICE_DISTRIBUTION: _E8S // 2,
    payment.PAID_SERVICE_PIPELINE: _E8S // 2,
}


def initial() -> pb.SystemConfig:
    """The configuration that a new platform starts with."""
    config = pb.SystemConfig(
        revision=1,
        features=pb.FeatureFlags(
            token_deployment=True,
            lock_deployment=True,
            distribution_deployment=True,
            pipeline_execution=True,
            volume_discounts=True,
        ),
        limits=pb.UserLimits(
            max_projects_per_user=100,
            max_tokens_per_user=50,
            max_deployments_per_day=10,
            deployment_cooldown=Duration(seconds=60),
            pipeline_cooldown=Duration(seconds=300),
            max_concurrent_pipelines=150,
        ),
        payment=pb.PaymentConfig(
            ledger=FEE_LEDGER,
            minimum_payment_amount=str(_E8S // 10),
            quote_lifetime=Duration(seconds=3600),
            automatic_refund_limit=str(5 * _E8S),
            treasury_float=str(_E8S),
            prices=[pb.Price(service=s, amount=str(a)) for s, a in _PRICES.items()],
        ),
    )
    pipeline = config.payment.prices[-1]
    pipeline.price_variable = True
    pipeline.discounts.add(min_volume=5, basis_points=1_000, active=True)
    return config


def check(config: pb.SystemConfig) -> None:
    """Passes when the configuration is complete and within bounds.

    Raises:
        Error: INVALID_ARGUMENT, naming the field.
    """
    _check_seconds("limits.deployment_cooldown", config.limits.deployment_cooldown)
    _check_seconds("limits.pipeline_cooldown", config.limits.pipeline_cooldown)
    _check_payment(config.payment)
    _check_prices(config.payment)


def _check_seconds(field: str, duration: Duration) -> None:
    if duration.seconds not in _COOLDOWN_SECONDS:
        raise invalid(f"config.{field}", "must be 0 s to 24 h")


def _check_payment(settings: pb.PaymentConfig) -> None:
    prefix = "config.payment"
    minimum = amounts.parse(settings.minimum_payment_amount, f"{prefix}.minimum_payment_amount")
    if minimum < MINIMUM_PAYMENT_FLOOR:
        raise invalid(
            f"{prefix}.minimum_payment_amount", f"must be at least {MINIMUM_PAYMENT_FLOOR}"
        )
    amounts.parse(settings.automatic_refund_limit, f"{prefix}.automatic_refund_limit")
    amounts.parse(settings.treasury_float, f"{prefix}.treasury_float")
    if settings.quote_lifetime.seconds not in _QUOTE_SECONDS:
        raise invalid(f"{prefix}.quote_lifetime", "must be 60 s to 24 h")


def _check_prices(settings: pb.PaymentConfig) -> None:
    """Each service that can be paid for has one price, and none is free by mistake (F-14, F-15)."""
    priced = [price.service for price in settings.prices]
    wanted = {v for v in payment.PaidService.values() if v != payment.PAID_SERVICE_UNSPECIFIED}
    if sorted(priced) != sorted(wanted):
        names = ", ".join(payment.PaidService.Name(v) for v in sorted(wanted))
        raise invalid("config.payment.prices", f"must have one price for each of {names}")
    for position, price in enumerate(settings.prices):
        field = f"config.payment.prices[{position}]"
        amount = amounts.parse(price.amount, f"{field}.amount")
        if price.free != (amount == 0):
            raise invalid(f"{field}.amount", "must be 0 exactly when `free` is set")
        if price.discounts and not price.price_variable:
            raise invalid(f"{field}.discounts", "are for prices that are variable")


def as_text(config: pb.SystemConfig) -> str:
    """A configuration as the audit keeps it, whole: the largest there is fits its bound."""
    return json_format.MessageToJson(config, indent=None)


def check_revision(given: int, current: int) -> None:
    """Passes when the change was made from the current configuration.

    Raises:
        Error: ABORTED, somebody changed it meanwhile.
    """
    if given != current:
        raise Error(
            Code.ABORTED,
            "CONFIG_CHANGED",
            f"The configuration is at revision {current}, not {given}; read it and try again.",
            metadata={"revision": str(current)},
        )
