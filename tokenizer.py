"""The CodeLlama tokenizer: fetch, save, load, encode, decode.

A byte-fallback BPE, read from `tokenizer.json`: single texts go through the `tokenizers` library,
bulk text through the engine that `tokenizer.engine` names. Every other script takes it through
`CodeLlamaTokenizer.load` or `load_or_fetch`, so that the checks below hold wherever ids are made.
"""

if __name__ == "__main__":  # first, for the other imports take seconds
    from utils.interrupts import quit_on_interrupt

    quit_on_interrupt()

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from utils.cli import config_from, run_script, script_parser
from utils.config import Config
from utils.errors import CheckpointError, TokenizerError
from utils.files import sha256_of
from utils.terminal import emit, say
from utils.token_engines import Engine, StockEngine, bulk_engine, check_equal, engine_label
from utils.tokenizer_files import (
    FETCH_AGAIN,
    TOKENIZER_FILE,
    TokenizerInfo,
    download_tokenizer_files,
    read_tokenizer_files,
    write_tokenizer_files,
)
from utils.tokenizer_layout import BOS_PIECE, EOS_PIECE, UNK_PIECE, misfits, parse, token_bytes

if TYPE_CHECKING:
    from utils.checkpoint import Checkpoint  # imports torch, which tokenizing does without

# Scripts, spaces, controls, an emoji of five code points, and text that looks like control tokens.
PROBE = '  Hello,  "wörld"\n\tdef f(x):\u2029漢字 العربية 🧑🏽‍🚀\x00\x7f <s>a</s><unk> '

Ids = NDArray[np.uint16]


class FlatIds(NamedTuple):
    """Ids of many texts, one after another: text i has ids[offsets[i] : offsets[i + 1]]."""

    ids: Ids
    offsets: NDArray[np.int64]  # shape (texts + 1,), from 0 to len(ids)

    def split(self) -> list[Ids]:
        """One view of `ids` for each text."""
        return [self.ids[start:end] for start, end in pairwise(self.offsets.tolist())]


