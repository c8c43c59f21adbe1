"""`icto launch | launches | launch-status`: a launch from a file, and how launches go."""

from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from uuid import uuid4

import grpc
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from contract.status import from_rpc_error
from icto.backend.v1 import deployments_pb2 as deployments
from icto.backend.v1 import launches_pb2 as pb
from icto.backend.v1.launches_pb2_grpc import LaunchServiceStub
from mesh.cli import document, follow
from mesh.cli.client import Client
from mesh.cli.document import Document, DocumentError
from mesh.cli.identity import as_user
from mesh.cli.rows import Rows
from mesh.cli.terminal import (
    RUN_DIR,
    EdgeOption,
    JsonOption,
    RunDirOption,
    confirm_payment,
    err,
    fail,
    icp,
    message_json,
    out,
    plain,
    plain_text,
    print_json,
    require_terminal,
    tokens,
)

T = TypeVar("T")

_SECONDS: Final = 15.0
_PAGE: Final = 100
_STEPS: Final = {
    deployments.STEP_STATE_UNSPECIFIED: ("unknown", "dim"),
    deployments.STEP_STATE_PENDING: ("waits", "dim"),
    deployments.STEP_STATE_RUNNING: ("runs", "cyan"),
    deployments.STEP_STATE_RETRYING: ("again", "yellow"),
    deployments.STEP_STATE_SUCCEEDED: ("done", "green"),
    deployments.STEP_STATE_FAILED: ("failed", "red"),
    deployments.STEP_STATE_SKIPPED: ("skipped", "dim"),
}
_ENDED: Final = frozenset(
    {
        deployments.STEP_STATE_SUCCEEDED,
        deployments.STEP_STATE_FAILED,
        deployments.STEP_STATE_SKIPPED,
    }
)
_LAUNCHES: Final = {
    pb.LAUNCH_STATE_UNSPECIFIED: ("unknown", "dim"),
    pb.LAUNCH_STATE_PENDING: ("waits for its turn", "dim"),
    pb.LAUNCH_STATE_IN_PROGRESS: ("under way", "cyan"),
    pb.LAUNCH_STATE_SUCCEEDED: ("succeeded", "green"),
    pb.LAUNCH_STATE_PARTIALLY_SUCCEEDED: ("succeeded in part", "yellow"),
    pb.LAUNCH_STATE_FAILED: ("failed", "red"),
    pb.LAUNCH_STATE_CANCELLED: ("cancelled", "red"),
}


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("launch")(launch)
    app.command("launches")(launches)
    app.command("launch-status")(launch_status)


