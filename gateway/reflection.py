"""Reflection of what the edge offers: every method that users may call, and no other."""

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from contract.model import Contract
from services.kit.serving import Call, Kit


class ServerReflection:
    """grpc.reflection.v1 and v1alpha: the same messages under two names."""

    def __init__(self, kit: Kit) -> None:
        exposed = {m.full_name for m in kit.contract.methods() if m.audience.from_outside}
        services = {name.partition("/")[0] for name in exposed}
        servicer: Any = reflection.aio.ReflectionServicer  # its package has no types
        self._servicer = servicer(services, pool=_MethodsToo(edge_pool(kit.contract, exposed)))

    def ServerReflectionInfo(
        self, requests: AsyncIterator[reflection_pb2.ServerReflectionRequest], call: Call
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        """Answers each question."""
        answers: AsyncIterator[reflection_pb2.ServerReflectionResponse]
        answers = self._servicer.ServerReflectionInfo(requests, call)
        return answers


class _MethodsToo:
    """A pool in which a file is found by a method's name too, as `grpcurl describe` asks for it.

    Protobuf's own pool knows every other symbol.
    """

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """The file that declares a symbol.

        Raises:
            KeyError: none does.
        """
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindMethodByName(symbol).containing_service.file


def edge_pool(contract: Contract, exposed: set[str]) -> DescriptorPool:
    """The descriptors of the contract without methods that are not exposed."""
    pool = DescriptorPool()
    for file in contract.descriptors.file:
        pool.Add(_pruned(file, exposed))
    health = FileDescriptorProto.FromString(health_pb2.DESCRIPTOR.serialized_pb)
    alpha = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    for standard in (health, alpha, _reflection_v1(alpha)):
        pool.Add(standard)
    return pool


def _pruned(file: FileDescriptorProto, exposed: set[str]) -> FileDescriptorProto:
    copy = FileDescriptorProto.FromString(file.SerializeToString())
    if not copy.package.startswith("icto."):
        return copy
    for service in copy.service:
        kept = [m for m in service.method if f"{copy.package}.{service.name}/{m.name}" in exposed]
        del service.method[:]
        service.method.extend(kept)
    services = [service for service in copy.service if service.method]
    del copy.service[:]
    copy.service.extend(services)
    return copy


def _reflection_v1(alpha: FileDescriptorProto) -> FileDescriptorProto:
    """The file of version 1: the same messages in another package."""
    text = text_format.MessageToString(alpha).replace("v1alpha", "v1")
    return text_format.Parse(text, FileDescriptorProto())
