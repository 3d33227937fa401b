import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dataset_prep as script
from dataset_prep import prepare_dataset
from tests.conftest import REPOSITORY
from tests.small_text import ENGLISH, tokenizer_config, write_cleaned
from tokenizer import CodeLlamaTokenizer, FlatIds, load_or_fetch
from utils.articles import (
    CleanedMarker,
    cleaned_files,
    marker_path_of,
    read_articles,
    read_marker,
    text_path_of,
    write_marker,
)
from utils.config import Config
from utils.errors import (
    BusyError,
    ConfigError,
    DataError,
    DatasetError,
    Interrupted,
    TokenizerError,
)
from utils.files import LOCK_NAME, sole_writer
from utils.preparing import article_batches, pool
from utils.terminal import Progress
from utils.token_engines import FastEngine, RawIds
from utils.token_files import entry_path_of, read_metadata, read_stream, tokens_path_of

PARAGRAPHS = ENGLISH.split("\n\n")


def made_up_articles(seed: int, count: int) -> list[str]:
    """Some with one paragraph, some with many, some empty, some that look like control tokens."""
    chance = random.Random(seed)
    words = [*ENGLISH.split(), "</s>", "<s>", "<unk>", "漢字", "🧑‍🚀"]
    return [
        "\n".join(
            " ".join(chance.choices(words, k=chance.randint(1, 40)))
            for _ in range(chance.randint(0, 4))
        )
        for _ in range(count)
    ]


@pytest.fixture
def config(tmp_path: Path, tiny_tokenizer_dir: Path) -> Config:
    """Three cleaned files; the last has more articles than the others."""
    config = tokenizer_config(tmp_path, tokenizer={"source": str(tiny_tokenizer_dir)})
    for number, count in ((0, 20), (2, 15), (10, 40)):
        write_cleaned(config.paths.cleaned_dir, f"part_{number}", made_up_articles(number, count))
    (tmp_path / "config.json").write_text(config.model_dump_json())
    return config


@pytest.fixture
def command(tmp_path: Path, config: Config) -> list[str]:
    return ["--config", str(tmp_path / "config.json")]


def with_settings(config: Config, **settings: Any) -> Config:
    changed = config.dataset_prep.model_copy(update=settings)
    return config.model_copy(update={"dataset_prep": changed})


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file a reader can see."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
    }


def expected_streams(config: Config) -> list[list[int]]:
    """The token stream of each cleaned file, made one article at a time."""
    tokenizer = load_or_fetch(config)
    return [
        [
            token
            for article in read_articles(path)
            for token in (tokenizer.bos_id, *tokenizer.encode(article), tokenizer.eos_id)
        ]
        for path in cleaned_files(config.paths.cleaned_dir)
    ]


# What is written


@pytest.mark.parametrize(("window", "stride"), [(16, None), (32, 32), (50, 7)])
def test_the_windows_hold_the_whole_corpus_and_no_padding(
    config: Config, window: int, stride: int | None
) -> None:
    config = with_settings(config, window=window, stride=stride, batch_articles=7)
    prepare_dataset(config)
    metadata = read_metadata(config.paths.dataset_dir)
    assert [file.stem for file in metadata.files] == ["part_0", "part_2", "part_10"]
    for file, expected in zip(metadata.files, expected_streams(config), strict=True):
        stream, starts = read_stream(config.paths.dataset_dir, metadata, file)
        assert stream.tolist() == expected
        assert starts.tolist() == [i for i, token in enumerate(expected) if token == 1]
        windows = np.load(tokens_path_of(config.paths.dataset_dir, file.stem))
        step = stride or window // 2
        for index, row in enumerate(windows.tolist()):
            start = min(index * step, len(expected) - window)
            assert row == expected[start : start + window]
        assert windows[-1].tolist() == expected[-window:]
        assert windows[-1][-1] == metadata.eos_token_id


