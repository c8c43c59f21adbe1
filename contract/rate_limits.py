"""Rate limits: a bucket for each class, as the protos say."""

from dataclasses import dataclass

from icto.policy.v1 import policy_pb2 as policy


@dataclass(frozen=True, slots=True)
class Bucket:
    """A rate limit: calls at once, and calls added each second.

    Attributes:
        by_address: a token does not lead out of it: it is the address' for everybody.
        bytes: of requests to large methods, at once; 0 where the class has none.
        bytes_per_second: bytes added each second.
    """

    capacity: int
    per_second: int
    by_address: bool = False
    bytes: int = 0
    bytes_per_second: int = 0


def buckets() -> dict[str, Bucket]:
    """The bucket of each class that has one, by the class' name."""
    buckets: dict[str, Bucket] = {}
    for value in policy.RateLimitClass.DESCRIPTOR.values:
        size = value.GetOptions().Extensions[policy.bucket]
        if size.capacity:
            name = value.name.removeprefix("RATE_LIMIT_CLASS_")
            buckets[name] = Bucket(
                size.capacity, size.per_second, size.by_address, size.bytes, size.bytes_per_second
            )
    return buckets
