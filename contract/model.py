"""The contract as a value: what the protos say, by mesh service and by method path."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from contract.answers import Answers
from contract.identities import OPERATOR
from contract.method import Method
from contract.rate_limits import Bucket
from contract.service import Service
from contract.sizes import Size


class ContractError(Exception):
    """The contract leaves a gap. `problems` has a line for each: method, then rule."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("the contract is refused:\n" + "\n".join(f"  {p}" for p in self.problems))


@dataclass(frozen=True)
class Contract:
    """What the protos say, by mesh service and by method path."""

    services: Mapping[str, Service]
    buckets: Mapping[str, Bucket]
    descriptors: FileDescriptorSet = field(repr=False)

    def methods(self) -> Iterator[Method]:
        """All methods, service by service."""
        for service in self.services.values():
            yield from service.methods

    def method(self, path: str) -> Method:
        """The method with this path.

        Raises:
            KeyError: there is none.
        """
        return self._by_path[path]

    def callable_by(self, mesh_name: str) -> tuple[Method, ...]:
        """What a mesh identity may call."""
        return tuple(m for m in self.methods() if m.audience.admits_service(mesh_name))

    @property
    def identities(self) -> tuple[str, ...]:
        """Every identity that calls through the mesh: the services, and the operator."""
        return (*self.services, OPERATOR)

    @cached_property
    def largest_answers(self) -> Mapping[str, Size]:
        """The largest message that each method of ours answers with, by path."""
        answers = self.answers
        return {m.path: answers.largest(m)[0] for m in self.methods() if answers.are_ours(m)}

    @cached_property
    def answers(self) -> Answers:
        """What bounds the answers of methods."""
        return Answers(self.methods(), self.descriptors)

    @cached_property
    def _by_path(self) -> Mapping[str, Method]:
        return {method.path: method for method in self.methods()}
