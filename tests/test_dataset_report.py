import hashlib
import re
import tracemalloc
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parsed_html import ParsedHtml
from tests.small_text import ENGLISH, tokenizer_config
from tests.test_markup import HOSTILE
from tokenizer import CodeLlamaTokenizer
from utils.array_files import StoredArray
from utils.articles import CleanedMarker, CleanerSettings, text_path_of
from utils.cleaning.duplicates.comparison import DUPLICATE_TEXT, OLDER_COPY
from utils.config_file import parse_config
from utils.errors import DatasetError
from utils.reports.dataset_report import write_report
from utils.reports.markup import REPORT_NAME, spelled_out
from utils.reports.token_sections import BARS_PER_DECADE, plotted_histogram
from utils.reports.window_samples import SAMPLES, draw_windows
from utils.token_files import (
    DatasetMetadata,
    Recipe,
    TokenFile,
    documents_path_of,
    tokens_path_of,
)
from utils.token_statistics import LengthHistogram, TokenStatistics

WINDOW, STRIDE = 16, 8
SENTENCES = [line for line in ENGLISH.split("\n") if line]
SETTINGS = CleanerSettings(
    min_characters=100, max_bad_share=0.01, limit_articles=None, drop_duplicate_texts=False
)


@dataclass
class Dataset:
    """A dataset on disk and what is known of it, made without the code that makes datasets."""

    folder: Path
    tokenizer: CodeLlamaTokenizer
    texts: Mapping[str, Sequence[str]]  # stem -> articles
    metadata: DatasetMetadata
    statistics: TokenStatistics
    markers: dict[Path, CleanedMarker]

    def report(self) -> ParsedHtml:
        return ParsedHtml(self.write().read_text(encoding="utf-8"))

    def write(self) -> Path:
        return write_report(
            self.folder,
            self.metadata,
            self.statistics,
            self.markers,
            self.tokenizer.decode,
            lambda token_id: self.tokenizer.pieces([token_id])[0],
        )

    def stored_windows(self, stem: str) -> np.ndarray[Any, np.dtype[np.uint16]]:
        windows: np.ndarray[Any, np.dtype[np.uint16]] = np.load(tokens_path_of(self.folder, stem))
        return windows


def marker(articles: int, **counts: Any) -> CleanedMarker:
    """Only what a report reads of a marker."""
    values: dict[str, Any] = {
        "cleaner_version": 7,
        "settings": SETTINGS,
        "articles": articles,
        "dropped": {},
        "bad_lines": {},
        "rules": {},
        "duplicate_texts": 0,
    }
    return CleanedMarker.model_construct(**{**values, **counts})


