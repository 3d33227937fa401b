"""Which articles are duplicates: older copies of a page, and texts that stand there already.

Pure functions on the entries of all texts, joined in the order of the files.
"""

import numpy as np
from numpy.typing import NDArray

from utils.cleaning.duplicates.pages import Entries

BoolArray = NDArray[np.bool_]
UInt64Array = NDArray[np.uint64]

_ODD = np.uint64(0x9E3779B97F4A7C15)  # spreads identifiers over 64 bits


def older_copies(entries: Entries) -> BoolArray:
    """For each article, whether a copy of its page is there that is to stay instead.

    Of one site's articles with one identifier the highest revision stays, of these the latest
    date, of these the first. An article that does not say which page it is has no copies.
    """
    numbers = np.flatnonzero(entries["site"])
    pages = entries["identifier"][numbers] * _ODD ^ entries["site"][numbers]
    numbers = numbers[_occurring_again(pages)]  # few, as a rule
    site, identifier, revision, modified = (
        entries[name][numbers] for name in ("site", "identifier", "revision", "modified")
    )
    # The last key counts first; ~ and - turn an order around, and equals stay in theirs.
    order = np.lexsort((-modified, ~revision, identifier, site))
    repeated = _like_previous(site[order]) & _like_previous(identifier[order])
    return _marked(numbers[order[repeated]], len(entries))


def alike(entries: Entries, among: BoolArray) -> BoolArray:
    """The articles of `among` that may have the text of another: all that do, and few others."""
    numbers = np.flatnonzero(among)
    return _marked(numbers[_occurring_again(entries["sample"][numbers])], len(entries))


def repeats(digests: UInt64Array) -> BoolArray:
    """Which rows of `digests` (articles, words) equal an earlier row."""
    order = np.lexsort(digests.T)
    repeated = np.logical_and.reduce([_like_previous(column[order]) for column in digests.T])
    return _marked(order[repeated], len(digests))


def _occurring_again(values: UInt64Array) -> BoolArray:
    """Which values are there more than once."""
    order = np.argsort(values)
    repeated = _like_previous(values[order])
    repeated[:-1] |= repeated[1:]  # the first of equals too
    return _marked(order[repeated], len(values))


def _like_previous(values: UInt64Array) -> BoolArray:
    equal = np.zeros(len(values), bool)
    equal[1:] = values[1:] == values[:-1]
    return equal


def _marked(numbers: NDArray[np.int64], length: int) -> BoolArray:
    marked = np.zeros(length, bool)
    marked[numbers] = True
    return marked
