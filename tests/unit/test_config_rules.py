"""The configuration: complete, within bounds, and never free by mistake."""

from collections.abc import Callable
from typing import Any

import pytest
from buf.validate import validate_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration

from contract.errors import Code, Error
from icto.config.v1 import config_pb2 as pb
from icto.events.v1 import events_pb2
from icto.payment.v1 import payment_pb2
from services.backend import config_rules

SERVICES = [value for value in payment_pb2.PaidService.values() if value]


def refused(change: Callable[[pb.SystemConfig], object]) -> str:
    """The field for which a changed configuration is refused."""
    config = config_rules.initial()
    change(config)
    with pytest.raises(Error) as caught:
        config_rules.check(config)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.violations[0][0]


def price_of(config: pb.SystemConfig, service: int) -> pb.Price:
    (price,) = (p for p in config.payment.prices if p.service == service)
    return price


def test_a_new_platform_has_a_price_for_everything() -> None:
    """F-14: a misspelt key made locks free. Keys are an enum now, and each value has its price."""
    config = config_rules.initial()
    config_rules.check(config)
    assert sorted(p.service for p in config.payment.prices) == sorted(SERVICES)
    assert all(int(p.amount) > 0 and not p.free for p in config.payment.prices)


@pytest.mark.parametrize("service", SERVICES)
def test_a_missing_or_double_price_is_refused(service: int) -> None:
    """F-14, F-15: what was missing fell back to zero."""

    def drop(config: pb.SystemConfig) -> None:
        config.payment.prices.remove(price_of(config, service))

    def double(config: pb.SystemConfig) -> None:
        config.payment.prices.append(price_of(config, service))

    assert refused(drop) == refused(double) == "config.payment.prices"


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("amount", ["", "0", "x", "-1", "1.5", "01", "1e8", str(2**128)])
def test_a_price_that_cannot_be_read_is_no_price(service: int, amount: str) -> None:
    """F-15: what could not be parsed fell back to zero."""

    def garble(config: pb.SystemConfig) -> None:
        price_of(config, service).amount = amount

    assert refused(garble).endswith(".amount")


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_free_says_so(service: int) -> None:
    config = config_rules.initial()
    price = price_of(config, service)
    del price.discounts[:]
    price.amount, price.free, price.price_variable = "0", True, False
    config_rules.check(config)
    assert refused(lambda c: setattr(price_of(c, service), "free", True)).endswith(".amount")


def test_bounds_are_those_of_the_domain() -> None:
    def set_(part: str, field: str, value: object) -> Callable[[pb.SystemConfig], object]:
        def change(config: pb.SystemConfig) -> None:
            target = getattr(config, part)
            if isinstance(value, Duration):
                getattr(target, field).CopyFrom(value)
            else:
                setattr(target, field, value)

        return change

    for part, field, value in (
        ("payment", "minimum_payment_amount", "999999"),
        ("payment", "automatic_refund_limit", "-1"),
        ("payment", "treasury_float", ""),
        ("payment", "quote_lifetime", Duration(seconds=59)),
        ("limits", "deployment_cooldown", Duration(seconds=86_401)),
        ("limits", "pipeline_cooldown", Duration(seconds=-1)),
    ):
        assert refused(set_(part, field, value)) == f"config.{part}.{field}"
    discounted = config_rules.initial()
    price_of(discounted, payment_pb2.PAID_SERVICE_TOKEN).discounts.add(min_volume=1)
    with pytest.raises(Error, match="variable"):
        config_rules.check(discounted)


def test_the_defaults_are_the_domains() -> None:
    """Domain 2.1, C3 to C5."""
    limits = config_rules.initial().limits
    assert (limits.max_projects_per_user, limits.max_tokens_per_user) == (100, 50)
    assert (limits.max_deployments_per_day, limits.deployment_cooldown.seconds) == (10, 60)
    assert limits.pipeline_cooldown.seconds == 300


def test_a_change_starts_from_the_current_revision() -> None:
    config_rules.check_revision(3, 3)
    for given in (0, 2, 4):
        with pytest.raises(Error) as caught:
            config_rules.check_revision(given, 3)
        assert (caught.value.code, caught.value.metadata) == (Code.ABORTED, {"revision": "3"})


def test_the_largest_configuration_is_kept_whole_by_the_audit() -> None:
    largest = config_rules.initial()
    for price in largest.payment.prices:
        price.amount, price.price_variable = str(2**127), True
        del price.discounts[:]
        for _ in range(_most(pb.Price.DESCRIPTOR.fields_by_name["discounts"]).repeated.max_items):
            price.discounts.add(min_volume=2**32 - 1, basis_points=10_000, active=True)
    config_rules.check(largest)
    for name in ("previous_value", "new_value"):
        bound = _most(events_pb2.Act.DESCRIPTOR.fields_by_name[name]).string.max_len
        assert len(config_rules.as_text(largest)) < bound


def _most(field: FieldDescriptor) -> Any:
    return field.GetOptions().Extensions[validate_pb2.field]
