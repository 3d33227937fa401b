"""Cleaning rules: each rule's example, what must stay as it is, and what holds for any text."""

import hashlib
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.cleaning.rules import unicode_rules
from utils.cleaning.rules.signs import SignTable
from utils.cleaning.rules.text_cleaner import changes_of, clean, clean_all
from utils.cleaning.rules.text_rules import (
    CLEANER_VERSION,
    CODE,
    HEADING,
    RULES,
    Rule,
    without_marks,
)

UNTOUCHED = [
    # something was lost, which no rule can bring back
    "basis for 's doctrine; the winner was 's Lordi; Willem 's Gravesande",
    "from Greek -logia and Latin -tio; MATLAB -nodisplay",
    'the "x" (which is pronounced, like in English) or (pronounced, and sometimes spelled, Mac)',
    'no one said "No.. firm" to "that.. and this"',
    # English
    'He said "a" and "b", then left; the 1990s - a good time – ended.',
    "The suffix -ing and the prefix re- occur; from n to -ng; run tar -xzf or ls --all.",
    "See U.S. Army, Node.js, e.g. St. Gallen, www.The.com/Path, threading.Thread and v1.2.",
    "In 's-Hertogenbosch she said 'so' and 'sure'.",
    "Files such as .bashrc and .5 of a unit ... are (rarely) seen.",
    "Oppenheimer v Cattermole [1972] 3 All ER 1106, and x[1] or argv[0].",
    "Call main() or f(x, y); a tuple (1,) has one item; use <b> and &copy for HTML.",
    "the International Phonetic Alphabet (IPA), pronounced as written (note: rarely)",
    "Il dit : « oui » ; elle répond !",
    "The set {{1}, {2}} and str.format's {{ and }}; 5 km/h / 3 mph / 2 kn",
    "persan می\u200cخواهم and 👩\u200d👧",
    "We listen (closely) to q / r / s in G \\ H.",
    'An empty b"" or ("", 0), quotes (""") and ("), closers, (), [] and {}.',
    "Fields such as To:, From:, Cc:, and so on",
    # text about code
    "The <div> and <span> elements, and <br> too",
    "A tag such as <small>this</small> or <ref>that</ref> and &nbsp; in HTML",
    "Write &lt; for <, &amp;amp; for &amp;",
    "Run java -version, gcc -static, find dir -name or openssl -help.",
    "Run javac -encoding UTF-8, gcc -shared -fixed, GCC -static or Java -version.",
    "Use typing.Any or None; ast.Not and ast.In nodes; time.Now and errors.New here.",
    "C: for (;;) loops, for (; i < n; ), for(; i < n; ) and for (int i = 0; ; i++).",
    "A tuple of one is (a, ) or (1, ), of two (a, b, ); the constructor (,) too.",
    "headers (From:, To:, and Subject:)",
    "In Jinja write {{ user|escape }} or {{ a | b }} or {{ main }}.",
    'Rust has vec![1] and hello![12]; JSON {"a":[1], "b":[2] }; F# items.[1] is',
    "functions such as printf () and main () or Math.random () end",
    '5 \' 10 " tall and 6 " wide, 3 " by 4 " deep',
    "↑ is the up arrow, ↓ the down arrow, in Unicode since 1991.",
    "↑ Up arrow of keyboards",
    "Blocks end with }} }} and LaTeX {\\displaystyle begins one.",
    # code, which is known by its layout
    "Example:\n\n    def f( x ):\n        return ()   # aligned\n\n    print 's , t'",
    "| a    | b   |\n+------+-----+",
    ">>> x = ''\n>>> f ( '' )\n\t{{ x }} .\n... and -y",
]

