"""No text of any request deceives: each is found in the contract, and tried."""

from typing import Any, Final

import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from contract import loader
from icto.events.v1 import events_pb2
from icto.policy.v1 import policy_pb2
from mesh.cli.call import load_messages, message_class
from services.kit.serving.validation import RequestValidator
from tests.support.texts import DECEIVING, Place, places

CONTRACT: Final = loader.load("test")
load_messages(CONTRACT)
OURS: Final = [m for m in CONTRACT.methods() if m.request_type.startswith("icto.")]
PLACES: Final = {name: list(places(name)) for name in sorted({m.request_type for m in OURS})}
# Who asks to be told, and for what: only services may pass on what others said.
INWARD: Final = {m.request_type for m in OURS if not m.audience.from_outside}
VALIDATOR: Final = RequestValidator()


def kind_of(place: Place) -> int:
    """What a text may hold: as its field says, or a message around it."""
    kinds = [options(field).Extensions[policy_pb2.text] for field in place.path]
    raw = policy_pb2.TEXT_KIND_RAW
    return raw if raw in kinds else kinds[-1]


def options(field: Any) -> Any:
    return field.GetOptions()


def problems(place: Place, type_name: str, text: str) -> list[str]:
    """What is said of a request with this text, about the text."""
    message = place.holding(text, message_class(type_name)())
    told = [problem for _, problem in VALIDATOR._walk(message, "")]
    return [problem for problem in told if problem.startswith("must not hold U+")]


@pytest.mark.parametrize("type_name", PLACES)
def test_no_text_of_any_request_deceives(type_name: str) -> None:
    for place in PLACES[type_name]:
        kind = kind_of(place)
        if kind in (policy_pb2.TEXT_KIND_RAW, policy_pb2.TEXT_KIND_PICTURE):
            continue
        allowed = "\t\n" if kind == policy_pb2.TEXT_KIND_LINES else ""
        for character in DECEIVING:
            told = problems(place, type_name, f"a{character}b")
            wanted = [] if character in allowed else [f"must not hold U+{ord(character):04X}"]
            assert told == wanted, (place.name, character)


def test_lines_are_for_the_few_texts_that_describe() -> None:
    several = {
        place.name.rpartition(".")[2]
        for found in PLACES.values()
        for place in found
        if kind_of(place) == policy_pb2.TEXT_KIND_LINES
    }
    assert several == {"description"}


def test_only_services_may_say_anything() -> None:
    """What is said elsewhere is passed on as it was, or it would be lost. The lab is asked to."""
    raw = {
        (type_name, place.name)
        for type_name, found in PLACES.items()
        for place in found
        if kind_of(place) == policy_pb2.TEXT_KIND_RAW
    }
    asked = {("icto.lab.v1.FailRequest", "message")}
    assert asked < raw
    assert {type_name for type_name, _ in raw - asked} <= INWARD


def test_every_url_and_picture_is_held_to_be_one() -> None:
    """Found by its name: whoever adds another is told to say what it may be."""
    words = ("url", "uri", "link", "site", "logo", "icon", "image", "picture", "avatar", "banner")
    found = {
        (type_name, place.name): kind_of(place)
        for type_name, all_places in PLACES.items()
        for place in all_places
        if place.field.file.package.startswith("icto.")
        and any(word in place.field.name for word in words)
    }
    assert {name.rpartition(".")[2] for _, name in found} == {"website", "logo"}
    for (type_name, name), kind in found.items():
        wanted = policy_pb2.TEXT_KIND_PICTURE if "logo" in name else policy_pb2.TEXT_KIND_URL
        assert kind == wanted, (type_name, name)


@pytest.mark.parametrize(
    ("field", "text", "passes"),
    [
        ("website", "", True),
        ("website", "http://example.com", True),
        ("website", "https://user@example.com", False),
        ("logo", "", True),
        ("logo", "https://example.com/logo.svg", True),
        ("logo", "data:image/png;base64,iVBORw0KGgo=", True),
        ("logo", "data:image/svg+xml;base64,PHN2Zy8+", False),
    ],
)
def test_such_a_text_is_refused_wherever_it_stands(field: str, text: str, passes: bool) -> None:
    tried = 0
    for type_name, found in PLACES.items():
        for place in found:
            if place.field.name == field:
                message = place.holding(text, message_class(type_name)())
                wrong = dict(VALIDATOR._walk(message, ""))
                assert (place.name not in wrong) == passes, (type_name, place.name, wrong)
                tried += 1
    assert tried


def test_keys_lists_and_values_of_no_type_are_looked_at_too() -> None:
    inner = Struct(
        fields={"a\x1b": Value(list_value=ListValue(values=[Value(string_value="\x9b")]))}
    )
    assert VALIDATOR._walk(inner, "") == [
        ("fields[a\\u001b]", "must not hold U+001B"),
        ("fields[a\\u001b].list_value.values[0].string_value", "must not hold U+009B"),
    ]
    act = events_pb2.Act(details={"k\u202e": "v\x07"})
    assert dict(VALIDATOR._walk(act, "")) == {"details[k\\u202e]": "must not hold U+0007"}
