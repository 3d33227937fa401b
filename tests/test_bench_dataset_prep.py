"""bench/dataset_prep.py on a text of a few kilobytes."""

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import dataset_prep as bench
from bench.measure import Timing
from tests.conftest import REPOSITORY
from tests.small_text import ENGLISH, tokenizer_config, write_cleaned
from tokenizer import CodeLlamaTokenizer, FlatIds
from utils.articles import cleaned_files, read_articles, read_marker
from utils.config import Config
from utils.errors import DatasetError
from utils.preparing.article_batches import check_content, check_size
from utils.token_files import DatasetMetadata, Recipe

ARTICLES = ENGLISH.split("\n\n")


@pytest.fixture
def config(tmp_path: Path, tiny_tokenizer_dir: Path) -> Config:
    config = tokenizer_config(tmp_path, tokenizer={"source": str(tiny_tokenizer_dir)})
    write_cleaned(config.paths.cleaned_dir, "a", ARTICLES[:2])
    write_cleaned(config.paths.cleaned_dir, "b", ARTICLES[2:])
    return config


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_it_runs_and_ends_with_a_json_line(tmp_path: Path, config: Config) -> None:
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json())
    options = ["--config", str(path), "--repeats", "2", "--megabytes", "0.02", "--files", "3"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.dataset_prep", *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    section, _, last = done.stdout.rstrip().rpartition("\n")
    values = json.loads(last)
    assert values["bench"] == "dataset_prep"
    assert 20_000 <= values["bytes"] < 20_000 + 3 * len(ENGLISH)
    timings = values["timings"]
    assert list(timings) == [bench.TOKENIZE, bench.PREPARE, bench.START]
    rounds = zip(timings[bench.TOKENIZE]["wall"], timings[bench.PREPARE]["wall"], strict=True)
    assert values["ratio"] == statistics.median(peer / ours for peer, ours in rounds) > 0
    assert len(values["memory_bytes"]) == 3
    assert all(size >= 0 for size in values["memory_bytes"].values())
    assert str(tmp_path) not in section


def test_the_table_says_how_fast_it_is_against_the_tokenizer() -> None:
    recipe = Recipe(
        window=16,
        stride=8,
        tokenizer_name="x",
        tokenizer_sha256="",
        vocab_size=600,
        bos_token_id=1,
        eos_token_id=2,
        unk_token_id=0,
    )
    timings = {
        bench.TOKENIZE: Timing(cpu=(2, 3), wall=(1, 2)),
        bench.PREPARE: Timing(cpu=(5, 4), wall=(2, 4)),
        bench.START: Timing(cpu=(1, 1), wall=(1.5, 1)),
    }
    assert bench.ratio_to_tokenizer(timings, bench.PREPARE) == 0.5
    body = bench._body(DatasetMetadata.of(recipe, []), 12_000_000, timings, {"a file": 7_000_000})
    assert re.search(r"\| encode_flat +\| +8\.0 \| +6\.0 \| +1\.00 x \|", body)
    assert re.search(r"\| dataset_prep +\| +4\.0 \| +3\.0 \| +0\.50 x \|", body)
    assert "Reached: 0.50 x" in body
    assert "the 1.0 s in which" in body


def test_a_corpus_repeats_the_articles_and_is_sound(tmp_path: Path, config: Config) -> None:
    corpus = bench.corpus_config(config, tmp_path / "corpus")
    size_bytes = bench.write_corpus(config.paths.cleaned_dir, corpus, 2, 5_000)
    paths = cleaned_files(corpus.paths.cleaned_dir)
    assert size_bytes == sum(path.stat().st_size for path in paths) >= 10_000
    articles = [article for path in paths for article in read_articles(path)]
    assert articles == [ARTICLES[i % len(ARTICLES)] for i in range(len(articles))]
    assert [text for batch in bench.read_text(corpus) for text in batch] == articles
    for path in paths:
        check_size(path, read_marker(path))
        check_content(path, read_marker(path))


def test_a_dataset_of_other_tokens_ends_the_bench(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = CodeLlamaTokenizer.encode_flat, []

    def one_more(self: CodeLlamaTokenizer, texts: list[str]) -> FlatIds:
        ids, offsets = encode(self, texts)
        calls.append(texts)
        if len(calls) > 1:
            return FlatIds(ids, offsets)
        return FlatIds(np.append(ids, ids[-1:]), offsets)

    monkeypatch.setattr(CodeLlamaTokenizer, "encode_flat", one_more)
    with pytest.raises(DatasetError, match=r"[\d,]+ tokens prepared of [\d,]+"):
        bench.compare(config, repeats=1)
