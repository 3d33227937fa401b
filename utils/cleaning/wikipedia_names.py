"""Names by which the Wikipedias call what is not article text, for utils/wikipedia.py."""

import re


def _names(*lines: str) -> frozenset[str]:
    return frozenset(name for line in lines for name in line.split("|"))


# Sections that point elsewhere, compared without case: dropped with all that is in them.
DROPPED_SECTIONS = _names(
    # English
    "references|external links|external link|see also|further reading|notes|citations"
    "|bibliography|footnotes|notes and references|references and notes|notes and citations"
    "|works cited|general references|explanatory notes|references and further reading"
    "|sources and further reading|bibliography and further reading|cited sources",
    # German
    "einzelnachweise|weblinks|siehe auch|anmerkungen|fußnoten|nachweise|belege"
    "|quellen und einzelnachweise|anmerkungen und einzelnachweise|weiterführende literatur",
    # French
    "références|notes et références|liens externes|lien externe|voir aussi|bibliographie"
    "|articles connexes|notes|annexes bibliographiques|lectures complémentaires",
    # Spanish
    "referencias|notas|notas y referencias|véase también|enlaces externos|bibliografía"
    "|lectura adicional|lecturas adicionales",
    # Italian
    "note|bibliografia|voci correlate|altri progetti|collegamenti esterni",
    # Portuguese
    "referências|notas e referências|ver também|ligações externas|leitura adicional",
    # Dutch
    "referenties|zie ook|externe links|externe link|bronnen|noten|bronnen en referenties"
    "|noten en referenties|bronnen, noten en/of referenties",
    # Polish, Czech
    "przypisy|linki zewnętrzne|zobacz też|uwagi|reference|externí odkazy|související články"
    "|poznámky",
    # Bosnian, Croatian, Serbian
    "vanjski linkovi|vanjske poveznice|spoljašnje veze|također pogledajte|povezano|izvori"
    "|референце|спољашње везе|види још",
    # Swedish, Danish, Norwegian
    "referenser|se även|externa länkar|noter|referencer|se også|eksterne henvisninger"
    "|eksterne lenker|referanser",
    # Russian, Ukrainian, Bulgarian
    "примечания|ссылки|см. также|примітки|посилання|див. також|източници|външни препратки"
    "|вижте също|бележки",
    # Japanese, Chinese
    "脚注|関連項目|外部リンク|出典|参考资料|外部链接|参见|注释|參考資料|外部連結|參見|相關條目|注釋"
    "|参考文献|參考文獻",
)

# Sections that may be text or a list of books: dropped if they hold lists and nothing else.
DROPPED_LISTS = _names(
    "sources|literature|literatur|quellen|literatura|fuentes|fonti|fontes|fuentes y bibliografía"
    "|literatuur|литература|источники|джерела|література|källor|litteratur|kilder|sources externes"
    "|primary sources|secondary sources",
)

REDIRECT = re.compile(
    r"(?:#[^\W\d_]{5,15}|REDIRECT|WEITERLEITUNG|REDIRECTION|REDIRECCIÓN|RINVIA|PATRZ"
    r"|ПЕРЕНАПРАВЛЕНИЕ|REDIRECIONAMENTO|DOORVERWIJZING)[: ]"
)

DISAMBIGUATION_TITLE = re.compile(
    r"\((?:disambiguation|Begriffsklärung|homonymie|desambiguación|disambigua|desambiguação"
    r"|doorverwijspagina|значения|значення|пояснение|ujednoznacznienie|rozcestník|olika betydelser"
    r"|曖昧さ回避|消歧义|消歧義)\)$"
)

# Short descriptions, as English Wikipedia's templates and Wikidata write them.
DISAMBIGUATION_DESCRIPTIONS = (
    "topics referred to by the same term",
    "disambiguation page",
    "wikimedia disambiguation page",
)
SET_INDEX_DESCRIPTIONS = (
    "index of articles associated with the same name",
    "set index article",
    "wikimedia set index article",
)

# How the lead of a disambiguation page ends; what follows are its meanings.
DISAMBIGUATION_LEAD = re.compile(
    r"\b(?:(?:may|can|could|might|commonly|usually|often)(?: also| either| variously)?"
    r" (?:refers? to|mean|stand for)|(?:also )?refers to"
    r"|steht(?: auch)? für|bezeichnet|ist der Name|désigne"
    r"|peu(?:ven)?t(?: aussi)? (?:désigner|faire référence à)"
    r"|puede(?: también)? (?:referirse a|hacer referencia a)|può riferirsi a|podem? referir-se a"
    r"|kan verwijzen naar|może (?:oznaczać|odnosić się do)|může znamenat|может означать"
    r"|може да се отнася за)(?: one of| any of)?(?: the following)? ?:(?:$|[ \n])"
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
