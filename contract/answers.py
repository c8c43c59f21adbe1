"""How large the answers of methods are at most."""

from collections.abc import Iterable, Iterator
from math import inf
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from contract.fields import Messages
from contract.limits import LARGEST_ANSWER, PAGE_BYTES, PAGE_SIZE_LIMIT
from contract.method import HTTP_BODY, Method
from contract.sizes import Size, Sizes

_EVENT_BYTES: Final = 1024
"""Of a server-sent event beside its data: id, name, and how it is framed."""


class Answers:
    """How large the answers of methods are at most."""

    def __init__(self, methods: Iterable[Method], descriptors: FileDescriptorSet) -> None:
        self._methods = {method.full_name: method for method in methods}
        messages = Messages(descriptors.file)
        carried: dict[str, int] = {}
        for method in self._methods.values():
            for name in messages.within(f".{method.request_type}"):
                carried[name] = max(carried.get(name, 0), method.max_request_bytes)
        self._sizes = Sizes(messages, carried)

    def are_ours(self, method: Method) -> bool:
        """Whether the proto of a method is ours to bound."""
        return method.service.startswith("icto.")

    def problems(self) -> Iterator[str]:
        """Methods whose answers nothing bounds, or too little."""
        for method in filter(self.are_ours, self._methods.values()):
            _, broken = self.largest(method)
            yield from (f"{method.full_name}: {rule}" for rule in broken)

    def largest(self, method: Method) -> tuple[Size, list[str]]:
        """The largest message that a method answers with, and the rules that it breaks."""
        if method.response_type == HTTP_BODY:
            return self._events(method)
        self._sizes.unbounded.clear()
        name = f".{method.response_type}"
        if method.lists:
            end = Size(PAGE_BYTES, PAGE_BYTES)
            largest = self._sizes.page(name, PAGE_SIZE_LIMIT, end)
        else:
            largest = self._sizes.of(name)
        if largest.wire == inf:
            paths = ", ".join(dict.fromkeys(self._sizes.unbounded)) or "a message of the answer"
            return largest, [f"nothing bounds its answer: {paths}"]
        return largest, list(_too_large(method, largest))

    def _events(self, method: Method) -> tuple[Size, list[str]]:
        """Server-sent events carry the messages of the typed stream beside them, as JSON."""
        beside = self._methods.get(method.full_name.removesuffix("Events"))
        if beside is None or beside is method:
            return LARGEST_ANSWER, ["it streams HttpBody, and no typed stream is named like it"]
        largest, broken = self.largest(beside)
        events = Size(largest.json + _EVENT_BYTES, largest.json + _EVENT_BYTES)
        return events, broken or list(_too_large(method, events))


def _too_large(method: Method, largest: Size) -> Iterator[str]:
    if largest.wire > LARGEST_ANSWER.wire:
        yield (
            f"its answer may have {largest.wire:.0f} bytes;"
            f" {LARGEST_ANSWER.wire} are what every hop takes"
        )
    if method.http and largest.json > LARGEST_ANSWER.json:
        yield f"its answer may have {largest.json:.0f} bytes of JSON of {LARGEST_ANSWER.json}"
