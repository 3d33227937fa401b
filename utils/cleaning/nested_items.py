"""Taking apart the list items that the parser gives with the text of the items inside them."""

_CERTAIN_CHARACTERS = 20  # a lone child that is shorter may be chance: "Rock and roll", "roll"


def without_children(values: list[str]) -> list[str]:
    """List items, each without the text of the items nested in it, which follow it.

    The parser gives an item the text of everything inside it, then lists what is inside as items
    of their own: "A B C", "B C", "C" was A > B > C. An item is a parent if its text ends with the
    items after it, their own children skipped, joined by spaces.
    """
    own = list(values)
    after = [number + 1 for number in range(len(values))]  # where an item's descendants end
    for number in range(len(values) - 2, -1, -1):
        place = _children_begin(values, after, number)
        if place is not None:
            begin, end = place
            own[number] = values[number][:begin].rstrip()
            after[number] = end
    return [value for value in own if value]


def _children_begin(values: list[str], after: list[int], number: int) -> tuple[int, int] | None:
    """Where in an item's text its children begin, and the number of the item after them."""
    text, child = values[number], values[number + 1]
    begin = text.find(child)
    while begin >= 0:
        place, item = begin, number + 1
        while item < len(values) and text.startswith(values[item], place):
            place += len(values[item])
            item = after[item]
            if place == len(text):
                is_certain = item - number > 2 or len(child) >= _CERTAIN_CHARACTERS or begin == 0
                starts_word = begin == 0 or text[begin - 1].isspace()
                return (begin, item) if is_certain and starts_word else None
            place += text[place] == " "
        begin = text.find(child, begin + 1)
    return None
