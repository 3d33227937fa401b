import gzip
import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.train_tokenizer import FIXED_PIECES
from tests.small_text import ENGLISH, VOCABULARY, tokenizer_config
from tests.test_tokenizer import TRICKY, load_json, small_tokenizer
from tokenizer import CodeLlamaTokenizer, FlatIds
from utils import token_engines
from utils.config import Config
from utils.errors import TokenizerError
from utils.token_engines import PROBES, FastEngine, RawIds
from utils.tokenizer_files import TOKENIZER_FILE

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
# What hypothesis seldom makes: words, and the signs that mean something to a tokenizer.
WORDS = ["the", "of", "ing", "é", "e\u0301", "漢字", "🧑🏽‍🚀", "1", "234", "http://", "_", ".", '"']
MARKS = ["<s>", "</s>", "<unk>", "<PRE>", "<0x0A>", "\u2581", "\u2029", "\n", "\t", "\x00", "  "]
SIGNS = [*WORDS, *MARKS, *(f" {sign}" for sign in (*WORDS, *MARKS))]
TEXT = ANY_TEXT | st.lists(st.sampled_from(SIGNS) | ANY_TEXT).map("".join)
CHUNK_CHARACTERS = 2_000_000  # compared at a time
RECORDS_OF_EACH_FILE = 8  # in the quick comparison

Encode = Callable[[list[str]], list[list[int]]]


@pytest.fixture(scope="session")
def codellama(shared_dir: Path) -> CodeLlamaTokenizer:
    return CodeLlamaTokenizer.load(shared_dir / "tokenizers" / "codellama_hub_files", Config())


@pytest.fixture(scope="session")
def sentencepiece_encode(shared_dir: Path) -> Encode:
    sentencepiece = pytest.importorskip("sentencepiece")
    path = shared_dir / "tokenizers" / "codellama_hub_files" / "tokenizer.model"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    encode: Encode = processor.encode
    return encode


