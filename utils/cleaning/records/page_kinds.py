"""Telling pages that are no articles by what stands in front."""

from utils.cleaning.records import wikipedia_names as names
from utils.cleaning.records.sections import LONGEST_ITEM, is_item
from utils.cleaning.rules.text_rules import HEADING


def reason_not_article(title: str, description: str | None, lines: list[str]) -> str | None:
    """Why a page is no article, judged by what stands in front, or None."""
    place = 0
    while place < len(lines) and not _is_text(lines[place]):
        place += 1
    if place == len(lines):
        return "empty"
    lead = lines[place].strip()
    may_redirect = len(lines) <= 3 and (lead[0] == "#" or not lead[1:2].islower())
    if may_redirect and names.REDIRECT.match(lead):
        return "redirect"
    if title.endswith(")") and names.DISAMBIGUATION_TITLE.search(title):
        return "disambiguation"
    reason = names.REASONS_BY_DESCRIPTION.get(description.strip().lower()) if description else None
    return reason or _reason_by_lead(lead, lines[place + 1 :])


def _reason_by_lead(lead: str, following: list[str]) -> str | None:
    if len(lead) > names.LEAD_CHARACTERS:
        return None
    has_colon = lead.endswith(":") or ": " in lead
    has_refer = " refer to" in lead
    if not (has_colon or has_refer) or not _is_list(following):
        return None
    if has_refer and names.DISAMBIGUATION_LEAD_UNMARKED.search(lead):
        return "disambiguation"
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
