"""What identifies a wiki's page, and the index of a cleaned text's pages, by which they compare.

`cleaned_<stem>.pages` holds an entry of 48 bytes (ENTRY) for each article that was cleaned, in
their order; those that were dropped as duplicates since then keep theirs.
"""

import hashlib
import struct
import zlib
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import xxhash
from numpy.typing import NDArray

from utils.articles import CleanedMarker, pages_path_of
from utils.errors import DataError
from utils.files import atomic_write

ENTRY = np.dtype(
    [
        ("site", "<u8"),  # a hash of the host; 0: nothing says which page it is
        ("identifier", "<u8"),
        ("address", "<u8"),  # a hash of what the URL has behind the host; 0: nothing
        ("revision", "<u8"),  # 0: unknown
        ("modified", "<f8"),  # seconds since 1970, where the revision is unknown; 0: unknown too
        ("sample", "<u8"),  # the same for the same text, and different for nearly all others
    ]
)
Entries = NDArray[Any]  # (articles,) of ENTRY

_PAGE = struct.Struct("<QQQQd")  # an entry without its sample, which is of the text
_SAMPLE = struct.Struct("<II")
assert ENTRY.itemsize == _PAGE.size + _SAMPLE.size
NO_PAGE = bytes(_PAGE.size)

_HEAD_BYTES = 256  # of a text, its title first
_MOST_DIGITS = 18  # of a number, so that it fits into 64 bits
_NUMBER_END = 10**_MOST_DIGITS
_RERUN = "Run cleaner.py again; it cleans this file anew."


def page_of(
    url: str | None,
    identifier: int | str | None,
    revision: int | str | None,
    modified: str | None,
) -> bytes:
    """Which page of which wiki a record's fields name, and which state of it, as in an entry.

    It is NO_PAGE without a host or an identifier. The identifier 12 is the identifier "12". What
    cannot be read as a number or date is unknown.
    """
    if identifier is None or identifier == "" or url is None:
        return NO_PAGE
    path_begin = url.find("/", len("https://"))
    site = _site(url if path_begin < 0 else url[:path_begin])
    if not site:
        return NO_PAGE
    number = _number(identifier)
    if number is None:
        number = _hash(str(identifier))
    address = _address(url[path_begin:]) if path_begin >= 0 else 0
    newness = _number(revision)
    if newness:
        return _PAGE.pack(site, number, address, newness, 0.0)
    return _PAGE.pack(site, number, address, 0, _seconds(modified) if modified else 0.0)


@lru_cache(maxsize=1024)
def _site(address: str) -> int:
    try:
        host = urlsplit(address).hostname
    except ValueError:
        return 0
    return _hash(host) if host else 0


def _address(path: str) -> int:
    """The same for "/wiki/A_%26_B" and "/wiki/A & B"; 0 for "/", which names no page."""
    if "%" in path:
        path = unquote(path)
    return _hash(path.replace(" ", "_")) if path != "/" else 0


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode()) or 1


def _number(value: int | str | None) -> int | None:
    """A whole number of at most 18 digits, or None."""
    if isinstance(value, str):
        is_number = value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS
        value = int(value) if is_number else None
    return value if value is not None and 0 <= value < _NUMBER_END else None


def _seconds(date: str) -> float:
    try:
        moment = datetime.fromisoformat(date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0


class PageIndex:
    """Collects the entries of one cleaned text's articles."""

    def __init__(self) -> None:
        self._entries = bytearray()

    def add(self, page: bytes, line: bytes) -> None:
        """Add the next article: what `page_of` gave, and the article's line in the text."""
        self._entries += page
        self._entries += _SAMPLE.pack(zlib.crc32(line[:_HEAD_BYTES]), len(line))

    def save(self, text_path: Path) -> str:
        """Write the index of `text_path`; returns the SHA-256 that the marker keeps of it."""
        with atomic_write(pages_path_of(text_path)) as file:
            file.write(self._entries)
        return hashlib.sha256(self._entries).hexdigest()


def read_pages(text_path: Path, marker: CleanedMarker) -> Entries:
    """The entries of a cleaned text. Raises DataError if they are missing or damaged."""
    path = pages_path_of(text_path)
    try:
        entries = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: missing", _RERUN) from None
    if hashlib.sha256(entries).hexdigest() != marker.pages_sha256:
        raise DataError(f"{path}: was changed or damaged (wrong SHA-256)", _RERUN)
    return np.frombuffer(entries, ENTRY)
