"""Which articles of a text the stock tokenizer encodes once more, to check the ids of the engine.

The stock tokenizer takes about ten times as long, so they are few: their share of the characters
is bounded in every batch, whatever its size.
"""

from collections.abc import Sequence

SHORT_SHARE = LONG_SHARE = 0.001  # of a text's characters: a percent of the time for each
SHORT_CHARACTERS, LONG_CHARACTERS = 2_000, 20_000  # at most
SHORT_ARTICLES = 4  # of a batch


class CheckedArticles:
    """Chooses from one text's batches, in their order.

    From each batch some short articles that are spread over it, and now and then the longest that
    its share allows. The first batch has advance enough for both.
    """

    def __init__(self) -> None:
        self._short_left: float = SHORT_ARTICLES * SHORT_CHARACTERS
        self._long_left: float = LONG_CHARACTERS

    def choose(self, texts: Sequence[str]) -> list[int]:
        """Numbers of the articles to check, ascending."""
        lengths = [len(text) for text in texts]
        characters = sum(lengths)
        self._short_left += SHORT_SHARE * characters
        self._long_left += LONG_SHARE * characters
        return sorted({*self._short(lengths), *self._long(lengths)})

    def _short(self, lengths: Sequence[int]) -> list[int]:
        """The first short one of each part of the batch."""
        chosen = []
        part = max(-(-len(lengths) // SHORT_ARTICLES), 1)
        for start in range(0, len(lengths), part):
            most = min(self._short_left, SHORT_CHARACTERS)
            numbers = range(start, min(start + part, len(lengths)))
            number = next((n for n in numbers if 0 < lengths[n] <= most), None)
            if number is not None:
                self._short_left -= lengths[number]
                chosen.append(number)
        return chosen

    def _long(self, lengths: Sequence[int]) -> list[int]:
        if self._long_left < LONG_CHARACTERS:
            return []
        affordable = [n for n, length in enumerate(lengths) if length <= LONG_CHARACTERS]
        if not affordable:
            return []
        number = max(affordable, key=lengths.__getitem__)
        self._long_left -= lengths[number]
        return [number]