@pytest.fixture(scope="session")
def transformers_encode(shared_dir: Path) -> Encode:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(
        shared_dir / "tokenizers" / "codellama_hub_files", split_special_tokens=True
    )

    def encode(texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    return encode


@pytest.fixture(scope="session")
def assert_equal(
    codellama: CodeLlamaTokenizer, transformers_encode: Encode, sentencepiece_encode: Encode
) -> Callable[[list[str]], None]:
    """Asserts that fastokens, transformers and SentencePiece give texts the same ids."""

    def check(texts: list[str]) -> None:
        ours = [ids.tolist() for ids in codellama.encode_flat(texts).split()]
        for encode in (transformers_encode, sentencepiece_encode):
            for text, found, expected in zip(texts, ours, encode(texts), strict=True):
                assert found == expected, text

    return check


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tokenizer_config(tmp_path)


@pytest.fixture(scope="module")
def demo_like(tiny_tokenizer_dir: Path) -> CodeLlamaTokenizer:
    return CodeLlamaTokenizer.load(tiny_tokenizer_dir, tokenizer_config(tiny_tokenizer_dir))


@pytest.fixture
def tiny(tiny_tokenizer_dir: Path, config: Config) -> CodeLlamaTokenizer:
    """The same, before its engine is made."""
    return CodeLlamaTokenizer.load(tiny_tokenizer_dir, config)


def strings_of(value: object) -> Iterator[str]:
    """Every string in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings_of(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings_of(item)


def shared_texts(shared_dir: Path, records: int | None) -> Iterator[str]:
    """The text of all, or the first, records of each file of real data."""
    for path in sorted((shared_dir / "data").rglob("*.*")):
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            for line in islice(file, records):
                text = "\n".join(strings_of(json.loads(line)))
                # the files hold escaped halves of characters, which no tokenizer takes
                yield text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def chunks(texts: Iterable[str], size_characters: int) -> Iterator[list[str]]:
    chunk, size = [], 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= size_characters:
            yield chunk
            chunk, size = [], 0
    yield chunk


# Equal to transformers and SentencePiece


def test_ids_equal_the_peers_on_real_text(
    shared_dir: Path, assert_equal: Callable[[list[str]], None]
) -> None:
    for chunk in chunks(shared_texts(shared_dir, RECORDS_OF_EACH_FILE), CHUNK_CHARACTERS):
        assert_equal(chunk)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ids_equal_the_peers_on_all_real_text(
    shared_dir: Path, assert_equal: Callable[[list[str]], None]
) -> None:
    for chunk in chunks(shared_texts(shared_dir, None), CHUNK_CHARACTERS):
        assert_equal(chunk)


def test_ids_equal_the_peers_on_the_probes(assert_equal: Callable[[list[str]], None]) -> None:
    assert_equal([*PROBES, *TRICKY])


@settings(max_examples=1_000, deadline=None)
@given(text=TEXT)
def test_ids_equal_the_peers_for_any_text(
    text: str, assert_equal: Callable[[list[str]], None]
) -> None:
    assert_equal([text])


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None)
@given(text=TEXT)
def test_ids_equal_the_peers_for_very_many_texts(
    text: str, assert_equal: Callable[[list[str]], None]
) -> None:
    assert_equal([text])


def code_points() -> Iterator[str]:
    return (chr(point) for point in range(0x110000) if not 0xD800 <= point <= 0xDFFF)


def test_ids_equal_sentencepiece_for_every_code_point(
    codellama: CodeLlamaTokenizer, sentencepiece_encode: Encode
) -> None:
    lines = (f"{sign}\na{sign}b\n {sign}{sign}\n" for sign in code_points())
    texts = ["".join(part) for part in chunks(lines, 10_000)]
    for text, ids in zip(texts, codellama.encode_batch(texts), strict=True):
        assert ids.tolist() == sentencepiece_encode([text])[0]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ids_equal_the_peers_for_every_code_point_in_a_text_of_its_own(
    assert_equal: Callable[[list[str]], None],
) -> None:
    texts = (text for sign in code_points() for text in (sign, f"a{sign}b", f" {sign}{sign}"))
    for chunk in chunks(texts, 100_000):
        assert_equal(chunk)


@settings(max_examples=300, deadline=None)
@given(text=TEXT)
def test_both_engines_are_equal_for_a_tokenizer_of_the_demo(
    text: str, demo_like: CodeLlamaTokenizer
) -> None:
    assert demo_like.encode_flat([text]).ids.tolist() == demo_like.encode(text)


# The shape of what comes back


def test_flat_ids_are_all_texts_one_after_another(tiny: CodeLlamaTokenizer) -> None:
    texts = ["", ENGLISH, "", *TRICKY, ""]
    ids, offsets = flat = tiny.encode_flat(texts)
    assert ids.dtype == np.uint16
    assert offsets.dtype == np.int64
    assert offsets.shape == (len(texts) + 1,)
    assert (offsets[0], offsets[-1]) == (0, len(ids))
    expected = [tiny.encode(text) for text in texts]
    assert [ids[offsets[i] : offsets[i + 1]].tolist() for i in range(len(texts))] == expected
    assert [part.tolist() for part in flat.split()] == expected
    offsets += 1  # it is the caller's to change


@pytest.mark.parametrize("engine", ["fastokens", "tokenizers"])
def test_no_texts_and_empty_texts_have_no_ids(
    engine: str, tmp_path: Path, tiny_tokenizer_dir: Path
) -> None:
    config = tokenizer_config(tmp_path, tokenizer={"engine": engine})
    tokenizer = CodeLlamaTokenizer.load(tiny_tokenizer_dir, config)
    for texts in ([], [""], ["", ""]):
        ids, offsets = tokenizer.encode_flat(texts)
        assert (ids.tolist(), offsets.tolist()) == ([], [0] * (len(texts) + 1))
        assert ids.dtype == np.uint16
        assert offsets.dtype == np.int64


def test_a_single_string_is_no_list_of_texts(tiny: CodeLlamaTokenizer) -> None:
    with pytest.raises(AssertionError, match="not a list of texts"):
        tiny.encode_flat("abc")


def test_threads_may_encode_at_the_same_time(tiny: CodeLlamaTokenizer) -> None:
    texts = [f"{ENGLISH}{number}" for number in range(100)]
    expected = tiny.encode_flat(texts).ids.tolist()
    found: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: found.append(tiny.encode_flat(texts).ids.tolist()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_a_truncation_setting_in_the_file_is_ignored_in_bulk(
    tmp_path: Path, tiny_tokenizer_dir: Path, tiny: CodeLlamaTokenizer, config: Config
) -> None:
    values = json.loads((tiny_tokenizer_dir / TOKENIZER_FILE).read_bytes())
    values["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    loaded = load_json(tmp_path / "cutting", json.dumps(values), config)
    assert loaded.encode_flat([ENGLISH]).ids.tolist() == tiny.encode(ENGLISH)


# The referee


def alter(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Sequence[str], RawIds], RawIds]
) -> None:
    """Let `change` have its way with what fastokens gives for texts."""
    right = FastEngine.encode
    monkeypatch.setattr(FastEngine, "encode", lambda self, texts: change(texts, right(self, texts)))


def alter_id(monkeypatch: pytest.MonkeyPatch, sign: str, place: int, wrong_id: int) -> None:
    """Put a wrong id at `place` of the texts that contain `sign`."""

    def change(texts: Sequence[str], result: RawIds) -> RawIds:
        ids, offsets = result[0].copy(), result[1]
        for number, text in enumerate(texts):
            if sign in text:
                ids[offsets[number] : offsets[number + 1]][place] = wrong_id
        return ids, offsets

    alter(monkeypatch, change)


def check(tokenizer: CodeLlamaTokenizer, texts: list[str]) -> None:
    """Let the referee look at all that the engine gives."""
    tokenizer.check_against_stock(texts, tokenizer.encode_flat(texts), range(len(texts)))


def shown_ids(error: TokenizerError, engine: str) -> str:
    """The ids that an error shows for an engine."""
    line = next(line for line in error.what.splitlines() if line.startswith(f"  - {engine}"))
    return line.partition(" on: ")[2]


@pytest.mark.parametrize("sign", ["</s>", "\u2029", "🏴", "  x", "<0x41>", "Vi\u1ec7t"])
def test_an_engine_that_differs_on_a_probe_is_refused(
    sign: str, monkeypatch: pytest.MonkeyPatch, tiny: CodeLlamaTokenizer
) -> None:
    alter_id(monkeypatch, sign, -1, 7)
    with pytest.raises(TokenizerError, match="encode a text differently") as caught:
        tiny.encode_flat(["fine"])
    assert shown_ids(caught.value, "fastokens") == "7"
    assert shown_ids(caught.value, "tokenizers") not in ("7", "the end")
    assert "--set tokenizer.engine=tokenizers" in caught.value.hint
    assert tiny.encode("a single text needs no engine")


def test_a_difference_in_a_sample_shows_the_text(
    monkeypatch: pytest.MonkeyPatch, tiny: CodeLlamaTokenizer
) -> None:
    before = f"{ENGLISH} the qu"
    sample = ["fine", f"{before}\u2028een {ENGLISH}", ENGLISH]
    check(tiny, sample)
    place = len(tiny.encode(before))
    alter_id(monkeypatch, "\u2028", place, 9)
    with pytest.raises(TokenizerError) as caught:
        check(tiny, sample)
    what = caught.value.what
    assert f"text 1 of 3 at character {len(before)}: ..." in what
    assert r"the qu\u2028een" in what  # control characters are spelled out
    assert len(what) < 600
    first, second, third, *_ = tiny.encode(sample[1])[place:]
    assert shown_ids(caught.value, "fastokens").startswith(f"9, {second}, {third}")
    assert shown_ids(caught.value, "tokenizers").startswith(f"{first}, {second}, {third}")
    assert "--set tokenizer.engine=tokenizers" in caught.value.hint
    check(tiny, [ENGLISH])


@pytest.mark.parametrize(("count", "shown"), [(-1, "the end"), (1, "9")])
def test_ids_that_are_missing_or_too_many_are_a_difference(
    count: int, shown: str, monkeypatch: pytest.MonkeyPatch, tiny: CodeLlamaTokenizer
) -> None:
    check(tiny, ["a river"])
    alter(
        monkeypatch,
        lambda texts, result: (
            np.append(result[0], np.uint32(9))[: len(result[0]) + count],
            result[1] + np.array([0, count]),
        ),
    )
    with pytest.raises(TokenizerError, match=r"text 0 of 1 at character \d: 'a river'") as caught:
        check(tiny, ["a river"])
    assert shown_ids(caught.value, "fastokens") == shown


def test_a_border_at_the_wrong_place_is_a_difference(
    monkeypatch: pytest.MonkeyPatch, tiny: CodeLlamaTokenizer
) -> None:
    check(tiny, ["a river", "a bridge"])
    alter(monkeypatch, lambda texts, result: (result[0], result[1] + np.array([0, 1, 0])))
    with pytest.raises(TokenizerError, match="text 0 of 2"):
        check(tiny, ["a river", "a bridge"])


def test_a_tokenizer_that_fastokens_gets_wrong_is_refused(tmp_path: Path) -> None:
    """A true difference of 0.3.5: pieces with a character that is no piece, such as "<" here."""
    tokenizer = small_tokenizer(["▁", "s"], [])
    config = tokenizer_config(tmp_path, model={"vocab_size": len(FIXED_PIECES) + 2})
    loaded = load_json(tmp_path / "orphans", tokenizer.to_str(), config)
    with pytest.raises(TokenizerError, match=r"fastokens .+ and tokenizers .+ encode a text diff"):
        loaded.encode_flat(["fine"])


def test_the_slices_of_the_result_are_compared_and_no_others(tiny: CodeLlamaTokenizer) -> None:
    texts = ["a river", "a bridge", "a library"]
    ids, offsets = flat = tiny.encode_flat(texts)
    ids[offsets[1]] = 9
    tiny.check_against_stock(texts, flat, [])
    tiny.check_against_stock(texts, flat, [0, 2])
    with pytest.raises(TokenizerError, match="text 1 of 3 at character 0: 'a bridge'") as caught:
        tiny.check_against_stock(texts, flat, [1, 2])
    assert shown_ids(caught.value, "fastokens").startswith("9, ")


@pytest.mark.parametrize("part", [slice(0, -1), slice(1, None)])
def test_ids_of_fewer_texts_are_refused(part: slice, tiny: CodeLlamaTokenizer) -> None:
    texts = ["a river", "a bridge", "a library"]
    ids, offsets = tiny.encode_flat(texts)
    with pytest.raises(TokenizerError, match=r"gives \d+ ids in 2 texts for 3 texts"):
        tiny.check_against_stock(texts, FlatIds(ids, offsets[part]), [])


# Which engine


def test_the_stock_engine_does_without_fastokens(
    tmp_path: Path,
    tiny_tokenizer_dir: Path,
    tiny: CodeLlamaTokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = tiny.encode_flat([ENGLISH, *TRICKY])
    monkeypatch.setitem(sys.modules, "fastokens", None)
    config = tokenizer_config(tmp_path, tokenizer={"engine": "tokenizers"})
    stock = CodeLlamaTokenizer.load(tiny_tokenizer_dir, config)
    found = stock.encode_flat([ENGLISH, *TRICKY])
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.offsets.tolist() == expected.offsets.tolist()
    check(stock, [ENGLISH])
    assert "engine:     tokenizers" in stock.summary()
    assert "engine:     fastokens" in tiny.summary()


def test_fastokens_that_is_not_installed_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tiny: CodeLlamaTokenizer
) -> None:
    monkeypatch.setitem(sys.modules, "fastokens", None)
    message = "tokenizer.engine is fastokens, which cannot be imported"
    for bulk in (tiny.encode_flat, tiny.encode_batch, partial(check, tiny)):
        with pytest.raises(TokenizerError, match=message) as caught:
            bulk([ENGLISH])
        assert "requirements.txt" in caught.value.hint
        assert "--set tokenizer.engine=tokenizers" in caught.value.hint
    assert tiny.decode(tiny.encode(ENGLISH)) == ENGLISH


def test_a_file_that_fastokens_cannot_read_is_an_error(
    tmp_path: Path, tiny_tokenizer_dir: Path, config: Config
) -> None:
    values = json.loads((tiny_tokenizer_dir / TOKENIZER_FILE).read_bytes())
    values["normalizer"]["normalizers"].append({"type": "NFC"})
    values["normalizer"]["normalizers"].append({"type": "StripAccents"})
    loaded = load_json(tmp_path / "unread", json.dumps(values), config)
    message = r"unread: tokenizer\.engine is fastokens, which cannot read this tokenizer\.json: .+"
    with pytest.raises(TokenizerError, match=message) as caught:
        loaded.encode_flat([ENGLISH])
    assert "--set tokenizer.engine=tokenizers" in caught.value.hint


def test_every_piece_of_the_vocabulary_is_probed(
    monkeypatch: pytest.MonkeyPatch, tiny: CodeLlamaTokenizer
) -> None:
    compared: list[str] = []
    original = token_engines.check_equal

    def spy(
        name: str, result: Any, stock: Any, texts: list[str], numbers: list[int], origin: str
    ) -> None:
        compared.extend(texts[number] for number in numbers)
        original(name, result, stock, texts, numbers, origin)

    monkeypatch.setattr(token_engines, "check_equal", spy)
    tiny.encode_flat([])
    lines = {line for text in compared for line in text.split("\n")}
    assert set(tiny.pieces(range(VOCABULARY))) <= lines
    assert set(PROBES) <= set(compared)
