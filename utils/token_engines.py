"""Text to ids in bulk: fastokens, and the stock tokenizers library as its referee.

fastokens is many times faster, and young. So it is compared with the stock tokenizer, on all kinds
of text and on every piece of the vocabulary before its first batch, and on any result that
`check_equal` is given; a difference is an error, and nothing takes its place unasked.
"""

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from utils.config import EngineName
from utils.errors import TokenizerError
from utils.tokenizer_files import TOKENIZER_FILE

USE_STOCK = "Use the slower stock tokenizer: --set tokenizer.engine=tokenizers"

_SURROGATE = re.compile("[\ud800-\udfff]")
_SHOWN_CHARACTERS = 40  # of a text, on each side of a difference
_SHOWN_IDS = 8
_PIECES_A_PROBE = 64

_KINDS_OF_TEXT = (
    "",
    " ",
    "The quick brown fox can't jump over 'lazy' \"dogs\" -- or so they say... (1984).",
    *(f"{' ' * count}x{' ' * count}" for count in range(1, 20)),
    "a\u00a0b\u2003c\u3000d\u200be\ufefff\u00adg\u200eh\u2060i",
    "0123456789 3.14159 1,000,000 ٣٤٥ ४५६ Ⅷ ½ x² 10⁻³",
    "Ελληνικά Русский Հայերեն עברית العربية हिन्दी ไทย ქართული አማርኛ 한국어 日本語 漢字 ᏣᎳᎩ",
    "naïve café e\u0301 q\u0323\u0307 ﬁ ŉ Å ẛ̣ Việt Nam",
    "🙂🧑🏽‍🚀👨‍👩‍👧‍👦🇫🇷🏴\U000e0067\U000e0062\U000e007f 1️⃣ ❤️ ☃\ufe0e",
    "𐍈 𝒳 𠀀 \ue000 \ufffd \ufffe \U0001ffff \U000f0000 \U0010ffff",
    "".join(map(chr, range(0x20))),
    "".join(map(chr, range(0x7F, 0xA1))),
    "one\r\n\r\ntwo\n\n\n three\t\tfour\vfive\fsix\u0085seven\u2028eight\u2029nine",
    "<s>a</s>b <s> </s> <unk><unk> <s></s",
    "<PRE> <SUF> <MID> <EOT> ▁<PRE>▁<SUF>▁<MID>▁<EOT> <FILL_ME> <0x0A> <0xFF> <|endoftext|>",
    "▁ ▁▁ a▁b▁ ▁c  ▁",
    "def f(x):\n\tif x<=0:\n        return {'k': [x**2, ~x]}  # 100%\n\n<a href=\"b\">c&amp;d</a>",
    r"\frac{1}{2} $$ C:\dir\n #include <x.h> ///// ===== ----- _____ ((((((",
    "http://www.example.org/a_b?c=%C3%A9&d=1#e someone@example.org",
    "x" * 3_000,
    "Donaudampfschifffahrtsgesellschaftskapitän" * 60,
    "長" * 1_000,
    "🚀" * 400,
    "\n" * 500,
)
_LONG_TEXT = "".join(f"{text}{number}" for number, text in enumerate(_KINDS_OF_TEXT * 8))
PROBES = (*_KINDS_OF_TEXT, _LONG_TEXT)  # the last is shared out among threads

RawIds = tuple[NDArray[np.uint32], NDArray[np.int64]]


class Engine(Protocol):
    name: str  # as of engine_label

    def encode(self, texts: Sequence[str]) -> RawIds:
        """All ids of all texts in one array, and its shape (texts + 1,) borders between them.

        No special ids are added, and text that looks like one stays text. Raises TokenizerError
        for a lone surrogate, which no UTF-8 text has.
        """


def engine_label(name: EngineName) -> str:
    """The name of an engine, which is its package's, with the version, for people."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name}, not installed"


class StockEngine:
    """The tokenizers library, whose ids are the right ones.

    `tokenizer` is set up to encode special tokens as text, and neither truncates nor pads.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.name = engine_label("tokenizers")
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> RawIds:
        try:
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:
            _raise_lone_surrogate(texts)
        ids = [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
        offsets = np.zeros(len(ids) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in ids], out=offsets[1:])
        return np.concatenate([np.empty(0, dtype=np.uint32), *ids]), offsets

    def every_piece(self) -> list[str]:
        """The whole vocabulary as texts, some pieces in each, a line each."""
        ids = self._tokenizer.get_vocab()
        pieces = sorted(ids, key=ids.__getitem__)
        starts = range(0, len(pieces), _PIECES_A_PROBE)
        return ["\n".join(pieces[start : start + _PIECES_A_PROBE]) for start in starts]

    def position_of(self, text: str, index: int) -> int:
        """The character of `text` at which its id number `index` begins, or its end."""
        spans = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return spans[index][0] if index < len(spans) else len(text)


