"""CodeLlamaTokenizer.token_bytes: how much text each id stands for, against the text itself."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.small_text import ENGLISH, tokenizer_config
from tokenizer import CodeLlamaTokenizer
from utils.config import Config

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"))
SPACE_BEFORE = 1  # byte, which the encoder puts before each text that is not empty
TRICKY = [
    "",
    " ",
    "  two  spaces ",
    "\n\n\t",
    "</s> <s><unk>",
    "<0x41>",
    "漢字 🧑🏽‍🚀\x00",
    ENGLISH,
]


@pytest.fixture(scope="module")
def tiny(tiny_tokenizer_dir: Path) -> CodeLlamaTokenizer:
    return CodeLlamaTokenizer.load(tiny_tokenizer_dir, tokenizer_config(tiny_tokenizer_dir))


@pytest.fixture(scope="module")
def codellama(shared_dir: Path) -> CodeLlamaTokenizer:
    return CodeLlamaTokenizer.load(shared_dir / "tokenizers" / "codellama_hub_files", Config())


def check(tokenizer: CodeLlamaTokenizer, sizes: list[int], text: str) -> None:
    found = sum(sizes[token_id] for token_id in tokenizer.encode(text))
    assert found == len(text.encode()) + (SPACE_BEFORE if text else 0)


@given(TEXT)
def test_the_sum_is_the_length_of_any_text(tiny: CodeLlamaTokenizer, text: str) -> None:
    sizes = tiny.token_bytes()
    for each in (text, *TRICKY):
        check(tiny, sizes, each)


def test_the_sum_is_the_length_of_any_text_with_codellamas(codellama: CodeLlamaTokenizer) -> None:
    sizes = codellama.token_bytes()

    @given(TEXT)
    def check_one(text: str) -> None:
        check(codellama, sizes, text)

    check_one()
    for text in TRICKY:
        check(codellama, sizes, text)


def test_special_ids_are_no_text_and_byte_pieces_are_one_byte(tiny: CodeLlamaTokenizer) -> None:
    sizes = tiny.token_bytes()
    assert len(sizes) == tiny.vocab_size
    assert [sizes[token_id] for token_id in (tiny.bos_id, tiny.eos_id, tiny.unk_id)] == [0, 0, 0]
    pieces = tiny.pieces(range(tiny.vocab_size))
    byte_ids = [i for i, piece in enumerate(pieces) if piece.startswith("<0x")]
    assert [sizes[i] for i in byte_ids] == [1] * 256
    assert sizes[pieces.index("▁")] == 1
