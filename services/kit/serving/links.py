"""URLs and pictures that a text may name: what a browser can show, and nothing that it would run.

A URL is what RFC 3986 says, by http or https and without userinfo: it has no double quotes, angle
brackets, spaces or backslashes, and it does not show one host and lead to another. A picture is an
https URL, or a raster image in the text itself; whether it is one, its first bytes tell.
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Final

_ESCAPED: Final = "%[0-9A-Fa-f]{2}"
_NAME: Final = rf"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|{_ESCAPED})"
_PATH: Final = rf"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|{_ESCAPED})"
_URL: Final = re.compile(
    rf"(?P<scheme>https?)://(?:(?P<name>{_NAME}+)|\[(?P<literal>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{{0,5}}))?"
    rf"(?:/{_PATH}*)?(?:\?(?:{_PATH}|\?)*)?(?:\#(?:{_PATH}|\?)*)?",
    re.IGNORECASE,
)
_LAST_PORT: Final = 65_535

_PICTURE: Final = re.compile(r"data:image/(?P<type>png|jpeg|gif|webp);base64,(?P<bytes>.*)")
_IS_A: Final[Mapping[str, Callable[[bytes], bool]]] = {
    "png": lambda raw: raw.startswith(b"\x89PNG\r\n\x1a\n"),
    "jpeg": lambda raw: raw.startswith(b"\xff\xd8\xff"),
    "gif": lambda raw: raw.startswith((b"GIF87a", b"GIF89a")),
    "webp": lambda raw: raw.startswith(b"RIFF") and raw[8:12] == b"WEBP",
}


def is_url(text: str, *, secure: bool = False) -> bool:
    """Whether a text is an http or https URL of RFC 3986 without userinfo; `secure`: only https."""
    found = _URL.fullmatch(text)
    if found is None or int(found["port"] or 0) > _LAST_PORT:
        return False
    if found["literal"] is not None and not _is_ipv6(found["literal"]):
        return False
    return not secure or found["scheme"].lower() == "https"


def is_picture(text: str) -> bool:
    """Whether a text is a PNG, JPEG, GIF or WebP in a data URL, or an https URL."""
    found = _PICTURE.fullmatch(text)
    if found is None:
        return is_url(text, secure=True)
    try:
        raw = base64.b64decode(found["bytes"], validate=True)
    except binascii.Error:
        return False
    return _IS_A[found["type"]](raw)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
