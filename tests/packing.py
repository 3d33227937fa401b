"""Packs lines into the archives that tests read."""

import bz2
import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import zstandard

from utils.cleaning.inputs.raw_files import find_raw_files
from utils.cleaning.inputs.raw_reader import open_raw

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
}


def zip_of(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tar_of(members: Mapping[str, bytes], format_: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format_) as archive:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return file.getvalue()


def lines_of(folder: Path) -> list[tuple[str, bytes]]:
    """All lines of a folder's raw files, each with its place under the folder."""
    lines = []
    for raw in find_raw_files(folder):
        with open_raw(raw) as reader:
            lines += [(reader.place.removeprefix(f"{folder}/"), line) for line in reader]
    return lines
