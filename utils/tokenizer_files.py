"""The files of a tokenizer: on the Hugging Face Hub, in a folder, and saved with their digests.

Sole reader and writer of a saved tokenizer's folder. What the files mean is tokenizer.py's part.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from utils.errors import TokenizerError
from utils.files import atomic_write, sole_writer, write_json

TOKENIZER_FILE = "tokenizer.json"
SENTENCEPIECE_FILE = "tokenizer.model"
COMPANION_FILES = ("special_tokens_map.json", SENTENCEPIECE_FILE, "tokenizer_config.json")
INFO_FILE = "tokenizer_info.json"
HUB_TIMEOUT_SECONDS = 10
FETCH_AGAIN = "Run `python tokenizer.py` to fetch the tokenizer again."


class TokenizerInfo(BaseModel):
    """tokenizer_info.json: what was saved, where it came from, and the SHA-256 of each file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    source: str | None = None  # the tokenizer.source it was fetched from
    sha256: dict[str, str]


def read_tokenizer_files(folder: Path) -> tuple[TokenizerInfo, dict[str, bytes]]:
    """What is known of the tokenizer, and the bytes of its files, by file name.

    A saved folder must hold every file with the digest that was written for it. A plain copy of
    a Hub repository has no such record; its name is the folder's. Raises TokenizerError.
    """
    try:
        return _read(folder)
    except OSError as error:
        raise TokenizerError(
            f"{folder}: its tokenizer cannot be read: {error.strerror or error}",
            "Mend that, or name another folder: --set paths.tokenizer_dir=FOLDER",
        ) from error


def write_tokenizer_files(
    folder: Path, name: str, source: str | None, files: Mapping[str, bytes]
) -> None:
    """Save `files` into `folder`, replacing the tokenizer that is there.

    tokenizer.json, without which there is no tokenizer, is removed first and written last, after
    the digests: a save that was cut off never passes for a whole one, or for a plain copy.
    """
    with sole_writer(folder, "saving a tokenizer to"):
        for old in (TOKENIZER_FILE, INFO_FILE, *COMPANION_FILES):
            (folder / old).unlink(missing_ok=True)
        digests = {file_name: sha256_of_bytes(content) for file_name, content in files.items()}
        info = TokenizerInfo(name=name, source=source, sha256=digests)
        write_json(folder / INFO_FILE, info.model_dump())
        for file_name in sorted(files, key=TOKENIZER_FILE.__eq__):  # it comes last
            with atomic_write(folder / file_name) as file:
                file.write(files[file_name])


def download_tokenizer_files(name: str, folder: Path) -> None:
    """Put the tokenizer files of the Hub's repository `name`, and nothing else, into `folder`.

    Raises TokenizerError if the Hub cannot be reached or has no such tokenizer.
    """
    import huggingface_hub  # takes a second to import: only for those who download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    advice = (
        "Check the name and the network, or put the repository's tokenizer files into a folder"
        " and name it: --set tokenizer.source=/absolute/path/of/the/folder"
    )
    try:
        huggingface_hub.snapshot_download(
            name,
            allow_patterns=[TOKENIZER_FILE, *COMPANION_FILES],
            local_dir=folder,
            etag_timeout=HUB_TIMEOUT_SECONDS,
        )
    except Exception as error:  # the library and the HTTP client below it raise many kinds
        reason = str(error).strip().partition("\n")[0].removeprefix("Got: ")
        raise TokenizerError(
            f"{name}: cannot be downloaded from the Hugging Face Hub: {reason}", advice
        ) from error
    if not (folder / TOKENIZER_FILE).is_file():
        raise TokenizerError(f"{name}: has no {TOKENIZER_FILE} on the Hugging Face Hub", advice)


def sha256_of_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(folder: Path) -> tuple[TokenizerInfo, dict[str, bytes]]:
    files = {
        name: (folder / name).read_bytes()
        for name in (*COMPANION_FILES, TOKENIZER_FILE)
        if (folder / name).is_file()
    }
    if TOKENIZER_FILE not in files:
        raise TokenizerError(
            f"{folder}: no tokenizer here ({TOKENIZER_FILE} is missing)",
            "Run `python tokenizer.py` to fetch and save one.",
        )
    info = _read_info(folder / INFO_FILE)
    digests = {name: sha256_of_bytes(content) for name, content in files.items()}
    if info is None:
        return TokenizerInfo(name=folder.resolve().name, sha256=digests), files
    for name in sorted({*digests, *info.sha256}):
        if digests.get(name) != info.sha256.get(name):
            raise TokenizerError(
                f"{folder / name}: missing, or not the file that was saved (its SHA-256 is not"
                f" the one in {INFO_FILE})",
                FETCH_AGAIN,
            )
    return info, files


def _read_info(path: Path) -> TokenizerInfo | None:
    try:
        return TokenizerInfo.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise TokenizerError(f"{path}: damaged", FETCH_AGAIN) from None
