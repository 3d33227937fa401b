"""Cleaning rules for prose, which see no lines of code: see utils/text_rules.py.

Each begins with a cheap test for what it looks for, since most articles hold little of it, and
most patterns begin with a literal, which the regular expression engine finds fastest.
"""

import html
import re
from re import Match


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Tags of wiki markup. Names such as <b> or <a> are left: articles about HTML speak of them.
_TAG_NAMES = (
    "blockquote|br|center|chem|div|dfn|gallery|hiero|imagemap|includeonly|mapframe|math|noinclude"
    "|nowiki|onlyinclude|poem|references|ref|samp|score|section|small|span|sub|sup"
    "|templatestyles|timeline|tt|wbr"
)
_REFERENCE = re.compile(r"<ref(?: [^<>\n]*)?(?<!/)>[^\n]*?</ref>", re.IGNORECASE)
_TAG = re.compile(rf"</?({_TAG_NAMES})(?: [^<>\n]*)?/?>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,31}[0-9]{0,2});")
_TEMPLATE_NAMES = (
    "cit|clarify|convert|dead link|efn|fact|ipa|lang|main|refn|reflist|see also|sfn|webarchive"
)
_TEMPLATE = re.compile(
    rf" ?\{{\{{(?: *(?:{_TEMPLATE_NAMES})[^{{}}\n]*|[^{{}}|\n]+\|[^{{}}\n]*)\}}\}}"
    r"(?:: CS1 [^.\n]*?\(link\))?",
    re.IGNORECASE,
)
_OPEN_SUBSTITUTION = re.compile(r"\{\{ ?subst:[^\n]*|^[^{\n]*\} ?\} ?\}\}[^\n]*", re.MULTILINE)
_MATH_STARTS = ("{\\displaystyle", "{\\textstyle", "{\\scriptstyle")
_FORMULA_LINE = re.compile(r"^(?:formula_[0-9]+[ ,.;:]*)+$", re.MULTILINE)
_FOOTNOTE = re.compile(r"^ ?↑[^\n]*", re.MULTILINE)
_COORDINATES = re.compile(r"^(?:Coordinates|Koordinaten): [0-9°′″'\". NSEWO/;+−-]*$", re.MULTILINE)
_CITATION = re.compile(
    r"\[(?<=[.,;:!?”’]\[)(?:[0-9]{1,3}|(?:note|nb|n) [0-9]{1,3})\]"
    r"(?:\[(?:[0-9]{1,3}|(?:note|nb|n) [0-9]{1,3})\])*(?!\w)"
)
_EDITORIAL = re.compile(
    r"\[(?:citation needed|clarification needed|who\?|when\?|where\?|which\?|by whom\?"
    r"|according to whom\?|dubious – discuss|dead link|better source needed|page needed"
    r"|failed verification|update needed|vague)\]"
)
_LISTEN = re.compile(r",? ?\(listen\)(?=\))| ?\(listen\)")
_IPA = re.compile(r"/ ?([^/\n]{1,90}?) /")
_IPA_LETTERS = frozenset("ˈˌːəɪʊɔɛæɑɒʌɜʃʒθðŋɡɹɾɐɨɯøœɲʁχɣβ")
_LABEL = re.compile(
    r"(?<=[(;,])( ?)(?:(?:[A-Z][\w-]*(?: [\w-]+){0,2} )?(?:pronunciation|pronounced|IPA):"
    r"|pronounced |[A-Z][\w-]+(?: [A-Z][\w-]+)?:) ?(?=[;,)])"
)
_LABEL_ENDS = (":;", ":,", ":)", ": ;", ": ,", ": )", "ed ;", "ed ,", "ed )")
_OPENING_SEPARATORS = re.compile(r"\((?: ?[;,])+ ?(?=[^\s;,)])")
_FOREIGN_END = re.compile(r",\)(?<=[^\x00-\x7f],\))")
_REPEATED_SEPARATORS = re.compile(r"[;,](?: [;,])+")
_EMPTY_PARENTHESES = re.compile(r" \((?:[ ;,]|\"\"|“”)*\)(?![\[{(=\w]|\.\w)")
_SPACED_QUOTES = re.compile(r' " ([^"\n]+) "(?=[ ,.;:!?)]|$)', re.MULTILINE)
_DOUBLED_QUOTES = re.compile(r'""(?<!""")(?:(\w(?:[^"\n]*[^\s"])?)""(?!")|(?<![^ (]"")(?=\w))')
_POSSESSIVE = re.compile(r" 's(?<=[\w.\"”’)\]] 's)\b(?![-'’])| ’s(?<=[\w.\"”’)\]] ’s)\b(?![-'’])")
_HYPHEN = re.compile(r" -(?=([^\W\d_]+))")
_RESPELLED = re.compile(r"- (?<=\w- )(?=(?:[^\W\d_]+ -\w|[A-Z]{2,}\b))")
_COMMA = re.compile(r" ,(?<=[\w\"'”’»)\]%°] ,)(?=[ \"”]|$)", re.MULTILINE)
_FULL_STOP = re.compile(r" \.(?<=[\w\"'”’»)\]%°] \.)(?=$| [A-Z\"“(])", re.MULTILINE)
_DOUBLED_FULL_STOP = re.compile(r"\.\.(?:(?<=[^\W\d_]\.\.)(?=$| )|(?<=[0-9]\.\.)$)", re.MULTILINE)
_GLUED = re.compile(r"[.?!](?=([A-Z][a-z]*)[ ,])")
_RUN = re.compile("  +")
_VOWELS = frozenset("aeiouyàáâãäåæèéêëìíîïòóôõöøùúûüýаеёиоуыэюя")
# A word before " -word" after which the hyphen belongs to an affix or an option: "from n to -ng".
_BEFORE_AFFIX = _words(
    "a also an and are as at between by ending endings for form forms from in into is like of on"
    " option or prefix suffix suffixes than that the their these this to use with"
)
# Words that begin a sentence. Class names of programs, "threading.Thread", are not among them.
_STARTERS = _words(
    "A About According Actual Additional Additionally After Afterwards Again Al All Almost Along"
    " Already Also Although Among An And Another Any Apart Around As Aside At Because Before Being"
    " Besides Between Beyond Both But By Certain Consequently Contrary Currently Despite Due During"
    " Each Early Earlier Either Enclosed Eventually Even Every Examples Finally Firstly Following"
    " For Formerly From Furthermore Further Given Had Has Have Having He Hence Her Here Him His How"
    " However I If Important In Indeed Initially Instead Is Issues It Its Just Last Late Later Like"
    " Likewise Many Meanwhile Moreover More Most Much My Near Nearly Neither Nevertheless New No"
    " None Nor Not Notable Notably Now Of Often On Once One Only Or Originally Other Others Our Out"
    " Over Part Perhaps Previously Prior Rather Recent Recently Regarding She Shortly Similar"
    " Similarly Since So Some Sometimes Soon Starting Steadily Still Subsequent Subsequently Such"
    " Than That The Their Then There Thereafter Therefore These They This Those Though Three"
    " Through Throughout Thus To Today Together Two Typically Ultimately Under Unlike Until Up Upon"
    " Using Usually Various Was We Were What When Where Whereas Whether Which While Who Why With"
    " Within Without Yet You Your"
)


