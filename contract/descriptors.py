"""The descriptor set that was compiled at install, and the messages in it."""

from collections.abc import Iterable, Iterator, Mapping
from importlib import resources

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet


def descriptor_bytes() -> bytes:
    """The descriptor set that was compiled at install."""
    return (resources.files("icto") / "descriptors.binpb").read_bytes()


def messages(descriptors: FileDescriptorSet) -> Mapping[str, DescriptorProto]:
    """Every message of a descriptor set by its full name, with a dot in front."""
    return {
        name: message
        for file in descriptors.file
        for name, message in _named(f".{file.package}" if file.package else "", file.message_type)
    }


def _named(scope: str, within: Iterable[DescriptorProto]) -> Iterator[tuple[str, DescriptorProto]]:
    for message in within:
        name = f"{scope}.{message.name}"
        yield name, message
        yield from _named(name, message.nested_type)