HARD_CASES = [
    ("It may be {{subst:name}} here. The rest stays.", "It may be here. The rest stays."),
    ("{{subst:prod|concern=x", ""),
    ("{{subst:vide|a { {b} } c}} The rest.", "The rest."),
    ("Nawaz Sharif (; born 25 December 1949) is", "Nawaz Sharif (born 25 December 1949) is"),
    ("the motif () of Omar Sharif (born 1932;)", "the motif of Omar Sharif (born 1932)"),
    ("a set { {\\displaystyle \\{} and b } {\\displaystyle \\}} end", "a set { and b } end"),
    ("x → y {\\displaystyle \\left\\{x=1\\right.} and z {\\displaystyle z} end", "x → y and z end"),
    ("the gods of Washington, D.C.. and others", "the gods of Washington, D.C. and others"),
    ("Messi (Spanish pronunciation: (listen); born", "Messi (born"),
    ("Benfica ComC (Portuguese pronunciation: (listen)), commonly", "Benfica ComC, commonly"),
    ("Spain (Spanish: España, (listen)), or", "Spain (Spanish: España), or"),
    ("(English: / m ʊ m ˈ b aɪ / (listen), Marathi:; also", "(English: /mʊmˈbaɪ/; also"),
    ("Qantas Airways ( ; , ) is", "Qantas Airways is"),
    ("Khoisan (; also Khoesan)", "Khoisan (also Khoesan)"),
    ("khlong (โคลง, Thai pronunciation:,) is", "khlong (โคลง) is"),
    ("Phonetics (pronounced ) is", "Phonetics is"),
    ("(/ ˈ aɪ n s t aɪ n / EYEN -styne; German:; 14 March", "(/ˈaɪnstaɪn/ EYEN-styne; 14 March"),
    ("im 30-Milliarden- DM -Kredit", "im 30-Milliarden-DM-Kredit"),
    ("/ˌ m ʌ n t r i ˈ ɔː l / MUN -tree- AWL, KARR -ee", "/ˌmʌntriˈɔːl/ MUN-tree-AWL, KARR-ee"),
    ("poorest in the world -Malawi", "poorest in the world -Malawi"),
    ("Martin Luther King Jr. 's death", "Martin Luther King Jr.'s death"),
    ("... that it 's so", "... that it's so"),
    ("&lt;br&gt;x", "x"),
    ('φῶς (""), meaning', "φῶς, meaning"),
    ("identified as Fm (). It opened in 1874..", "identified as Fm. It opened in 1874."),
    ("of a . Kuhn said", "of a. Kuhn said"),
    ("{{subst:stub| forgotten", ""),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_does_what_its_example_says(rule: Rule) -> None:
    assert rule.apply(rule.before) == rule.after
    assert rule.apply(rule.after) == rule.after
    assert clean(f"Before.\n{rule.before}\nAfter.").rules


def test_rules_have_names_of_their_own() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("text", UNTOUCHED)
def test_text_without_artefacts_is_left_alone(text: str) -> None:
    cleaned = clean(text)
    assert (cleaned.body, cleaned.rules) == (text, frozenset())


@pytest.mark.parametrize(("before", "after"), HARD_CASES)
def test_rules_work_together(before: str, after: str) -> None:
    assert clean(before).body == after


def test_the_version_is_raised_when_the_text_changes() -> None:
    """If this fails, raise CLEANER_VERSION, so that old texts are done again, and update both."""
    sources = [*UNTOUCHED, *(rule.before for rule in RULES), *(before for before, _ in HARD_CASES)]
    digest = hashlib.sha256(clean("\n".join(sources)).body.encode()).hexdigest()
    assert (CLEANER_VERSION, digest[:16]) == (3, "1165fb2f35838c1f")


HOSTILE = """
( | [ | { | " | - | . | < | > | / | , | ;|
( ; |( , | , ) | ; ; | -a | - AB | ..|" a " |
""a |<ref>a |</ref>|<sub>|
{\\displaystyle |{\\displaystyle a} |{{ cite web |{{cite a}}: CS1 |
}} |&amp;|formula_1|↑ a |a.[1] |[1]|
for (; ; |(x, ) |(pronounced |; Greek: |/ ə |a.In |'s |
A () |a () | ()|a (|°|(listen)|\t|\u200d|\u0327\u0301|{{subst:"""


@pytest.mark.parametrize("pattern", [" ", *re.split(r"\|\n?", HOSTILE.strip())])
def test_hostile_lines_are_cleaned_in_bounded_time(pattern: str) -> None:
    """A rule whose time grows with the square of a line's length would take minutes."""
    text = f"é{pattern * (200_000 // len(pattern))}</é"
    assert len(clean(text).body) <= len(text)


def test_headings_stand_only_where_content_follows() -> None:
    lines = [
        "Lead.",
        f"{HEADING}Kept",
        f"{HEADING * 2}Empty",
        f"{HEADING * 2}Emptied",
        "Coordinates: 40°N 4°W / 40°N 4°W",
        f"{HEADING * 2}Full",
        "Text.",
        f"{HEADING}Parent",
        f"{HEADING * 2}Child",
        "More.",
        f"{HEADING}Last",
    ]
    wanted = ["Lead.", "Kept", "Full", "Text.", "Parent", "Child", "More."]
    assert clean("\n".join(lines)).body.split("\n") == wanted


def test_marked_code_keeps_its_layout() -> None:
    code = ["def f( x ):", "    return ()", "", "x = f ( 1 ) ;  y .", "'s"]
    text = "\n".join(["Prose ( one ) .", *(CODE + line for line in code)])
    assert clean(text).body == "\n".join(["Prose (one).", *code])


def test_what_continues_code_is_code_in_its_article_alone() -> None:
    code, prose = ">>> f ( x )\n... y , z\n... 's", "... y, z\n...'s"
    texts = clean_all([("A", code.split("\n")), ("B", ["... y , z", "... 's"])])
    assert [text.body for text in texts] == [code, prose]


def test_rules_for_the_parsers_faults_leave_other_text_alone() -> None:
    lines = ['amino acids -aspartic and the " element " , too']
    parsed, plain = clean_all([("T", lines), ("T", lines)], plain={1})
    assert parsed.lines == ['amino acids-aspartic and the "element", too']
    assert plain.lines == ['amino acids -aspartic and the " element ", too']
    assert [change.rule.name for change in changes_of("T", lines, is_parsed=False)] == [
        "spaced_punctuation"
    ]


def test_a_title_is_one_line_and_keeps_its_signs() -> None:
    assert clean("text", title=" ( )\n\xa0Cafe\u0301\u200b\x02 &amp; ").title == "( ) Café &"


ARTEFACTS = "".join(rule.before for rule in RULES)
texts = st.text() | st.text(
    alphabet=sorted(set(ARTEFACTS) | set(" \n.,;()[]{}\"'-/<>&u2029\u200d"))
)
pieces = st.lists(st.sampled_from([rule.before for rule in RULES] + sorted(set(ARTEFACTS))))


@settings(max_examples=400, deadline=None)
@given(texts | pieces.map("".join) | pieces.map(" ".join))
def test_any_text_becomes_sound_and_settles(text: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        return  # JSON with lone surrogates is refused before
    cleaned = clean(without_marks(text)).body
    assert unicodedata.is_normalized("NFC", cleaned)
    assert cleaned.encode().decode() == cleaned
    assert not set("\r\v\f\x85\u2028\u2029\x00\x1c\x02\x03").intersection(cleaned)
    assert clean(cleaned).body == cleaned
    assert "\n" not in clean("", title=text).title


def test_articles_cleaned_together_are_as_cleaned_alone() -> None:
    texts = [
        "",
        *(rule.before for rule in RULES),
        *UNTOUCHED,
        "  ",
        *(text for text, _ in HARD_CASES),
    ]
    articles = [(f"Title  {number}", text) for number, text in enumerate(texts)]
    together = clean_all([(title, text.split("\n")) for title, text in articles])
    assert together == [clean(text, title) for title, text in articles]


SIGNS = SignTable([rule.signs for rule in RULES])


def assert_has_signs(lines: list[str]) -> None:
    """Whatever line a rule would change holds a sign of it."""
    found = SIGNS.find(lines)
    for number, line in enumerate(lines):
        for place, rule in enumerate(RULES):
            if not found.get(number, 0) >> place & 1:
                assert rule.apply(line) == line, rule.name


@settings(max_examples=400, deadline=None)
@given(texts | pieces.map("".join) | pieces.map(" ".join))
def test_what_a_rule_would_change_has_a_sign_of_it(text: str) -> None:
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert_has_signs(unicode_rules.split_at_breaks(text.split("\n")))


def test_every_character_that_normal_forms_touch_is_a_sign() -> None:
    """Against Unicode's own tables: what is decomposed, composed with one before, or ordered."""
    decompositions = [unicodedata.decomposition(chr(point)).split() for point in range(0x110000)]
    followers = {
        chr(int(parts[1], 16))
        for parts in decompositions
        if len(parts) == 2 and "<" not in parts[0]
    }
    place = next(place for place, rule in enumerate(RULES) if rule.name == "composed")
    for first in range(0, 0x110000, 0x1000):
        block = [
            chr(point) for point in range(first, first + 0x1000) if not 0xD800 <= point < 0xE000
        ]
        found = SIGNS.find(block)
        for number, character in enumerate(block):
            is_touched = (
                character in followers
                or unicodedata.combining(character)
                or unicodedata.normalize("NFC", character) != character
            )
            assert not is_touched or found[number] >> place & 1, hex(ord(character))