def test_articles_come_back_with_their_paragraphs(config: Config) -> None:
    metadata = prepare_dataset(config)
    tokenizer = load_or_fetch(config)
    stream, starts = read_stream(config.paths.dataset_dir, metadata, metadata.files[0])
    texts = [tokenizer.decode(ids) for ids in np.split(stream, starts[1:])]
    assert texts == made_up_articles(0, 20)
    assert any("\n" in text for text in texts)
    assert any("</s>" in text for text in texts)


def test_metadata_counts_the_text(config: Config) -> None:
    metadata = prepare_dataset(config)
    articles = [
        text for n, count in ((0, 20), (2, 15), (10, 40)) for text in made_up_articles(n, count)
    ]
    tokens = sum(map(len, expected_streams(config)))
    assert metadata.articles == len(articles)
    assert metadata.tokens == tokens
    assert metadata.characters == sum(map(len, articles))
    assert metadata.utf8_bytes == sum(len(text.encode()) for text in articles)
    ratio = metadata.characters / (tokens - 2 * len(articles))
    assert metadata.characters_per_token == pytest.approx(ratio, abs=1e-4)
    assert metadata.unknown_tokens == 0
    assert metadata.tokenizer_sha256 == load_or_fetch(config).sha256
    assert metadata.vocab_size == config.model.vocab_size


