"""Finding the few lines of many that a cleaning rule could change, in one pass over their bytes.

Every rule names its signs: short texts, at least one of which stands in any line that it changes.
A table over all pairs of bytes tells which pairs begin a sign. Looking up every pair of neighbours
takes two or three nanoseconds a byte, however many rules there are; most lines hold no sign, and no
rule sees them.

The first two bytes of a sign of three should be rare together: each place where they stand is
looked at once more.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

_PAIR = np.dtype("<u2")  # two neighbours as they lie in memory: the first is the low byte
_BYTES = 256


class SignTable:
    """Which rules, by their place in `signs`, may change a line: bit n stands for rule n.

    `signs[n]` are those of rule n: one to three bytes of UTF-8 each, in which "\\n" is either end
    of a line.
    """

    def __init__(self, signs: Sequence[Iterable[str | bytes]]) -> None:
        assert len(signs) <= 64, "a bit of 64 for each rule"
        self._rules_of_pair = np.zeros(_BYTES * _BYTES, np.uint64)
        # Pairs that begin signs of three bytes have a row each, by third byte; row 0 is for others.
        self._row_of_pair = np.zeros(_BYTES * _BYTES, np.uint8)
        self._rules_of_third = np.zeros((_BYTES, _BYTES), np.uint64)
        for number, signs_of_rule in enumerate(signs):
            bit = np.uint64(1 << number)
            for sign in signs_of_rule:
                self._add(sign if isinstance(sign, bytes) else sign.encode(), bit)
        self._begins_sign = (self._rules_of_pair != 0) | (self._row_of_pair != 0)

    def _add(self, sign: bytes, bit: np.uint64) -> None:
        assert 1 <= len(sign) <= 3, f"{sign!r} has {len(sign)} bytes"
        if len(sign) == 1:
            self._rules_of_pair[sign[0] + _BYTES * np.arange(_BYTES)] |= bit
            return
        pair = sign[0] + _BYTES * sign[1]
        if len(sign) == 2:
            self._rules_of_pair[pair] |= bit
            return
        if not self._row_of_pair[pair]:
            rows = int(self._row_of_pair.max()) + 1
            assert rows < _BYTES, "a row for each pair that begins a sign of three"
            self._row_of_pair[pair] = rows
        self._rules_of_third[self._row_of_pair[pair], sign[2]] |= bit

    def find(self, lines: Sequence[str]) -> dict[int, int]:
        """The lines that have any sign: their numbers, ascending, with the bits of their rules."""
        encoded = [line.encode() for line in lines]
        # A newline before each line and after the last, and one byte more, to be a third.
        places, rules = self._signs(b"\n".join([b"", *encoded, b"\n"]))
        sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
        line_ends = np.cumsum(sizes + 1)
        numbers = np.searchsorted(line_ends, places, side="right")
        firsts = np.flatnonzero(np.diff(numbers, prepend=-1))
        if not len(firsts):
            return {}
        rules_of_lines = np.bitwise_or.reduceat(rules, firsts)
        return dict(zip(numbers[firsts].tolist(), rules_of_lines.tolist(), strict=True))

    def _signs(self, data: bytes) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Where signs begin, ascending, and of which rules they are."""
        found = []
        for start in (0, 1):
            pairs = np.frombuffer(data, _PAIR, (len(data) - 1 - start) // 2, start)
            found.append(2 * np.flatnonzero(self._begins_sign.take(pairs)) + start)
        places = np.sort(np.concatenate(found), kind="stable")  # it merges what is in order
        stored = np.frombuffer(data, np.uint8)
        pairs_found = stored[places] + _BYTES * stored[places + 1].astype(np.intp)
        rules = self._rules_of_pair[pairs_found]
        rules |= self._rules_of_third[self._row_of_pair[pairs_found], stored[places + 2]]
        is_sign = rules != 0
        return places[is_sign], rules[is_sign]