def html_entities(text: str) -> str:
    """Entities as the characters they stand for."""
    while "&" in text and (after := _ENTITY.sub(_character, text)) != text:
        text = after  # "&amp;lt;" needs two rounds
    return text


def _character(match: Match[str]) -> str:
    character = html.unescape(match[0])
    if character.isspace():
        return " "
    return character if character == match[0] or character.isprintable() else ""


def html_tags(text: str) -> str:
    """Leftovers of wiki markup: references with their content, other tags without."""
    if "<" not in text:
        return text
    return _TAG.sub(_tag, _REFERENCE.sub("", text) if "</" in text else text)


def _tag(match: Match[str]) -> str:
    return " " if match[1].lower() == "br" else ""


def templates(text: str) -> str:
    """Templates that were not expanded, and the citation errors they left."""
    text = _TEMPLATE.sub("", text) if "{{" in text else text
    return _OPEN_SUBSTITUTION.sub("", text) if "{{subst:" in text or "}}" in text else text


def doubled_math(text: str) -> str:
    """The LaTeX behind a formula that is already there in plain characters."""
    if not any(start in text for start in _MATH_STARTS):
        return text
    for start in _MATH_STARTS:
        begin = text.find(start)
        while begin >= 0:
            end = _closing_brace(text, begin)
            text = text[:begin].removesuffix(" ") + text[end:]
            begin = text.find(start, max(begin - 1, 0))
    return text


def _closing_brace(text: str, begin: int) -> int:
    """The place after the brace that closes the one at `begin`, or the end of the line."""
    line_end = text.find("\n", begin)
    line_end = len(text) if line_end < 0 else line_end
    depth = 0
    for place in range(begin, line_end):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    return line_end


def missing_formula(text: str) -> str:
    """Lines that hold nothing but the place of a lost formula."""
    return _FORMULA_LINE.sub("", text) if "formula_" in text else text


def footnotes(text: str) -> str:
    """Lines of footnotes."""
    return _FOOTNOTE.sub("", text) if "↑" in text else text


def coordinates(text: str) -> str:
    """Lines that hold only the place on the globe."""
    return _COORDINATES.sub("", text) if "°" in text else text


def citations(text: str) -> str:
    """Numbers of references behind punctuation (x[1] is code), and editors' remarks."""
    if "[" not in text:
        return text
    return _EDITORIAL.sub("", _CITATION.sub("", text))


def listen(text: str) -> str:
    """The label of a link to a recording."""
    return _LISTEN.sub("", text) if "(listen)" in text else text


def spaced_ipa(text: str) -> str:
    """Pronunciations whose letters stand apart."""
    return _IPA.sub(_joined_ipa, text) if " /" in text and not text.isascii() else text


