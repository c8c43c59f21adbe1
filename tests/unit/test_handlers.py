"""Handler classes implement the Protocols that the build writes from the protos."""

import ast
import inspect
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from contract import loader
from contract.method import Kind, Method
from services.kit.kit import Kit
from services.kit.serving import Serving, discovery
from services.kit.serving.discovery import IncompleteServiceError
from tests.support.type_check import ROOT, complaints

CONTRACT: Final = loader.load("test")
OURS: Final = [method for method in CONTRACT.methods() if method.service.startswith("icto.")]


def handlers_module(proto_service: str) -> Any:
    """The module that was written for a proto service."""
    package, _, name = proto_service.rpartition(".")
    for file in CONTRACT.descriptors.file:
        if file.package == package and any(one.name == name for one in file.service):
            return import_module(file.name.replace(".proto", "_handlers").replace("/", "."))
    raise AssertionError(proto_service)


@pytest.mark.parametrize("method", OURS, ids=lambda method: method.full_name)
def test_every_method_stands_in_a_protocol_with_the_comment_of_its_proto(
    method: Method,
) -> None:
    name = method.service.rpartition(".")[2]
    protocol = getattr(handlers_module(method.service), f"{name}Handlers")
    handler = getattr(protocol, method.name)
    assert handler.__isabstractmethod__
    assert inspect.iscoroutinefunction(handler) == (method.kind is Kind.UNARY)
    assert handler.__doc__
    request, answer = method.request_type, method.response_type
    told = str(inspect.signature(handler))
    assert request.rpartition(".")[2] in told
    assert answer.rpartition(".")[2] in told


@pytest.mark.timeout(300)  # where mypy has no cache yet
def test_a_handler_class_that_lacks_a_method_or_takes_another_request_does_not_type_check(
    tmp_path: Path,
) -> None:
    lacks, differs = "services/ledger/service.py", "services/backend/users.py"
    told = complaints(
        {
            lacks: (("    @override\n    async def GetBlock(", "    async def GetBlok("),),
            differs: (("request: pb.GetMyProfileRequest", "request: pb.UpdateMyProfileRequest"),),
            "services/lab/service.py": (("LabService(LabServiceHandlers[Call])", "LabService"),
                                        ("    async def Limited(", "    async def Limitid(")),
        },
        tmp_path,
    )  # fmt: skip
    by_file = dict(told)
    assert 'abstract class "LedgerService" with abstract attribute "GetBlock"' in by_file[lacks]
    assert 'of "GetMyProfile" is incompatible with supertype' in by_file[differs]
    assert any(
        path == "services/lab/service.py" and 'expected "LabServiceHandlers[Any]"' in message
        for path, message in told
    )


def test_a_service_that_leaves_a_method_out_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, kit = CONTRACT.services["ledger"], cast("Kit", None)
    handlers = {method.path: print for method in ledger.methods}
    module = SimpleNamespace(__name__="x", compose=lambda _: Serving(handlers))
    monkeypatch.setattr(discovery, "module_of", lambda _: module)
    assert discovery.compose(ledger, kit).handlers == handlers
    left_out = ledger.methods[0]
    del handlers[left_out.path]
    with pytest.raises(IncompleteServiceError, match=left_out.full_name):
        discovery.compose(ledger, kit)
    del module.compose
    with pytest.raises(IncompleteServiceError, match=r"x has no function compose\(kit\)"):
        discovery.compose(ledger, kit)


def forwards(path: Path) -> list[str]:
    """Methods of a module that do nothing but hand `request` and `call` on to another object's."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef):
            continue
        match [one for one in node.body if not isinstance(one, ast.Expr)]:
            case [
                ast.Return(
                    value=ast.Await(
                        value=ast.Call(
                            func=ast.Attribute(value=ast.Attribute()),
                            args=[ast.Name("request"), ast.Name("call")],
                            keywords=[],
                        )
                    )
                )
            ]:
                found.append(f"{path.name}:{node.name}")
            case _:
                pass
    return found


def test_no_handler_only_forwards() -> None:
    files = [*ROOT.glob("services/*/*.py"), *ROOT.glob("services/backend/launches/*.py")]
    assert len(files) > 60
    assert not [method for path in files for method in forwards(path)]