def test_batches_and_workers_do_not_change_the_result(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_dataset(config)
    before = snapshot(config.paths.dataset_dir)
    monkeypatch.setattr(article_batches, "BATCH_BYTES", 300)
    for most, workers in ((1, 1), (3, 2), (1000, 8)):
        settings = {"batch_articles": most, "workers": workers}
        prepare_dataset(with_settings(config, **settings), force=True)
        assert snapshot(config.paths.dataset_dir) == before


def test_a_file_shorter_than_a_window_is_named_and_kept(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cleaned(config.paths.cleaned_dir, "part_1", ["a"])
    write_cleaned(config.paths.cleaned_dir, "part_3", [])
    metadata = prepare_dataset(config)
    assert [file.windows > 0 for file in metadata.files] == [True, False, True, False, True]
    shown = capsys.readouterr().err
    assert re.search(r"warning:.* part_1: no windows, its \d+ tokens do not fill one of 16", shown)
    assert "part_3: no windows, its 0 tokens" in shown
    for file in read_metadata(config.paths.dataset_dir).files:
        read_stream(config.paths.dataset_dir, metadata, file)


def test_a_corpus_without_a_window_is_refused(config: Config) -> None:
    with pytest.raises(DatasetError, match=r"tokens do not fill one window of 100,000") as caught:
        prepare_dataset(with_settings(config, window=100_000))
    assert "--window" in caught.value.hint
    with pytest.raises(DatasetError, match=r"metadata\.json is missing"):
        read_metadata(config.paths.dataset_dir)


# Test mode


@pytest.mark.parametrize(
    ("limit", "files"),
    [(5, {"part_0": 5}), (20, {"part_0": 20}), (30, {"part_0": 20, "part_2": 10}), (9999, None)],
)
def test_test_mode_takes_the_first_articles(
    config: Config, limit: int, files: dict[str, int] | None
) -> None:
    metadata = prepare_dataset(with_settings(config, test_articles=limit), test=True)
    found = {file.stem: file.articles for file in metadata.files}
    assert found == (files or {"part_0": 20, "part_2": 15, "part_10": 40})
    assert read_metadata(config.paths.test_dataset_dir) == metadata
    assert not config.paths.dataset_dir.exists()


def test_another_limit_redoes_only_the_file_it_cuts(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_dataset(with_settings(config, test_articles=30), test=True)
    capsys.readouterr()
    prepare_dataset(with_settings(config, test_articles=40), test=True)
    shown = capsys.readouterr().err
    assert "part_0:" not in shown
    assert "it has 10 of the 15 articles wanted" in shown
    prepare_dataset(with_settings(config, test_articles=20), test=True)
    shown = capsys.readouterr().err
    assert "part_2: removed, its cleaned text is gone or beyond the articles wanted" in shown
    assert "part_10: removed" in shown
    assert not tokens_path_of(config.paths.test_dataset_dir, "part_2").exists()


# Reruns


def test_a_rerun_keeps_what_is_finished(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_dataset(config)
    folder = config.paths.dataset_dir
    before = snapshot(folder)
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    capsys.readouterr()
    prepare_dataset(config)
    assert snapshot(folder) == before
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")} == times
    assert "3 of 3 files were finished already" in capsys.readouterr().err


def test_force_makes_the_same_bytes_again(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_dataset(config)
    before = snapshot(config.paths.dataset_dir)
    prepare_dataset(config, force=True)
    assert snapshot(config.paths.dataset_dir) == before
    assert capsys.readouterr().err.count("(--force)") == 3


def edit_text(config: Config) -> None:
    write_cleaned(config.paths.cleaned_dir, "part_2", made_up_articles(99, 15))


def edit_one_character(config: Config) -> None:
    articles = made_up_articles(2, 15)
    index = next(i for i, article in enumerate(articles) if article)
    articles[index] = "Q" + articles[index][1:]
    write_cleaned(config.paths.cleaned_dir, "part_2", articles)


def swap_articles(config: Config) -> None:
    write_cleaned(config.paths.cleaned_dir, "part_2", made_up_articles(2, 15)[::-1])


def append_article(config: Config) -> None:
    write_cleaned(config.paths.cleaned_dir, "part_2", [*made_up_articles(2, 15), "One more."])


def drop_article(config: Config) -> None:
    write_cleaned(config.paths.cleaned_dir, "part_2", made_up_articles(2, 15)[:-1])


def cut_array(config: Config) -> None:
    path = tokens_path_of(config.paths.dataset_dir, "part_2")
    path.write_bytes(path.read_bytes()[:-2])


def delete_array(config: Config) -> None:
    tokens_path_of(config.paths.dataset_dir, "part_2").unlink()


def damage_entry(config: Config) -> None:
    path = entry_path_of(config.paths.dataset_dir, "part_2")
    path.write_text(path.read_text().replace('"articles": 15', '"articles": 16'))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (edit_text, "its text was changed"),
        (edit_one_character, "its text was changed"),
        (swap_articles, "its text was changed"),
        (append_article, "its text was changed"),
        (drop_article, "its text was changed"),
        (cut_array, r"tokens_part_2\.npy: is [\d,]+ bytes, but should be"),
        (delete_array, r"tokens_part_2\.npy: missing"),
        (damage_entry, "a value was changed"),
    ],
)
def test_a_stale_file_is_made_again_alone(
    config: Config,
    capsys: pytest.CaptureFixture[str],
    edit: Callable[[Config], None],
    reason: str,
) -> None:
    prepare_dataset(config)
    edit(config)
    capsys.readouterr()
    metadata = prepare_dataset(config)
    shown = capsys.readouterr().err
    assert re.search(rf"part_2: .*{reason}", shown)
    assert "part_0:" not in shown
    assert "2 of 3 files were finished already" in shown
    for file, expected in zip(metadata.files, expected_streams(config), strict=True):
        stream, _ = read_stream(config.paths.dataset_dir, metadata, file)
        assert stream.tolist() == expected


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"window": 20}, "window was 16 and is now 20"),
        ({"stride": 5}, "stride was 8 and is now 5"),
    ],
)
def test_other_settings_make_everything_again(
    config: Config, capsys: pytest.CaptureFixture[str], settings: dict[str, int], reason: str
) -> None:
    prepare_dataset(config)
    prepare_dataset(with_settings(config, **settings))
    assert len(re.findall(reason, capsys.readouterr().err)) >= 3


