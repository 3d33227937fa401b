"""Names by which the Wikipedias call what is not article text, for wikipedia.py and sections.py."""

import re


def _names(*lines: str) -> frozenset[str]:
    return frozenset(name for line in lines for name in line.split("|"))


# Sections that point elsewhere, by the code of the language, compared without case: dropped with
# all that is in them.
POINTING_SECTIONS = {
    "en": _names(
        "references|external links|external link|see also|further reading|footnotes"
        "|notes and references|references and notes|notes and citations|works cited"
        "|general references|explanatory notes|references and further reading"
        "|sources and further reading|bibliography and further reading|cited sources",
    ),
    "de": _names(
        "einzelnachweise|weblinks|siehe auch|anmerkungen|fußnoten|nachweise|belege"
        "|quellen und einzelnachweise|anmerkungen und einzelnachweise|weiterführende literatur",
    ),
    "fr": _names(
        "références|notes et références|liens externes|lien externe|voir aussi|bibliographie"
        "|articles connexes|notes|annexes bibliographiques|lectures complémentaires",
    ),
    "es": _names(
        "referencias|notas|notas y referencias|véase también|enlaces externos|bibliografía"
        "|lectura adicional|lecturas adicionales",
    ),
    "it": _names("note|bibliografia|voci correlate|altri progetti|collegamenti esterni"),
    "pt": _names("referências|notas e referências|ver também|ligações externas|leitura adicional"),
    "nl": _names(
        "referenties|zie ook|externe links|externe link|bronnen|noten|bronnen en referenties"
        "|noten en referenties|bronnen, noten en/of referenties",
    ),
    "pl": _names("przypisy|linki zewnętrzne|zobacz też|uwagi"),
    "cs": _names("reference|externí odkazy|související články|poznámky"),
    # Bosnian, Croatian, Serbian
    "sh": _names(
        "vanjski linkovi|vanjske poveznice|spoljašnje veze|također pogledajte|povezano|izvori"
        "|reference|референце|спољашње везе|види још",
    ),
    # Swedish, Danish, Norwegian
    "sv": _names(
        "referenser|se även|externa länkar|noter|referencer|se også|eksterne henvisninger"
        "|eksterne lenker|referanser",
    ),
    # Russian, Ukrainian, Bulgarian
    "ru": _names(
        "примечания|ссылки|см. также|примітки|посилання|див. також|източници|външни препратки"
        "|вижте също|бележки",
    ),
    "ja": _names("脚注|関連項目|外部リンク|出典|参考文献"),
    "zh": _names(
        "参考资料|外部链接|参见|注释|參考資料|外部連結|參見|相關條目|注釋|参考文献|參考文獻",
    ),
}
_FAMILIES = {
    **dict.fromkeys(("bs", "hr", "sr"), "sh"),
    **dict.fromkeys(("da", "no", "nb", "nn"), "sv"),
    **dict.fromkeys(("uk", "bg", "be", "mk"), "ru"),
}
# Names that are words of English, where they head text.
_ENGLISH_WORDS = _names("note|notes|reference|citations")

# Sections that may be text or a list of books: dropped if they hold lists and nothing else.
LIST_SECTIONS = _names(
    "notes|note|citations|bibliography|reference",
    "sources|literature|literatur|quellen|literatura|fuentes|fonti|fontes|fuentes y bibliografía"
    "|literatuur|литература|источники|джерела|література|källor|litteratur|kilder|sources externes"
    "|primary sources|secondary sources",
)


def pointing_sections(language: str | None) -> frozenset[str]:
    """The names for a Wikipedia, by the code of its language; English is in all of them.

    Where the language is not known, or without names here: those of all languages that are not
    also words of English.
    """
    code = (language or "").partition("-")[0].lower()
    return _BY_LANGUAGE.get(_FAMILIES.get(code, code), _ANY_LANGUAGE)