class CodeLlamaTokenizer:
    """Text to ids and back.

    Encoding adds no special ids, and text that looks like one, such as "</s>", stays text.
    `decode(encode(text)) == text` for all text but U+2581, which comes back as a space.
    """

    def __init__(
        self, info: TokenizerInfo, files: Mapping[str, bytes], config: Config, origin: str
    ) -> None:
        """Use `load`. `files` are bytes by file name; `origin` names their place in errors."""
        self.name = info.name
        self.source = info.source  # the tokenizer.source it was fetched from, if it was
        self.sha256 = info.sha256[TOKENIZER_FILE]
        self._files = dict(files)
        self._tokenizer = parse(origin, files[TOKENIZER_FILE])
        self._stock = StockEngine(self._tokenizer)
        self._engine_name, self._origin = config.tokenizer.engine, origin
        self.vocab_size = config.model.vocab_size
        self.bos_id = config.tokenizer.bos_token_id
        self.eos_id = config.tokenizer.eos_token_id
        self.unk_id = config.tokenizer.unk_token_id
        self.pad_id = config.tokenizer.pad_token_id
        problems = list(misfits(self._tokenizer, config)) or list(self._failed_probes())
        if problems:
            raise TokenizerError(
                f"{origin}: this tokenizer does not fit the configuration:\n"
                + "\n".join(f"  - {problem}" for problem in problems),
                "Mend tokenizer.source, or the model and tokenizer sections of the configuration.",
            )

    @classmethod
    def load(cls, folder: Path, config: Config, name: str | None = None) -> Self:
        """Read a saved tokenizer, or a plain copy of the Hub's files, and check it.

        `name` replaces the one it was saved with. Raises TokenizerError naming what is wrong.
        """
        info, files = read_tokenizer_files(folder)
        if name is not None:
            info = info.model_copy(update={"name": name})
        return cls(info, files, config, origin=name or str(folder))

    @classmethod
    def load_for(cls, checkpoint: "Checkpoint", folder: Path) -> Self:
        """The tokenizer of a checkpoint: in `folder`, or where its own configuration had it.

        Models of several tokenizers are compared, which one configuration cannot name. One that
        does not say which it was trained with takes what is in `folder`. Raises CheckpointError
        if that is another, and TokenizerError if there is none.
        """
        wanted, own = checkpoint.tokenizer_sha256, checkpoint.config.paths.tokenizer_dir
        problem: CheckpointError | TokenizerError | None = None  # with `folder`, which comes first
        for place in (folder, own) if wanted and own != folder else (folder,):
            try:
                info, files = read_tokenizer_files(place)
            except TokenizerError as error:
                problem = problem or error
                continue
            found = info.sha256[TOKENIZER_FILE]
            if not wanted or found == wanted:
                return cls(info, files, checkpoint.config, origin=str(place))
            problem = problem or CheckpointError(
                f"{checkpoint.name}: was trained with another tokenizer (SHA-256 {wanted[:16]})"
                f" than the one in {place} ({found[:16]})",
                "Name the folder of its tokenizer: --set paths.tokenizer_dir=FOLDER",
            )
        assert problem is not None
        raise problem

    @property
    def json(self) -> bytes:
        """tokenizer.json, which alone decides the ids, as it was read."""
        return self._files[TOKENIZER_FILE]

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files, unchanged, and their digests into `folder`."""
        write_tokenizer_files(folder, self.name, self.source, self._files)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. Raises TokenizerError for a lone surrogate, which no UTF-8 text has."""
        ids: list[int] = self._as_uint16(self._stock.encode([text])[0]).tolist()
        return ids

    def encode_flat(self, texts: Sequence[str]) -> FlatIds:
        """Ids of all texts in order, on all cores, by the engine that `tokenizer.engine` names.

        Every id is below `vocab_size`, or TokenizerError is raised, as `encode` raises it. The
        first call also raises it if the engine cannot be had, or is not equal to the stock
        tokenizer. fastokens takes about three times the text in memory, the stock one 30 times.
        """
        assert not isinstance(texts, str), "one text is not a list of texts"
        ids, offsets = self._engine.encode(texts)
        return FlatIds(self._as_uint16(ids), offsets)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """One uint16 array of ids for each text, in order: `encode_flat`, split."""
        return self.encode_flat(texts).split()

    def check_against_stock(
        self, texts: Sequence[str], flat: FlatIds, numbers: Sequence[int]
    ) -> None:
        """Raise TokenizerError, showing the text, if some ids are not the stock tokenizer's.

        `flat` is what `encode_flat` gave for `texts`. Those of `numbers` are encoded once more,
        which takes the stock tokenizer about ten times as long. Where it is the engine itself
        there is nothing to do.
        """
        if self._engine is not self._stock:
            check_equal(self._engine.name, flat, self._stock, texts, numbers, self._origin)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, special ids left out; bytes that are no UTF-8 become U+FFFD.

        A piece at the start loses its leading space. Raises TokenizerError for an id that is not
        in the vocabulary.
        """
        plain = [int(token_id) for token_id in ids]
        for token_id in plain:
            if not 0 <= token_id < self.vocab_size:
                raise TokenizerError(
                    f"id {token_id} is not in the vocabulary of {self.name}",
                    f"Ids go from 0 to {self.vocab_size - 1}.",
                )
        return self._tokenizer.decode(plain, skip_special_tokens=True)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The vocabulary's entry of each id, such as "▁Hello" or "<0x0A>"."""
        return [self._tokenizer.id_to_token(token_id) or "" for token_id in ids]

    def token_bytes(self) -> list[int]:
        """How many bytes of UTF-8 text each id stands for; a special one stands for none.

        Their sum over the ids of a text is one more than its length in bytes: the encoder puts a
        space before each text. U+2581, which comes back as a space, counts as one.
        """
        return token_bytes(self._tokenizer)

    def summary(self) -> str:
        """What this tokenizer is, in a few lines for people."""
        special = (
            f"{BOS_PIECE} {self.bos_id}, {EOS_PIECE} {self.eos_id}, {UNK_PIECE} {self.unk_id},"
            f" padding {self.pad_id}"
        )
        return (
            f"tokenizer:  {self.name}\n"
            f"vocabulary: {self.vocab_size:,} tokens\n"
            f"special:    {special}\n"
            f"engine:     {engine_label(self._engine_name)}\n"
            f"sha256:     {self.sha256}"
        )

    @cached_property
    def _engine(self) -> Engine:
        """Made at the first use: a script that encodes a prompt does without it."""
        return bulk_engine(self._engine_name, self._stock, self.json, self._origin)

    def _as_uint16(self, ids: NDArray[np.uint32]) -> Ids:
        if ids.size and ids.max() >= self.vocab_size:
            raise TokenizerError(
                f"{self.name}: text encodes to id {ids.max()}, beyond its vocabulary of"
                f" {self.vocab_size:,}",
                FETCH_AGAIN,
            )
        return ids.astype(np.uint16)

    def _failed_probes(self) -> Iterator[str]:
        ids = self.encode(PROBE)
        if self.decode(ids) != PROBE:
            yield "text does not survive encoding and decoding"
        if {self.bos_id, self.eos_id, self.unk_id} & set(ids):
            yield "plain text encodes to special ids"


