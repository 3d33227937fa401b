"""Comparing all cleaned texts of a folder with each other, and dropping what is there twice."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.articles import CleanedMarker, duplicates_path_of, read_marker, write_marker
from utils.cleaning.duplicates.dropped_lines import all_lines, dropped_now, rewrite
from utils.cleaning.duplicates.duplicates import BoolArray, alike, older_copies, repeats
from utils.cleaning.duplicates.pages import Entries, read_pages
from utils.interrupts import InterruptGuard
from utils.terminal import Progress

OLDER_COPY = "older_copy"  # why an article is dropped, as markers count it
DUPLICATE_TEXT = "duplicate_text"
_RULES_VERSION = 2  # raise it with any change of what is a duplicate, or which of them stays
_DIGEST_WORDS = 2  # of 64 bits


@dataclass(frozen=True)
class _Text:
    """One cleaned text, and where its articles are among those of all texts."""

    path: Path
    marker: CleanedMarker
    place: slice

    @property
    def stored_bytes(self) -> int:
        """The size of its articles, kept and dropped."""
        if self.marker.duplicates_sha256 is None:
            return self.marker.output_bytes
        return self.marker.output_bytes + duplicates_path_of(self.path).stat().st_size


@dataclass(frozen=True)
class _Verdict:
    """Which articles are what, (articles,) each, of all texts or of one."""

    older: BoolArray  # copies of a page
    equal: BoolArray  # to an earlier article, of those that are no older copies
    drop_texts: bool

    def of(self, text: _Text) -> "_Verdict":
        return _Verdict(self.older[text.place], self.equal[text.place], self.drop_texts)

    @property
    def dropped(self) -> BoolArray:
        return self.older | self.equal if self.drop_texts else self.older


def drop_duplicates(text_paths: Sequence[Path], drop_texts: bool) -> None:
    """Leave one copy of each page in the finished texts, and count equal articles.

    With `drop_texts` only the first of equal articles stays. What stays depends on the texts and
    their order alone: an article that was dropped comes back when the other copy is gone. Where
    nothing changed since the last comparison, nothing is read.

    Ctrl-C and SIGTERM raise Interrupted; a rerun goes on. Raises DataError if a file is damaged.
    """
    markers = {path: read_marker(path) for path in text_paths}
    compared = _fingerprint(markers, drop_texts)
    if all(marker.compared == compared for marker in markers.values()):
        return
    with InterruptGuard("stopping the comparison") as guard:
        texts, entries = _read_texts(markers, guard)
        older = older_copies(entries)
        verdict = _Verdict(older, _equal_texts(texts, alike(entries, ~older), guard), drop_texts)
        changed = [text for text in texts if _is_changed(text, verdict.of(text).dropped)]
        with _progress("dropping duplicates", changed, guard) as report:
            for text in texts:
                _check_interrupted(guard)
                _settle(text, text in changed, verdict.of(text), compared, report)


def _fingerprint(markers: Mapping[Path, CleanedMarker], drop_texts: bool) -> str:
    """Of all that decides what is dropped."""
    texts = [(path.name, m.cleaned_sha256, m.pages_sha256) for path, m in markers.items()]
    return hashlib.sha256(json.dumps([_RULES_VERSION, drop_texts, texts]).encode()).hexdigest()


def _read_texts(
    markers: Mapping[Path, CleanedMarker], guard: InterruptGuard
) -> tuple[list[_Text], Entries]:
    """The texts, and the entries of their pages, joined."""
    texts: list[_Text] = []
    parts: list[Entries] = []
    begin = 0
    for path, marker in markers.items():
        _check_interrupted(guard)
        parts.append(read_pages(path, marker))
        texts.append(_Text(path, marker, slice(begin, begin + len(parts[-1]))))
        begin += len(parts[-1])
    return texts, np.concatenate(parts)


def _equal_texts(texts: Sequence[_Text], candidates: BoolArray, guard: InterruptGuard) -> BoolArray:
    """Which of the candidates' lines, read from the texts, are those of earlier candidates."""
    digests = bytearray()
    concerned = [text for text in texts if candidates[text.place].any()]
    with _progress("comparing texts", concerned, guard) as report:
        for text in concerned:
            lines = all_lines(text.path, text.marker, report)
            for is_candidate, line in zip(candidates[text.place].tolist(), lines, strict=True):
                if is_candidate:
                    digests += hashlib.sha256(line).digest()[: 8 * _DIGEST_WORDS]
    equal = np.zeros(len(candidates), bool)
    equal[candidates] = repeats(np.frombuffer(digests, np.uint64).reshape(-1, _DIGEST_WORDS))
    return equal


def _is_changed(text: _Text, dropped: BoolArray) -> bool:
    return not np.array_equal(dropped, dropped_now(text.path, text.marker, len(dropped)))


def _settle(
    text: _Text,
    is_changed: bool,
    verdict: _Verdict,
    compared: str,
    report: Callable[[int], None],
) -> None:
    """Bring a text in line with the verdict on its articles, then its marker."""
    marker = text.marker
    try:
        if is_changed:
            marker = rewrite(text.path, marker, verdict.dropped, report)
        write_marker(text.path, _judged(marker, verdict, compared))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(text.path)) from error


def _judged(marker: CleanedMarker, verdict: _Verdict, compared: str) -> CleanedMarker:
    """The marker of a text that is in line with the verdict."""
    counts = {OLDER_COPY: verdict.older.sum(), DUPLICATE_TEXT: verdict.equal.sum()}
    dropped = {reason: count for reason, count in marker.dropped.items() if reason not in counts}
    if not verdict.drop_texts:
        del counts[DUPLICATE_TEXT]
    dropped |= {reason: int(count) for reason, count in counts.items() if count}
    settings = marker.settings.model_copy(update={"drop_duplicate_texts": verdict.drop_texts})
    changes = {
        "settings": settings,
        "dropped": dict(sorted(dropped.items())),
        "duplicate_texts": int(verdict.equal.sum()),
        "compared": compared,
    }
    return marker.model_copy(update=changes)


@contextmanager
def _progress(
    label: str, texts: Sequence[_Text], guard: InterruptGuard
) -> Iterator[Callable[[int], None]]:
    """Shows how far work on the texts is; what it gives takes bytes done, and may raise."""
    with Progress(label, sum(text.stored_bytes for text in texts), "B") as progress:

        def report(done_bytes: int) -> None:
            _check_interrupted(guard)
            progress.advance(done_bytes)

        yield report


def _check_interrupted(guard: InterruptGuard) -> None:
    guard.check("stopped; finished files are kept", "The same command goes on with comparing them.")
