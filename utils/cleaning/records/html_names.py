"""Names by which the Wikipedias' HTML marks what is not article text, for html_article.py."""

import re
from functools import lru_cache

from utils.cleaning.rules.prose_words import word_set

# Elements that hold no text of the article, whatever their class.
DROPPED_ELEMENTS = (
    "style,script,noscript,figure,figure-inline,audio,video,svg,button,select,textarea,nav"
    ",#coordinates,#Koordinaten,#toc,#catlinks,#disambigbox"
)
# Roles of notes above the text and of ways to other pages.
DROPPED_ROLES = frozenset({"note", "navigation"})
# What Parsoid says an element is: media, references, indicators.
DROPPED_TYPES = re.compile(
    r"mw:(?:File|Image|Video|Audio|Extension/(?:ref|gallery|imagemap|timeline|indicator))"
)
_DROPPED_CLASSES = word_set(
    # references, and remarks on them
    "reference mw-ref reflist references mw-references-wrap mw-cite-backlink Z3988 cs1-maint"
    " cs1-hidden-error citation-comment Inline-Template Template-Fact need_ref_tag"
    " mw-ext-cite-error"
    # boxes about the article, and ways to other pages
    " ambox tmbox ombox cmbox imbox fmbox dmbox mbox-small side-box sistersitebox sisterproject"
    " asbox stub hatnote dablink rellink homonymie nota-disambigua vedi-anche bandeau-container"
    " bandeau-article bandeau-portail navbox navbox-styles vertical-navbox navbar navbox-container"
    " navigation-not-searchable sidebar portal portalbox portal-bar authority-control"
    " mw-authority-control succession-box catlinks printfooter spoken-wikipedia metadata"
    # facts in a box
    " taxobox taxobox_v3 sinottico"
    # pictures, maps, sound
    " thumb tmulti gallery gallerybox mod-gallery locmap mw-broken-media mw-kartographer-map"
    " mw-kartographer-container mw-kartographer-maplink mw-graph timeline-wrapper listen"
    " haudio audiolinkinfo mw-tmh-player ext-phonos-attribution mw-hiero-table"
    # coordinates in other notations
    " geo-nondefault geo-multi-punct geo-inline-hidden"
    # what is only for the screen, or not even for that
    " noprint toc mw-editsection mw-jump-link mw-indicators mw-collapsible-toggle sortkey"
    " shortdescription error wikidata-linkback penicon audiotable"
)
_INFOBOX = "infobox"  # begins many a class: infobox_v2, infobox-above
_NOT_IN_EXCERPTS = "noexcerpt"  # which are boxes and remarks, but pronunciations too
_SPOKEN = ("IPA", "ext-phonos")
RECORDING = "ext-phonos"
# Links to a recording that say nothing but that.
LISTEN_LABELS = frozenset(
    {"", "ⓘ", "listen", "play", "anhören", "écouter", "écoutez", "escuchar", "ascolta", "ouvir"}
    | {"luister", "posłuchaj", "слушать", "слухати", "再生"}
)


@lru_cache(maxsize=4096)
def is_dropped_class(names: str) -> bool:
    """Whether an element of these classes is none of the article's text."""
    classes = names.split()
    if not _DROPPED_CLASSES.isdisjoint(classes) or any(
        name.startswith(_INFOBOX) for name in classes
    ):
        return True
    return _NOT_IN_EXCERPTS in classes and not any(name.startswith(_SPOKEN) for name in classes)


# What Parsoid writes into a page that is none.
REDIRECT_MARKS = ('rel="mw:PageProp/redirect"',)
DISAMBIGUATION_MARKS = ('property="mw:PageProp/disambiguation"', "dmbox-disambig")
SET_INDEX_MARKS = ("dmbox-setindex",)

# Templates and categories of such pages, without their namespace, in small letters.
DISAMBIGUATION_LABELS = frozenset(
    {
        *("disambiguation", "disambig", "dab", "hndis", "geodis", "disambiguation pages"),
        *("human name disambiguation", "place name disambiguation", "school disambiguation"),
        *("all disambiguation pages", "all article disambiguation pages"),
        *("begriffsklärung", "homonymie", "desambiguación", "desambiguação", "disambigua"),
        *("pagine di disambiguazione", "doorverwijspagina", "dp", "flertydig"),
        *("ujednoznacznienie", "strony ujednoznaczniające", "rozcestník", "rozcestníky"),
        *("förgrening", "förgreningssidor", "неоднозначность", "страницы значений"),
        *("багатозначність", "пояснение", "aimai", "曖昧さ回避", "消歧義", "消歧义"),
        *("全部消歧義頁面", "全部消歧义页面", "동음이의", "توضيح"),
    }
)
SET_INDEX_LABELS = frozenset(
    {
        *("set index article", "set index articles", "all set index articles"),
        *("animal common name", "plant common name", "fungus common name"),
        *("chemistry index", "enzyme index", "molecular formula index", "locomotive index"),
        *("lake index", "mountain index", "river index", "road index", "ship index"),
        *("sport index", "storm index"),
    }
)