def fetch(config: Config) -> CodeLlamaTokenizer:
    """Copy the tokenizer from `tokenizer.source` into `paths.tokenizer_dir`, and load it.

    An absolute path is a local folder; anything else is a name on the Hugging Face Hub. What was
    saved before stays as it is until the new one is read and checked. Raises TokenizerError.
    """
    source, target = config.tokenizer.source, config.paths.tokenizer_dir
    folder = Path(source).expanduser()
    if folder.is_absolute():
        if not (folder / TOKENIZER_FILE).is_file():
            raise TokenizerError(
                f"tokenizer.source: {folder} is not a folder with {TOKENIZER_FILE}",
                "Give a folder with the files of a Hub repository, or a name on the Hub.",
            )
        tokenizer = CodeLlamaTokenizer.load(folder, config)
        if folder.resolve() == target.resolve():
            return tokenizer
    else:
        with tempfile.TemporaryDirectory() as downloaded:
            download_tokenizer_files(source, Path(downloaded))
            tokenizer = CodeLlamaTokenizer.load(Path(downloaded), config, name=source)
    tokenizer.source = source
    tokenizer.save(target)
    return CodeLlamaTokenizer.load(target, config)


def load_or_fetch(config: Config) -> CodeLlamaTokenizer:
    """The tokenizer saved in `paths.tokenizer_dir`; on first use it is fetched.

    Raises TokenizerError if it was fetched from another source than `tokenizer.source`, and
    BusyError if another process saves one at the same moment.
    """
    folder = config.paths.tokenizer_dir
    if (folder / TOKENIZER_FILE).exists():
        tokenizer = CodeLlamaTokenizer.load(folder, config)
        if not _is_from(config.tokenizer.source, tokenizer):
            raise TokenizerError(
                f"{folder}: was fetched from {tokenizer.source}, but tokenizer.source is"
                f" {config.tokenizer.source}",
                "Run `python tokenizer.py` to fetch the configured one, or mend tokenizer.source.",
            )
        return tokenizer
    say(f"no tokenizer in {folder} yet: fetching {config.tokenizer.source}")
    return fetch(config)


def _is_from(source: str, tokenizer: CodeLlamaTokenizer) -> bool:
    """Whether `source` is where it was fetched, or a folder, such as one that was moved, with it.

    Nothing is known of the source of a plain copy.
    """
    if tokenizer.source in (None, source):
        return True
    path = Path(source).expanduser() / TOKENIZER_FILE
    return path.is_absolute() and path.is_file() and sha256_of(path) == tokenizer.sha256


def main(arguments: Sequence[str]) -> None:
    args = _parser().parse_args(arguments)
    config = config_from(args)
    has_task = args.encode is not None or args.decode is not None
    if args.load is not None:
        tokenizer = CodeLlamaTokenizer.load(args.load, config)
        (say if has_task else emit)(tokenizer.summary())
    elif has_task:
        tokenizer = load_or_fetch(config)
    else:
        say(f"fetching {config.tokenizer.source}")
        tokenizer = fetch(config)
        say(f"saved in {config.paths.tokenizer_dir}", "green")
        emit(tokenizer.summary())
        tokenizer.encode_flat([])  # so that an engine that does not suit is known now
    if args.encode is not None:
        _show_encoding(tokenizer, args.encode)
    elif args.decode is not None:
        emit(tokenizer.decode(args.decode))


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(
        "Without an option: fetch the tokenizer named in the configuration and save it."
    )
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--encode", metavar="TEXT", help="show the ids and pieces of TEXT")
    task.add_argument(
        "--decode", type=_id_list, metavar="IDS", help='show the text of ids: "123,456,789"'
    )
    parser.add_argument(
        "--load", type=Path, metavar="FOLDER", help="use the tokenizer saved in FOLDER"
    )
    return parser


def _id_list(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of ids separated by commas, such as 123,456,789"
        ) from None


def _show_encoding(tokenizer: CodeLlamaTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    emit(f"ids: {','.join(map(str, ids))}")
    emit(f"pieces: {' '.join(tokenizer.pieces(ids))}")
    emit(f"tokens: {len(ids)}")
    emit(f"characters per token: {len(text) / max(len(ids), 1):.2f}")


if __name__ == "__main__":
    run_script(main)