class FastEngine:
    """fastokens, on all cores, also within one long text; it lets other Python threads run."""

    def __init__(self, content: bytes, origin: str) -> None:
        """`content` is that of tokenizer.json; `origin` names its place in errors."""
        try:
            import fastokens
        except ImportError as error:
            raise TokenizerError(
                f"tokenizer.engine is fastokens, which cannot be imported: {error}",
                f"Install it: pip install -r requirements.txt. {USE_STOCK}",
            ) from None
        try:
            self._tokenizer = fastokens.Tokenizer.from_json_str(content.decode())
        except ValueError as error:
            raise TokenizerError(
                f"{origin}: tokenizer.engine is fastokens, which cannot read this"
                f" {TOKENIZER_FILE}: {error}",
                USE_STOCK,
            ) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.name = engine_label("fastokens")

    def encode(self, texts: Sequence[str]) -> RawIds:
        try:
            ids, offsets = self._tokenizer.encode_batch_flat(list(texts), split_special_tokens=True)
        except UnicodeEncodeError:
            _raise_lone_surrogate(texts)
        return np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<u8").astype(np.int64)


def bulk_engine(name: EngineName, stock: StockEngine, content: bytes, origin: str) -> Engine:
    """The engine that `tokenizer.engine` names, equal to `stock` as far as the probes tell.

    Raises TokenizerError if it cannot be had, or differs.
    """
    if name == "tokenizers":
        return stock
    engine = FastEngine(content, origin)
    texts = [*PROBES, *stock.every_piece()]
    check_equal(engine.name, engine.encode(texts), stock, texts, range(len(texts)), origin)
    return engine


def check_equal(
    name: str,
    result: tuple[NDArray[np.unsignedinteger], NDArray[np.int64]],
    stock: StockEngine,
    texts: Sequence[str],
    numbers: Sequence[int],
    origin: str,
) -> None:
    """Raise TokenizerError, showing the text, if `stock` encodes one of these texts differently.

    `result` is what the engine called `name` gave for all `texts`; those of `numbers` are compared.
    """
    ids, offsets = result
    if len(offsets) != len(texts) + 1 or offsets[0] != 0 or offsets[-1] != len(ids):
        raise TokenizerError(
            f"{origin}: {name} gives {len(ids):,} ids in {len(offsets) - 1:,} texts for"
            f" {len(texts):,} texts, which end at {offsets[-1:].tolist()}",
            USE_STOCK,
        )
    stock_ids, stock_offsets = stock.encode([texts[number] for number in numbers])
    for number, (start, end) in zip(numbers, pairwise(stock_offsets.tolist()), strict=True):
        found, right = ids[offsets[number] : offsets[number + 1]], stock_ids[start:end]
        if not np.array_equal(found, right):
            where = f"text {number} of {len(texts)}"
            _raise_difference(
                name, found.tolist(), stock, right.tolist(), texts[number], where, origin
            )


def _raise_difference(
    name: str,
    found: list[int],
    stock: StockEngine,
    right: list[int],
    text: str,
    where: str,
    origin: str,
) -> NoReturn:
    pairs = enumerate(zip(found, right, strict=False))
    index = next((i for i, (a, b) in pairs if a != b), min(len(found), len(right)))
    position = stock.position_of(text, index)
    raise TokenizerError(
        f"{origin}: {name} and {stock.name} encode a text differently, {where} at character"
        f" {position}: {_around(text, position)}\n"
        f"  - {name}: {_ids_around(found, index)}\n"
        f"  - {stock.name}: {_ids_around(right, index)}",
        USE_STOCK,
    )


def _around(text: str, position: int) -> str:
    start, end = max(position - _SHOWN_CHARACTERS, 0), position + _SHOWN_CHARACTERS
    before, after = "..." if start else "", "..." if end < len(text) else ""
    return f"{before}{text[start:end]!r}{after}"


def _ids_around(ids: list[int], index: int) -> str:
    shown = ", ".join(map(str, ids[index : index + _SHOWN_IDS])) or "the end"
    return f"id number {index} on: {shown}{', ...' if index + _SHOWN_IDS < len(ids) else ''}"


def _raise_lone_surrogate(texts: Sequence[str]) -> NoReturn:
    """Name the first code point that is half a character."""
    for number, text in enumerate(texts):
        if found := _SURROGATE.search(text):
            where = f"text {number} of the batch, " if len(texts) > 1 else ""
            raise TokenizerError(
                f"{where}character {found.start()}: U+{ord(found[0]):04X} is a lone surrogate,"
                " which has no bytes in UTF-8 and so no tokens",
                "Clean the text first; cleaner.py leaves none.",
            ) from None
    raise AssertionError("the engines take every other text")
