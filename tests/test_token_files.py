import io
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.small_tokens import (
    RECIPE,
    UNK,
    VOCABULARY,
    batch_of,
    documents,
    make_dataset,
    stream_of,
)
from utils.errors import DatasetError
from utils.preparing.token_writer import write_token_file
from utils.token_files import (
    DatasetMetadata,
    TokenFile,
    documents_path_of,
    entry_path_of,
    read_documents,
    read_entry,
    read_metadata,
    read_statistics,
    read_stream,
    remove_token_file,
    statistics_path_of,
    stored_stems,
    tokens_path_of,
    write_metadata,
)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    make_dataset(tmp_path, 30, 20)
    return tmp_path


def read_all(folder: Path, verify: bool = True) -> None:
    metadata = read_metadata(folder)
    for file in metadata.files:
        read_stream(folder, metadata, file, verify)


# Writing and reading


@pytest.mark.parametrize("stride", [1, 3, 4, 8])
def test_the_stream_comes_back(tmp_path: Path, stride: int) -> None:
    recipe = RECIPE.model_copy(update={"stride": stride})
    make_dataset(tmp_path, 30, 1, 200, recipe=recipe)
    metadata = read_metadata(tmp_path)
    assert metadata.recipe == recipe
    for number, file in enumerate(metadata.files):
        articles = documents(file.articles, number)
        stream, starts = read_stream(tmp_path, metadata, file)
        assert (stream.dtype.name, starts.dtype.name) == ("uint16", "int64")
        assert stream.flags.writeable
        assert stream.tolist() == stream_of(articles)
        lengths = [len(ids) + 2 for _, ids in articles]
        assert starts.tolist() == [sum(lengths[:i]) for i in range(len(lengths))]
        assert read_documents(tmp_path, file).tolist() == starts.tolist()


def test_arrays_are_plain_npy_of_the_promised_types(dataset: Path) -> None:
    metadata = read_metadata(dataset)
    for file in metadata.files:
        tokens = np.load(tokens_path_of(dataset, file.stem), allow_pickle=False)
        starts = np.load(documents_path_of(dataset, file.stem), allow_pickle=False)
        assert (tokens.dtype, tokens.shape) == (np.uint16, (file.windows, RECIPE.window))
        assert (starts.dtype, starts.shape) == (np.int64, (file.articles,))
        assert tokens.flags.c_contiguous


def test_metadata_adds_up(dataset: Path) -> None:
    metadata = read_metadata(dataset)
    articles = documents(30, 0) + documents(20, 1)
    assert metadata.articles == 50
    assert metadata.tokens == len(stream_of(articles))
    assert metadata.characters == sum(len(text) for text, _ in articles)
    assert metadata.utf8_bytes == 2 * metadata.characters
    assert metadata.characters_per_token == 1.0
    assert (metadata.unknown_tokens, metadata.unknown_share) == (0, 0.0)
    assert [file.stem for file in metadata.files] == ["part_0", "part_1"]


def test_unknown_tokens_are_counted(tmp_path: Path) -> None:
    ids = np.array([UNK, 5, 6, 7, UNK, 9, 10, 11], np.uint16)
    file = write_token_file(tmp_path, "a", "", RECIPE, [batch_of([("x" * 8, ids)])])
    assert file.unknown_tokens == 2
    assert DatasetMetadata.of(RECIPE, [file]).unknown_share == 0.25


def test_a_stream_shorter_than_a_window_has_no_windows(tmp_path: Path) -> None:
    short = [("abc", np.array([5, 6, 7], np.uint16))]
    file = write_token_file(tmp_path, "short", "", RECIPE, [batch_of(short)])
    assert (file.tokens, file.windows, file.articles) == (5, 0, 1)
    metadata = DatasetMetadata.of(RECIPE, [file])
    write_metadata(tmp_path, metadata)
    stream, starts = read_stream(tmp_path, read_metadata(tmp_path), file)
    assert (len(stream), len(starts), len(read_documents(tmp_path, file))) == (0, 0, 0)


