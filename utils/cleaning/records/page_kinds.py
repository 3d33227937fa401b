"""Telling pages that are no articles by what stands in front."""

from utils.cleaning.records import wikipedia_names as names
from utils.cleaning.records.sections import LONGEST_ITEM, is_item
from utils.cleaning.rules.text_rules import HEADING


def reason_not_article(title: str, description: str | None, lines: list[str]) -> str | None:
    """Why a page is no article, judged by what stands in front, or None."""
    place = next((n for n, line in enumerate(lines) if _is_text(line)), None)
    if place is None:
        return "empty"
    about = description.strip().lower() if description else ""
    lead = lines[place].strip()
    if len(lines) <= 3 and names.REDIRECT.match(lead):
        return "redirect"
    if about in names.DISAMBIGUATION_DESCRIPTIONS:
        return "disambiguation"
    if title.endswith(")") and names.DISAMBIGUATION_TITLE.search(title):
        return "disambiguation"
    if about in names.SET_INDEX_DESCRIPTIONS:
        return "set_index"
    if len(lead) > names.LEAD_CHARACTERS or not _is_list(lines[place + 1 :]):
        return None
    if " refer to" in lead and names.DISAMBIGUATION_LEAD_UNMARKED.search(lead):
        return "disambiguation"
    if ": " not in lead and not lead.endswith(":"):
        return None
    colon = names.DISAMBIGUATION_LEAD.search(lead)
    if colon and (colon.end() == len(lead) or is_item(lead)):  # else it is a sentence with a list
        return "disambiguation"
    return "set_index" if names.SET_INDEX_LEAD.search(lead) else None


def _is_text(line: str) -> bool:
    return bool(line) and not line.startswith(HEADING) and not line.isspace()


def _is_list(lines: list[str]) -> bool:
    """Whether few of the lines are too long for a list's items."""
    long_lines = sum(map(LONGEST_ITEM.__lt__, map(len, lines)))
    return long_lines == 0 or 5 * long_lines <= sum(map(_is_text, lines))
