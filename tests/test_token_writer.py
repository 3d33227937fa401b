"""utils/preparing/token_writer.py: batches to the files of one text, whole or not at all."""

import errno
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.small_tokens import RECIPE, Article, batch_of, documents, make_dataset, stream_of
from utils.errors import DatasetError
from utils.files import sha256_of
from utils.preparing.token_writer import TokenBatch, write_token_file
from utils.token_files import (
    DatasetMetadata,
    documents_path_of,
    entry_path_of,
    read_entry,
    read_stream,
    statistics_path_of,
    tokens_path_of,
)

PATHS_OF = (tokens_path_of, documents_path_of, statistics_path_of, entry_path_of)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def in_batches(articles: list[Article], borders: list[int]) -> Iterator[TokenBatch]:
    for begin, end in itertools.pairwise([0, *borders, len(articles)]):
        yield batch_of(articles[begin:end])


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 30), max_size=12),
    st.lists(st.integers(0, 12), max_size=5),
    st.sampled_from([(2, 1), (8, 4), (8, 8), (50, 13)]),
)
def test_batches_make_the_stream_and_leave_no_trace(
    lengths: list[int], borders: list[int], shape: tuple[int, int]
) -> None:
    articles = [("x" * n, np.arange(3, 3 + n, dtype=np.uint16)) for n in lengths]
    borders = sorted(min(border, len(articles)) for border in borders)
    recipe = RECIPE.model_copy(update={"window": shape[0], "stride": shape[1]})
    with tempfile.TemporaryDirectory() as name:
        whole, cut = Path(name, "whole"), Path(name, "cut")
        file = write_token_file(whole, "a", "", recipe, [batch_of(articles)])
        assert write_token_file(cut, "a", "", recipe, in_batches(articles, borders)) == file
        assert contents(whole) == contents(cut)
        assert (file.articles, file.tokens) == (len(articles), len(stream_of(articles)))
        if file.windows:
            stream, starts = read_stream(whole, DatasetMetadata.of(recipe, [file]), file)
            assert stream.tolist() == stream_of(articles)
            assert starts.tolist() == [0, *np.cumsum([n + 2 for n in lengths]).tolist()][:-1]


def test_the_digests_are_those_of_the_files(tmp_path: Path) -> None:
    file = write_token_file(tmp_path, "a", "", RECIPE, [batch_of(documents(50))])
    for path_of, stored in (
        (tokens_path_of, file.tokens_array),
        (documents_path_of, file.documents_array),
    ):
        path = path_of(tmp_path, "a")
        assert (stored.sha256, stored.size_bytes) == (sha256_of(path), path.stat().st_size)


def test_no_articles_make_an_empty_file(tmp_path: Path) -> None:
    for batches in ([], [batch_of([])]):
        file = write_token_file(tmp_path, "a", "", RECIPE, batches)
        assert (file.articles, file.tokens, file.windows, file.utf8_bytes) == (0, 0, 0, 0)
        assert read_entry(tmp_path, "a") is not None


def test_an_error_while_reading_leaves_all_as_it_was(tmp_path: Path) -> None:
    make_dataset(tmp_path, 30)
    before = contents(tmp_path)

    def failing() -> Iterator[TokenBatch]:
        yield batch_of(documents(5))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_token_file(tmp_path, "part_0", "", RECIPE, failing())
    assert contents(tmp_path) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", range(1, 9))  # a file and its folder, of each of the four
def test_a_full_disk_is_named_and_leaves_nothing_partial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: int
) -> None:
    batches = [batch_of(documents(30))]
    write_token_file(tmp_path / "whole", "a", "", RECIPE, batches)
    whole = contents(tmp_path / "whole")
    calls = itertools.count(1)

    def full(descriptor: int) -> None:
        if next(calls) == call:
            raise OSError(number, os.strerror(number))

    folder = tmp_path / "full"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DatasetError, match=rf"tokens_a\.npy: .*{os.strerror(number)}") as caught:
        write_token_file(folder, "a", "", RECIPE, batches)
    assert "same command again" in caught.value.hint
    left = contents(folder)
    assert left.items() <= whole.items()
    assert ("tokens_a.json" in left) == (call == 8)
