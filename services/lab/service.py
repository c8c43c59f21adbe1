"""Handlers of the lab: they do what the request says."""

import asyncio
from collections.abc import AsyncIterator

from google.api.httpbody_pb2 import HttpBody
from typing_extensions import override

from contract.errors import Code, Error
from icto.lab.v1 import lab_pb2 as pb
from icto.lab.v1.lab_handlers import LabServiceHandlers, lab_service
from icto.lab.v1.lab_pb2_grpc import LabServiceStub
from services.kit.answering import sse
from services.kit.serving import Call, Kit, Serving
from services.lab import store

_SECRET = "must not get out"  # noqa: S105  # tests look for it


def compose(kit: Kit) -> Serving:
    """The service of its parts."""
    return Serving(lab_service(LabService(kit)))


class LabService(LabServiceHandlers[Call]):
    """icto.lab.v1.LabService."""

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database
        self._instance = kit.settings.instance
        self._heartbeat = kit.settings.heartbeat_seconds
        self._self = kit.clients.stub(LabServiceStub)
        self._calls = 0

    @override
    async def Fail(self, request: pb.FailRequest, call: Call) -> pb.FailResponse:
        """Ends as asked."""
        del call
        self._calls += 1
        if request.key:
            await store.count_attempt(self._database, request.key)
        if request.code and not request.reason:
            raise LabBrokenError(_SECRET)
        _fail(request.code, request.reason, request.message, retriable=request.retriable)
        return pb.FailResponse(call_count=self._calls, instance=self._instance)

    @override
    async def FailSafely(self, request: pb.FailSafelyRequest, call: Call) -> pb.FailSafelyResponse:
        """Ends as asked, counting attempts."""
        del call
        if request.relay:
            onward = pb.FailSafelyRequest()
            onward.CopyFrom(request)
            onward.relay = False
            return await self._self.FailSafely(onward)
        count = await store.count_attempt(self._database, request.key) if request.key else 0
        if not request.failures or count <= request.failures:
            _fail(request.code, request.reason, "asked for", retriable=request.retriable)
        return pb.FailSafelyResponse(attempt_count=count)

    @override
    async def Slow(self, request: pb.SlowRequest, call: Call) -> pb.SlowResponse:
        """Takes its time."""
        remaining, onward = call.remaining, 0.0
        if request.relay:
            response = await self._self.Slow(pb.SlowRequest(delay=request.delay))
            onward = response.remaining_seconds
        else:
            await asyncio.sleep(request.delay.ToNanoseconds() / 1e9)
        return pb.SlowResponse(
            remaining_seconds=remaining, instance=self._instance, next_remaining_seconds=onward
        )

    @override
    async def Stream(
        self, request: pb.StreamRequest, call: Call
    ) -> AsyncIterator[pb.StreamResponse]:
        """Sends messages, then ends as asked."""
        del call
        for index in range(request.count):
            await asyncio.sleep(request.pause.ToNanoseconds() / 1e9)
            yield pb.StreamResponse(index=index + 1)
        if request.broken:
            raise LabBrokenError(_SECRET)
        _fail(request.code, "STREAM_ENDED", "asked for")

    @override
    async def StreamEvents(
        self, request: pb.StreamEventsRequest, call: Call
    ) -> AsyncIterator[HttpBody]:
        """Sends events, then ends as asked."""
        inner = pb.StreamRequest(
            count=request.count, pause=request.pause, code=request.code, broken=request.broken
        )
        events = ((str(m.index), "message", m) async for m in self.Stream(inner, call))
        async for chunk in sse.encode(events, call, self._heartbeat):
            yield chunk

    @override
    async def Limited(self, request: pb.LimitedRequest, call: Call) -> pb.LimitedResponse:
        """Draws from a small bucket."""
        del request, call
        return pb.LimitedResponse()

    @override
    async def ForgetOwner(
        self, request: pb.ForgetOwnerRequest, call: Call
    ) -> pb.ForgetOwnerResponse:
        """Forgets to check the owner, on purpose."""
        del request, call
        return pb.ForgetOwnerResponse(secret=_SECRET)


class LabBrokenError(Exception):
    """A bug, as services have them."""


def _fail(code: int, reason: str, message: str, *, retriable: bool = False) -> None:
    if code:
        raise Error(Code(code), reason, message, retriable=retriable)