def stored(path: Path) -> StoredArray:
    content = path.read_bytes()
    return StoredArray(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def make_dataset(
    folder: Path,
    tokenizer: CodeLlamaTokenizer,
    texts: Mapping[str, Sequence[str]],
    name: str = "test",
    window: int = WINDOW,
    stride: int = STRIDE,
) -> Dataset:
    folder.mkdir()
    recipe = Recipe(
        window=window,
        stride=stride,
        tokenizer_name=name,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        unk_token_id=tokenizer.unk_id,
    )
    statistics = TokenStatistics(tokenizer.vocab_size)
    files = []
    for stem, articles in texts.items():
        encoded = [tokenizer.encode(text) for text in articles]
        documents = [[tokenizer.bos_id, *ids, tokenizer.eos_id] for ids in encoded]
        stream = np.array([token for ids in documents for token in ids], np.uint16)
        last = len(stream) - window
        begins = [*range(0, last, stride), last] if last >= 0 else []
        rows = [stream[begin : begin + window] for begin in begins]
        starts = np.cumsum([0, *map(len, documents)])[:-1]
        np.save(tokens_path_of(folder, stem), np.array(rows, np.uint16).reshape(-1, window))
        np.save(documents_path_of(folder, stem), starts)
        offsets = np.cumsum([0, *map(len, encoded)])
        flat = np.array([token for ids in encoded for token in ids], np.uint16)
        statistics.add(flat, offsets, [len(text) for text in articles])
        files.append(
            TokenFile(
                stem=stem,
                source_sha256="",
                articles=len(articles),
                tokens=len(stream),
                windows=len(rows),
                characters=sum(map(len, articles)),
                utf8_bytes=sum(len(text.encode()) for text in articles),
                unknown_tokens=int((flat == tokenizer.unk_id).sum()),
                tokens_array=stored(tokens_path_of(folder, stem)),
                documents_array=stored(documents_path_of(folder, stem)),
            )
        )
    markers = {text_path_of(folder, stem): marker(len(texts[stem])) for stem in texts}
    metadata = DatasetMetadata.of(recipe, files)
    return Dataset(folder, tokenizer, texts, metadata, statistics, markers)


@pytest.fixture
def tokenizer(tiny_tokenizer_dir: Path, tmp_path: Path) -> CodeLlamaTokenizer:
    return CodeLlamaTokenizer.load(tiny_tokenizer_dir, tokenizer_config(tmp_path))


@pytest.fixture
def codellama(shared_dir: Path, tmp_path: Path) -> CodeLlamaTokenizer:
    config = parse_config({}, "defaults", tmp_path)
    return CodeLlamaTokenizer.load(shared_dir / "tokenizers/codellama_hub_files", config)


@pytest.fixture
def dataset(tokenizer: CodeLlamaTokenizer, tmp_path: Path) -> Dataset:
    texts = {"part_2": SENTENCES[:7], "part_10": SENTENCES[7:]}
    return make_dataset(tmp_path / "a_dataset", tokenizer, texts)


def values_of(report: ParsedHtml) -> dict[str, str]:
    """What the report's lists of names and values say."""
    names = [text for element, text in report.texts if element == "dt"]
    values = [text for element, text in report.texts if element == "dd"]
    return dict(zip(names, values, strict=True))


def bars_of(report: str, heading: str) -> dict[str, tuple[int, str]]:
    """The rows of the tables with bars behind a heading: label -> count, share."""
    _, _, rest = report.partition(f">{heading}</h3>")
    rest, _, _ = rest.partition("</table></div>")
    row = r'<th scope="row">(.*?)</th>.*?<td>([\d,]+)</td><td>(.*?)</td></tr>'
    return {
        ParsedHtml(label).text(): (int(count.replace(",", "")), share)
        for label, count, share in re.findall(row, rest)
    }


# The page


def test_the_report_is_one_file_that_loads_and_runs_nothing(dataset: Dataset) -> None:
    path = dataset.write()
    assert path == dataset.folder / REPORT_NAME
    text = path.read_text(encoding="utf-8")
    report = ParsedHtml(text)
    assert not {name for name, _ in report.tags} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "a",
    }
    attributes = {key for _, found in report.tags for key in found}
    assert not attributes & {"src", "href", "srcset", "action", "data", "xlink:href"}
    assert not [key for key in attributes if key.startswith("on")]
    assert not re.search(r"https?://|<script", text)


def test_the_same_dataset_makes_the_same_bytes(dataset: Dataset) -> None:
    assert dataset.write().read_bytes() == dataset.write().read_bytes()


def test_hostile_text_and_names_stay_text(tokenizer: CodeLlamaTokenizer, tmp_path: Path) -> None:
    """Such a report has the elements of one with harmless text of the same form, and no others."""
    hostile = [f"Title\n{text} and \x00\x1b\u202e]]>" for text in HOSTILE]
    stem = "<script>x<!--&amp;"  # file names hold no slash
    name = '"></dd></dl><script>alert(1)</script>'
    bad = make_dataset(tmp_path / "<b>]]>&", tokenizer, {stem: hostile}, name, 64, 64)
    bad.markers = {
        text_path_of(tmp_path, stem): marker(
            5, dropped={"<i>x": 1}, bad_lines={"<u>y": 2}, rules={"</table><b>": 3}
        )
    }
    assert bad.metadata.windows <= SAMPLES, "all are shown"
    report = bad.report()
    assert {tag for tag, _ in report.tags} == {
        *("html", "head", "meta", "title", "style", "body", "main", "header", "section", "div"),
        *("h1", "h2", "h3", "p", "pre", "span", "code", "i", "dl", "dt", "dd"),
        *("table", "thead", "tbody", "tfoot", "tr", "th", "td", "figure", "figcaption"),
        *("svg", "line", "rect", "text", "polyline", "circle"),
    }
    shown = report.text()
    for text in (name, stem, "<b>]]>&", "<i>x", "<u>y (unreadable)", "</table><b>"):
        assert text in shown
    windows = "".join(text for element, text in report.texts if element in ("pre", "span"))
    for text in HOSTILE:
        assert text in windows
    assert "\x00" not in shown
    assert r"\x00\x1b\u202e]]>" in windows