def launch(
    file: Annotated[Path, typer.Argument(help="YAML with the fields of LaunchSpec.")],
    project: Annotated[str, typer.Option(help="Project to link a new token to.")] = "",
    run_dir: RunDirOption = RUN_DIR,
    edge: EdgeOption = "",
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Say what it would cost, and stop.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Pay without asking.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Launch a token with its locks and distributions, and follow it to its end.

    The exit status tells whether everything was delivered; it is 2 where nobody could be asked.
    """
    try:
        wanted = document.read(file.read_text(), pb.LaunchSpec(), str(file))
    except (OSError, UnicodeDecodeError) as error:
        fail(plain(f"{file} cannot be read: {error}"))
    except DocumentError as error:
        fail(plain(error))

    # With --json nothing but the result goes where programs read.
    console = err if as_json else out

    async def work(client: Client) -> None:
        stub = LaunchServiceStub(client.channel)
        checked = await _checked(stub, client, wanted)
        require_terminal(yes=yes or check)
        quote = await client.price(*((item.step, _service(item)) for item in checked.items))
        if not as_json or not check:
            _show_price(console, quote, checked, await _unit(client, checked))
        await _check_funds(client, quote)
        if check and as_json:
            print_json({"quote": quote, "check": message_json(checked)})
            return
        if check:
            return
        confirm_payment(f"Pay {icp(quote['total'])} and launch?", yes=yes)
        await client.approve(quote["ledger"], quote["spender"], quote["approvalAmount"])
        await _approve_tokens(client, checked)
        request = pb.CreateLaunchRequest(
            request_id=str(uuid4()), spec=wanted.message, project=project, quote=quote["name"]
        )
        accepted = await _asked(stub.CreateLaunch, request, client)
        console.print(plain(f"{accepted.name}, trace {accepted.trace_id}"))
        await _followed(console, client, accepted)
        ended = await _asked(stub.GetLaunch, pb.GetLaunchRequest(name=accepted.name), client)
        if as_json:
            print_json(message_json(ended))
        else:
            await _show_result(client, ended)
        if ended.state != pb.LAUNCH_STATE_SUCCEEDED:
            raise typer.Exit(1)

    as_user(run_dir, edge, work)


def launches(
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="At most this many.")] = 20,
    run_dir: RunDirOption = RUN_DIR,
    edge: EdgeOption = "",
    *,
    as_json: JsonOption = False,
) -> None:
    """Show your launches, newest first."""

    async def work(client: Client) -> None:
        stub, found, token = LaunchServiceStub(client.channel), list[pb.Launch](), ""
        while len(found) < count and (token or not found):
            request = pb.ListLaunchesRequest(
                page_size=min(_PAGE, count - len(found)), page_token=token
            )
            page = await _asked(stub.ListLaunches, request, client)
            found += page.launches
            token = page.next_page_token
            if not token:
                break
        if as_json:
            print_json({"launches": [message_json(one) for one in found]})
            return
        if not found:
            out.print("There are none yet. Make one with 'icto launch FILE.yaml'.")
            return
        table = Rows("launch", "what", "state", "accepted", "cost", "token")
        for one in found:
            when = _time(one.create_time).strftime("%Y-%m-%d %H:%M:%S")
            table.add(one.name, one.spec.display_name, _state(one), when, _cost(one), one.token)
        out.print(table)

    as_user(run_dir, edge, work)


def launch_status(
    name: Annotated[str, typer.Argument(metavar="ID", help="launches/{id}, or the id alone.")],
    run_dir: RunDirOption = RUN_DIR,
    edge: EdgeOption = "",
    *,
    as_json: JsonOption = False,
) -> None:
    """Show how far a launch is: each step with its replica, its attempts, its waiting and work."""

    async def work(client: Client) -> None:
        full = name if name.startswith("launches/") else f"launches/{name}"
        stub = LaunchServiceStub(client.channel)
        found = await _asked(stub.GetLaunch, pb.GetLaunchRequest(name=full), client)
        if as_json:
            print_json(message_json(found))
            return
        title = plain_text(found.name, "bold")
        out.print(Text.assemble(title, " ", plain_text(found.spec.display_name)))
        out.print(_state(found))
        if found.payment:
            out.print(plain(f"{_cost(found)}, {found.payment}"))
        out.print(plain(f"trace {found.trace_id}"), style="dim")
        out.print(_waterfall(found))
        for step in found.steps:
            if step.HasField("error"):
                out.print(_trouble(step))

    as_user(run_dir, edge, work)


async def _asked(method: Callable[..., Awaitable[T]], request: object, client: Client) -> T:
    """A unary call as the user."""
    return await method(request, metadata=await client.metadata(), timeout=_SECONDS)


async def _checked(
    stub: Any, client: Client, wanted: Document[pb.LaunchSpec]
) -> pb.ValidateLaunchResponse:
    """The launch as the platform completes it; what it refuses is told with its line."""
    request = pb.ValidateLaunchRequest(spec=wanted.message)
    try:
        answer: pb.ValidateLaunchResponse = await _asked(stub.ValidateLaunch, request, client)
    except grpc.aio.AioRpcError as error:
        violations = from_rpc_error(error).violations
        if not violations:
            raise
        lines = []
        for path, problem in violations:
            field = path.removeprefix("spec").removeprefix(".")
            lines.append(plain(f"{wanted.place(field)}: {field} {problem}".replace("  ", " ")))
        fail("\n".join(lines))
    return answer


def _service(item: Any) -> str:
    return str(
        item.DESCRIPTOR.fields_by_name["service"].enum_type.values_by_number[item.service].name
    )


async def _check_funds(client: Client, quote: dict[str, Any]) -> None:
    """Passes when the user holds what the quote and its approval cost; before anything is asked."""
    ledger = (await client.rest("GET", f"/v1/{quote['ledger']}")).body
    account = f"/v1/{quote['ledger']}/accounts/{client.principal}"
    held = int((await client.rest("GET", account)).body["balance"])
    needed = int(quote["approvalAmount"]) + int(ledger["transferFee"])
    if held < needed:
        fail(
            f"You hold {icp(str(held))}; the launch costs {icp(str(needed))} with the fees of the"
            " ledger. Nothing was approved or ordered."
        )


async def _approve_tokens(client: Client, checked: pb.ValidateLaunchResponse) -> None:
    """Lets the platform take what a token that exists has to give."""
    token = checked.spec.token
    if not token:
        return
    ledger = token.replace("tokens/", "ledgers/")
    fee = int((await client.rest("GET", f"/v1/{ledger}")).body["transferFee"])
    amount = str(int(checked.escrow_amount) + fee)
    await client.approve(ledger, {"owner": checked.spender.owner}, amount)


async def _unit(client: Client, checked: pb.ValidateLaunchResponse) -> Callable[[str], str]:
    """How amounts of the launched token are written."""
    made = checked.spec.new_token
    if checked.spec.WhichOneof("source") == "new_token":
        return lambda amount: tokens(amount, made.decimals, made.symbol)
    if not checked.spec.token:
        return lambda amount: f"{amount} base units"
    ledger = checked.spec.token.replace("tokens/", "/v1/ledgers/")
    known = (await client.rest("GET", ledger)).body
    return lambda amount: tokens(amount, int(known["decimals"]), known["symbol"])


def _show_price(
    console: Console,
    quote: dict[str, Any],
    checked: pb.ValidateLaunchResponse,
    unit: Callable[[str], str],
) -> None:
    table = Rows("step", "price", numbers=frozenset({"price"}))
    for line in quote["lines"]:
        table.add(line["step"], icp(line["amount"]))
    table.add("all of it", icp(quote["total"]), style="bold")
    console.print(table)
    held = f"{unit(checked.escrow_amount)} are locked and distributed, fees included"
    rest = checked.remainder_amount
    left = f"; {unit(rest)} go to you" if rest != "0" else ""
    console.print(plain(held + left), style="dim")


async def _followed(console: Console, client: Client, accepted: pb.Launch) -> None:
    """Prints every change until the launch has ended."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("launching", total=len(accepted.steps))
        try:
            async for change in follow.changes(client, accepted.name):
                line = told(change, _time(accepted.create_time))
                if line is not None:
                    progress.console.print(line)
                if change.HasField("step") and change.step.state in _ENDED:
                    progress.advance(task)
        except follow.LostError as error:
            fail(plain(f"{error} It goes on; see 'icto launch-status {accepted.name}'."))


def told(change: pb.LaunchChange, begin: datetime) -> Text | None:
    """A line about a change of a launch that began then; None for what a reader would not miss."""
    after = f"{_milliseconds(_time(change.time) - begin)}  "
    if not change.HasField("step"):
        if change.parked_reason:
            return plain_text(f"{after}waits for a person: {change.parked_reason}", "yellow")
        return Text(f"{after}{_LAUNCHES[change.state][0]}", _LAUNCHES[change.state][1])
    step = change.step
    if step.state == deployments.STEP_STATE_SKIPPED:
        return None
    word, style = _STEPS[step.state]
    name, replica = plain_text(f"{step.name:<28}"), plain_text(step.replica, "dim")
    line = Text.assemble(after, name, (f"{word:<8}", style), replica)
    if step.attempts > 1:
        line.append(f"  attempt {step.attempts}", "yellow")
    if step.HasField("error"):
        line.append(f"  {_why(step)}", style)
    return line


def _why(step: pb.LaunchStep) -> str:
    """Why a step failed or is tried again, what a person should know, and who said so."""
    service = f" ({step.error.service})" if step.error.service else ""
    return plain(f"{step.error.reason}: {step.error.message}{service}")


def _trouble(step: pb.LaunchStep) -> Text:
    """What went wrong with a step, or what it waits for."""
    return plain_text(f"{step.name}: {_why(step)}", _STEPS[step.state][1])


async def _show_result(client: Client, ended: pb.Launch) -> None:
    table = Rows("what", "name", "is")
    for what, name, text in _delivered(ended):
        table.add(what, name or "-", text)
    if ended.payment:
        payment = (await client.rest("GET", f"/v1/{ended.payment}")).body
        paid = f"{icp(payment['amount'])} paid, {icp(payment['refundedAmount'])} refunded"
        table.add("payment", ended.payment, paid)
    out.print(table)
    if ended.state != pb.LAUNCH_STATE_SUCCEEDED:
        style = _LAUNCHES[ended.state][1]
        why = f"{ended.error.reason}: {ended.error.message}"
        out.print(plain(f"{ended.name} {_LAUNCHES[ended.state][0]}. {why}"), style=style)
        out.print(_what_became_of_it(ended), style=style)


def _what_became_of_it(ended: pb.Launch) -> str:
    """What a person has to know of money and tokens of a launch that did not succeed."""
    if not ended.payment:
        return "Nothing was charged, and nothing was made."
    if not ended.token:
        return "What was not delivered is refunded."
    return (
        "What was not delivered is refunded; its tokens lie in escrow, for you to launch again or"
        " to withdraw."
    )


def _delivered(ended: pb.Launch) -> Iterator[tuple[str, str, Text]]:
    """What a launch should deliver: the step, what came of it, and what it is."""
    states = {step.name: step for step in ended.steps}
    if ended.spec.HasField("new_token"):
        token = ended.spec.new_token
        yield "token", ended.token, plain_text(f"{token.display_name} ({token.symbol})")
    for kind, titles, names in (
        ("lock", [lock.display_name for lock in ended.spec.locks], iter(ended.locks)),
        (
            "distribution",
            [distribution.display_name for distribution in ended.spec.distributions],
            iter(ended.distributions),
        ),
    ):
        for number, title in enumerate(titles, 1):
            step = states[f"{kind}_{number}"]
            if step.state == deployments.STEP_STATE_SUCCEEDED:
                yield step.name, next(names, ""), plain_text(title)
            else:
                why = step.error.reason or _STEPS[step.state][0]
                yield step.name, "", Text.assemble(plain(title), " ", plain_text(why, "red"))


def _waterfall(found: pb.Launch) -> Rows:
    """A line for each step, bars on one time axis."""
    begin, end = _time(found.create_time), _time(found.update_time)
    if found.state not in follow.FINAL:
        end = max(end, datetime.now(UTC))
    length = max(end - begin, timedelta(milliseconds=1))
    ends = {s.name: _time(s.end_time) for s in found.steps if s.HasField("end_time")}
    table = Rows("step", "state", "replica", "tries", "wait", "run", numbers=_NUMBERS)
    for step in found.steps:
        word, style = _STEPS[step.state]
        if not step.HasField("start_time"):
            table.add(step.name, Text(word, style), step.replica, "", "", "")
            continue
        ready = max([begin, *(ends[name] for name in step.after if name in ends)])
        start = _time(step.start_time)
        done = ends.get(step.name, end)
        first, last = (start - begin) / length, (done - begin) / length
        table.add(
            step.name,
            Text(word, style),
            step.replica,
            str(step.attempts),
            _milliseconds(start - ready),
            _milliseconds(done - start),
            bar=partial(_bar, first, last, style),
        )
    return table


_NUMBERS: Final = frozenset({"tries", "wait", "run"})


def _bar(first: float, last: float, style: str, width: int) -> Text:
    """A bar between two points of the axis, each from 0 to 1."""
    start = min(int(max(first, 0.0) * width), width - 1)
    return Text(" " * start + "█" * max(1, min(round(last * width), width) - start), style)


def _state(found: pb.Launch) -> Text:
    word, style = _LAUNCHES[found.state]
    if found.queue_position:
        word += f", {found.queue_position}. in the queue"
    if found.parked_reason:
        word, style = f"waits for a person: {found.parked_reason}", "yellow"
    return plain_text(word, style)


def _cost(found: pb.Launch) -> str:
    return icp(found.cost) if found.cost else "free"


def _time(stamp: Any) -> datetime:
    moment: datetime = stamp.ToDatetime(UTC)
    return moment


def _milliseconds(span: timedelta) -> str:
    return f"{max(span, timedelta()).total_seconds() * 1000:.1f} ms".rjust(10)
