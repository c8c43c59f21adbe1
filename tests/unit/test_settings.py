"""Settings: typed, complete, quiet about secrets, and strict when nothing is said."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from contract.environment import Environment
from services.kit import settings
from services.kit.settings import Secret, Settings, SettingsError

NO_SECRET = Secret()


@dataclass(frozen=True)
class Sample:
    """One of each kind."""

    name: str
    count: int = 1
    ratio: float = 0.5
    enabled: bool = False
    folder: Path = Path()
    environment: Environment = Environment.PRODUCTION
    token: Secret = NO_SECRET


def load(**variables: str) -> Sample:
    environ = {f"ICTO_{name.upper()}": value for name, value in variables.items()}
    return settings.load(Sample, {"ICTO_NAME": "x"} | environ)


def test_without_an_environment_it_is_production() -> None:
    chosen = settings.load(Settings, {})
    assert chosen.environment is Environment.PRODUCTION
    assert not chosen.environment.is_play
    assert Environment.LOCAL.is_play
    assert Environment.TEST.is_play


def test_values_have_their_types() -> None:
    loaded = load(
        count="7", ratio="1e-3", enabled="True", folder="/tmp", environment="test", token="s"
    )
    assert loaded == Sample("x", 7, 0.001, True, Path("/tmp"), Environment.TEST, Secret("s"))
    assert load(enabled="false").enabled is False


def test_defaults_stand_where_nothing_is_said() -> None:
    assert load() == Sample("x")


def test_other_variables_are_left_alone() -> None:
    assert settings.load(Sample, {"ICTO_NAME": "x", "NAME": "y", "ICTO_OTHER": "z"}) == Sample("x")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", "many", "int"),
        ("count", "", "int"),
        ("count", "1.5", "int"),
        ("ratio", "half", "float"),
        ("enabled", "yes", "bool"),
        ("enabled", "", "bool"),
        ("environment", "prod", "production, local, test"),
        ("environment", "", "production, local, test"),
    ],
)
def test_a_garbled_value_is_named_with_what_it_must_be(
    name: str, value: str, expected: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(**{name: value})
    message = str(caught.value)
    assert f"ICTO_{name.upper()} is {value!r}" in message
    assert expected in message


def test_a_missing_value_is_named() -> None:
    with pytest.raises(SettingsError, match="ICTO_NAME is not set"):
        settings.load(Sample, {})


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_number_is_a_number(value: str) -> None:
    with pytest.raises(SettingsError, match="ICTO_RATIO"):
        load(ratio=value)


def test_a_secret_is_printed_in_no_way() -> None:
    secret = Secret("postgresql://user:hunter2@host")
    printed = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret:>60}",
        "%s" % secret,  # noqa: UP031  # as the logging module does
        repr([secret]),
        repr({"dsn": secret}),
        repr(load(token="hunter2")),
    ]
    assert not [text for text in printed if "hunter2" in text]
    assert secret.reveal() == "postgresql://user:hunter2@host"
    assert type(secret.reveal()) is str


def test_whether_there_is_a_secret_shows() -> None:
    assert repr(Secret("x")) == "'…'"
    assert repr(Secret()) == "''"


def test_replicas_print_their_settings_redacted() -> None:
    printed = repr(settings.load(Settings, {"ICTO_DATABASE_URL": "postgresql://u:hunter2@h"}))
    assert "database_url='…'" in printed
    assert "hunter2" not in printed