def test_small_datasets_have_a_report(tokenizer: CodeLlamaTokenizer, tmp_path: Path) -> None:
    for number, articles in enumerate(
        ([SENTENCES[0]], [SENTENCES[0]] * 3, ["", "x" * 40], ["a"] * 9, [""] * 9)
    ):
        small = make_dataset(tmp_path / str(number), tokenizer, {"part": articles})
        assert f"{len(articles):,}" == values_of(small.report())["articles"]


# Numbers


def test_totals_are_those_of_the_texts(dataset: Dataset) -> None:
    articles = [text for texts in dataset.texts.values() for text in texts]
    text_tokens = sum(len(dataset.tokenizer.encode(text)) for text in articles)
    values = values_of(dataset.report())
    assert values["files"] == "2"
    assert values["articles"] == str(len(articles))
    assert values["tokens"] == f"{text_tokens + 2 * len(articles):,}"
    assert values["tokens of text"] == f"{text_tokens:,}"
    assert values["characters per token"] == f"{sum(map(len, articles)) / text_tokens:.2f}"
    utf8_bytes = sum(len(text.encode()) for text in articles)
    assert values["bytes per token"] == f"{utf8_bytes / text_tokens:.2f}"
    assert values["window"] == f"{WINDOW} tokens"
    assert values["tokenizer"] == "test"
    assert values["SHA-256 of tokenizer.json"] == dataset.tokenizer.sha256
    assert values["cleaner"] == "version 7"
    assert values["cleaner.min_characters"] == "100"
    assert values["fingerprint"] == dataset.metadata.fingerprint


def test_tokens_are_ranked_and_counted(dataset: Dataset) -> None:
    counts = Counter(
        token
        for texts in dataset.texts.values()
        for text in texts
        for token in dataset.tokenizer.encode(text)
    )
    total = counts.total()
    text = dataset.write().read_text(encoding="utf-8")
    ranked = list(bars_of(text, "Most frequent tokens").items())
    assert [count for _, (count, _) in ranked] == [n for _, n in counts.most_common(len(ranked))]
    for label, (count, share) in ranked:
        piece = label.partition(" ")[0]
        same = [i for i in counts if dataset.tokenizer.pieces([i]) == [piece]]
        assert [counts[i] for i in same] == [count]
        assert float(share.rstrip("%")) == pytest.approx(100 * count / total, rel=0.01)
    values = values_of(ParsedHtml(text))
    vocabulary = dataset.tokenizer.vocab_size
    never = vocabulary - len(counts) - 3  # <s>, </s> and <unk> are no text
    assert values["never used"] == f"{never:,} ({never / (vocabulary - 3):.1%})"
    byte_ids = [i for i in counts if re.fullmatch("<0x..>", dataset.tokenizer.pieces([i])[0])]
    byte_tokens = sum(counts[i] for i in byte_ids)
    assert values["line breaks"].startswith("0 ")
    assert values["other byte tokens"].startswith(f"{byte_tokens} ")


def test_codellamas_pieces_are_legible(codellama: CodeLlamaTokenizer, tmp_path: Path) -> None:
    text = "the cat\nthe dog\n\tthe 漢字 𓀀"
    dataset = make_dataset(tmp_path / "set", codellama, {"part": [text]})
    ranked = bars_of(dataset.write().read_text(encoding="utf-8"), "Most frequent tokens")
    assert ranked["▁the"][0] == 1
    assert ranked["the"][0] == 2
    assert ranked[r"<0x0A> \n"] == (2, ranked[r"<0x0A> \n"][1])
    assert r"<0x09> \t" in ranked
    assert "漢" in ranked
    assert "<0xF0>" in ranked
    values = values_of(dataset.report())
    assert values["line breaks"].startswith("2 ")
    assert values["other byte tokens"].startswith("5 ")  # the tab and four of the hieroglyph
    assert values["unknown tokens"] == "0 (0%)"