def test_stems_are_found_and_removed(tmp_path: Path) -> None:
    for stem in ("part_10", "part_2", "documents_x", "a.b"):
        write_token_file(tmp_path, stem, "", RECIPE, [batch_of(documents(3))])
    entry_path_of(tmp_path, "part_2").unlink()
    (tmp_path / "tokens_notes.txt").write_text("not ours")
    assert stored_stems(tmp_path) == ["a.b", "documents_x", "part_2", "part_10"]
    for stem in stored_stems(tmp_path):
        remove_token_file(tmp_path, stem)
    assert [path.name for path in tmp_path.iterdir()] == ["tokens_notes.txt"]


def test_statistics_are_of_all_files(dataset: Path) -> None:
    statistics = read_statistics(dataset, read_metadata(dataset))
    articles = documents(30, 0) + documents(20, 1)
    ids = np.concatenate([ids for _, ids in articles])
    assert statistics.token_counts.tolist() == np.bincount(ids, minlength=VOCABULARY).tolist()
    assert statistics.articles == 50
    assert statistics.characters.total == sum(len(text) for text, _ in articles)
    assert statistics.tokens.total == len(ids) == read_metadata(dataset).text_tokens


def test_an_entry_is_a_dataset_of_one_file(dataset: Path) -> None:
    entry = read_entry(dataset, "part_1")
    assert entry is not None
    assert entry.files == [read_metadata(dataset).files[1]]
    assert read_entry(dataset, "part_7") is None
    entry_path_of(dataset, "part_7").write_bytes(entry_path_of(dataset, "part_1").read_bytes())
    with pytest.raises(DatasetError, match=r"tokens_part_7\.json: describes another file"):
        read_entry(dataset, "part_7")


def test_the_fingerprint_is_of_everything(tmp_path: Path) -> None:
    prints = {make_dataset(tmp_path / "a", 30).fingerprint}
    prints.add(make_dataset(tmp_path / "b", 30).fingerprint)
    assert len(prints) == 1
    for update in ({"stride": 2}, {"tokenizer_sha256": "1" * 64}, {"eos_token_id": 3}):
        recipe = RECIPE.model_copy(update=update)
        prints.add(make_dataset(tmp_path / str(update), 30, recipe=recipe).fingerprint)
    prints.add(make_dataset(tmp_path / "c", 31).fingerprint)
    assert len(prints) == 5


# What is refused


def test_documents_alone_are_checked_too(dataset: Path) -> None:
    file = read_metadata(dataset).files[0]
    path = documents_path_of(dataset, file.stem)
    good = path.read_bytes()
    path.write_bytes(good.replace(b"  \n", b" \t\n", 1))  # the padding of the header
    assert len(read_documents(dataset, file, verify=False)) == 30
    read_all(dataset, verify=False)
    refused(dataset, rf"{path.name}: its contents were changed")
    with pytest.raises(DatasetError, match=rf"{path.name}: its contents were changed"):
        read_documents(dataset, file)
    path.unlink()
    with pytest.raises(DatasetError, match=rf"{path.name}: missing"):
        read_documents(dataset, file)


def refused(folder: Path, message: str, verify: bool = True) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        read_all(folder, verify)
    assert "dataset_prep.py" in caught.value.hint


def test_statistics_of_other_text_are_refused(dataset: Path) -> None:
    path = statistics_path_of(dataset, "part_0")
    path.write_bytes(statistics_path_of(dataset, "part_1").read_bytes())
    message = r"statistics_part_0\.json: counts other text than that of part_0"
    with pytest.raises(DatasetError, match=message):
        read_entry(dataset, "part_0")
    path.unlink()
    with pytest.raises(DatasetError, match=r"statistics_part_0\.json: missing"):
        read_entry(dataset, "part_0")
    read_all(dataset)  # training needs no statistics


