import hashlib
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

import tokenizer as script
from demo.train_tokenizer import FIXED_PIECES, codellama_layout
from tests.conftest import REPOSITORY
from tests.small_text import ENGLISH, VOCABULARY, tokenizer_config
from tokenizer import CodeLlamaTokenizer, fetch, load_or_fetch
from utils.checkpoint import Checkpoint
from utils.config import Config
from utils.errors import BusyError, CheckpointError, TokenizerError
from utils.files import copy_file, sole_writer
from utils.tokenizer_files import COMPANION_FILES, INFO_FILE, TOKENIZER_FILE

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"))
TRICKY = [
    "",
    " ",
    "  two  spaces  ",
    "\n\n\t",
    "</s>",
    "a</s>b <s> <unk>",
    "<0x41>",
    "naïve café 漢字 🧑🏽‍🚀",
    "x\u2029y\u00ad\x00\x7f\ufeff",
    "  <PRE> code <EOT>",
]


@pytest.fixture
def config(tmp_path: Path, tiny_tokenizer_dir: Path) -> Config:
    return tokenizer_config(tmp_path, tokenizer={"source": str(tiny_tokenizer_dir)})


@pytest.fixture(scope="session")
def tiny(tiny_tokenizer_dir: Path) -> CodeLlamaTokenizer:
    return CodeLlamaTokenizer.load(tiny_tokenizer_dir, tokenizer_config(tiny_tokenizer_dir))


@pytest.fixture(scope="session")
def codellama(shared_dir: Path) -> CodeLlamaTokenizer:
    return CodeLlamaTokenizer.load(shared_dir / "tokenizers" / "codellama_hub_files", Config())


@pytest.fixture(scope="session")
def reference(shared_dir: Path) -> Callable[[str], list[int]]:
    """CodeLlama's own SentencePiece model."""
    sentencepiece = pytest.importorskip("sentencepiece")
    path = shared_dir / "tokenizers" / "codellama_hub_files" / "tokenizer.model"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    encode: Callable[[str], list[int]] = processor.encode
    return encode


def small_tokenizer(pieces: Sequence[str], merges: list[tuple[str, str]]) -> Tokenizer:
    """CodeLlama's layout around the fixed pieces and a few more."""
    vocabulary = {piece: number for number, piece in enumerate((*FIXED_PIECES, *pieces))}
    model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    return codellama_layout(model)


def load_json(folder: Path, values: str | bytes, config: Config) -> CodeLlamaTokenizer:
    folder.mkdir(exist_ok=True)
    (folder / TOKENIZER_FILE).write_bytes(values.encode() if isinstance(values, str) else values)
    return CodeLlamaTokenizer.load(folder, config)


# Encoding and decoding


@pytest.mark.parametrize("text", TRICKY)
def test_ids_equal_sentencepiece(
    text: str, codellama: CodeLlamaTokenizer, reference: Callable[[str], list[int]]
) -> None:
    assert codellama.encode(text) == reference(text)


@settings(max_examples=300, deadline=None)
@given(text=TEXT)
def test_ids_equal_sentencepiece_for_any_text(
    text: str, codellama: CodeLlamaTokenizer, reference: Callable[[str], list[int]]
) -> None:
    assert codellama.encode(text) == reference(text)
    assert codellama.decode(codellama.encode(text)) == text


def test_known_ids_of_codellama(codellama: CodeLlamaTokenizer) -> None:
    assert codellama.encode("Hello world") == [15043, 3186]
    assert codellama.encode(" ") == [259]
    assert codellama.encode("") == []
    assert (codellama.vocab_size, codellama.name) == (32_016, "codellama_hub_files")


@settings(max_examples=300, deadline=None)
@given(text=TEXT)
def test_any_text_survives(text: str, tiny: CodeLlamaTokenizer) -> None:
    ids = tiny.encode(text)
    assert tiny.decode(ids) == text
    assert not {tiny.bos_id, tiny.eos_id, tiny.unk_id} & set(ids)


@pytest.mark.parametrize("text", TRICKY)
def test_control_tokens_in_text_stay_text(text: str, tiny: CodeLlamaTokenizer) -> None:
    ids = tiny.encode(text)
    assert tiny.decode([tiny.bos_id, *ids, tiny.eos_id]) == text
    assert not {0, 1, 2} & set(ids)


