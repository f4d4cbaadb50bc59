"""How addresses are shown: by host and digest, as anything else in them may be a secret; and the
one place through which all text for people passes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import unquote

from rtseg.text import printable, shortened

SCHEME = r"\s*(?:(?:rtsp|rtmp|http|udp|rtp|tcp|srt)s?:/*|[a-z][\w+.-]+:/+)"
USER = re.compile(
    rf"({SCHEME}[^/?#@:\[]*):(.*)@(?=([^@/?#]*)(?:[/?#]|$))", re.IGNORECASE | re.DOTALL
)
"""Scheme and user, password, host: "rtsp://me:se/cr@host" has the password "se/cr"."""
PORT = re.compile(r"\d+(?:[/?]|$)")
PARTS = re.compile(rf"({SCHEME})([^/?#;&]*)(.*)", re.IGNORECASE | re.DOTALL)
"""Scheme, host, and the rest."""
ADDRESS = re.compile(r"(?<![a-z\d+.-])[a-z][\w+.-]{1,30}:/{1,3}[^\s'\"]+", re.IGNORECASE)
TOKEN = re.compile(r"(?=.*\d)(?=.*[a-z])[^.]{12,}", re.IGNORECASE)
BETWEEN = re.compile(r"%[0-9a-f]{2}|[^\w.~-]", re.IGNORECASE)
NUMBER = re.compile(r"[0-9]{0,7}")
HOST = re.compile(r"(?:\[[0-9a-f:.%]{0,60}\]|[^:\[\]]{0,80})(?::\d{0,5})?", re.IGNORECASE)
LOCAL = ("test:", "demo:", "file:")
BUCKETS = ("s3:", "s3a:", "gs:", "gcs:", "az:", "abfs:", "memory:")
"""Schemes whose addresses have no secrets unless they name a user."""
WORDS = re.compile(
    r"(?:live|stream|streams|streaming|channels?|ch|cam|camera|video|media|main|sub|index|playlist"
    r"|master|mjpe?g|h26[45]|hls|axis-cgi|mjpg)?[0-9]{0,3}(?:\.[a-z0-9]{2,4})?",
    re.IGNORECASE,
)
"""Parts of a path that are not secret."""

MIN_SECRET = 4
"""Characters of what is taken out of texts; shorter ones are parts of words."""

MAX_SHOWN = 100_000
"""Characters of a line."""

MAX_HOST = 80
MAX_REMEMBERED = 256

_secrets: dict[str, str] = {}
"""What no text may hold -> what stands for it; of the addresses that were named so far."""


def is_address(target: str) -> bool:
    """Whether a target is an address, as "rtsp://host/path"."""
    return re.match(r"[a-z][\w+.-]*://", target, re.IGNORECASE) is not None


def user_of(address: str) -> re.Match[str] | None:
    """The match of `USER`, unless what follows the first colon is a port."""
    found = USER.match(address)
    if found is None or not PORT.match(found[2]):
        return found
    # host:554/a@b; but me:12/34@10.0.0.5:554 is a password that begins with digits
    before = re.sub(SCHEME, "", found[1], count=1, flags=re.IGNORECASE)
    is_host = "." in before or before == "localhost"
    return found if re.search(r"[.:]|localhost", found[3]) and not is_host else None


def public_name(address: str) -> str:
    """An address as people see it: "rtsp://host:554 (4be1c2)", the digest of all but the user.

    An address of a host alone has no digest; what is not a network address stays as it is.
    """
    scheme, host, rest, _ = _parts(address)
    if not scheme:
        return address
    digest = f" ({digest_of(address)})" if rest.strip("/ ") else ""
    return f"{scheme}{host}{digest}"


def detailed_name(address: str) -> str:
    """As `public_name`, with what of the path and the query cannot be a secret: common words,
    and names without their values."""
    scheme, host, rest, _ = _parts(address)
    if not scheme or not rest.strip("/ "):
        return public_name(address)
    path, mark, query = rest.partition("?")
    parts = [part if WORDS.fullmatch(part) else "***" for part in path.split("/")]
    names = [
        name for name, equals, _ in (f.partition("=") for f in re.split("[&;]", query)) if equals
    ]
    shown = [
        f"{name}=***" if re.fullmatch(r"[a-z_]{1,16}", name, re.IGNORECASE) else "***"
        for name in names
    ]
    query = f"?{'&'.join(shown)}" if mark else ""
    return f"{scheme}{host}{'/'.join(parts)}{query} ({digest_of(address)})"


def digest_of(address: str) -> str:
    """Six characters that tell addresses of one host apart; the same for any user and password."""
    scheme, host, rest, _ = _parts(address)
    return sha256(f"{scheme}{host}{rest}".strip().encode(errors="surrogatepass")).hexdigest()[:6]


def _parts(address: str) -> tuple[str, str, str, str]:
    """Scheme, host, what follows it, and user with password; four times "" for a local one."""
    found = user_of(address)
    bare = address if found is None else address[: len(_scheme(address))] + address[found.end() :]
    parts = PARTS.match(bare)
    if parts is None or _is_plain(parts[1].strip(), bare if found is None else address):
        return "", "", "", ""
    user, _, host = parts[2].rpartition("@")
    if found is not None:
        user = address[len(_scheme(address)) : found.end() - 1]
    elif not host and user and parts[3]:
        user, host = "", parts[2]
    if not HOST.fullmatch(host):  # what stands for the port may be a password without its host
        host = f"{host.partition(':')[0][:MAX_HOST]}:***"
    return parts[1].lstrip(), host, parts[3], user


def _is_plain(scheme: str, address: str) -> bool:
    """Whether an address is shown as it is."""
    scheme = scheme.lower()
    return scheme.startswith(LOCAL) or (scheme.startswith(BUCKETS) and not set("@?") & set(address))


def _scheme(address: str) -> str:
    found = re.match(SCHEME, address, re.IGNORECASE)
    return found[0] if found else ""


def forget() -> None:
    """Remember nothing."""
    _secrets.clear()


def remember(texts: Iterable[str]) -> None:
    """Take what may be secret in these addresses out of every text that is shown from now on."""
    for text in texts:
        for address in {text.strip(), *(found[0] for found in ADDRESS.finditer(text))}:
            scheme, _, rest, user = _parts(address)
            if scheme and len(_secrets) < MAX_REMEMBERED:
                _secrets[address] = public_name(address)
                for part in _secret_parts(rest, user):
                    _secrets.setdefault(part, "***")


def _secret_parts(rest: str, user: str) -> set[str]:
    path, *_ = re.split("[?;#]", rest)
    tail = rest[len(path) + 1 :]
    values = [part.rpartition("=")[2] for part in re.split(r"[&;#?]", tail)]
    pieces = _pieces_of([*user.split(":", 1), user])
    # a short number may be a figure of other texts
    pieces += [piece for piece in _pieces_of([*values, tail]) if not NUMBER.fullmatch(piece)]
    # a part of a path may be a word of other texts, as the name of a file
    pieces += [part for part in path.split("/") if TOKEN.fullmatch(part)]
    return {piece for piece in pieces if len(piece) >= MIN_SECRET}


def _pieces_of(texts: Iterable[str]) -> list[str]:
    """Texts but common words, as they are, decoded, and what a server repeats in its own words."""
    pieces = [text for text in texts if not WORDS.fullmatch(text)]
    pieces += [unquote(piece) for piece in pieces]
    return pieces + [bit for piece in pieces for bit in BETWEEN.split(piece) if not bit.isalpha()]


def without_secrets(text: str) -> str:
    """A text without what `remember` was given, and without users, passwords and values of the
    queries of other addresses."""
    for secret in sorted(_secrets, key=len, reverse=True):
        if secret in text:
            edge = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
            before, after = edge if len(secret) < 8 else ("", "")
            shown = _secrets[secret]
            text = re.sub(before + re.escape(secret) + after, lambda _: shown, text)  # noqa: B023
    return ADDRESS.sub(lambda found: _without_values(found[0]), text)


def clean_values(values: Any) -> Any:
    """As `without_secrets` for each text in what becomes JSON; keys and numbers are not changed."""
    if isinstance(values, str):
        return without_secrets(values)
    if isinstance(values, Mapping):
        return {key: clean_values(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return list(map(clean_values, values))
    return values


def _without_values(address: str) -> str:
    if _is_plain(address, address):
        return address
    found = user_of(address)
    if found is not None:
        address = address[: len(_scheme(address))] + address[found.end() :]
    address = re.sub(rf"^({SCHEME})[^/?#]*@(?=[^/?#])", r"\1", address, flags=re.IGNORECASE)
    return re.sub(r"=[^&;#\s]*", "=***", address)


def shown(text: str) -> str:
    """A text as a terminal may have it: one line, not endless, without escapes and secrets."""
    return printable(shortened(without_secrets(text), MAX_SHOWN))
