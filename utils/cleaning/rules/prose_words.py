"""Words that the rules of prose_rules.py know."""


def word_set(text: str) -> frozenset[str]:
    """The words of a text, which spaces divide."""
    return frozenset(text.split())


# Names of languages as leads label words with them, "Greek:", a regular expression.
LANGUAGES = (
    "Afrikaans|Akkadian|Albanian|Amharic|Arabic|Aramaic|Armenian|Assamese|Avestan|Azerbaijani"
    "|Bashkir|Basque|Belarusian|Belarussian|Bengali|Berber|Bosnian|Breton|Bulgarian|Burmese"
    "|Cantonese|Catalan|Chinese|Coptic|Cornish|Croatian|Czech|Danish|Dari|Doric|Dutch|Dzongkha"
    "|English|Estonian|Faroese|Filipino|Finnish|Flemish|French|Frisian|Gaelic|Galician|Georgian"
    "|German|Greek|Guarani|Gujarati|Hangul|Hausa|Hawaiian|Hebrew|Hindi|Hindustani|Hokkien|Hungarian"
    "|Icelandic|Igbo|Indonesian|Irish|Italian|Japanese|Javanese|Kannada|Kanji|Kashmiri|Kazakh"
    "|Khmer|Koine|Korean|Kurdish|Kyrgyz|Lao|Latin|Latvian|Lithuanian|Luxembourgish|Macedonian"
    "|Malay|Malayalam|Maltese|Mandarin|Manx|Maori|Māori|Marathi|Mongolian|Nahuatl|Nepali|Norman"
    "|Norse|Norwegian|Occitan|Odia|Oriya|Ossetian|Pali|Pashto|Persian|Phoenician|Pinyin|Polish"
    "|Portuguese|Provençal|Prussian|Punjabi|Quechua|Romanian|Romansh|Russian|Samoan|Sanskrit"
    "|Saraiki|Saraki|Sardinian|Saxon|Scots|Serbian|Serbo-Croatian|Sicilian|Sindhi|Sinhala|Sinhalese"
    "|Slavonic|Slovak|Slovene|Slovenian|Somali|Sorbian|Spanish|Swahili|Swedish|Syriac|Tagalog"
    "|Tajik|Tamil|Tatar|Telugu|Thai|Tibetan|Tigrinya|Turkish|Turkmen|Ukrainian|Urdu|Uyghur|Uzbek"
    "|Valencian|Venetian|Vietnamese|Welsh|Wu|Xhosa|Yiddish|Yoruba|Zulu|Aeolic|Arcadocypriot|Attic"
)

# A word before " -word" after which the hyphen belongs to an affix or an option: "from n to -ng".
BEFORE_AFFIX = word_set(
    "a also an and are as at between by ending endings for form forms from in into is like of on"
    " option or prefix suffix suffixes than that the their these this to und oder use with"
)
# What a hyphen joins to an ordinary word before it: "rodent -like", not "find -name".
COMPOUND_TAILS = word_set(
    "based born era like led old year dimensional generation friendly specific centric"
    " language day century driven ridden intensive period sectional speaking speed the wide winning"
)
PREFIXES = word_set("anti bio co geo multi socio non pre pseudo quasi semi ultra")
# Words that a hyphen joins to nothing: beside one is a dash, or something that was lost.
FUNCTION_WORDS = word_set(
    "after all also although among an and another any are because been before being both but can"
    " could did does during each either even every except for from has have her here his how"
    " however if in including into its itself just like many may might more most mainly mostly"
    " much must namely no none nor not of often on only or other others our over per perhaps"
    " probably rather same several shall she should since so some sometimes still such than that"
    " the their them then there these they this those though through thus to today under unless"
    " until usually very was we well were what when where whereas which while who whom whose will"
    " with within without would you your"
)
# Where one of these stands, a hyphen may begin a part of a word, or an option.
ABOUT_AFFIXES = word_set(
    "suffix suffixes prefix prefixes affix affixes infix infixes ending endings end ends syllable"
    " syllables morpheme morphemes verb verbs noun nouns plural plurals declension conjugation"
    " infinitive infinitives participle participles stem stems vowel vowels consonant consonants"
    " word words language languages greek latin sanskrit option options flag flags switch switches"
    " command commands argument arguments parameter parameters unix linux shell matlab"
)
# Function words that 's can stand behind.
HAS_POSSESSIVE = word_set(
    "another any each either every how it just no none not often one only other others over perhaps"
    " several so some still that then there today until what when where which who you"
)
# Options of programs that look like words, also "-ed" and "-ing": "gcc -static".
OPTIONS = word_set(
    "all caching config debug debugging embed encoding exec feed file fixed force help input int"
    " list logging long name null output path ping print quiet recursive sed seed server shared"
    " size speed static std string timing tracing type unused user verbose version warning warnings"
)

# The ends of web addresses, as they are written in the names of companies.
DOMAINS = word_set("Asia Club Info Live Mobi Name Online Shop Site Store Tech")

# Words that begin a sentence and nothing else.
STARTERS = word_set(
    "A About According Actual Additional Additionally Afterwards Again Along Although Among An"
    " Another Apart Around As Aside Because Being Besides Beyond Both But Certain Consequently"
    " Currently Despite Due During Earlier Enclosed Eventually Examples Finally Firstly Following"
    " Formerly Furthermore Had Has Having He Hence Her Here Him His How However I Important"
    " Indeed Initially Issues It Its Later Likewise Many Meanwhile Moreover Much Near Nearly"
    " Neither Nevertheless Nor Notable Notably Often Originally Others Our Perhaps Previously Prior"
    " Rather Recent Recently Regarding She Shortly Similarly Sometimes Soon Starting Steadily"
    " Subsequent Subsequently That The Their Then There Thereafter Therefore These They This Those"
    " Though Through Throughout Thus Today Together Typically Ultimately Under Unlike Usually Was"
    " We Were What Whereas Whether Which While Who Why Yet You Your"
)
# Words that begin a sentence, and are names in programs too: "typing.Any", "time.Now".
STARTERS_AND_NAMES = word_set(
    "After Al All Almost Already Also And Any At Before Between By Contrary Each Early Either Even"
    " Every For From Further Given Have If In Instead Is Just Last Late Like More Most My New No"
    " None Not Now Of On Once One Only Or Other Out Over Part Several Similar Since So Some Still"
    " Such Than Three To Two Until Up Upon Using Various When Where With Within Without"
)
# A sentence goes on with these after such a word.
AFTER_STARTER = word_set(
    "a an the this that these those his her its their our my he she it they we you there which"
    " some many most all each every other another addition general turn particular contrast fact"
    " response order case recent early late modern further more then than"
)