def test_the_one_exception_is_the_space_sign(tiny: CodeLlamaTokenizer) -> None:
    assert tiny.decode(tiny.encode("a\u2581b")) == "a b"


def test_a_batch_is_uint16_in_order_and_equal_to_single_texts(tiny: CodeLlamaTokenizer) -> None:
    texts = [*TRICKY, ENGLISH]
    batch = tiny.encode_batch(texts)
    assert all(ids.dtype == np.uint16 for ids in batch)
    assert [ids.tolist() for ids in batch] == [tiny.encode(text) for text in texts]
    assert max(int(ids.max()) for ids in batch if len(ids)) < tiny.vocab_size
    assert tiny.encode_batch([]) == []


def test_a_lone_surrogate_is_named(tiny: CodeLlamaTokenizer) -> None:
    with pytest.raises(
        TokenizerError, match=r"^character 2: U\+D83D is a lone surrogate"
    ) as caught:
        tiny.encode("ab\ud83d")
    assert "Clean the text" in caught.value.hint
    with pytest.raises(TokenizerError, match=r"^text 1 of the batch, character 0: U\+DC80"):
        tiny.encode_batch(["fine", "\udc80"])


def test_an_id_beyond_the_vocabulary_is_never_given_out(
    config: Config, tiny_tokenizer_dir: Path
) -> None:
    tokenizer = CodeLlamaTokenizer.load(tiny_tokenizer_dir, config)
    tokenizer.vocab_size = max(tokenizer.encode("abc"))
    with pytest.raises(TokenizerError, match=r"text encodes to id \d+, beyond its vocabulary of"):
        tokenizer.encode_batch(["fine", "abc"])


@pytest.mark.parametrize("token_id", [-1, VOCABULARY, 2**40])
def test_an_unknown_id_is_refused(token_id: int, tiny: CodeLlamaTokenizer) -> None:
    with pytest.raises(TokenizerError, match=f"id {token_id} is not in the vocabulary") as caught:
        tiny.decode([5, token_id])
    assert f"0 to {VOCABULARY - 1}" in caught.value.hint


def test_incomplete_characters_become_replacement_characters(tiny: CodeLlamaTokenizer) -> None:
    assert "\ufffd" in tiny.decode(np.array([3 + 0xF0, 3 + 0x9F]))


# What is refused