def test_another_tokenizer_makes_everything_again(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_dataset(config)
    path = config.paths.tokenizer_dir / "tokenizer.json"
    values = json.loads(path.read_bytes())
    values["model"]["merges"].pop()
    path.write_text(json.dumps(values))
    (config.paths.tokenizer_dir / "tokenizer_info.json").unlink()
    prepare_dataset(config)
    assert capsys.readouterr().err.count("tokenizer_sha256 was") == 3


def test_files_whose_text_is_gone_are_removed(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_dataset(config)
    text = cleaned_files(config.paths.cleaned_dir)[1]
    text.unlink()
    marker_path_of(text).unlink()
    metadata = prepare_dataset(config)
    assert "part_2: removed, its cleaned text is gone" in capsys.readouterr().err
    assert [file.stem for file in metadata.files] == ["part_0", "part_10"]
    assert not list(config.paths.dataset_dir.glob("*part_2*"))


def test_the_dataset_is_incomplete_while_it_changes(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_dataset(config)
    edit_text(config)

    def look(*_: Any) -> Any:
        assert not (config.paths.dataset_dir / "metadata.json").exists()
        raise ZeroDivisionError

    monkeypatch.setattr(script, "write_token_file", look)
    with pytest.raises(ZeroDivisionError):
        prepare_dataset(config)
    with pytest.raises(DatasetError, match="no complete dataset here"):
        read_metadata(config.paths.dataset_dir)


# What is refused


@pytest.mark.parametrize(
    "damage",
    [lambda text: text + "x\n", lambda text: text[:-20], lambda text: text.replace("e", "a")],
)
def test_text_that_is_not_what_was_cleaned_is_refused(
    config: Config, damage: Callable[[str], str]
) -> None:
    path = cleaned_files(config.paths.cleaned_dir)[1]
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
    with pytest.raises(DataError, match=r"cleaned_part_2\.txt: was changed or damaged") as caught:
        prepare_dataset(config)
    assert "run `python cleaner.py` and this command again" in caught.value.hint
    assert not list(config.paths.dataset_dir.glob("tokens_part_2*"))


def test_texts_that_were_changed_are_named_together_and_the_others_finished(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    for stem in ("part_0", "part_10"):
        path = text_path_of(config.paths.cleaned_dir, stem)
        path.write_bytes(path.read_bytes().replace(b"e", b"a"))
    with pytest.raises(
        DataError, match=r"cleaned_part_0\.txt: .*\n.*\n.*cleaned_part_10"
    ) as caught:
        prepare_dataset(config)
    assert (
        str(caught.value).count("(wrong SHA-256)\n  Delete it, then run `python cleaner.py`") == 2
    )
    assert caught.value.hint == "2 of 3 files failed; the others are finished."
    assert "part_0 failed; the other files go on" in capsys.readouterr().err
    assert [path.name for path in config.paths.dataset_dir.glob("tokens_*.npy")] == [
        "tokens_part_2.npy"
    ]


def test_texts_of_another_size_are_named_together_before_any_work(config: Config) -> None:
    for stem in ("part_0", "part_10"):
        path = text_path_of(config.paths.cleaned_dir, stem)
        path.write_bytes(path.read_bytes() + b"More.\n")
    message = r"cleaned_part_0\.txt: .* once [\d,]+\)\n.*\n.*cleaned_part_10\.txt: .* once"
    with pytest.raises(DataError, match=message):
        prepare_dataset(config)
    assert [path.name for path in config.paths.dataset_dir.iterdir()] == [LOCK_NAME]


def test_a_text_changed_behind_a_finished_file_is_refused_before_anything_is_changed(
    config: Config,
) -> None:
    prepare_dataset(config)
    before = snapshot(config.paths.dataset_dir)
    edit_text(config)
    path = text_path_of(config.paths.cleaned_dir, "part_0")
    path.write_bytes(path.read_bytes().replace(b"e", b"a"))
    with pytest.raises(DataError, match=r"cleaned_part_0\.txt: was changed or damaged"):
        prepare_dataset(config)
    assert snapshot(config.paths.dataset_dir) == before


def change_marker(config: Config, stem: str, **changes: Any) -> None:
    path = text_path_of(config.paths.cleaned_dir, stem)
    values = read_marker(path).model_dump()
    write_marker(path, CleanedMarker.model_validate({**values, **changes}))


def test_text_of_a_test_of_the_cleaner_makes_a_test_dataset_only(config: Config) -> None:
    change_marker(config, "part_2", truncated=True, input_xxh128=None)
    message = r"cleaner\.py --test stopped before the end of cleaned_part_2\.txt\n  Run cleaner"
    with pytest.raises(DataError, match=message):
        prepare_dataset(config)
    assert not list(config.paths.dataset_dir.glob("tokens_*"))
    prepare_dataset(config, test=True)


@pytest.mark.parametrize("test", [False, True])
def test_text_of_two_cleaners_is_refused(config: Config, test: bool) -> None:
    change_marker(config, "part_2", cleaner_version=99)
    message = r"cleaned_part_0\.txt and cleaned_part_2\.txt were cleaned by different versions"
    with pytest.raises(DataError, match=message):
        prepare_dataset(config, test=test)


def test_a_marker_that_promises_too_much_is_refused(config: Config) -> None:
    write_cleaned(config.paths.cleaned_dir, "part_2", made_up_articles(2, 15), promised=16)
    message = r"cleaned_part_2\.txt: has fewer articles than the 16 its marker promises"
    with pytest.raises(DataError, match=message):
        prepare_dataset(config)
    assert not entry_path_of(config.paths.dataset_dir, "part_2").exists()
    assert not tokens_path_of(config.paths.dataset_dir, "part_2").exists()


def test_too_many_unknown_tokens_are_refused(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(self: CodeLlamaTokenizer, texts: list[str]) -> FlatIds:
        ids = np.array(len(texts) * ([0] + 40 * [5]), np.uint16)
        return FlatIds(ids, np.arange(len(texts) + 1) * 41)

    monkeypatch.setattr(CodeLlamaTokenizer, "encode_flat", blind)
    with pytest.raises(DatasetError, match=r"cleaned_part_0\.txt: 2\.4% of the tokens are unknown"):
        prepare_dataset(with_settings(config, workers=1))
    assert not list(config.paths.dataset_dir.glob("tokens_*"))


def test_what_is_written_is_compared_with_the_stock_tokenizer(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that fails only on batches, which no small text of a check has the size of."""
    right = FastEngine.encode

    def sevens(self: FastEngine, texts: Sequence[str]) -> RawIds:
        ids, offsets = right(self, texts)
        return (np.full_like(ids, 7) if len(texts) > 600 else ids), offsets

    monkeypatch.setattr(FastEngine, "encode", sevens)
    prepare_dataset(config)
    write_cleaned(config.paths.cleaned_dir, "part_3", made_up_articles(2, 700))
    with pytest.raises(TokenizerError, match=r"encode a text differently, text \d+ of 700"):
        prepare_dataset(config)
    assert not tokens_path_of(config.paths.dataset_dir, "part_3").exists()


def test_articles_of_every_batch_are_compared_with_the_stock_tokenizer(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    batches = []

    def record(
        self: CodeLlamaTokenizer, texts: list[str], flat: FlatIds, numbers: list[int]
    ) -> None:
        batches.append(len(numbers))
        for number in numbers:
            assert flat.split()[number].tolist() == self.encode(texts[number])
            compared.append(texts[number])

    monkeypatch.setattr(CodeLlamaTokenizer, "check_against_stock", record)
    prepare_dataset(with_settings(config, batch_articles=5))
    assert len(batches) == 4 + 3 + 8
    assert all(batches)
    articles = [
        article
        for path in cleaned_files(config.paths.cleaned_dir)
        for article in read_articles(path)
    ]
    assert set(compared) <= set(articles)


def test_a_difference_to_the_stock_tokenizer_ends_the_work(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differ(self: CodeLlamaTokenizer, *batch: object) -> None:
        raise TokenizerError("two ways to encode a text")

    monkeypatch.setattr(CodeLlamaTokenizer, "check_against_stock", differ)
    with pytest.raises(TokenizerError, match="two ways to encode a text"):
        prepare_dataset(config)
    assert [path.name for path in config.paths.dataset_dir.iterdir()] == [LOCK_NAME]


def test_a_full_disk_is_named_and_leaves_nothing_partial(
    command: list[str], config: Config
) -> None:
    limit = 8_000  # bytes in a file, too few for the largest; Python ignores SIGXFSZ
    load_or_fetch(config)
    done = subprocess.run(
        ["prlimit", f"--fsize={limit}", sys.executable, "dataset_prep.py", *command],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert re.search(r"error: \S+/tokens_part_10\.npy: cannot be written: File too", done.stderr)
    assert "Make room on the disk, or mend its permissions, and run the same command" in done.stderr
    left = snapshot(config.paths.dataset_dir)
    assert not list(config.paths.dataset_dir.glob(".*tmp"))
    prepare_dataset(config)
    assert left.items() <= snapshot(config.paths.dataset_dir).items()


def test_two_writers_are_refused(config: Config) -> None:
    with (
        sole_writer(config.paths.dataset_dir, "testing"),
        pytest.raises(BusyError, match="another process is preparing a dataset in this folder"),
    ):
        prepare_dataset(config)


# The command


def test_the_command_tells_what_it_did(
    command: list[str], config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main([*command, "--window", "24", "--stride", "6", "--batch", "2"])
    shown = capsys.readouterr()
    assert shown.out == ""
    metadata = read_metadata(config.paths.dataset_dir)
    assert (metadata.window, metadata.stride) == (24, 6)
    for words in (
        str(config.paths.dataset_dir),
        "part_2: 15 articles,",
        "(new)",
        f"{metadata.windows:,} of 24 tokens, one every 6",
        f"{metadata.characters_per_token:.2f} characters per token,"
        f" {metadata.utf8_bytes / (metadata.tokens - 2 * metadata.articles):.2f} bytes per token",
        "0.00% unknown",
        f"Next: python train.py --config {command[1]}",
    ):
        assert words in shown.err
    script.main([*command, "--test", "--force"])
    assert f"Next: python train.py --test --config {command[1]}" in capsys.readouterr().err


def test_a_window_longer_than_the_model_is_pointed_out(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    script.main([*command, "--window", "64"])
    assert "raise model.max_position_embeddings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--window", "1"], r"dataset_prep\.window"),
        (["--stride", "17"], r"stride \(17\) must not exceed window \(16\)"),
        (["--batch", "0"], r"dataset_prep\.batch_articles"),
    ],
)
def test_impossible_flags_are_refused(command: list[str], flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        script.main([*command, *flags])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_interrupted_and_goes_on(
    config: Config, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    encode = CodeLlamaTokenizer.encode_flat

    def interrupted(self: CodeLlamaTokenizer, texts: list[str]) -> FlatIds:
        if any(text in texts for text in made_up_articles(10, 40)[20:] if text):
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # a Ctrl-C may arrive twice
        return encode(self, texts)

    load_or_fetch(config)
    monkeypatch.setattr(CodeLlamaTokenizer, "encode_flat", interrupted)
    message = f"{number.name}: stopped; the finished files are kept"
    with pytest.raises(Interrupted, match=message) as caught:
        prepare_dataset(with_settings(config, batch_articles=2, workers=1))
    assert caught.value.exit_code == 128 + number
    assert "same command again" in caught.value.hint
    folder = config.paths.dataset_dir
    assert {path.name for path in folder.iterdir()} == {
        LOCK_NAME,
        *(f"{prefix}_part_{number}.npy" for prefix in ("tokens", "documents") for number in (0, 2)),
        *(f"{name}_part_{number}.json" for name in ("tokens", "statistics") for number in (0, 2)),
    }
    monkeypatch.undo()
    prepare_dataset(config)
    interrupted_then_finished = snapshot(folder)
    prepare_dataset(config, force=True)
    assert snapshot(folder) == interrupted_then_finished


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_texts_are_checked(
    config: Config, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def signalled(path: Path, marker: CleanedMarker) -> None:
        os.kill(os.getpid(), number)

    prepare_dataset(config)
    before = snapshot(config.paths.dataset_dir)
    edit_text(config)
    monkeypatch.setattr(script, "check_content", signalled)
    with pytest.raises(Interrupted, match=f"{number.name}: stopped"):
        prepare_dataset(config)
    assert snapshot(config.paths.dataset_dir) == before


def stop_at_random(
    config: Config, command: list[str], signal_number: int, seed: int, seconds: float
) -> int:
    """Start dataset_prep.py --force, stop it after a random time, return its exit code."""
    process = subprocess.Popen(
        [sys.executable, "dataset_prep.py", *command, "--force", "--batch", "1"],
        cwd=REPOSITORY,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "RAYON_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 30
    while not (config.paths.dataset_dir / LOCK_NAME).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 0.8 * seconds))
    process.send_signal(signal_number)
    return process.wait(timeout=30)


SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


def check_faults(
    config: Config, command: list[str], tries: int, signals: Sequence[int] = SIGNALS
) -> None:
    """Kill or interrupt; every final name must be whole, and a rerun must give the same bytes."""
    for number in (0, 2, 10):
        write_cleaned(config.paths.cleaned_dir, f"part_{number}", made_up_articles(number, 800))
    start_seconds = time.monotonic()
    prepare_dataset(with_settings(config, batch_articles=1))
    work_seconds = time.monotonic() - start_seconds
    folder = config.paths.dataset_dir
    whole = snapshot(folder)
    cut_off = 0
    for seed in range(tries):
        for path in folder.iterdir():
            path.unlink()
        number = signals[seed % len(signals)]
        code = stop_at_random(config, command, number, seed, work_seconds)
        if (folder / "metadata.json").exists():  # it came too late: all work is done
            assert code in (0, -number)
        else:
            assert code == (-number if number == signal.SIGKILL else 128 + number)
            cut_off += 1
        if number != signal.SIGKILL:
            assert not list(folder.glob(".*.tmp"))
        for name, content in snapshot(folder).items():
            assert content == whole[name]
        prepare_dataset(config)
        assert snapshot(folder) == whole
        assert not list(folder.glob(".*.tmp"))
    assert cut_off


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_kills_leave_only_whole_files(config: Config, command: list[str]) -> None:
    check_faults(config, command, tries=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_fifty_kills_leave_only_whole_files(config: Config, command: list[str]) -> None:
    check_faults(config, command, tries=50, signals=[signal.SIGKILL])


@pytest.mark.parametrize("test", [False, True])
def test_progress_counts_the_bytes_of_the_text(
    config: Config, monkeypatch: pytest.MonkeyPatch, test: bool
) -> None:
    bars: list[Progress] = []

    class Recorder(Progress):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            bars.append(self)

    monkeypatch.setattr(pool, "Progress", Recorder)
    prepare_dataset(with_settings(config, test_articles=20), test=test)
    files = cleaned_files(config.paths.cleaned_dir)[: 1 if test else None]
    done = {bar.label: bar.done for bar in bars}
    assert done["Tokenizing"] == sum(path.stat().st_size for path in files)
    assert all(bar.done == bar.total for bar in bars if bar.label == "Tokenizing")
    assert re.search(r"articles, [\d,]+k tokens/s, \d\.\d\d chars/token", bars[-1].note)