def test_what_the_cleaner_did_is_added_up(dataset: Dataset, tmp_path: Path) -> None:
    first, second = text_path_of(tmp_path, "part_2"), text_path_of(tmp_path, "part_10")
    kept = dataset.metadata.articles
    bad_lines = {"blank": 1_234, "truncated": 1}
    dropped = {"too_short": 1, "empty": 2, OLDER_COPY: 3, DUPLICATE_TEXT: 5}
    every = kept + 3 + 5  # of which a rule may have changed each
    dataset.markers = {
        first: marker(kept - 3, dropped={"too_short": 4}, bad_lines=bad_lines, rules={"a_b": 3}),
        second: marker(3, dropped=dropped, rules={"a_b": 1, "c": every}),
        text_path_of(tmp_path, "of_another_dataset"): marker(9, dropped={"empty": 9}),
    }
    text = dataset.write().read_text(encoding="utf-8")
    lines = kept + 8 + 3 + 5
    records = bars_of(text, "Records")
    assert {name: count for name, (count, _) in records.items()} == {
        "kept": kept,
        "too short": 5,
        "empty": 2,
        "truncated (unreadable)": 1,
        OLDER_COPY.replace("_", " "): 3,
        DUPLICATE_TEXT.replace("_", " "): 5,
    }
    assert records["kept"][1] == f"{kept / lines:.1%}"
    assert "1,234 blank lines of the raw files are not counted." in ParsedHtml(text).text()
    assert bars_of(text, "Rules that fired") == {
        "c": (every, "100%"),
        "a b": (4, f"{4 / every:.1%}"),
    }
    assert f"of all {every:,} that were cleaned" in ParsedHtml(text).text()
    assert "the dataset holds the first" not in text


def test_a_part_of_the_cleaned_text_is_said_to_be_one(dataset: Dataset, tmp_path: Path) -> None:
    kept = dataset.metadata.articles
    dataset.markers = {text_path_of(tmp_path, "part_2"): marker(5000 + kept)}
    assert (
        f"{5000 + kept:,} articles; the dataset holds the first {kept}." in dataset.report().text()
    )


def test_kept_duplicates_are_said_to_be_there(dataset: Dataset, tmp_path: Path) -> None:
    path = text_path_of(tmp_path, "part_2")
    dropping = SETTINGS.model_copy(update={"drop_duplicate_texts": True})
    said = "1,234 of the kept articles have the text of an earlier one."
    dataset.markers = {path: marker(5, duplicate_texts=1234)}
    assert said in dataset.report().text()
    dataset.markers = {path: marker(5, duplicate_texts=1234, settings=dropping)}
    assert said not in dataset.report().text()


def test_the_table_of_files_adds_up(dataset: Dataset) -> None:
    text = dataset.write().read_text(encoding="utf-8")
    _, _, rest = text.partition(">Files</h2>")
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(<td>.*?)</tr>", rest)]
    assert [row[0] for row in rows] == ["part_2", "part_10", "all"]
    for column in (1, 2, 5):
        numbers = [int(row[column].replace(",", "")) for row in rows]
        assert numbers[0] + numbers[1] == numbers[2]


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6) | st.integers(0, 40) | st.just(5), min_size=1, max_size=100))
def test_plotted_bars_hold_every_length(lengths: list[int]) -> None:
    histogram = LengthHistogram()
    histogram.add(np.array(lengths))
    edges, shares, counts = plotted_histogram(histogram)
    expected, _ = np.histogram(np.maximum(lengths, 1), [*edges[:-1], edges[-1] - 0.5])
    assert counts == expected.tolist()
    assert sum(counts) == len(lengths)
    widths = np.diff(np.log10(edges)) * BARS_PER_DECADE
    assert (np.array(shares) * widths).sum() == pytest.approx(1)
    assert widths[np.array(edges[:-1]) > 1000] == pytest.approx(1, abs=0.2)


# Windows


def expected_text(ids: Sequence[int], tokenizer: CodeLlamaTokenizer) -> str:
    """What a window reads like, from the tokenizer's own text between special ids."""
    special = {tokenizer.bos_id: "<s>", tokenizer.eos_id: "</s>\n"}
    shown = ""
    for key, group in groupby(ids, key=lambda token: special.get(token, "")):
        run = list(group)
        lines = [spelled_out(line) for line in tokenizer.decode(run).split("\n")]
        shown += key * len(run) if key else "↵\n".join(lines)
    return shown


