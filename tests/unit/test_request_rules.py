"""What the edge's filter of requests is told: a rule for each path and verb of the contract."""

from typing import Any, Final

from contract import loader
from contract.descriptors import messages
from contract.method import Http
from mesh.edge.request_rules import _leaf, _lua, _Tables, request_rules

CONTRACT: Final = loader.load("test")
LEDGER: Final = "/icto.ledger.v1.LedgerService"


def rule(path: str, http: Http | None = None) -> tuple[dict[str, Any], _Tables]:
    method, tables = CONTRACT.method(path), _Tables(messages(CONTRACT.descriptors))
    return tables.rule(method, http or method.http[0]), tables


def test_a_whole_body_gives_every_field() -> None:
    found, tables = rule(f"{LEDGER}/Approve")
    assert found["bound"] == sorted(
        ["requestid", "ledger", "fromsubaccount", "spender", "amount", "expectedallowance",
         "expiretime", "fee", "memo", "createdattime"]
    )  # fmt: skip
    fields = tables.types[found["fields"] - 1]
    assert fields["expire_time"] == fields["expireTime"] == 0
    assert tables.types[fields["spender"] - 1] == {"owner": 0, "subaccount": 0}


def test_a_path_gives_its_variables_and_leaves_the_rest_to_the_query() -> None:
    found, _ = rule(f"{LEDGER}/ListBlocks")
    assert found == {"bound": ["parent"], "public": True}


def test_a_body_of_one_field_gives_that_and_has_its_type() -> None:
    http = Http("PATCH", "/v1/{project.name=projects/*}", "project")
    found, tables = rule("/icto.backend.v1.ProjectService/UpdateProject", http)
    assert found["bound"] == ["project", "project.name"]
    assert "displayName" in tables.types[found["fields"] - 1]


def test_what_changes_something_without_a_body_takes_no_field_in_one() -> None:
    found, tables = rule("/icto.distribution.v1.RecipientListService/DeleteRecipientList")
    assert tables.types[found["fields"] - 1] == {}


def test_a_custom_verb_is_kept_apart_from_its_path() -> None:
    tree: dict[str, Any] = {}
    _leaf(tree, "/v1/{name=locks/*}:claim")["POST"] = 1
    _leaf(tree, "/v1/{name=locks/*}")["GET"] = 2
    _leaf(tree, "/v1/config")["GET"] = 3
    assert tree == {
        "v1": {
            "locks": {"*": {":claim": {"POST": 1}, ":": {"GET": 2}}},
            "config": {":": {"GET": 3}},
        }
    }


def test_values_are_written_as_lua() -> None:
    assert _lua({"a": [1, "b", True], "c": {}}) == '{["a"]={1,"b",true},["c"]={}}'


def test_every_method_that_the_edge_serves_has_a_rule() -> None:
    """Those of services among themselves have none, and a stream says that it is one."""
    told = request_rules(CONTRACT)
    tree, _, rest = told.removeprefix("local TREE = ").partition("\nlocal TYPES = ")
    types, _, source = rest.partition("\n")
    assert '["events"]=true' in tree
    assert '["public"]=true' in tree
    assert types.startswith("{{},")
    assert "TREE" in source


def test_what_changes_nothing_may_carry_a_request_id_in_its_body() -> None:
    method = CONTRACT.method(f"{LEDGER}/ListBlocks")
    tables = _Tables(messages(CONTRACT.descriptors))
    found = tables.rule(method, Http("POST", "/v1/blocks:list", "*"))
    assert tables.types[found["fields"] - 1]["requestId"] == 0