def test_a_folder_without_metadata_is_incomplete(dataset: Path) -> None:
    (dataset / "metadata.json").unlink()
    refused(dataset, r"no complete dataset here, metadata\.json is missing")
    refused(dataset / "absent", r"absent: no complete dataset here")


@pytest.mark.parametrize("path_of", [tokens_path_of, documents_path_of])
def test_a_missing_or_short_array_is_refused(
    dataset: Path, path_of: Callable[[Path, str], Path]
) -> None:
    path = path_of(dataset, "part_1")
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    refused(dataset, rf"{path.name}: is [\d,]+ bytes, but should be {len(content):,}")
    path.write_bytes(content + b"\0")
    refused(dataset, rf"{path.name}: is [\d,]+ bytes, but should be")
    path.unlink()
    refused(dataset, rf"{path.name}: missing")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path("exploded").touch, ()


def npy(array: Any, version: tuple[int, int] = (1, 0)) -> bytes:
    output = io.BytesIO()
    np.lib.format.write_array(output, array, version)
    return output.getvalue()


def as_large_as(content: bytes, size: int) -> bytes:
    return content[:size].ljust(size, b"\0")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (npy(np.zeros((100, 8), np.uint32)), r"<u4 \(100, 8\)"),
        (npy(np.zeros((9, 8), np.uint16)), r"<u2 \(9, 8\)"),
        (npy(np.zeros((8, 9), np.uint16, order="F")), r"<u2 \(8, 9\)"),
        (npy(np.array([Bomb()], object)), r"\|O \(1,\)"),
        (pickle.dumps(Bomb()), r"no \.npy array"),
        (npy(np.zeros((9, 8), np.uint16), (2, 0)), r"no \.npy array"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': [1, 'shape'", r"no \.npy array"),
        (b"PK\x03\x04", r"no \.npy array"),
        (b"", r"no \.npy array"),
    ],
)
def test_a_foreign_array_is_refused_and_nothing_runs(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, found: str
) -> None:
    monkeypatch.chdir(dataset)
    path = tokens_path_of(dataset, "part_0")
    path.write_bytes(as_large_as(content, path.stat().st_size))
    refused(dataset, rf"tokens_part_0\.npy: holds {found}, but should hold <u2 \(\d+, 8\)")
    assert not (dataset / "exploded").exists()


@pytest.mark.parametrize("path_of", [tokens_path_of, documents_path_of])
def test_random_flipped_bits_of_an_array_are_refused(
    dataset: Path, path_of: Callable[[Path, str], Path]
) -> None:
    path, chance = path_of(dataset, "part_0"), random.Random(0)
    good = path.read_bytes()
    for index in range(200):
        position = chance.randrange(128 if index % 2 else len(good))
        flipped = bytearray(good)
        flipped[position] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        refused(dataset, path.name)


def test_arrays_cut_at_random_are_refused(dataset: Path) -> None:
    path, chance = tokens_path_of(dataset, "part_0"), random.Random(0)
    good = path.read_bytes()
    for _ in range(100):
        path.write_bytes(good[: chance.randrange(len(good))])
        refused(dataset, r"tokens_part_0\.npy: is")


@pytest.mark.parametrize("name", ["metadata.json", "tokens_part_0.json"])
def test_random_flips_and_cuts_of_metadata_are_refused(dataset: Path, name: str) -> None:
    path, chance = dataset / name, random.Random(0)
    good = path.read_bytes()
    for _ in range(200):
        flipped = bytearray(good)
        flipped[chance.randrange(len(good) - 1)] ^= 1 << chance.randrange(8)
        for damaged in (bytes(flipped), good[: chance.randrange(len(good) - 2)]):
            path.write_bytes(damaged)
            with pytest.raises(DatasetError, match=rf"{name}: "):
                read_metadata(dataset) if name == "metadata.json" else read_entry(dataset, "part_0")


