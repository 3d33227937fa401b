"""Taking apart the list items that the parser gives with the text of the items inside them."""

_CERTAIN_CHARACTERS = 20  # a lone child that is shorter may be chance: "Rock and roll", "roll"
# Of a list's characters, what comparing its items may cost: far more than any real list needs.
_COST_PER_CHARACTER = 64
_COST_OF_STEP = 16  # beside the characters it compares, each of which costs 1


def without_children(values: list[str]) -> list[str]:
    """List items, each without the text of the items nested in it, which follow it.

    The parser gives an item the text of everything inside it, then lists what is inside as items
    of their own: "A B C", "B C", "C" was A > B > C. An item is a parent if its text ends with the
    items after it, their own children skipped, joined by spaces. The work grows with the length of
    the list alone: one made to take longer keeps its items as they are.
    """
    own = list(values)
    finder = _ChildrenFinder(values)
    for number in range(len(values) - 2, -1, -1):
        begin = finder.children_begin(number)
        if begin is not None:
            own[number] = values[number][:begin].rstrip()
    return [value for value in own if value]


class _ChildrenFinder:
    """Looks for children from the last item to the first, as each needs to know those after it."""

    def __init__(self, values: list[str]) -> None:
        self._values = values
        self._after = [number + 1 for number in range(len(values))]  # where descendants end
        self._cost_left = _COST_PER_CHARACTER * sum(map(len, values))

    def children_begin(self, number: int) -> int | None:
        """Where in an item's text its children begin."""
        text, child = self._values[number], self._values[number + 1]
        begin = text.find(child)
        while begin >= 0 and self._cost_left > 0:
            end = self._end_of_children(number, begin)
            if end is not None:
                is_certain = end - number > 2 or len(child) >= _CERTAIN_CHARACTERS or begin == 0
                starts_word = begin == 0 or text[begin - 1].isspace()
                if not (is_certain and starts_word):
                    return None
                self._after[number] = end
                return begin
            skipped, begin = begin, text.find(child, begin + 1)
            self._cost_left -= (begin if begin >= 0 else len(text)) - skipped
        return None

    def _end_of_children(self, number: int, begin: int) -> int | None:
        """The item after the children, if the next ones are all of the text from `begin`."""
        text, place, item = self._values[number], begin, number + 1
        while item < len(self._values):
            value = self._values[item]
            self._cost_left -= _COST_OF_STEP + min(len(value), len(text) - place)
            if not text.startswith(value, place):
                break
            place += len(value)
            item = self._after[item]
            if place == len(text):
                return item
            place += text[place] == " "
        return None
