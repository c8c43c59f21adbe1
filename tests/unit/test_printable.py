"""What shows as itself passes; everything else is found, and written so that it can be seen."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.printable import escape, find_hidden
from tests.support.texts import DECEIVING

MEANT = (
    "Plain ASCII, with punctuation!",
    "Zoë ☂ 日本語 한국어",
    "می‌خواهم",  # Persian, with a non-joiner within a word
    "ශ්‍රී ලංකාව",  # Sinhala, with a joiner
    "👩‍💻 🏳️‍🌈 ❤️ 1️⃣ \u2139\ufe0f ‼️",
    "葛󠄀城",  # a variant of an ideograph
    "ᠮᠣᠩᠭᠣᠯ᠋",  # Mongolian, with a variation selector
    "a\u00a0b\u3000c",  # spaces that have a width
)


@pytest.mark.parametrize("text", MEANT)
def test_what_is_meant_passes_and_is_written_as_it_is(text: str) -> None:
    assert find_hidden(text) == ""
    assert escape(text) == text


@pytest.mark.parametrize("character", DECEIVING, ids=lambda character: f"U+{ord(character):04X}")
def test_what_deceives_is_found_wherever_it_stands(character: str) -> None:
    for text in (character, f"{character}b", f"a{character}", f"a{character}b", f"Ж{character}ж"):
        assert find_hidden(text) == character
        assert escape(text).isprintable()


@pytest.mark.parametrize(
    "text", ["\u200d", "a\u200d", "\u200da", "a \u200cb", "a\u200d\u200db", "a\ufe0fb", "\ufe0f"]
)
def test_joiners_and_selectors_out_of_their_place_are_found(text: str) -> None:
    assert find_hidden(text) in "\u200c\u200d\ufe0f"
    assert find_hidden(text)
    assert escape(text) != text


def test_every_control_format_and_separator_of_unicode_is_found() -> None:
    """But for the few that show: signs around Arabic and Kaithi numbers."""
    visible = {0x600, 0x601, 0x602, 0x603, 0x604, 0x605, 0x6DD, 0x70F, 0x890, 0x891, 0x8E2}
    visible |= {0x110BD, 0x110CD}
    missed = {
        number
        for number in range(0x110000)
        if unicodedata.category(chr(number)) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
        and not find_hidden(chr(number))
    }
    assert missed == visible


def test_lines_may_have_tabs_and_newlines_and_nothing_more() -> None:
    assert find_hidden("a\n\tb", lines=True) == ""
    assert escape("a\n\tb", lines=True) == "a\n\tb"
    assert escape("a\n\tb") == r"a\n\tb"
    for character in DECEIVING:
        if character not in "\t\n":
            assert find_hidden(f"a\n{character}", lines=True) == character


@given(st.text())
def test_what_was_escaped_shows_as_itself(text: str) -> None:
    assert find_hidden(escape(text)) == ""


@given(st.text())
def test_escaped_json_is_json_of_the_same_text(text: str) -> None:
    dumped = json.dumps(text, ensure_ascii=False)
    assert json.loads(escape(dumped)) == text


@pytest.mark.parametrize("half", ["\ud800", "a\udfff"])
def test_half_of_a_character_can_be_written(half: str) -> None:
    assert escape(half).encode().decode() == escape(half)