def test_every_misfit_is_named_at_once(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    config = tokenizer_config(
        tmp_path,
        model={"vocab_size": VOCABULARY + 1},
        tokenizer={"bos_token_id": 7, "eos_token_id": 8, "unk_token_id": 9},
    )
    with pytest.raises(TokenizerError, match="does not fit the configuration") as caught:
        CodeLlamaTokenizer.load(tiny_tokenizer_dir, config)
    assert re.search(r"it has 600 tokens, but model\.vocab_size is 601", caught.value.what)
    for piece, found, key, wanted in (
        ("<s>", 1, "bos", 7),
        ("</s>", 2, "eos", 8),
        ("<unk>", 0, "unk", 9),
    ):
        line = f"{piece} has id {found}, but tokenizer.{key}_token_id is {wanted}"
        assert line in caught.value.what
    assert "tokenizer.source" in caught.value.hint


def test_a_token_added_beside_the_vocabulary_is_counted(
    tmp_path: Path, tiny_tokenizer_dir: Path, config: Config
) -> None:
    grown = Tokenizer.from_file(str(tiny_tokenizer_dir / TOKENIZER_FILE))
    grown.add_special_tokens(["<FILL_ME>"])
    with pytest.raises(TokenizerError, match="it has 601 tokens, but"):
        load_json(tmp_path / "grown", grown.to_str(), config)


def test_ids_with_gaps_are_refused(
    tmp_path: Path, tiny_tokenizer_dir: Path, config: Config
) -> None:
    values = json.loads((tiny_tokenizer_dir / TOKENIZER_FILE).read_bytes())
    last = max(values["model"]["vocab"], key=values["model"]["vocab"].__getitem__)
    values["model"]["vocab"][last] = 5000
    with pytest.raises(TokenizerError, match="its ids are not 0 to 599"):
        load_json(tmp_path / "gaps", json.dumps(values), config)


def test_a_tokenizer_without_byte_fallback_is_refused(tmp_path: Path, config: Config) -> None:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    message = r"no BPE with byte fallback \(256 of 256 byte tokens are missing\)"
    with pytest.raises(TokenizerError, match=message):
        load_json(tmp_path / "words", words.to_str(), config)


def test_a_tokenizer_that_loses_text_is_refused(
    tmp_path: Path, tiny_tokenizer_dir: Path, config: Config
) -> None:
    values = json.loads((tiny_tokenizer_dir / TOKENIZER_FILE).read_bytes())
    values["normalizer"]["normalizers"].append({"type": "Lowercase"})
    with pytest.raises(TokenizerError, match="text does not survive encoding and decoding"):
        load_json(tmp_path / "lossy", json.dumps(values), config)


def test_a_tokenizer_that_makes_special_ids_of_text_is_refused(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(["▁", "<", "s", ">", "<s"], [("<", "s"), ("<s", ">")])
    config = tokenizer_config(tmp_path, model={"vocab_size": len(FIXED_PIECES) + 5})
    with pytest.raises(TokenizerError, match="plain text encodes to special ids"):
        load_json(tmp_path / "merging", tokenizer.to_str(), config)


def test_a_truncation_setting_in_the_file_is_ignored(
    tmp_path: Path, tiny_tokenizer_dir: Path, tiny: CodeLlamaTokenizer, config: Config
) -> None:
    cutting = Tokenizer.from_file(str(tiny_tokenizer_dir / TOKENIZER_FILE))
    cutting.enable_truncation(max_length=4)
    cutting.enable_padding(length=4000)
    loaded = load_json(tmp_path / "cutting", cutting.to_str(), config)
    assert loaded.encode(ENGLISH) == tiny.encode(ENGLISH)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"version": "1.0"', b"[1, 2]"])
def test_what_is_no_tokenizer_is_refused(content: bytes, tmp_path: Path, config: Config) -> None:
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.json is damaged or no tokenizer"
    ) as caught:
        load_json(tmp_path / "foreign", content, config)
    assert "python tokenizer.py" in caught.value.hint


def test_an_absent_tokenizer_names_the_command(tmp_path: Path, config: Config) -> None:
    with pytest.raises(
        TokenizerError, match=r"no tokenizer here \(tokenizer\.json is missing\)"
    ) as c:
        CodeLlamaTokenizer.load(tmp_path, config)
    assert "python tokenizer.py" in c.value.hint


def test_damage_to_a_saved_tokenizer_is_always_found(config: Config) -> None:
    fetch(config)
    path = config.paths.tokenizer_dir / TOKENIZER_FILE
    good, chance = path.read_bytes(), random.Random(0)
    for _ in range(30):
        flipped = bytearray(good)
        flipped[chance.randrange(len(good))] ^= 1 << chance.randrange(8)
        for damaged in (bytes(flipped), good[: chance.randrange(len(good))]):
            path.write_bytes(damaged)
            with pytest.raises(TokenizerError, match=r"tokenizer\.json: missing, or not the file"):
                CodeLlamaTokenizer.load(config.paths.tokenizer_dir, config)


def test_a_damaged_or_incomplete_record_of_digests_is_refused(config: Config) -> None:
    fetch(config)
    path = config.paths.tokenizer_dir / INFO_FILE
    path.write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer_info\.json: damaged"):
        CodeLlamaTokenizer.load(config.paths.tokenizer_dir, config)
    path.write_text('{"name": "x", "sha256": {}}')
    with pytest.raises(TokenizerError, match="missing, or not the file that was saved"):
        CodeLlamaTokenizer.load(config.paths.tokenizer_dir, config)


# The tokenizer of a checkpoint


def other_than(folder: Path, source: Path) -> Path:
    """A folder whose tokenizer is the one in `source` but for a line end."""
    folder.mkdir()
    (folder / TOKENIZER_FILE).write_bytes((source / TOKENIZER_FILE).read_bytes() + b"\n")
    return folder


def test_a_checkpoint_finds_its_own_tokenizer(
    tmp_path: Path, tiny_tokenizer_dir: Path, tiny: CodeLlamaTokenizer
) -> None:
    """In its own folder, whatever is wrong with the one that is configured now."""
    own = tokenizer_config(tmp_path, paths={"tokenizer_dir": str(tiny_tokenizer_dir)})
    checkpoint = Checkpoint(own, {}, tokenizer_sha256=tiny.sha256, name="a.pt")
    other = other_than(tmp_path / "other", tiny_tokenizer_dir)
    damaged = tmp_path / "damaged"
    tiny.save(damaged)
    (damaged / INFO_FILE).write_text("{")
    for folder in (other, damaged, tmp_path / "absent", Path("x" * 300)):
        assert CodeLlamaTokenizer.load_for(checkpoint, folder).sha256 == tiny.sha256


def test_a_checkpoint_that_does_not_say_takes_the_configured_one(
    tmp_path: Path, tiny_tokenizer_dir: Path
) -> None:
    own = tokenizer_config(tmp_path, paths={"tokenizer_dir": str(tiny_tokenizer_dir)})
    other = other_than(tmp_path / "other", tiny_tokenizer_dir)
    found = CodeLlamaTokenizer.load_for(Checkpoint(own, {}), other)
    assert found.json == (other / TOKENIZER_FILE).read_bytes()
    with pytest.raises(TokenizerError, match="absent: no tokenizer here"):
        CodeLlamaTokenizer.load_for(Checkpoint(own, {}), tmp_path / "absent")


def test_the_configured_folder_is_the_one_that_errors_are_about(
    tmp_path: Path, tiny_tokenizer_dir: Path
) -> None:
    own = tokenizer_config(tmp_path, paths={"tokenizer_dir": str(tmp_path / "gone")})
    checkpoint = Checkpoint(own, {}, tokenizer_sha256="b" * 64, name="a.pt")
    with pytest.raises(CheckpointError, match=f"than the one in {tiny_tokenizer_dir}"):
        CodeLlamaTokenizer.load_for(checkpoint, tiny_tokenizer_dir)
    with pytest.raises(TokenizerError, match="absent: no tokenizer here"):
        CodeLlamaTokenizer.load_for(checkpoint, tmp_path / "absent")
    with pytest.raises(TokenizerError, match="its tokenizer cannot be read: File name too long"):
        CodeLlamaTokenizer.load_for(checkpoint, Path("x" * 300))


def test_each_tokenizer_is_hashed_once(
    tmp_path: Path,
    tiny_tokenizer_dir: Path,
    tiny: CodeLlamaTokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = tokenizer_config(tmp_path, paths={"tokenizer_dir": str(tiny_tokenizer_dir)})
    checkpoint = Checkpoint(own, {}, tokenizer_sha256=tiny.sha256)
    other = other_than(tmp_path / "other", tiny_tokenizer_dir)
    hashed: list[int] = []
    sha256 = hashlib.sha256

    def counting(content: bytes) -> Any:
        hashed.append(len(content))
        return sha256(content)

    monkeypatch.setattr(hashlib, "sha256", counting)
    CodeLlamaTokenizer.load_for(checkpoint, other)
    assert hashed == [len(tiny.json) + 1, len(tiny.json)]


# Fetching and saving


def test_fetch_copies_a_local_folder(config: Config, tiny: CodeLlamaTokenizer) -> None:
    fetched = fetch(config)
    assert fetched.sha256 == tiny.sha256
    assert fetched.encode(ENGLISH) == tiny.encode(ENGLISH)
    assert fetched.name == Path(config.tokenizer.source).name
    assert (fetched.bos_id, fetched.eos_id, fetched.unk_id, fetched.pad_id) == (1, 2, 0, 2)
    assert load_or_fetch(config).sha256 == tiny.sha256


def test_save_and_load_keep_every_file_and_the_name(
    tmp_path: Path, shared_dir: Path, codellama: CodeLlamaTokenizer
) -> None:
    codellama.save(tmp_path / "copy")
    again = CodeLlamaTokenizer.load(tmp_path / "copy", Config())
    assert (again.name, again.sha256) == (codellama.name, codellama.sha256)
    for name in (TOKENIZER_FILE, *COMPANION_FILES):
        source = shared_dir / "tokenizers" / "codellama_hub_files" / name
        assert (tmp_path / "copy" / name).read_bytes() == source.read_bytes()


def test_saving_replaces_another_tokenizer_whole(config: Config) -> None:
    folder = config.paths.tokenizer_dir
    folder.mkdir(parents=True)
    (folder / COMPANION_FILES[1]).write_text("of another tokenizer")
    fetch(config)
    assert not (folder / COMPANION_FILES[1]).exists()


class CutOffError(Exception):
    pass


def cut_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, but its call of this number, from 1, raises instead."""
    calls = itertools.count(1)

    def cutting(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            raise CutOffError
        return function(*args, **kwargs)

    return cutting


@pytest.mark.parametrize("step", ["unlink", "replace"])
def test_a_save_that_is_cut_off_at_any_step_is_the_old_one_or_none(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    source = tmp_path / "another"
    source.mkdir()
    for name in COMPANION_FILES:
        (source / name).write_text(f"{name} of another tokenizer")
    copy_file(Path(config.tokenizer.source) / TOKENIZER_FILE, source / TOKENIZER_FILE)
    other = tokenizer_config(tmp_path, tokenizer={"source": str(source)})
    folder = config.paths.tokenizer_dir
    cuts = 0
    for call in itertools.count(1):
        shutil.rmtree(folder, ignore_errors=True)
        old = fetch(config)
        with monkeypatch.context() as patch:
            patch.setattr(Path, step, cut_at(call, getattr(Path, step)))
            try:
                fetch(other)
                break
            except CutOffError:
                cuts += 1
        if (step, call) == ("unlink", 1):  # the first step is to remove the old one
            assert CodeLlamaTokenizer.load(folder, config).name == old.name
            continue
        with pytest.raises(TokenizerError, match="no tokenizer here"):
            CodeLlamaTokenizer.load(folder, config)
        assert load_or_fetch(other).name == "another"
    assert cuts == len({TOKENIZER_FILE, INFO_FILE, *COMPANION_FILES})
    assert CodeLlamaTokenizer.load(folder, config).name == "another"


def test_a_tokenizer_of_another_source_is_refused(tmp_path: Path, config: Config) -> None:
    fetch(config)
    folder = config.paths.tokenizer_dir
    other = tokenizer_config(tmp_path, tokenizer={"source": "some/tokenizer"})
    message = f"{folder}: was fetched from {config.tokenizer.source}, but tokenizer.source is some/"
    with pytest.raises(TokenizerError, match=re.escape(message)) as caught:
        load_or_fetch(other)
    assert "Run `python tokenizer.py` to fetch the configured one" in caught.value.hint
    assert load_or_fetch(config).source == config.tokenizer.source


def test_a_source_folder_may_move(tmp_path: Path, config: Config) -> None:
    first = fetch(config)
    moved = shutil.copytree(config.tokenizer.source, tmp_path / "moved")
    other = tokenizer_config(tmp_path, tokenizer={"source": str(moved)})
    assert load_or_fetch(other).sha256 == first.sha256
    with (moved / TOKENIZER_FILE).open("a") as file:
        file.write("\n")
    with pytest.raises(TokenizerError, match="was fetched from"):
        load_or_fetch(other)


def test_another_process_that_saves_one_is_named(config: Config) -> None:
    with (
        sole_writer(config.paths.tokenizer_dir, "saving a tokenizer to"),
        pytest.raises(BusyError, match="another process is saving a tokenizer to this folder"),
    ):
        load_or_fetch(config)
    load_or_fetch(config)


def test_a_failed_fetch_leaves_the_saved_tokenizer(tmp_path: Path, config: Config) -> None:
    fetch(config)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / TOKENIZER_FILE).write_text("{}")
    other = tokenizer_config(tmp_path, tokenizer={"source": str(broken)})
    with pytest.raises(TokenizerError, match=f"^{broken}: tokenizer.json is damaged"):
        fetch(other)
    CodeLlamaTokenizer.load(config.paths.tokenizer_dir, config)


def test_the_tokenizer_folder_may_be_its_own_source(
    tmp_path: Path, tiny_tokenizer_dir: Path
) -> None:
    config = tokenizer_config(tmp_path, tokenizer={"source": f"{tmp_path}/tokenizer"})
    copy_file(tiny_tokenizer_dir / TOKENIZER_FILE, config.paths.tokenizer_dir / TOKENIZER_FILE)
    assert fetch(config).name == "tokenizer"
    assert not (config.paths.tokenizer_dir / INFO_FILE).exists()


def test_a_source_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    config = tokenizer_config(tmp_path, tokenizer={"source": "./absent"})
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.source: .*absent is not a folder"
    ) as caught:
        fetch(config)
    assert "Hub" in caught.value.hint


# The Hub


class FakeHub(BaseHTTPRequestHandler):
    """The part of the Hub's protocol that a download of small files needs."""

    files: ClassVar[dict[str, bytes]]
    served: ClassVar[list[str]]
    commit = "0123456789" * 4

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/some/tokenizer/tree/"):
            listing = [
                {"type": "file", "path": name, "size": len(content), "oid": f"{number:040}"}
                for number, (name, content) in enumerate(self.files.items())
            ]
            self._send(json.dumps(listing).encode(), with_body)
        elif path.startswith("/api/models/some/tokenizer"):
            siblings = [{"rfilename": name} for name in self.files]
            info = {"id": "some/tokenizer", "sha": self.commit, "siblings": siblings}
            self._send(json.dumps(info).encode(), with_body)
        elif path.startswith("/some/tokenizer/resolve/") and Path(path).name in self.files:
            if with_body:
                self.served.append(Path(path).name)
            self._send(self.files[Path(path).name], with_body)
        else:
            self.send_error(404)

    def _send(self, content: bytes, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{len(content):040}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    FakeHub.files, FakeHub.served = {}, []
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run_on_hub(
    hub: str, tmp_path: Path, *arguments: str, source: str = "some/tokenizer"
) -> subprocess.CompletedProcess[str]:
    config = tmp_path / "config.json"
    model = {"vocab_size": VOCABULARY}
    values = {"model": model, "tokenizer": {"source": source}, "paths": {"tokenizer_dir": "saved"}}
    config.write_text(json.dumps(values))
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "tokenizer.py", "--config", str(config), *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)


def test_the_hub_serves_the_tokenizer_and_nothing_else(
    hub: str, tmp_path: Path, tiny_tokenizer_dir: Path
) -> None:
    content = (tiny_tokenizer_dir / TOKENIZER_FILE).read_bytes()
    FakeHub.files = {
        TOKENIZER_FILE: content,
        "tokenizer_config.json": b"{}",
        "model.safetensors": b"weights",
    }
    done = run_on_hub(hub, tmp_path, "--encode", "The river")
    assert done.returncode == 0, done.stderr
    assert "no tokenizer in" in done.stderr
    assert sorted(FakeHub.served) == [TOKENIZER_FILE, "tokenizer_config.json"]
    assert (tmp_path / "saved" / TOKENIZER_FILE).read_bytes() == content
    info = json.loads((tmp_path / "saved" / INFO_FILE).read_bytes())
    assert info["name"] == info["source"] == "some/tokenizer"
    FakeHub.served.clear()
    assert run_on_hub(hub, tmp_path, "--encode", "The river").stdout == done.stdout
    assert FakeHub.served == []


def test_a_repository_without_tokenizer_json_is_named(hub: str, tmp_path: Path) -> None:
    FakeHub.files = {"model.safetensors": b"weights"}
    done = run_on_hub(hub, tmp_path)
    assert done.returncode == 1
    assert "some/tokenizer: has no tokenizer.json on the Hugging Face Hub" in done.stderr


@pytest.mark.parametrize("source", ["no/such", "not a//name"])
def test_a_wrong_name_is_named(hub: str, tmp_path: Path, source: str) -> None:
    done = run_on_hub(hub, tmp_path, source=source)
    assert done.returncode == 1
    assert f"{source}: cannot be downloaded from the Hugging Face Hub" in done.stderr
    assert not (tmp_path / "saved").exists()


def test_no_network_is_a_quick_and_clear_error(tmp_path: Path) -> None:
    start_seconds = time.monotonic()
    done = run_on_hub("http://127.0.0.1:9", tmp_path)
    assert time.monotonic() - start_seconds < 15
    assert done.returncode == 1
    assert done.stdout == ""
    assert "some/tokenizer: cannot be downloaded" in done.stderr
    assert "--set tokenizer.source=/absolute/path" in done.stderr
    assert "Traceback" not in done.stderr


# The commands


@pytest.fixture
def command(tmp_path: Path, tiny_tokenizer_dir: Path) -> list[str]:
    path = tmp_path / "config.json"
    values = {
        "model": {"vocab_size": VOCABULARY},
        "tokenizer": {"source": str(tiny_tokenizer_dir)},
        "paths": {"tokenizer_dir": "saved"},
    }
    path.write_text(json.dumps(values))
    return ["--config", str(path)]


def test_without_an_option_it_fetches_and_shows(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: CodeLlamaTokenizer
) -> None:
    script.main(command)
    shown = capsys.readouterr()
    assert "vocabulary: 600 tokens" in shown.out
    assert "special:    <s> 1, </s> 2, <unk> 0, padding 2" in shown.out
    assert tiny.sha256 in shown.out
    assert f"saved in {tmp_path / 'saved'}" in shown.err
    assert (tmp_path / "saved" / INFO_FILE).is_file()


def test_single_texts_and_the_summary_need_no_fastokens(
    command: list[str],
    tiny_tokenizer_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def probe(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(script, "bulk_engine", probe)
    for options in (["--encode", "a"], ["--decode", "5"], ["--load", str(tiny_tokenizer_dir)]):
        script.main([*command, *options])
        script.main([*command, "--load", str(tiny_tokenizer_dir), *options])
    assert "engine:     fastokens " in capsys.readouterr().out


def test_what_was_saved_is_said_before_the_engine_is_tried(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "fastokens", None)
    with pytest.raises(TokenizerError, match="fastokens, which cannot be imported"):
        script.main(command)
    shown = capsys.readouterr()
    assert f"saved in {tmp_path / 'saved'}" in shown.err
    assert "vocabulary: 600 tokens" in shown.out


def test_encode_and_decode_are_inverse(
    command: list[str], capsys: pytest.CaptureFixture[str], tiny: CodeLlamaTokenizer
) -> None:
    text = "The </s> river, 12 été"
    script.main([*command, "--encode", text])
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    ids = tiny.encode(text)
    assert lines["ids"] == ",".join(map(str, ids))
    assert lines["tokens"] == str(len(ids))
    assert lines["pieces"] == " ".join(tiny.pieces(ids))
    assert lines["pieces"].startswith("▁T")
    assert lines["characters per token"] == f"{len(text) / len(ids):.2f}"
    script.main([*command, "--decode", lines["ids"]])
    assert capsys.readouterr().out == f"{text}\n"


def test_encoding_nothing_gives_no_tokens(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    script.main([*command, "--encode", ""])
    assert capsys.readouterr().out.splitlines()[2] == "tokens: 0"


def test_load_uses_another_folder(
    command: list[str], tiny_tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main([*command, "--load", str(tiny_tokenizer_dir)])
    assert "vocabulary: 600 tokens" in capsys.readouterr().out
    script.main([*command, "--load", str(tiny_tokenizer_dir), "--decode", "1, 68,2"])
    shown = capsys.readouterr()
    assert shown.out == "A\n"
    assert "vocabulary: 600 tokens" in shown.err
    with pytest.raises(TokenizerError, match="no tokenizer here"):
        script.main([*command, "--load", "absent"])


@pytest.mark.parametrize("ids", ["", "1,x", "1;2", "1,,2"])
def test_a_list_that_is_none_is_wrong_usage(
    command: list[str], capsys: pytest.CaptureFixture[str], ids: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        script.main([*command, f"--decode={ids}"])
    assert caught.value.code == 2
    assert "is not a list of ids separated by commas" in capsys.readouterr().err


def test_bytes_that_are_no_text_are_refused(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, b"tokenizer.py", *command, b"--encode", b"ab\xff"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "character 2: U+DCFF is a lone surrogate" in done.stderr


def test_a_plain_copy_of_hub_files_loads(tmp_path: Path, shared_dir: Path) -> None:
    copy = tmp_path / "mine"
    shutil.copytree(shared_dir / "tokenizers" / "codellama_hub_files", copy)
    assert CodeLlamaTokenizer.load(copy, Config()).name == "mine"
