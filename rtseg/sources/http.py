"""HTTP addresses: streams and recordings that FFmpeg reads, and what it does not read.

That is other MJPEG, images, and files that must be fetched whole. The server is asked once FFmpeg
has failed, as it may serve one client only, and once.
"""

from __future__ import annotations

import re
import shutil
import ssl
import tempfile
from dataclasses import replace
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from time import monotonic
from typing import IO, Any, NamedTuple, cast
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import (
    HTTPBasicAuthHandler,
    HTTPDigestAuthHandler,
    HTTPHandler,
    HTTPPasswordMgrWithDefaultRealm,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
    build_opener,
)

from rtseg.addresses import public_name, remember, without_secrets
from rtseg.answers import TimedResponse
from rtseg.contracts import Source
from rtseg.errors import SourceError
from rtseg.files import RESERVE_BYTES
from rtseg.frame import Image
from rtseg.images import decode_image, is_animation, is_image, is_image_content
from rtseg.limits import Pace
from rtseg.media import dash_refused
from rtseg.sources.ffmpeg import LivePlayer
from rtseg.sources.options import SourceOptions, check_address, check_decoder
from rtseg.sources.pictures import AnimationSource, Snapshot
from rtseg.sources.stream import StreamSource, cannot_open, live_player
from rtseg.sources.video import VideoSource
from rtseg.stats import Clock

MAX_IMAGE_BYTES = 256 << 20
MAX_FETCHED_BYTES = 4 << 30
"""Of a recording that is fetched to a temporary file."""

CHUNK_BYTES = 1 << 20
STALL_SECONDS = 30
"""A server that sends next to nothing for so long has stalled."""

FETCH_SECONDS, ENDLESS_SECONDS = 3600, 60
"""In which a recording must have come: one of a given length, and one that may never end."""

DOWNLOAD = "Download the file, and name that"
WHOLE = re.compile(rb"....(?:ftyp|moov|mdat|wide|free|skip)|GIF8", re.DOTALL)
"""Files that may need to be read from the middle, as their index may be at their end."""

MAX_LINE_BYTES = 1 << 16
JPEG_END = re.compile(rb"\xff\xd9\r?\n\Z")

NETWORK_ERRORS = (OSError, HTTPException, ValueError)
"""What reading from a server raises; ValueError once the connection is closed."""

PAGE = re.compile(rb"\s*(?:<!doctype html|<html|<head|<body)", re.IGNORECASE)


def open_http(target: str, options: SourceOptions, clock: Clock | None = None) -> Source:
    """A live stream; or a recording or an image, where that is what the server gives.

    A recording is read like a file: every frame, at its own time, ending at its end. FFmpeg, and
    what is tried after it, have the timeout of the options each.

    Raises:
        SourceError: nothing answers, or what answers is not video.
    """
    check_address(target)
    given: SourceError | None = None
    try:
        if source := _by_ffmpeg(target, options, clock):
            return source
    except SourceError as error:
        given = error  # not the context of what follows: the answer of the server is the reason
    return _by_request(target, options, clock, given)


def _by_ffmpeg(target: str, options: SourceOptions, clock: Clock | None) -> Source | None:
    """None is a video file that has to be fetched whole: its length is only known in bytes."""
    asked = f"cannot open {public_name(target)}"
    try:
        player = LivePlayer(target, options)
    except SourceError as error:
        raise SourceError(asked, found="what it sends is not video") from error.__cause__
    if player.is_image:  # FFmpeg plays few animations whole
        player.release()
        raise SourceError(asked, found="it is an image")
    if player.is_recorded:
        player.release()
        return VideoSource(target, options, clock)
    if not (player.grab() and player.grab()):  # or one JPEG
        player.release()
        raise SourceError(asked, found="no video came")
    if 0 < player.declared_bytes <= MAX_FETCHED_BYTES:
        player.release()
        return None
    return StreamSource(target, options, clock, player, partial(live_player, target, options))


def _by_request(
    target: str, options: SourceOptions, clock: Clock | None, given: SourceError | None
) -> Source:
    """What FFmpeg does not show of a web server.

    Args:
        given: FFmpeg's reason, raised where there is no better one; None for a video file.
    """

    def parts() -> Parts | None:
        try:
            answer = request(target, options.timeout)
        except (SourceError, *NETWORK_ERRORS):
            return None
        if answer.is_multipart:
            return Parts(answer, options.timeout, clock)
        answer.response.close()
        return None

    try:
        answer = request(target, options.timeout)
        if not answer.is_multipart:
            return open_answer(answer, target, options, clock, given)
    except NETWORK_ERRORS:
        cause = None if given is None else given.__cause__
        raise cannot_open(target, options.timeout, cause) from None
    capture = Parts(answer, options.timeout, clock)
    try:
        return StreamSource(target, options, clock, capture, parts)
    except SourceError as error:
        if capture.others:
            raise SourceError(
                f"cannot open {public_name(target)}",
                found=f"its parts, {capture.others}, hold no images",
            ) from error
        raise


