"""Names that look like other names: the skeletons and script sets of Unicode UTS 39.

Which characters look alike and which script each belongs to is Unicode's own data, as the package
confusable-homoglyphs has it.
"""

import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Final

from confusable_homoglyphs import categories, confusables

from contract.errors import Error, invalid

_ANY_SCRIPT: Final = frozenset({"COMMON", "INHERITED", "UNKNOWN"})
# UTS 39 section 5.2, "highly restrictive": one script, or Latin with one of these sets.
_WITH_LATIN: Final = (
    frozenset({"LATIN", "HAN", "HIRAGANA", "KATAKANA"}),
    frozenset({"LATIN", "HAN", "BOPOMOFO"}),
    frozenset({"LATIN", "HAN", "HANGUL"}),
)
_LEFT_TO_RIGHT_MARK: Final = "\u200e"


def alike(one: str, other: str) -> bool:
    """Whether two names look the same, in any case, whatever space and punctuation is in them."""
    return any(
        _bare(skeleton(fold(_compatible(one)))) == _bare(skeleton(fold(_compatible(other))))
        for fold in (str, str.casefold, str.upper)
    )


def skeleton(text: str) -> str:
    """The skeleton of UTS 39: texts that look alike have the same one."""
    prototypes = _prototypes()
    decomposed = unicodedata.normalize("NFD", text)
    mapped = "".join(prototypes.get(character, character) for character in decomposed)
    return unicodedata.normalize("NFD", mapped)


def check_scripts(field: str, text: str) -> None:
    """Passes when a text has one script, or Latin beside Chinese, Japanese or Korean.

    Raises:
        Error: INVALID_ARGUMENT, it mixes scripts as only imitations do.
    """
    scripts = {categories.alias(character) for character in text} - _ANY_SCRIPT
    if len(scripts) > 1 and not any(scripts <= together for together in _WITH_LATIN):
        names = " and ".join(sorted(script.capitalize() for script in scripts))
        raise invalid(field, f"mixes the scripts {names}; use one", "MIXED_SCRIPTS")


def lookalike(field: str, of: str) -> Error:
    """A text could be taken for another one."""
    return invalid(field, f"looks like {of}, which it is not", "LOOKALIKE")


def _compatible(text: str) -> str:
    """A text without mere variants of characters, such as those of full width."""
    return unicodedata.normalize("NFKC", text)


def _bare(text: str) -> str:
    """A text without space, punctuation and combining marks."""
    return "".join(c for c in text if unicodedata.category(c)[0] not in "ZPMC")


@cache
def _prototypes() -> Mapping[str, str]:
    """What each character is mapped to.

    The package lists pairs in both directions: a prototype has all its lookalikes, each of them the
    prototype alone. Where each has but the other, either stands for both. Marks that it puts around
    characters written from right to left are taken off.
    """
    found: dict[str, str] = {}
    for character, others in confusables.confusables_data.items():
        if len(others) == 1:
            bare = character.strip(_LEFT_TO_RIGHT_MARK)
            other = others[0]["c"].strip(_LEFT_TO_RIGHT_MARK)
            mutual = len(confusables.confusables_data.get(others[0]["c"], ())) == 1
            found[bare] = min(bare, other) if mutual else other
    return found