def _joined_ipa(match: Match[str]) -> str:
    sounds = match[1]
    spaced = " " in sounds and max(map(len, sounds.split())) <= 3
    if not spaced or _IPA_LETTERS.isdisjoint(sounds):
        return match[0]
    return f"/{sounds.replace(', ', ',').replace(' ', '').replace(',', ', ')}/"


def emptied_labels(text: str) -> str:
    """In parentheses, the name of a language or "pronounced" with nothing after it."""
    if any(mark in text for mark in _LABEL_ENDS):
        return _LABEL.sub(_inside_parentheses, text)
    return text


def _inside_parentheses(match: Match[str]) -> str:
    text = match.string
    line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
    return match[1] if line.count("(") > line.count(")") else match[0]


def emptied_parentheses(text: str) -> str:
    """Parentheses that lost all of their content or some of it, and spaces inside their ends."""
    if "(;" in text or "(," in text or "( " in text:
        text = _OPENING_SEPARATORS.sub("(", text)
    if ",)" in text:
        text = _FOREIGN_END.sub(")", text)
    for end in (", )", "; )", ";)", " )"):  # not ",)": (1,) is a tuple
        text = text.replace(end, ")")
    if "; ;" in text or ", ;" in text or "; ," in text or ", ," in text:
        text = _REPEATED_SEPARATORS.sub(_strongest, text)
    if any(mark in text for mark in ("()", "(,)", '"")', "“”)")):
        text = _EMPTY_PARENTHESES.sub(_nothing_after_word, text)
    return text.replace("( ", "(")


def _strongest(match: Match[str]) -> str:
    return ";" if ";" in match[0] else ","


def _nothing_after_word(match: Match[str]) -> str:
    before = match.string[match.start() - 1] if match.start() else " "
    return "" if before.isalnum() or before in "\"'”’»)]}.!?%*" else match[0]


def spaced_quotes(text: str) -> str:
    """Quotation marks with spaces inside; the spaces outside tell them from a gap between two."""
    return _SPACED_QUOTES.sub(r' "\1"', text) if ' " ' in text else text


def doubled_quotes(text: str) -> str:
    """Italics inside quotation marks, written as two marks."""
    return _DOUBLED_QUOTES.sub(_single_quotes, text) if '""' in text else text


def _single_quotes(match: Match[str]) -> str:
    return '"' if match[1] is None else f'"{match[1]}"'


def spaced_possessive(text: str) -> str:
    """A space before 's; not before a name such as 's-Hertogenbosch."""
    if " 's" in text or " ’s" in text:
        return _POSSESSIVE.sub(lambda match: match[0][1:], text)
    return text


def spaced_hyphen(text: str) -> str:
    """A space on one side of a hyphen; a dash has one on both sides, an option (-v) is short."""
    if " -" not in text:
        return text
    return _HYPHEN.sub(_joined_hyphen, _RESPELLED.sub("-", text))


def _joined_hyphen(match: Match[str]) -> str:
    before = match.string[max(match.start() - 40, 0) : match.start()]
    words = before.split()
    if not words or before[-1].isspace() or not before[-1].isalnum():
        return match[0]
    word, next_word = words[-1], match[1]
    is_name = len(word) > 1 and (word[0].isupper() or word[0].isdigit())
    is_word = len(next_word) > 2 and not _VOWELS.isdisjoint(next_word.lower())  # not "tar -xzf"
    is_pair = is_word and word.lower() not in _BEFORE_AFFIX
    if next_word[0].isupper() and not is_name:
        return match[0]  # "in the world -Malawi" is a dash
    is_respelled = len(next_word) > 1 and word.rpartition("-")[2].isupper()  # "KARR -ee"
    is_foreign = not next_word.isascii()
    return "-" if is_pair or (is_name and (is_respelled or is_foreign)) else match[0]


def spaced_punctuation(text: str) -> str:
    """A space before a comma or before the full stop that ends a sentence.

    Before other signs it is French, and " ." inside a sentence may be a file name's.
    """
    text = _COMMA.sub(",", text) if " ," in text else text
    return _FULL_STOP.sub(".", text) if " ." in text else text


def doubled_full_stop(text: str) -> str:
    """Two full stops after an abbreviation that ends a sentence."""
    return _DOUBLED_FULL_STOP.sub(".", text) if ".." in text else text


def glued_sentences(text: str) -> str:
    """No space between two sentences."""
    return _GLUED.sub(_apart, text)


def _apart(match: Match[str]) -> str:
    before = match.string[max(match.start() - 40, 0) : match.start()]
    token = before.split()[-1] if before and not before[-1].isspace() else ""
    ends = len(token) > 1 and (token[-1].islower() or token[-1].isdigit() or token[-1] in ')]"”')
    is_address = any(sign in token for sign in "./@_\\=")
    return f"{match[0]} " if ends and not is_address and match[1] in _STARTERS else match[0]


def runs_of_spaces(text: str) -> str:
    """One space between words, none at the ends of a line."""
    if "\t" in text:
        text = text.replace("\t", " ")
    if "  " in text:
        text = _RUN.sub(" ", text)
    return text.replace("\n ", "\n").replace(" \n", "\n").strip(" ")
