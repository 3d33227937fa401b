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
    date, of these the first. One with neither may have a number of a line for its identifier: it
    is a copy only of an article that has its address too. An article that does not say which page
    it is has no copies.
    """
    numbers = np.flatnonzero(entries["site"])
    pages = entries["identifier"][numbers] * _ODD ^ entries["site"][numbers]
    numbers = numbers[_occurring_again(pages)]  # few, as a rule
    is_dated = (entries["revision"] != 0) | (entries["modified"] != 0)
    behind = _behind_newer(entries, numbers[is_dated[numbers]], ("site", "identifier"))
    older = _marked(behind, len(entries))
    if not is_dated[numbers].all():
        named = numbers[entries["address"][numbers] != 0]
        behind = _behind_newer(entries, named, ("site", "identifier", "address"))
        older[behind[~is_dated[behind]]] = True
    return older


def _behind_newer(
    entries: Entries, numbers: NDArray[np.int64], same: tuple[str, ...]
) -> NDArray[np.int64]:
    """Those of `numbers` that are like a newer one, or an earlier one as new, by fields `same`."""
    fields = [entries[name][numbers] for name in same]
    # ~ and - turn an order around; what has neither is last, behind dates before 1970 too.
    revision, modified = ~entries["revision"][numbers], -entries["modified"][numbers]
    modified[modified == 0] = np.inf
    # The last key counts first, and equals stay in their order.
    order = np.lexsort((modified, revision, *fields))
    repeated = np.logical_and.reduce([_like_previous(field[order]) for field in fields])
    return numbers[order[repeated]]


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
