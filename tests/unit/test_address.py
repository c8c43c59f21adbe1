"""Where the platform is, however a person writes it."""

import pytest

from mesh.cli.address import Address, AddressError


@pytest.mark.parametrize(
    ("text", "origin", "place"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("localhost:8080", "http://localhost:8080", "localhost:8080"),
        ("mesh.example", "http://mesh.example", "mesh.example:80"),
        ("http://mesh.example:8080/", "http://mesh.example:8080", "mesh.example:8080"),
        ("https://mesh.example", "https://mesh.example", "mesh.example:443"),
        ("HTTPS://Mesh.Example:443/", "https://mesh.example", "mesh.example:443"),
        ("https://mesh.example:8443", "https://mesh.example:8443", "mesh.example:8443"),
        ("[::1]:8080", "http://[::1]:8080", "[::1]:8080"),
        ("https://[::1]", "https://[::1]", "[::1]:443"),
    ],
)
def test_an_address_is_what_people_write(text: str, origin: str, place: str) -> None:
    found = Address.parse(text)
    assert (found.origin, found.place) == (origin, place)


@pytest.mark.parametrize(
    "text",
    ["", "http://", "ftp://mesh", "mesh:port", "mesh:99999", "http://[", "http://mesh/v1",
     "http://mesh?x=1", "http://me@mesh", "mesh#top", "//"],
)  # fmt: skip
def test_what_is_no_address_is_refused_in_words(text: str) -> None:
    with pytest.raises(AddressError, match="must be like host:8080"):
        Address.parse(text)
