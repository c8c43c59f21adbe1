"""The address of the operator's own PostgreSQL: kept as libpq means it, or refused by name."""

import pytest

from mesh import database_url
from mesh.database_url import DatabaseUrlError
from mesh.postgres import PostgresError, Server

PLACE = "postgresql://me:secret@db.example:5432/tokens"


@pytest.mark.parametrize(
    ("option", "kept"),
    [
        ("", ""),
        ("channel_binding=prefer", ""),
        ("channel_binding=disable", ""),
        ("connect_timeout=3", ""),
        ("fallback_application_name=psql", ""),
        ("gssencmode=disable", ""),
        ("client_encoding=UTF8", ""),
        ("sslrootcert=/etc/a%20b.pem", "sslrootcert=/etc/a%20b.pem"),
        ("target_session_attrs=read-write", "target_session_attrs=read-write"),
        ("application_name=icto", "application_name=icto"),
    ],
)  # fmt: skip
def test_what_our_client_does_is_kept_and_what_changes_nothing_is_left_out(
    option: str, kept: str
) -> None:
    dsn, _ = database_url.parse(f"{PLACE}?{option}" if option else PLACE)
    assert dsn == (f"{PLACE}?{kept}" if kept else PLACE)


@pytest.mark.parametrize(
    "option",
    ["channel_binding=require", "gssencmode=require", "sslcompression=1", "keepalives_idle=30",
     "hostaddr=10.0.0.1", "require_auth=scram-sha-256", "replication=database", "sslsni=0",
     "tcp_user_timeout=5", "client_encoding=LATIN1", "search_path=public",
     "scram_client_key=secret"],
)  # fmt: skip
def test_what_our_client_cannot_do_is_refused_by_name(option: str) -> None:
    with pytest.raises(DatabaseUrlError) as caught:
        database_url.parse(f"{PLACE}?sslmode=require&{option}")
    assert f"asks by {option.partition('=')[0]} for what" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("text", "seconds"), [("3", 3), ("0", 0), ("-1", 0)])
def test_a_time_to_connect_is_kept(text: str, seconds: int) -> None:
    assert database_url.parse(f"{PLACE}?connect_timeout={text}")[1] == seconds
    with pytest.raises(DatabaseUrlError, match="connect_timeout must be a number of seconds"):
        database_url.parse(f"{PLACE}?connect_timeout=soon")


@pytest.mark.parametrize("special", ["@", "/", "#", "?", ":/", "/@", "1/2", "?a=b", "[", "@/?#"])
def test_no_part_of_a_password_is_told(special: str) -> None:
    url = f"postgresql://me:Hush{special}Tell@db.example/tokens"
    with pytest.raises(PostgresError) as caught:
        Server.external(url)
    assert "written as in URLs" in str(caught.value)
    assert "Hush" not in str(caught.value)
    assert "Tell" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["postgresql://db/x", "postgres://me@db:1/x", "postgresql:///x?host=/run&user=me@there",
     "postgresql://me:a%40b@db/x", "postgresql://me:a:b@db/x", "postgresql://a:1,b:2/x",
     "postgresql://me@[::1]:5432/x", "postgresql://db?dbname=x"],
)  # fmt: skip
def test_what_worked_is_taken(url: str) -> None:
    dsn, _ = database_url.parse(url)
    assert dsn.partition("?")[0] == url.partition("?")[0]


def test_a_service_s_login_replaces_every_other() -> None:
    url = "postgresql://h/x?user=root&password=secret&passfile=/p&sslmode=require"
    assert database_url.with_login(url, "icto_a", "p/w@") == (
        "postgresql://icto_a:p%2Fw%40@h/x?sslmode=require"
    )


def test_a_place_is_told_without_who_may_enter() -> None:
    assert database_url.place(f"{PLACE}?password=secret") == "postgresql://db.example:5432/tokens"