@pytest.mark.parametrize("which", ["tokenizer", "codellama"])
def test_windows_read_as_the_tokenizer_decodes_what_is_stored(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    tokenizer = request.getfixturevalue(which)
    articles = [f"{line}\n\n{line[::-1]} </s> 漢字\t𓀀\u202e" for line in SENTENCES]
    dataset = make_dataset(tmp_path / "set", tokenizer, {"one": articles, "two": articles[:3]})
    assert dataset.metadata.windows > SAMPLES
    text = dataset.write().read_text(encoding="utf-8")
    shown = re.findall(
        r"<h3>(\w+\.npy)\[(\d+)\]</h3><p>tokens ([\d,]+) to .*?</p>(<pre.*?</pre>)", text, re.DOTALL
    )
    assert len(shown) == SAMPLES
    assert len({(file, row) for file, row, _, _ in shown}) == SAMPLES
    for file, row, start, window in shown:
        ids = np.load(dataset.folder / file)[int(row)].tolist()
        assert ParsedHtml(window).text() == expected_text(ids, tokenizer)
        stem = file.removeprefix("tokens_").removesuffix(".npy")
        stream = [
            token
            for article in dataset.texts[stem]
            for token in (tokenizer.bos_id, *tokenizer.encode(article), tokenizer.eos_id)
        ]
        begin = int(start.replace(",", ""))
        assert stream[begin : begin + WINDOW] == ids


def test_drawn_windows_come_from_all_over(tokenizer: CodeLlamaTokenizer, tmp_path: Path) -> None:
    texts = {f"part_{number}": SENTENCES for number in range(12)}
    dataset = make_dataset(tmp_path / "set", tokenizer, texts)
    drawn = [(file.stem, row) for file, row, _, _ in draw_windows(dataset.folder, dataset.metadata)]
    assert len(set(drawn)) == SAMPLES
    assert len({stem for stem, _ in drawn}) > 4
    order = list(texts)
    assert drawn == sorted(drawn, key=lambda item: (order.index(item[0]), item[1]))


def test_few_windows_are_all_shown(tokenizer: CodeLlamaTokenizer, tmp_path: Path) -> None:
    texts = {"a": [SENTENCES[0]], "shorter_than_a_window": ["a"], "c": [SENTENCES[1]]}
    dataset = make_dataset(tmp_path / "set", tokenizer, texts)
    assert 2 < dataset.metadata.windows <= SAMPLES
    drawn = [(file.stem, row) for file, row, _, _ in draw_windows(dataset.folder, dataset.metadata)]
    counts = [(file.stem, file.windows) for file in dataset.metadata.files]
    assert drawn == [(stem, row) for stem, windows in counts for row in range(windows)]
    dataset.write()


def test_drawing_windows_does_not_read_the_rest(tmp_path: Path, dataset: Dataset) -> None:
    windows = np.zeros((1 << 16, 512), np.uint16)  # 64 MiB
    path = tokens_path_of(tmp_path, "large")
    np.save(path, windows)
    file = dataset.metadata.files[0].model_copy(
        update={
            "stem": "large",
            "windows": len(windows),
            "tokens": (len(windows) + 1) * 256,
            "tokens_array": StoredArray(size_bytes=path.stat().st_size, sha256=""),
        }
    )
    metadata = dataset.metadata.model_copy(
        update={"files": [file], "windows": len(windows), "window": 512, "stride": 256}
    )
    del windows
    tracemalloc.start()
    assert len(list(draw_windows(tmp_path, metadata))) == SAMPLES
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 4 << 20


# What does not fit


def test_a_changed_file_of_tokens_is_named(dataset: Dataset) -> None:
    path = tokens_path_of(dataset.folder, "part_2")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DatasetError) as caught:
        dataset.write()
    assert str(path) in caught.value.what
    assert "dataset_prep.py" in caught.value.hint
    assert not (dataset.folder / REPORT_NAME).exists()


def test_statistics_of_other_text_are_a_mistake(dataset: Dataset) -> None:
    dataset.statistics.merge(dataset.statistics)
    with pytest.raises(AssertionError):
        dataset.write()