class _Plain(HTTPConnection):
    response_class = TimedResponse


class _Secure(HTTPSConnection):
    response_class = TimedResponse


class _PlainHandler(HTTPHandler):
    def http_open(self, request: Request) -> TimedResponse:
        return cast(TimedResponse, self.do_open(_Plain, request))


class _SecureHandler(HTTPSHandler):
    """As those of FFmpeg, its connections check no certificates: cameras have self-signed ones."""

    def https_open(self, request: Request) -> TimedResponse:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return cast(TimedResponse, self.do_open(_Secure, request, context=context))


class _Redirects(HTTPRedirectHandler):
    """All of them must lead to an answer by `until`, in monotonic seconds."""

    def __init__(self, until: float) -> None:
        self._until = until

    def redirect_request(self, req: Request, *args: Any) -> Request | None:
        if (left := self._until - monotonic()) <= 0:
            raise TimeoutError("the server redirects for too long")
        req.timeout = left  # of the next request too
        return super().redirect_request(req, *args)


class Answer(NamedTuple):
    """The answer to a request for an address.

    Attributes:
        response: open, its body unread but for `head`.
        head: the first bytes of the body.
        ranges: whether the server can be read from the middle.
    """

    response: TimedResponse
    head: bytes
    ranges: bool

    @property
    def content_type(self) -> str:
        """As "text/html"; "" where the server gives none."""
        return self.response.headers.get_content_type() if self._has_type else ""

    @property
    def _has_type(self) -> bool:
        return self.response.headers.get("Content-Type") is not None

    @property
    def is_multipart(self) -> bool:
        """Whether it consists of parts, one image each."""
        return self.content_type.startswith("multipart/")

    @property
    def is_image(self) -> bool:
        """Whether it is one image."""
        return is_image_content(self.head)

    @property
    def is_page(self) -> bool:
        """Whether it is for a browser."""
        return self.content_type in ("text/html", "application/xhtml+xml") or bool(
            PAGE.match(self.head)
        )


def request(address: str, timeout: float) -> Answer:
    """Request an address; user and password in it are sent as the server asks (Basic or Digest).

    As FFmpeg does, certificates are not checked: those of cameras are self-signed.

    Raises:
        SourceError: the server refuses; its answer is in it.
        OSError, HTTPException: there is no server, or it does not speak HTTP.
    """
    remember([address])
    opener, bare = _opener(address, timeout)
    asked = Request(bare, headers={"User-Agent": "rtseg", "Range": "bytes=0-"})
    try:
        response = opener.open(asked, timeout=timeout)
    except HTTPError as error:
        error.close()
        raise refused(address, error.code, error.reason) from None
    except URLError as error:
        if isinstance(error.reason, OSError):
            raise error.reason from None
        raise OSError(str(error.reason)) from None
    multipart = response.headers.get_content_maintype() == "multipart"
    head = b"" if multipart else response.read(512)
    response.allow(None)
    return Answer(response, head, response.status == 206)


def refused(address: str, status: int, phrase: str) -> SourceError:
    """The error for a server that answers with an error.

    Args:
        phrase: its reason, which is left out if it is more than words: it may repeat the address.
    """
    words = without_secrets(phrase) if re.fullmatch(r"[A-Za-z' -]{0,60}", phrase) else ""
    advice = "Check the path, the user and the password"
    if status in (401, 403):
        advice = "Check the user and the password in the address"
    elif status in (404, 410):
        advice = "Check the path"
    return SourceError(
        f"cannot open {public_name(address)}",
        found=f"{urlsplit(address).hostname} answers: {status} {words}".rstrip(),
        do=advice,
    )


def _opener(address: str, timeout: float) -> tuple[OpenerDirector, str]:
    """What requests the address without its password, and that address."""
    parts = urlsplit(address)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
    passwords = HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
        passwords.add_password(None, bare, user, password)
    return build_opener(
        _PlainHandler(),
        _SecureHandler(),
        _Redirects(monotonic() + timeout),
        HTTPBasicAuthHandler(passwords),
        HTTPDigestAuthHandler(passwords),
    ), bare