def test_a_wrong_digest_is_refused_where_the_structure_is_right(dataset: Path) -> None:
    path = tokens_path_of(dataset, "part_0")
    tokens = np.load(path)
    words = np.argwhere(tokens[0, :4] > 2)  # in the first window alone
    tokens[0, words[0, 0]] += 1 if tokens[0, words[0, 0]] < VOCABULARY - 1 else -1
    np.save(path, tokens)
    refused(dataset, r"tokens_part_0\.npy: its contents were changed \(wrong SHA-256\)")
    read_all(dataset, verify=False)


def test_windows_that_contradict_each_other_are_refused(dataset: Path) -> None:
    path = tokens_path_of(dataset, "part_0")
    tokens = np.load(path)
    tokens[3, 5] += 1
    np.save(path, tokens)
    refused(
        dataset, r"tokens_part_0\.npy: windows that overlap hold different tokens", verify=False
    )


def changed_starts(dataset: Path, change: Callable[[Any], None]) -> None:
    path = documents_path_of(dataset, "part_0")
    starts = np.load(path)
    change(starts)
    np.save(path, starts)


@pytest.mark.parametrize(
    "change",
    [
        lambda starts: starts.__setitem__(0, 1),
        lambda starts: starts.__setitem__(3, starts[2]),
        lambda starts: starts.__setitem__(3, starts[3] + 1),
        lambda starts: starts.__setitem__(-1, 10**9),
        lambda starts: starts.__setitem__(1, -5),
    ],
)
def test_documents_that_are_not_in_the_stream_are_refused(
    dataset: Path, change: Callable[[Any], None]
) -> None:
    changed_starts(dataset, change)
    message = r"tokens_part_0\.npy: the tokens are not the documents of documents_part_0\.npy"
    refused(dataset, message, verify=False)


def test_an_id_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    metadata = make_dataset(tmp_path, 30)
    recipe = RECIPE.model_copy(update={"vocab_size": 200})
    write_metadata(tmp_path, DatasetMetadata.of(recipe, metadata.files))
    refused(tmp_path, "the tokens are not the documents")


def rewrite(dataset: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = dataset / "metadata.json"
    values = json.loads(path.read_bytes())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(tokens=v["tokens"] + 1), "a value was changed"),
        (lambda v: v["files"][0].update(articles=29), "a value was changed"),
        (lambda v: v["files"].pop(), "a value was changed"),
        (lambda v: v.pop("stride"), "stride: Field required"),
        (lambda v: v.update(window="8"), r"window: Input should be a valid integer"),
        (lambda v: v.update(more=1), "more: Extra inputs are not permitted"),
        (lambda v: v["files"][0].update(stem="../x"), "stem: .* a stem is a file name without"),
        (lambda v: v["files"][0].update(stem="a\\b"), "stem: .* a stem is a file name without"),
        (lambda v: v["files"][0].update(stem=""), "stem: .* a stem is a file name without"),
        (lambda v: v.update(format_version=0), "format_version: Input should be 1"),
    ],
)
def test_changed_metadata_is_refused(
    dataset: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    rewrite(dataset, change)
    refused(dataset, rf"metadata\.json: damaged or not made by dataset_prep\.py: .*{message}")


def test_a_later_format_is_named(dataset: Path) -> None:
    rewrite(dataset, lambda values: values.update(format_version=2, shards=[]))
    refused(dataset, r"metadata\.json: has format version 2, but this program reads 1")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null", b"[" * 100_000])
def test_what_is_no_metadata_is_refused(dataset: Path, content: bytes) -> None:
    (dataset / "metadata.json").write_bytes(content)
    refused(dataset, r"metadata\.json: damaged or not made by dataset_prep\.py")


def test_a_forged_number_of_windows_is_refused(dataset: Path) -> None:
    metadata = read_metadata(dataset)
    values = metadata.files[0].model_dump()
    forged = TokenFile.model_validate({**values, "tokens": values["tokens"] + 9})
    with pytest.raises(ValueError, match=r"part_0: [0-9]+ tokens make other windows"):
        DatasetMetadata.of(RECIPE, [forged])
