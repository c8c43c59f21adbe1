"""URLs are RFC 3986's without userinfo; pictures are what their first bytes say."""

import base64

import pytest

from services.kit.serving import links

HOST = "https://example.com"
FIRST_BYTES = {
    "png": b"\x89PNG\r\n\x1a\n",
    "jpeg": b"\xff\xd8\xff\xe0",
    "gif": b"GIF89a",
    "webp": b"RIFF\x24\x00\x00\x00WEBPVP8 ",
}


def data(kind: str, raw: bytes, encoding: str = "base64") -> str:
    return f"data:image/{kind};{encoding},{base64.b64encode(raw).decode()}"


@pytest.mark.parametrize(
    "url",
    [
        HOST,
        "http://example.com",
        f"{HOST}/",
        f"{HOST}:8443/a/b.svg?x=1&y=%20#part",
        f"{HOST}?q=a/b?c#/d?e",
        f"{HOST}/~me/(a);b=1,2/it's!*+$",
        "HTTPS://EXAMPLE.COM/",
        "https://xn--bcher-kva.example/",
        "http://127.0.0.1:80/",
        "http://[::1]:8080/",
        "http://[2001:db8::7]/c",
        f"{HOST}:/empty-port",
    ],
)
def test_a_url_of_the_rfc_passes(url: str) -> None:
    assert links.is_url(url)
    assert links.is_url(url, secure=True) == url.lower().startswith("https:")


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "//example.com", "example.com", "/path", "https:", "https://", "https:///path",
        "https:example.com", "https://?q", "https://#f", "https://:80/",
        "javascript:alert(1)", "data:text/html,x", "ftp://example.com", "file:///etc/passwd",
        " https://example.com", "https://example.com ", "https://exam ple.com",
        "https://user@example.com", "https://user:secret@example.com", "https://@example.com",
        "https://example.com@evil.example", "https://example.com%40evil.example@x",
        "https://example.com\\@evil.example", "https://example.com\\evil",
        f'{HOST}/"onmouseover="alert(1)', f"{HOST}/<script>", f"{HOST}/a>b", f"{HOST}/`x`",
        f"{HOST}/{{x}}", f"{HOST}/a|b", f"{HOST}/a^b", f"{HOST}/[x]", f"{HOST}/#a#b",
        f"{HOST}/%", f"{HOST}/%4", f"{HOST}/%zz",
        f"{HOST}:99999/", f"{HOST}:port/", f"{HOST}:80:80/",
        "https://[::1", "https://::1/", "https://[::g]/", "https://[1.2.3.4]/", "https://[]/",
        "https://exämple.com", f"{HOST}/ä", f"{HOST}/\u202e", f"{HOST}/\n", f"{HOST}\n",
    ],
)  # fmt: skip
def test_what_is_no_such_url_does_not(url: str) -> None:
    assert not links.is_url(url)
    assert not links.is_picture(url)


@pytest.mark.parametrize("kind", FIRST_BYTES)
def test_a_picture_is_what_its_first_bytes_say(kind: str) -> None:
    assert links.is_picture(data(kind, FIRST_BYTES[kind] + b"more"))
    for other in FIRST_BYTES.keys() - {kind}:
        assert not links.is_picture(data(other, FIRST_BYTES[kind] + b"more"))


def test_an_https_url_is_a_picture_too() -> None:
    assert links.is_picture(f"{HOST}/logo.svg")
    assert not links.is_picture("http://example.com/logo.png")


@pytest.mark.parametrize(
    "logo",
    [
        data("svg+xml", b"<svg onload='alert(1)'/>"),
        data("png", b"<svg onload='alert(1)'/>"),
        data("png", b""),
        data("jpg", FIRST_BYTES["jpeg"]),
        data("PNG", FIRST_BYTES["png"]),
        data("png", FIRST_BYTES["png"], "charset=utf-8;base64"),
        data("png", FIRST_BYTES["png"], "utf8"),
        data("webp", b"RIFF\x24\x00\x00\x00WAVE"),
        data("png", FIRST_BYTES["png"]) + '" onload="alert(1)',
        data("png", FIRST_BYTES["png"]) + "\n",
        data("png", FIRST_BYTES["png"] + b"xx").rstrip("="),
        "data:image/png," + "x" * 100,
        "data:image/png;base64,",
        "data:image/png;base64,AAAA",
        "data:text/html;base64,iVBORw0KGgo=",
        "data:,x",
    ],
)
def test_anything_else_after_data_image_is_none(logo: str) -> None:
    assert not links.is_picture(logo)