class Fetched:
    """A recording or image fetched whole to a temporary file, which on Linux is never left behind.

    Args:
        answer: its server's, from the beginning.
        name: of the address, for people.

    Attributes:
        path: of the file while this is open.
        megabytes: its size.
        ranges: whether its server can be read from the middle.

    Raises:
        SourceError: it is too large for the disk, `MAX_FETCHED_BYTES` or, an image, for
            `MAX_IMAGE_BYTES`; or the connection broke, or it takes too long.
    """

    def __init__(self, answer: Answer, name: str) -> None:
        self._asked = f"cannot fetch {name}"
        self.ranges = answer.ranges
        self._most = MAX_IMAGE_BYTES if answer.is_image else MAX_FETCHED_BYTES
        self._check_room(answer.response.length or 0)
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="rtseg-")  # noqa: SIM115
        self.path = Path(f"/proc/self/fd/{self._file.fileno()}")
        self._named: Path | None = None
        if not self.path.exists():  # not Linux
            self._file.close()
            self._file = tempfile.NamedTemporaryFile(prefix="rtseg-", delete=False)  # noqa: SIM115
            self.path = self._named = Path(self._file.name)
        try:
            size = self._copy(answer)
        except BaseException:
            self.close()
            raise
        self.megabytes = size / 1e6

    def _copy(self, answer: Answer) -> int:
        size, chunk, expected = 0, answer.head, answer.response.length
        pace = Pace(STALL_SECONDS)
        until = monotonic() + (seconds := ENDLESS_SECONDS if expected is None else FETCH_SECONDS)
        while chunk:
            self._file.write(chunk)
            size += len(chunk)
            if size > self._most:
                raise SourceError(
                    self._asked, found=f"it is larger than {self._most >> 20} MB", do=DOWNLOAD
                )
            self._check_room(0)
            if monotonic() > until:
                found = f"only {size / 1e6:.1f} MB came in {seconds} seconds"
                raise SourceError(self._asked, found=found, do=DOWNLOAD)
            try:
                answer.response.allow(STALL_SECONDS)
                chunk = answer.response.read1(CHUNK_BYTES)  # read waits for all of them
                pace(len(chunk))
            except TimeoutError as error:
                raise SourceError(self._asked, found=f"the server stalls: {error}") from error
            except NETWORK_ERRORS as error:
                raise SourceError(
                    self._asked, found=f"the connection broke after {size / 1e6:.1f} MB"
                ) from error
        self._file.flush()
        if expected is not None and size < expected + len(answer.head):
            raise SourceError(self._asked, found=f"the connection broke after {size / 1e6:.1f} MB")
        return size

    def _check_room(self, needed: int) -> None:
        """Raise SourceError unless the disk has room for as many bytes."""
        folder = tempfile.gettempdir()
        if needed > self._most:
            raise SourceError(
                self._asked,
                found=f"its {needed / 1e6:.0f} MB are more than {self._most >> 20} MB",
                do=DOWNLOAD,
            )
        if shutil.disk_usage(folder).free < needed + RESERVE_BYTES:
            raise SourceError(
                self._asked,
                found=f"{folder} has no room for it",
                do="Set TMPDIR to a folder with more space, or download the file",
            )

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
        if self._named is not None:
            self._named.unlink(missing_ok=True)


class Parts:
    """The images of a `multipart/x-mixed-replace` answer, with the calls of a `cv2.VideoCapture`.

    An image is what its bytes say, whatever its part calls it; other parts are left out.

    Attributes:
        others: the content type of a part that was no image; "" if there was none.
    """

    def __init__(self, answer: Answer, timeout: float, clock: Clock | None = None) -> None:
        self._response, self._timeout = answer.response, timeout
        self._clock = clock or Clock()
        boundary = answer.response.headers.get_boundary() or ""
        self._delimiter = boundary.strip("-").encode("latin-1", "replace")
        self._content = b""
        self.others = ""

    def grab(self) -> bool:
        """Read up to the end of the next image; False at the end, or if none comes in time."""
        until = self._clock.now() + self._timeout
        self._response.allow(self._timeout)
        try:
            while self._clock.now() < until and self._find_part(until):
                kind, length = self._read_headers()
                content = self._read_content(length, until)
                if is_image_content(content[:512]):
                    self._content = content
                    return True
                self.others = kind or "of no content type"
        except NETWORK_ERRORS:
            pass
        return False

    def retrieve(self) -> tuple[bool, Image | None]:
        """Decode the image that was grabbed; (False, None) if it is damaged."""
        try:
            return True, decode_image(self._content)
        except ValueError:
            return False, None

    def release(self) -> None:
        """Close the connection."""
        self._response.close()

    def _line(self) -> bytes:
        """The next line, or a piece of a long one.

        Raises:
            OSError: the answer has ended.
        """
        line = self._response.readline(MAX_LINE_BYTES)
        if not line:
            raise OSError("the answer has ended")
        return line

    def _read_some(self, count: int) -> bytes:
        """At most `count` bytes, as soon as there are any; raises OSError at the end."""
        if not (some := self._response.read1(count)):
            raise OSError("the answer has ended")
        return some

    def _is_delimiter(self, line: bytes) -> bool:
        if not line.startswith(b"--") or not line.endswith(b"\n"):
            return False
        text = line.strip().strip(b"-")
        if not self._delimiter and text:
            self._delimiter = text  # the header names none
        return text == self._delimiter

    def _find_part(self, until: float) -> bool:
        """Skip to the beginning of the next part; False if it does not come in time."""
        if self._ended_at_delimiter:
            self._ended_at_delimiter = False
            return True
        seen = 0
        while self._clock.now() < until:
            line = self._line()
            if self._is_delimiter(line):
                return True
            if seen == 0 and line.startswith(b"--") and len(line) < 200:
                # some servers delimit by another line than they announce
                self._delimiter = line.strip().strip(b"-")
                return True
            seen += len(line.strip())
        return False

    _ended_at_delimiter = False

    def _read_headers(self) -> tuple[str, int | None]:
        """Content type and length of a part; "" and None where it gives none."""
        kind, length = "", None
        while line := self._line().strip():
            name, _, value = line.decode("latin-1").partition(":")
            if name.strip().lower() == "content-type":
                kind = value.partition(";")[0].strip()
            elif name.strip().lower() == "content-length" and value.strip().isdecimal():
                length = int(value)
        return kind, length

    def _read_content(self, length: int | None, until: float) -> bytes:
        """The content of a part: by its length, else to the end of its JPEG or the delimiter."""
        if length is not None:
            if length > MAX_IMAGE_BYTES:
                raise OSError("the part is too large")
            content = bytearray()
            while len(content) < length and self._clock.now() < until:
                content += self._read_some(length - len(content))
            return bytes(content)
        lines: list[bytes] = []
        size = 0
        while size <= MAX_IMAGE_BYTES and self._clock.now() < until:
            line = self._line()
            if self._is_delimiter(line):
                self._ended_at_delimiter = True
                break
            lines.append(line)
            size += len(line)
            if JPEG_END.search(line):  # the delimiter may come as late as the next image
                break
        return b"".join(lines).rstrip(b"\r\n")


