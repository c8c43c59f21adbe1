"""Names that look like other names (UTS 39)."""

# ruff: noqa: RUF001 - characters that look like others are what this is about

import pytest

from contract.errors import Error
from services.kit import lookalikes


@pytest.mark.parametrize(
    "text",
    [
        "Internet Computer", "INTERNET COMPUTER", "internet  computer", "InternetComputer",
        "Internet-Computer", "Іntеrnеt Соmрutеr", "Ｉｎｔｅｒｎｅｔ Ｃｏｍｐｕｔｅｒ",
        "lnternet Computer", "1nternet Computer", "Internet Cornputer", "İnternet Computer",
        "Internet Cοmputer", "Internet C0mputer", "𝐈nternet Computer", "Internét Computer",
    ],
)  # fmt: skip
def test_what_looks_like_a_name_is_alike(text: str) -> None:
    assert lookalikes.alike(text, "Internet Computer")


@pytest.mark.parametrize(
    "text", ["lCP", "1CP", "ІСР", "IСP", "ＩＣＰ", "icp", "I.C.P", "|CP", "ⅠⅭP"]
)
def test_what_looks_like_a_symbol_is_alike(text: str) -> None:
    assert lookalikes.alike(text, "ICP")


@pytest.mark.parametrize(
    "text", ["Internet Computing", "Computer", "IPC", "ICPX", "IC", "Harbour", "", "日本"]
)
def test_other_names_are_not(text: str) -> None:
    assert not lookalikes.alike(text, "Internet Computer")
    assert not lookalikes.alike(text, "ICP")


@pytest.mark.parametrize(
    "text",
    ["Harbour 1!", "Гавань", "Λιμάνι", "日本コイン Coin", "ひらがなカタカナ漢字 ABC",
     "한국어 漢字 Won", "注音ㄅㄆ Latin", "🚀 Moon", "Ünïcödé", "مرفأ"],
)  # fmt: skip
def test_one_script_passes_and_latin_with_an_east_asian_one(text: str) -> None:
    lookalikes.check_scripts("name", text)


@pytest.mark.parametrize(
    "text", ["Вitcoin", "Βitcoin", "Гаvань", "한국かな", "ADA мост", "Latin עברית"]
)
def test_other_mixes_are_refused(text: str) -> None:
    with pytest.raises(Error) as caught:
        lookalikes.check_scripts("name", text)
    assert caught.value.reason == "MIXED_SCRIPTS"


def test_what_could_be_taken_for_another_says_for_which() -> None:
    told = lookalikes.lookalike("display_name", "ICP")
    assert told.reason == "LOOKALIKE"
    assert told.violations == (("display_name", "looks like ICP, which it is not."),)
