"""`icto call`: any method of the platform by gRPC, from the contract alone."""

import asyncio
import importlib
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

from contract import loader, wire
from contract.environment import Environment
from contract.method import Kind, Method
from contract.model import Contract
from contract.status import from_rpc_error
from mesh.cli.client import Client, load_key
from mesh.cli.terminal import (
    RUN_DIR,
    EdgeOption,
    RunDirOption,
    config_directory,
    edge_of,
    err,
    fail,
    message_json,
    plain,
    print_json,
    run,
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("call")(call)


def call(
    method: Annotated[
        str, typer.Argument(help="Service/Method, for instance LedgerService/GetLedger.")
    ],
    request: Annotated[str, typer.Argument(help="The request as JSON.")] = "{}",
    run_dir: RunDirOption = RUN_DIR,
    edge: EdgeOption = "",
    *,
    anonymous: Annotated[bool, typer.Option("--anonymous", help="Do not sign in.")] = False,
) -> None:
    """Call a method over gRPC as you, and print the answer as JSON."""
    contract = loader.load(Environment.TEST)
    found = _method(contract, method)
    load_messages(contract)
    run(_call(found, _request(found, request), run_dir, edge, anonymous=anonymous))


def _method(contract: Contract, text: str) -> Method:
    """The method that a name means; a unique ending will do."""
    found = [m for m in contract.methods() if f".{m.full_name}".endswith(f".{text.lstrip('/.')}")]
    if not found:
        offered = ", ".join(sorted({m.service for m in contract.methods()}))
        fail(f"There is no method {text!r}. Services are {offered}.")
    return found[0]


def load_messages(contract: Contract) -> None:
    """Imports the generated modules, so that every message is known."""
    for file in contract.descriptors.file:
        if file.package.startswith("icto."):
            importlib.import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")


def message_class(full_name: str) -> type[Message]:
    """The class of a message."""
    descriptor = descriptor_pool.Default().FindMessageTypeByName(full_name)
    return message_factory.GetMessageClass(descriptor)


def _request(method: Method, text: str) -> Message:
    try:
        return json_format.Parse(text, message_class(method.request_type)())
    except json_format.ParseError as error:
        fail(plain(f"The request is not a {method.request_type}: {error}"))


async def _call(
    method: Method, request: Message, run_dir: Path, edge: str, *, anonymous: bool
) -> None:
    client = Client(await edge_of(run_dir, edge), load_key(config_directory() / "key"))
    try:
        metadata = () if anonymous else await client.metadata()
        await _print_answers(client.channel, method, request, metadata)
    except grpc.aio.AioRpcError as error:
        remote = from_rpc_error(error)
        told = {
            "code": remote.code.name,
            "reason": remote.reason,
            "message": remote.message,
            "metadata": remote.metadata,
        }
        print_json(told, err)
        raise typer.Exit(1) from None
    finally:
        await client.close()


async def _print_answers(
    channel: grpc.aio.Channel, method: Method, request: Message, metadata: Any
) -> None:
    decode = message_class(method.response_type).FromString
    if method.kind is Kind.UNARY:
        running = channel.unary_unary(method.path, type(request).SerializeToString, decode)(
            request, metadata=metadata, timeout=method.deadline_ceiling
        )
        answer = await running
        print_json(message_json(answer))
        trace_id = dict(await running.initial_metadata()).get(wire.HEADER_TRACE_ID)
        if trace_id:
            err.print(plain(f"trace {trace_id!s}"), style="dim")
        return
    stream = channel.unary_stream(method.path, type(request).SerializeToString, decode)
    try:
        async for answer in stream(request, metadata=metadata):
            print_json(message_json(answer))
    except asyncio.CancelledError:
        return