class Whole(Source):
    """What plays a file, of an address that was fetched whole; `info` has the name of that."""

    def __init__(
        self, fetched: Fetched, address: str, options: SourceOptions, clock: Clock | None
    ) -> None:
        self._fetched = fetched
        super().__init__(str(fetched.path), options, clock)  # type: ignore[call-arg, arg-type]
        self.info = replace(self.info, name=public_name(address), pictures=())

    def _release(self) -> None:
        super()._release()
        self._fetched.close()


class FetchedVideo(Whole, VideoSource):
    """A GIF, or a recording of a server that cannot be read from the middle."""

    def __init__(
        self, fetched: Fetched, address: str, options: SourceOptions, clock: Clock | None
    ) -> None:
        super().__init__(fetched, address, options, clock)
        if not fetched.ranges:
            note = (
                f"fetched whole to a temporary file, {fetched.megabytes:.1f} MB: "
                "its server cannot be read from the middle"
            )
            self.info = replace(self.info, notes=(*self.info.notes, note))


class FetchedAnimation(Whole, AnimationSource):
    """An animated image."""


def open_answer(
    answer: Answer,
    address: str,
    options: SourceOptions,
    clock: Clock | None,
    given: SourceError | None,
) -> Source:
    """The image or recording that an answer is, which is closed.

    Args:
        given: why FFmpeg did not open the address; None if it did.

    Raises:
        SourceError: it is neither.
        OSError, HTTPException: the connection broke.
    """
    name = public_name(address)
    with answer.response:
        readable = WHOLE.match(answer.head) and not answer.ranges
        if given is not None and (answer.is_page or not (answer.is_image or readable)):
            raise failure_of(answer, name, given)
        fetched = Fetched(answer, name)
    try:
        if is_animation(fetched.path):
            return FetchedAnimation(fetched, address, options, clock)
        if not is_image(fetched.path):
            return FetchedVideo(fetched, address, options, clock)
        check_decoder(options, f"{name} is one image")
        content = fetched.path.read_bytes()
    except SourceError as error:
        fetched.close()
        raise SourceError(f"cannot play {name}", found=error.found, do=error.do) from error
    except BaseException:
        fetched.close()
        raise
    fetched.close()
    return Snapshot(name, content, clock)


def failure_of(answer: Answer, name: str, given: SourceError) -> SourceError:
    """Why an answer that is neither an image nor a stream cannot be shown."""
    asked = f"cannot open {name}"
    if answer.is_page:
        return SourceError(
            asked,
            found="it is a web page, not a video",
            do="Name the address of the video itself, which the page shows",
        )
    if dash := dash_refused(asked, answer.head):
        return dash
    kind = answer.content_type
    if kind and not kind.startswith(("video/", "application/")):
        return SourceError(asked, found=f"the server sends {kind}, which is not video")
    return given
