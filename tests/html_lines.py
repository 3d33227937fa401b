"""The lines that a page of HTML becomes, for the tests of each part of that."""

from utils.cleaning.records.html_article import article_lines
from utils.cleaning.records.sections import section_names
from utils.cleaning.rules.text_rules import FORMULA


def lines_of(html: str, language: str = "en") -> list[str]:
    lines = article_lines(html, section_names(language))
    return [line.replace(FORMULA, "") for line in lines]


def line_of(html: str) -> str:
    (line,) = lines_of(html)
    return line
