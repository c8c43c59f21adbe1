"""Which characters show as themselves, and how the others are written for people.

A text of somebody else must not move the reader's cursor, turn the direction of what stands beside
it, break its line, or differ from another text without showing it. So these are hidden: controls,
bidirectional controls, line and paragraph separators, surrogates, and what has no width. Two kinds
of the last have a place where they are meant: joiners within a word, and variation selectors behind
what they vary, as in Persian, Sinhala, and families of emoji.
"""

import json
import re
import unicodedata
from typing import Final

_OF_THE_BASIC_PLANE: Final = (
    "\x00-\x1f\x7f-\x9f"  # controls
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # of direction
    "\u2028\u2029\ud800-\udfff"  # separators, surrogates
    # Without width: soft hyphen, fillers, zero-width spaces, invisible operators, byte order mark,
    # annotations.
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b\u2060-\u2065\u206a-\u206f\u3164\ufeff\uffa0"
    "\ufff0-\ufffb"
    "\u200c\u200d"  # joiners
    "\u180b-\u180d\u180f\ufe00-\ufe0f"  # variation selectors
)
# Format controls of hieroglyphs, shorthand and music; tags, and more variation selectors.
_BEYOND: Final = (
    "\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_HIDDEN: Final = re.compile(f"[{_OF_THE_BASIC_PLANE}{_BEYOND}]")
# The same in two that are each ten times as fast: what finds nothing, and that is nearly every
# text, is found out by them.
_QUICK: Final = (re.compile(f"[{_OF_THE_BASIC_PLANE}]"), re.compile("[\U00010000-\U0010ffff]"))
_JOINERS: Final = "\u200c\u200d"
_LINES: Final = "\t\n"
_KEYCAP: Final = "\u20e3"
# Letters of scripts without case, symbols, and the punctuation and numbers that are emoji, too.
_VARIED: Final = frozenset({"Lo", "Lm", "So", "Sm", "Sk", "Po", "Pd", "No"})
_VARIED_LETTER: Final = "\u2139"  # the one emoji that is a lower case letter


def find_hidden(text: str, *, lines: bool = False) -> str:
    """The first character that does not show as itself, or "". With `lines` newline and tab may be.

    Costs next to nothing for ASCII, and 0.1 ms for 2,000 letters of other scripts.
    """
    if _is_plain(text):
        return ""
    for found in _HIDDEN.finditer(text):
        if not _is_meant(text, found.start(), lines=lines):
            return found.group()
    return ""


def escape(text: str, *, lines: bool = False) -> str:
    r"""The text with every hidden character as JSON writes it: `\u001b`, `\n`, `\u202e`."""
    if _is_plain(text):
        return text

    def written(found: re.Match[str]) -> str:
        character = found.group()
        if _is_meant(text, found.start(), lines=lines):
            return character
        # JSON lets DEL stand for itself.
        return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]

    return _HIDDEN.sub(written, text)


def _is_plain(text: str) -> bool:
    """Whether a text needs no closer look."""
    if text.isascii():
        return text.isprintable()
    return not any(pattern.search(text) for pattern in _QUICK)


def _is_meant(text: str, index: int, *, lines: bool) -> bool:
    """Whether a character of the hidden ones has its place where it stands."""
    character = text[index]
    if character in _LINES:
        return lines
    before, after = text[index - 1 : index], text[index + 1 : index + 2]
    if character in _JOINERS:
        return _is_of_a_word(before) and _is_of_a_word(after)
    return _is_selector(character) and (_is_varied(before) or after == _KEYCAP)


def _is_of_a_word(character: str) -> bool:
    return bool(character) and unicodedata.category(character)[0] in "LMNS"


def _is_selector(character: str) -> bool:
    return unicodedata.category(character) == "Mn" and character not in "\u034f\u17b4\u17b5"


def _is_varied(character: str) -> bool:
    if not character or character.isascii():
        return False
    return unicodedata.category(character) in _VARIED or character == _VARIED_LETTER
