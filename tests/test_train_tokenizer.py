import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer
from tokenizers import pre_tokenizers as pre

from demo import train_tokenizer as script
from demo.train_tokenizer import FIXED_PIECES, SPACE, train_tokenizer
from tests.conftest import REPOSITORY
from tests.small_text import ENGLISH, VOCABULARY, tokenizer_config, write_cleaned
from tokenizer import CodeLlamaTokenizer, fetch
from utils.errors import ConfigError, TokenizerError
from utils.tokenizer_files import TOKENIZER_FILE

TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(f" {SPACE}\n12et<s>"))


@pytest.fixture(scope="module")
def pieces(tiny_tokenizer_dir: Path) -> dict[str, int]:
    tokenizer = Tokenizer.from_file(str(tiny_tokenizer_dir / TOKENIZER_FILE))
    return tokenizer.get_vocab()


def test_the_layout_is_codellamas(tiny_tokenizer_dir: Path, shared_dir: Path) -> None:
    ours = json.loads((tiny_tokenizer_dir / TOKENIZER_FILE).read_bytes())
    folder = shared_dir / "tokenizers" / "codellama_hub_files"
    theirs = json.loads((folder / TOKENIZER_FILE).read_bytes())
    for values in (ours, theirs):
        for key in ("vocab", "merges"):
            values["model"].pop(key)
    assert ours["model"].pop("ignore_merges") is False  # the default, which older files leave out
    assert ours == theirs
    assert list(ours) == list(theirs)


def test_ids_start_with_the_control_tokens_and_bytes(pieces: dict[str, int]) -> None:
    assert len(pieces) == VOCABULARY
    assert sorted(pieces, key=pieces.__getitem__)[: len(FIXED_PIECES)] == list(FIXED_PIECES)
    assert (pieces["<unk>"], pieces["<s>"], pieces["</s>"], pieces["<0x00>"]) == (0, 1, 2, 3)


def test_no_piece_crosses_a_border(pieces: dict[str, int]) -> None:
    learned = [piece for piece in pieces if piece not in FIXED_PIECES]
    assert any(piece.startswith(SPACE) and len(piece) > 3 for piece in learned)
    assert not [piece for piece in learned if SPACE in piece.lstrip(SPACE)]
    assert not [piece for piece in learned if len(piece) > 1 and set(piece) & set("0123456789")]
    assert not [piece for piece in learned if "\n" in piece]


def test_each_character_of_a_piece_is_a_piece(pieces: dict[str, int]) -> None:
    assert set("".join(pieces)) <= set(pieces)


@settings(max_examples=300, deadline=None)
@given(text=TEXT)
def test_ids_are_the_same_with_the_borders_of_training(text: str, tiny_tokenizer_dir: Path) -> None:
    saved = Tokenizer.from_file(str(tiny_tokenizer_dir / TOKENIZER_FILE))
    saved.encode_special_tokens = True
    ids = saved.encode(text).ids
    saved.pre_tokenizer = pre.Sequence(
        [
            pre.Split(Regex(r"[0-9\n]"), "isolated"),
            pre.Split(Regex(f"{SPACE}+[^{SPACE}]*"), "isolated"),
        ]
    )
    assert saved.encode(text).ids == ids


def test_the_same_text_gives_the_same_bytes_on_any_number_of_cores(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.small_text import *;"
        "from demo.train_tokenizer import train_tokenizer;"
        "train_tokenizer(ENGLISH.split('\\n'), Path(sys.argv[1]), VOCABULARY)"
    )
    digests = set()
    for threads in ("1", "2", "3"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        folder = tmp_path / threads
        subprocess.run(
            [sys.executable, "-c", code, str(folder)], cwd=REPOSITORY, env=environment, check=True
        )
        digests.add(hashlib.sha256((folder / TOKENIZER_FILE).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_it_learns_the_text(tiny_tokenizer_dir: Path) -> None:
    tokenizer = CodeLlamaTokenizer.load(tiny_tokenizer_dir, tokenizer_config(tiny_tokenizer_dir))
    assert len(ENGLISH) / len(tokenizer.encode(ENGLISH)) > 2


def test_rare_characters_become_bytes(tmp_path: Path) -> None:
    train_tokenizer([ENGLISH, ENGLISH, "漢"], tmp_path, VOCABULARY)
    vocabulary = Tokenizer.from_file(str(tmp_path / TOKENIZER_FILE)).get_vocab()
    assert "漢" not in vocabulary
    assert "e" in vocabulary


@pytest.mark.parametrize("vocab_size", [100, 5000])
def test_a_text_that_cannot_fill_the_vocabulary_is_refused(tmp_path: Path, vocab_size: int) -> None:
    message = rf"the text yields [\d,]+ tokens, but {vocab_size:,} are wanted"
    with pytest.raises(TokenizerError, match=message) as caught:
        train_tokenizer([ENGLISH], tmp_path, vocab_size)
    assert "model.vocab_size" in caught.value.hint
    assert not (tmp_path / TOKENIZER_FILE).exists()


def test_the_script_writes_the_source_that_tokenizer_py_fetches(tmp_path: Path) -> None:
    config = tokenizer_config(tmp_path, tokenizer={"source": "./source"})
    write_cleaned(config.paths.cleaned_dir, "a", ENGLISH.split("\n\n"))
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json())
    script.main(["--config", str(path)])
    assert fetch(config).vocab_size == VOCABULARY


def test_a_hub_name_is_no_place_to_write(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer\.source is codellama/.* Hugging Face Hub"):
        script.main(["--config", str(path)])