_BY_LANGUAGE = {code: POINTING_SECTIONS["en"] | names for code, names in POINTING_SECTIONS.items()}
_ANY_LANGUAGE = frozenset().union(*POINTING_SECTIONS.values()) - _ENGLISH_WORDS

_REDIRECT_WORDS = (
    "REDIRECT|REDIRECTION|WEITERLEITUNG|REDIRECCI[ÓO]N|REDIRECIONAMENTO|DOORVERWIJZING|PRZEKIERUJ"
    "|P[ŘR]ESM[ĚE]RUJ|PREUSMJERI|PREUSMERI|ПРЕУСМЕРИ|OMDIRIGERING|ПЕРЕНАПРАВЛЕНИЕ|ПЕРЕНАПРАВЛЕННЯ"
    "|ПРЕНАСОЧВАНЕ|[ÁA]TIR[ÁA]NY[ÍI]T[ÁA]S|Y[ÖO]NLENDİRME|UUDELLEENOHJAUS|ALIDIREKTU"
)
# Short or common words, or words without capitals, with which an article may begin, too.
_REDIRECT_WORDS_AFTER_SIGN = (
    "RINVI[AO]|PATRZ|TAM|ПЕРЕНАПР|OHJAUS|転送|リダイレクト|重定向|넘겨주기|تحويل|הפניה"
)
# With a number sign in any case; without, as the parser of Structured Contents leaves it.
REDIRECT = re.compile(
    rf"(?:#(?i:{_REDIRECT_WORDS}|{_REDIRECT_WORDS_AFTER_SIGN})|(?:{_REDIRECT_WORDS}))"
    r"(?: ?:| |(?=\[))(?! ?(?:is|was|are|were) )"
)

DISAMBIGUATION_TITLE = re.compile(
    r"\((?:disambiguation|Begriffsklärung|homonymie|desambiguación|disambigua|desambiguação"
    r"|doorverwijspagina|значения|значення|пояснение|ujednoznacznienie|rozcestník|olika betydelser"
    r"|曖昧さ回避|消歧义|消歧義)\)$"
)

# Short descriptions, as English Wikipedia's templates and Wikidata write them, in lower case.
REASONS_BY_DESCRIPTION = {
    "topics referred to by the same term": "disambiguation",
    "disambiguation page": "disambiguation",
    "wikimedia disambiguation page": "disambiguation",
    "index of articles associated with the same name": "set_index",
    "set index article": "set_index",
    "wikimedia set index article": "set_index",
}

# How the lead of a disambiguation page ends; what follows are its meanings.
DISAMBIGUATION_LEAD = re.compile(
    r"\b(?:(?:may|can|could|might|commonly|usually|often)(?: also| either| variously)?"
    r" (?:refers? to|mean|stand for)|(?:also )?refers to"
    r"|steht(?: auch)? für|bezeichnet|ist der Name|désigne"
    r"|peu(?:ven)?t(?: aussi)? (?:désigner|faire référence à)"
    r"|puede(?: también)? (?:referirse a|hacer referencia a)|può riferirsi a|podem? referir-se a"
    r"|kan verwijzen naar|może (?:oznaczać|odnosić się do)|může znamenat|может означать"
    r"|може да се отнася за)(?: one of| any of)?(?: the following)? ?:(?:$| )"
)
DISAMBIGUATION_LEAD_UNMARKED = re.compile(
    r"\b(?:may|can)(?: also)? refer to(?: the following)?[.]?$"
)
SET_INDEX_LEAD = re.compile(
    r"\b(?:is|are|was|were|has been|have been) (?:the |a )?(?:(?:sur|given )?name|title)s?"
    r" (?:of|given to|borne by|shared by|used by) (?:at least |each of )?"
    r"(?:the following|several|various|many|multiple|a number of|two|three|four|five|six)\b"
    r"[^.\n]*:$"
)
LEAD_CHARACTERS = 300  # where such a lead ends at the latest
