"""Duplicates among all cleaned files: what stays, and that it is what cleaning anew leaves."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cleaner
from tests.conftest import REPOSITORY
from utils import interrupts
from utils.articles import (
    duplicates_path_of,
    marker_path_of,
    pages_path_of,
    read_articles,
    read_marker,
    read_markers,
    text_files,
    text_path_of,
)
from utils.cleaning.duplicates import comparison, dropped_lines
from utils.cleaning.duplicates.duplicates import alike, older_copies, repeats
from utils.cleaning.duplicates.pages import ENTRY
from utils.cleaning.file_cleaner import clean_file
from utils.config_file import parse_config
from utils.errors import DataError, Interrupted
from utils.files import natural_key

Record = dict[str, Any]


def page(
    identifier: int | str | None, text: str, revision: int = 0, date: str = "", site: str = "en"
) -> Record:
    """A record in the shape of Structured Contents; its text is its title and lead."""
    return {
        "name": text,
        "identifier": identifier,
        "url": f"https://{site}.wikipedia.org/wiki/{text}",
        "version": {"identifier": revision} if revision else None,
        "date_modified": date,
        "abstract": f"About {text}, in a sentence.",
    }


def same_page(record: Record, text: str) -> Record:
    """The same page at its same address with another text, which is its title too."""
    return {**page(record["identifier"], text), "url": record["url"]}


def plain(text: str) -> Record:
    """A record that does not say which page it is."""
    return {"title": text, "text": f"About {text}, in a sentence."}


class Corpus:
    """A folder of raw files, and folders of texts cleaned from it without worker processes."""

    def __init__(self, folder: Path) -> None:
        self.raw_dir = folder / "raw"
        self.raw_dir.mkdir()
        self.cleaned_dir = folder / "cleaned"
        self.drop_texts = False
        self.test_articles: int | None = None

    def write(self, stem: str, records: Sequence[Record]) -> None:
        lines = "".join(json.dumps(record) + "\n" for record in records)
        path = self.raw_dir / f"{stem}.jsonl"
        if not path.exists() or path.read_text() != lines:  # its time is in the marker
            path.write_text(lines)

    def remove(self, stem: str) -> None:
        (self.raw_dir / f"{stem}.jsonl").unlink()
        for path in self.cleaned_dir.glob(f"cleaned_{stem}.*"):
            path.unlink()

    def clean(self, cleaned_dir: Path | None = None, force: bool = False) -> None:
        values = {
            "paths": {
                "raw_dir": f"{self.raw_dir}",
                "cleaned_dir": f"{cleaned_dir or self.cleaned_dir}",
            },
            "cleaner": {
                "min_characters": 1,
                "drop_duplicate_texts": self.drop_texts,
                "test_articles": self.test_articles or 1,
            },
        }
        config = parse_config(values, "test", self.raw_dir)
        cleaner.clean_folder(config, test=self.test_articles is not None, force=force)

    def titles(self) -> dict[str, list[str]]:
        """The first line of each article, by file."""
        return {
            path.name.removeprefix("cleaned_").removesuffix(".txt"): [
                article.partition("\n")[0] for article in read_articles(path)
            ]
            for path in text_files(self.cleaned_dir)
        }

    def check_like_anew(self) -> None:
        """The folder is what cleaning into an empty one gives, byte for byte."""
        anew = self.raw_dir.with_name(f"anew_{time.monotonic_ns()}")
        self.clean(anew)
        assert contents(self.cleaned_dir) == contents(anew)
        read_markers(self.cleaned_dir, allow_truncated=True)

    def marker(self, stem: str) -> Any:
        return read_marker(text_path_of(self.cleaned_dir, stem))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    def clean_here(todo: Any, cleaned_dir: Path, settings: Any, workers: int) -> Any:
        errors = []
        for raw in todo:
            try:
                clean_file(raw, cleaned_dir, settings, lambda *_: None)
            except DataError as error:
                errors.append(error)
        return 0, errors

    monkeypatch.setattr(cleaner, "clean_files", clean_here)
    return Corpus(tmp_path)


OLD, NEW = page(7, "old", 1), page(7, "new", 2)
DATED = page(7, "old", 0, "2024-01-01T00:00:00Z"), page(7, "new", 0, "2024-01-01T00:00:01Z")
UNKNOWN = page(7, "old"), page(7, "new", 0, "2001-01-01T00:00:00Z")
OLDEST = {**DATED[0], "date_modified": "1960-01-01T00:00:00Z"}
CONSTANT = [{**page(7, text), "url": "https://dumps.example/"} for text in ("one", "two")]


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        ([[OLD], [NEW]], [[], ["new"]]),
        ([[NEW], [OLD]], [["new"], []]),
        ([[OLD, NEW]], [["new"]]),
        ([[NEW, OLD]], [["new"]]),
        ([[OLD], [page(7, "newest", 30)], [NEW]], [[], ["newest"], []]),
        ([[OLD, NEW], [OLD, NEW], [OLD]], [["new"], [], []]),
        ([[page(7, "one", 5)], [page(7, "two", 5)], [page(7, "three", 5)]], [["one"], [], []]),
        ([[page(7, "one"), page(7, "two")], [page(7, "three")]], [["one", "two"], ["three"]]),
        ([[page(7, "one"), same_page(page(7, "one"), "two")]], [["one"]]),
        ([[page(7, "a b"), same_page(page(7, "a%20b"), "two")]], [["a b"]]),
        ([[page(7, "a?b"), page(7, "a?c")]], [["a?b", "a?c"]]),
        ([[same_page(NEW, "undated")], [NEW], [OLD]], [[], ["new"], []]),
        ([[same_page(OLD, "undated")], [NEW], [OLD]], [[], ["new"], []]),
        ([[same_page(OLDEST, "undated")], [OLDEST]], [[], ["old"]]),
        ([CONSTANT], [["one", "two"]]),
        ([[DATED[0]], [DATED[1]]], [[], ["new"]]),
        ([[DATED[1]], [DATED[0]]], [["new"], []]),
        ([[UNKNOWN[0]], [UNKNOWN[1]]], [["old"], ["new"]]),
        ([[same_page(UNKNOWN[1], "old")], [UNKNOWN[1]]], [[], ["new"]]),
        ([[page(7, "dated", 0, "2030-01-01")], [OLD]], [[], ["old"]]),
        ([[{**OLD, "version": None, "date_modified": "not a day"}], [OLD]], [[], ["old"]]),
        ([[page("7", "text", 9)], [NEW]], [["text"], []]),
        ([[OLD], [page(7, "de", 9, site="de")]], [["old"], ["de"]]),
        ([[OLD], [page(8, "other", 9)]], [["old"], ["other"]]),
        ([[page(None, "one", 1)], [page(None, "two", 2)]], [["one"], ["two"]]),
        ([[plain("one")], [plain("two")], [OLD]], [["one"], ["two"], ["old"]]),
        ([[{**OLD, "url": None}], [{**NEW, "url": "no address"}]], [["old"], ["new"]]),
        ([[{**OLD, "abstract": "REDIRECT new"}], [OLD]], [[], ["old"]]),
    ],
)
def test_the_newest_copy_of_a_page_stays(
    corpus: Corpus, files: list[list[Record]], kept: list[list[str]]
) -> None:
    for number, records in enumerate(files):
        corpus.write(f"f_{number}", records)
    corpus.clean()
    assert list(corpus.titles().values()) == kept
    for number, records in enumerate(files):
        marker = corpus.marker(f"f_{number}")
        assert marker.articles == len(kept[number])
        assert marker.articles + sum(marker.dropped.values()) == marker.records == len(records)
    dropped = [corpus.marker(f"f_{n}").dropped.get("older_copy", 0) for n in range(len(files))]
    redirects = sum("REDIRECT" in record.get("abstract", "") for file in files for record in file)
    assert sum(dropped) == sum(map(len, files)) - sum(map(len, kept)) - redirects
    corpus.check_like_anew()


def test_numbers_of_lines_make_no_copies(corpus: Corpus) -> None:
    """Plain records that have, for an identifier, their place in a file."""
    for stem in "ab":
        titles = [f"{stem} {number}" for number in range(3)]
        url = "https://en.wikipedia.org/wiki/"
        corpus.write(
            stem,
            [
                {"id": number, "url": url + title, **plain(title)}
                for number, title in enumerate(titles)
            ],
        )
    corpus.clean()
    assert corpus.titles() == {stem: [f"{stem} {number}" for number in range(3)] for stem in "ab"}


def test_of_equal_copies_the_first_in_natural_order_stays(corpus: Corpus) -> None:
    for stem in ("f_10", "f_9", "f_11"):
        corpus.write(stem, [plain(f"in {stem}"), page(7, stem, 3)])
    corpus.clean()
    assert corpus.titles() == {"f_9": ["in f_9", "f_9"], "f_10": ["in f_10"], "f_11": ["in f_11"]}


def test_equal_texts_are_counted_and_dropped_on_demand(
    corpus: Corpus, capfd: pytest.CaptureFixture[str]
) -> None:
    corpus.write("a", [plain("same"), plain("one"), page(1, "paged", 1), plain("same")])
    corpus.write("b", [page(2, "paged", 1), plain("two"), plain("same"), page(1, "paged", 2)])
    corpus.clean()
    everything = {"a": ["same", "one", "same"], "b": ["paged", "two", "same", "paged"]}
    assert corpus.titles() == everything
    assert [corpus.marker(stem).duplicate_texts for stem in "ab"] == [1, 2], "older copies are none"
    assert [corpus.marker(stem).dropped for stem in "ab"] == [{"older_copy": 1}, {}]
    assert (
        "duplicates: older copies of a page dropped: 1; exact duplicate texts kept: 3"
        " (cleaner.drop_duplicate_texts drops them)\n" in (said := capfd.readouterr().err)
    )
    assert "older_copy" not in said, "it is said once"
    for drop_texts, titles in (
        (True, {"a": ["same", "one"], "b": ["paged", "two"]}),
        (False, everything),
        (True, {"a": ["same", "one"], "b": ["paged", "two"]}),
    ):
        corpus.check_like_anew()
        corpus.drop_texts = drop_texts
        capfd.readouterr()
        corpus.clean()
        said = capfd.readouterr().err
        assert "2 of 2 files are finished already" in said, "no text is cleaned again for it"
        assert ("exact duplicate texts dropped: 3\n" in said) is drop_texts
        assert "duplicate_text " not in said
        assert corpus.titles() == titles
        assert corpus.marker("b").duplicate_texts == 2
        assert corpus.marker("b").dropped == ({"duplicate_text": 2} if drop_texts else {})
    corpus.check_like_anew()


def test_texts_that_only_look_alike_are_kept(corpus: Corpus) -> None:
    """The index has a sample of each text; the texts themselves decide."""
    long = "About a town that has a long description. " * 20
    texts = [f"{long}{end}" for end in ("north", "south", "south")]
    corpus.write("a", [{"title": "Town", "text": text} for text in texts])
    corpus.drop_texts = True
    corpus.clean()
    articles = list(read_articles(text_path_of(corpus.cleaned_dir, "a")))
    assert [article[-5:] for article in articles] == ["north", "south"]


def oracle(files: dict[str, list[Record]], drop_texts: bool) -> dict[str, list[str]]:
    """What stays, told with dictionaries; in these records the address follows the page."""
    order = sorted(files, key=lambda stem: natural_key(Path(stem)))
    best: dict[tuple[str, str], tuple[int, int]] = {}
    places: dict[tuple[str, str], tuple[str, int]] = {}
    for stem in order:
        for number, record in enumerate(files[stem]):
            if record.get("identifier") is None:
                continue
            key = (record["url"].split("/")[2], str(record["identifier"]))
            revision = (record["version"] or {"identifier": 0})["identifier"]
            newness = (revision, int(record["date_modified"][:4] or 0) if not revision else 0)
            if key not in best or newness > best[key]:
                best[key], places[key] = newness, (stem, number)
    pages = set(places.values())
    seen: set[str] = set()
    kept: dict[str, list[str]] = {stem: [] for stem in order}
    for stem in order:
        for number, record in enumerate(files[stem]):
            title = record.get("name") or record["title"]
            is_page = record.get("identifier") is not None
            if (is_page and (stem, number) not in pages) or (drop_texts and title in seen):
                continue
            seen.add(title)
            kept[stem].append(title)
    return kept


def made_up_records(chance: random.Random) -> list[Record]:
    def one() -> Record:
        text = f"text {chance.randrange(15)}"
        if chance.random() < 0.3:
            return plain(text)
        date = f"{chance.randint(2000, 2010)}-01-01T00:00:00Z"
        site = chance.choice(["en", "de"])
        return page(chance.randrange(12), text, chance.choice([0, 0, 1, 2, 3]), date, site)

    return [one() for _ in range(chance.randrange(12))]


@pytest.mark.parametrize("seed", range(4))
def test_any_history_leaves_what_cleaning_anew_leaves(corpus: Corpus, seed: int) -> None:
    chance = random.Random(seed)
    files: dict[str, list[Record]] = {}
    for _ in range(25):
        stem = f"part_{chance.randrange(1, 14)}"
        match chance.choice(["write", "write", "remove", "toggle", "force"]):
            case "write":
                files[stem] = made_up_records(chance)
                corpus.write(stem, files[stem])
            case "remove" if stem in files and len(files) > 1:
                del files[stem]
                corpus.remove(stem)
            case "toggle":
                corpus.drop_texts = not corpus.drop_texts
        if not files:
            continue
        corpus.clean(force=chance.random() < 0.1)
        assert corpus.titles() == oracle(files, corpus.drop_texts)
        corpus.check_like_anew()


def test_where_nothing_changed_nothing_is_compared_or_written(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus.write("a", [OLD])
    corpus.write("b", [NEW])
    corpus.clean()
    before = {path: path.stat().st_mtime_ns for path in corpus.cleaned_dir.iterdir()}
    monkeypatch.setattr(comparison, "_read_texts", None)
    corpus.clean()
    assert {path: path.stat().st_mtime_ns for path in corpus.cleaned_dir.iterdir()} == before


def test_texts_whose_raw_file_is_gone_take_part(
    corpus: Corpus, capfd: pytest.CaptureFixture[str]
) -> None:
    corpus.write("a", [OLD, plain("x")])
    corpus.write("b", [NEW, plain("y")])
    corpus.clean()
    (corpus.raw_dir / "a.jsonl").unlink()
    corpus.write("c", [page(7, "newest", 3)])
    corpus.clean()
    assert corpus.titles() == {"a": ["x"], "b": ["y"], "c": ["newest"]}
    corpus.remove("b")
    corpus.remove("c")
    corpus.write("d", [plain("z")])
    corpus.clean()
    assert corpus.titles() == {"a": ["old", "x"], "d": ["z"]}, "it comes back without its raw file"
    assert "its raw file is gone; delete it if it should not be" in capfd.readouterr().err
    pages_path_of(text_path_of(corpus.cleaned_dir, "a")).unlink()
    corpus.write("d", [plain("zz")])
    corpus.clean()
    message = "its raw file is gone; delete it now: the index of its pages is damaged"
    assert message in capfd.readouterr().err
    with pytest.raises(DataError, match="not yet compared"):
        read_markers(corpus.cleaned_dir, allow_truncated=False)


def test_files_of_a_test_run_are_compared_too(corpus: Corpus) -> None:
    corpus.write("a", [OLD, plain("a1"), plain("a2"), plain("a3")])
    corpus.write("b", [NEW, plain("b1"), plain("b2"), plain("b3")])
    corpus.test_articles = 3
    corpus.clean()
    assert corpus.titles() == {"a": ["a1", "a2"], "b": ["new", "b1", "b2"]}
    assert [corpus.marker(stem).truncated for stem in "ab"] == [True, True]
    with pytest.raises(DataError, match="stopped before the end of cleaned_a"):
        read_markers(corpus.cleaned_dir, allow_truncated=False)
    corpus.check_like_anew()
    before = contents(corpus.cleaned_dir)
    corpus.clean()
    assert contents(corpus.cleaned_dir) == before
    corpus.test_articles = None
    corpus.clean()
    assert corpus.titles() == {"a": ["a1", "a2", "a3"], "b": ["new", "b1", "b2", "b3"]}
    assert not corpus.marker("a").truncated
    corpus.check_like_anew()


def test_files_are_compared_though_others_fail(corpus: Corpus) -> None:
    corpus.write("a", [OLD, plain("x")])
    corpus.write("b", [{"no": "record"}])
    corpus.write("c", [NEW])
    with pytest.raises(DataError, match=r"b\.jsonl: 1 of 1 lines are no records"):
        corpus.clean()
    assert corpus.titles() == {"a": ["x"], "c": ["new"]}
    read_markers(corpus.cleaned_dir, allow_truncated=False)


def test_texts_that_were_not_compared_yet_are_refused(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus.write("a", [OLD])
    corpus.clean()
    corpus.write("b", [NEW])
    with monkeypatch.context() as patch:
        patch.setattr(cleaner, "drop_duplicates", lambda *_: (_ for _ in ()).throw(KeyError))
        with pytest.raises(KeyError):
            corpus.clean()
    message = r"not yet compared for duplicates with all others: cleaned_b\.txt\n  Run cleaner\.py"
    with pytest.raises(DataError, match=message):
        read_markers(corpus.cleaned_dir, allow_truncated=False)
    corpus.clean()
    assert corpus.titles() == {"a": [], "b": ["new"]}
    corpus.check_like_anew()


def test_markers_of_older_formats_are_redone(
    corpus: Corpus, capfd: pytest.CaptureFixture[str]
) -> None:
    corpus.write("a", [OLD, plain("x")])
    corpus.write("b", [NEW])
    corpus.clean()
    expected = contents(corpus.cleaned_dir)
    path = marker_path_of(text_path_of(corpus.cleaned_dir, "a"))
    added = {
        *("truncated", "duplicate_texts", "cleaned_sha256"),
        *("pages_sha256", "duplicates_sha256", "compared"),
    }
    old = {key: value for key, value in json.loads(path.read_text()).items() if key not in added}
    del old["settings"]["drop_duplicate_texts"]
    path.write_text(json.dumps({**old, "format_version": 1}))
    corpus.clean()
    assert "a: again, unfinished" in capfd.readouterr().err
    assert contents(corpus.cleaned_dir) == expected


def damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [damaged, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_index_is_made_again(
    corpus: Corpus, capfd: pytest.CaptureFixture[str], harm: Callable[[Path], None]
) -> None:
    corpus.write("a", [OLD, plain("x")])
    corpus.write("b", [NEW])
    corpus.clean()
    expected = contents(corpus.cleaned_dir)
    harm(pages_path_of(text_path_of(corpus.cleaned_dir, "a")))
    corpus.clean()
    assert "a: again, the index of its pages is damaged" in capfd.readouterr().err
    assert contents(corpus.cleaned_dir) == expected


def test_missing_duplicates_are_made_again(
    corpus: Corpus, capfd: pytest.CaptureFixture[str]
) -> None:
    corpus.write("a", [OLD, plain("x")])
    corpus.write("b", [NEW])
    corpus.clean()
    expected = contents(corpus.cleaned_dir)
    duplicates_path_of(text_path_of(corpus.cleaned_dir, "a")).unlink()
    corpus.clean()
    assert "a: again, the duplicates dropped from it are missing" in capfd.readouterr().err
    assert contents(corpus.cleaned_dir) == expected


@pytest.mark.parametrize("path_of", [Path, duplicates_path_of])
def test_damaged_text_is_not_written_on(corpus: Corpus, path_of: Callable[[Path], Path]) -> None:
    corpus.write("a", [OLD, plain("x")])
    corpus.write("b", [NEW])
    corpus.clean()
    text_path = text_path_of(corpus.cleaned_dir, "a")
    damaged(path_of(text_path))
    corpus.write("b", [plain("y")])
    message = rf"{path_of(text_path).name}: was changed or damaged .*\n  Delete cleaned_a\.txt and"
    with pytest.raises(DataError, match=message):
        corpus.clean()
    assert not list(corpus.cleaned_dir.glob(".*.tmp"))
    text_path.unlink()
    corpus.clean()
    assert corpus.titles() == {"a": ["old", "x"], "b": ["y"]}
    corpus.check_like_anew()


def busy_corpus(corpus: Corpus) -> None:
    """Compared once; the next run drops from some texts, brings back to others, counts anew."""
    corpus.write("a", [OLD, plain("x"), page(1, "a1", 9)])
    corpus.write("b", [NEW, page(2, "b1", 1)])
    corpus.write("c", [page(1, "c1", 1), page(2, "c2", 2), plain("x")])
    corpus.clean()
    corpus.write("b", [page(1, "b1", 10), plain("x")])
    corpus.drop_texts = True


class Died(BaseException):
    """The process is gone: nothing after it has an effect."""


def die_after(patch: pytest.MonkeyPatch, operations: int) -> None:
    """Let the process die when it has renamed or deleted so many files."""
    counter = itertools.count()

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            if next(counter) >= operations:
                raise Died
            return real(*args, **kwargs)

        return operation

    for name in ("replace", "unlink"):
        patch.setattr(Path, name, dying(getattr(Path, name)))


def dies(corpus: Corpus, operations: int) -> bool:
    """Clean, and die after so many file operations of the comparison, unless it ends before."""
    compare = comparison.drop_duplicates
    with pytest.MonkeyPatch.context() as patch:

        def dying(*args: Any) -> None:
            die_after(patch, operations)
            compare(*args)

        patch.setattr(cleaner, "drop_duplicates", dying)
        try:
            corpus.clean()
        except Died:
            return True
    return False


def test_a_death_at_any_moment_of_the_comparison_is_made_good(corpus: Corpus) -> None:
    for operations in itertools.count():
        corpus.drop_texts = False
        busy_corpus(corpus)
        if not dies(corpus, operations):
            break
        with pytest.raises(DataError, match=r"not yet compared|unfinished|different settings"):
            read_markers(corpus.cleaned_dir, allow_truncated=False)
        corpus.clean()
        corpus.check_like_anew()
    assert operations >= 10, "deletions of old markers, and names given to new files"


def test_an_interrupted_comparison_goes_on(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "SAME_SIGNAL_SECONDS", 0)
    busy_corpus(corpus)
    lines = dropped_lines.all_lines

    def signalled(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return lines(*args)

    with monkeypatch.context() as patch:
        patch.setattr(dropped_lines, "all_lines", signalled)
        with pytest.raises(Interrupted, match="SIGTERM: stopped") as caught:
            corpus.clean()
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert not list(corpus.cleaned_dir.glob(".*.tmp"))
    corpus.clean()
    corpus.check_like_anew()


def test_progress_and_a_stop_come_within_a_text(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropped_lines, "REPORT_BYTES", 10)
    corpus.write("a", [plain("a"), plain("b"), plain("a")])
    corpus.clean()
    path = text_path_of(corpus.cleaned_dir, "a")
    reports: list[int] = []
    lines = list(dropped_lines.all_lines(path, read_marker(path), reports.append))
    assert b"".join(lines) == path.read_bytes()
    assert len(reports) == 4
    assert sum(reports) == path.stat().st_size


def command(folder: Path, *more: str) -> list[str]:
    config = folder / "config.json"
    paths = {"raw_dir": "raw", "cleaned_dir": "cleaned"}
    settings = {"min_characters": 1, "drop_duplicate_texts": True}
    config.write_text(json.dumps({"paths": paths, "cleaner": settings}))
    return [sys.executable, str(REPOSITORY / "cleaner.py"), "--config", str(config), *more]


def many_duplicates(corpus: Corpus, records: int) -> None:
    chance = random.Random(records)
    for file in range(3):
        corpus.write(
            f"f_{file}",
            [
                page(chance.randrange(records * 2), f"text {chance.randrange(records)}", number + 1)
                for number in range(records)
            ],
        )


def test_output_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    many_duplicates(Corpus(tmp_path), 200)
    outputs = []
    for workers in ("1", "3"):
        subprocess.run(
            command(tmp_path, "--workers", workers, "--force"), check=True, capture_output=True
        )
        outputs.append(contents(tmp_path / "cleaned"))
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 3 * 4 + 1, "text, index, duplicates and marker of each, and a lock"


def test_killed_runs_are_made_good(tmp_path: Path) -> None:
    many_duplicates(Corpus(tmp_path), 8_000)
    subprocess.run(command(tmp_path), check=True, capture_output=True)
    expected = contents(tmp_path / "cleaned")
    for seed in range(2):
        for path in (tmp_path / "cleaned").iterdir():
            path.unlink()
        process = subprocess.Popen(command(tmp_path), stderr=subprocess.DEVNULL)
        time.sleep(random.Random(seed).uniform(1, 5))
        process.kill()
        process.wait(timeout=10)
        subprocess.run(command(tmp_path), check=True, capture_output=True)
        assert contents(tmp_path / "cleaned") == expected


def entries_of(articles: int, distinct: int) -> np.ndarray[Any, Any]:
    """Entries of one wiki, each page `articles / distinct` times, in any order."""
    chance = np.random.default_rng(0)
    entries = np.zeros(articles, ENTRY)
    entries["site"] = 1
    entries["identifier"] = chance.permutation(articles) % distinct
    entries["revision"] = chance.permutation(articles) + 1
    entries["sample"] = chance.permutation(articles) % distinct
    return entries


@pytest.mark.parametrize("distinct", [1_000_000, 500_000])
def test_a_million_pages_are_compared_in_little_memory(distinct: int) -> None:
    entries = entries_of(1_000_000, distinct)
    tracemalloc.start()
    older = older_copies(entries)
    likely = alike(entries, np.ones(len(entries), bool))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 100 * len(entries), "beside 48 bytes for each entry"
    assert older.sum() == 1_000_000 - distinct
    assert likely.sum() == (0 if distinct == 1_000_000 else 1_000_000)
    newest = np.zeros(distinct, np.uint64)
    np.maximum.at(newest, entries["identifier"], entries["revision"])
    assert np.array_equal(entries["revision"] == newest[entries["identifier"]], ~older)


def test_of_equal_digests_the_first_is_no_repeat() -> None:
    digests = np.array([[1, 2], [3, 2], [1, 2], [1, 3], [3, 2], [1, 2]], np.uint64)
    assert repeats(digests).tolist() == [False, False, True, False, True, True]
    assert repeats(digests[:0]).tolist() == []
