"""Train a small byte-fallback BPE tokenizer in CodeLlama's format on the demo's cleaned text.

The result has CodeLlama's normalizer, decoder and special ids, so tokenizer.py fetches it from its
folder as it fetches CodeLlama from the Hub. The same text gives the same bytes.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, normalizers
from tokenizers.models import BPE, Model
from tokenizers.pre_tokenizers import PreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizerSequence
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from demo import DEMO_CONFIG_PATH
from utils.articles import cleaned_files, read_articles
from utils.cli import config_from, run_script, script_parser
from utils.errors import ConfigError, TokenizerError
from utils.files import atomic_write
from utils.terminal import say
from utils.tokenizer_files import TOKENIZER_FILE
from utils.tokenizer_layout import BOS_PIECE, BYTE_PIECES, EOS_PIECE, UNK_PIECE

SPACE = "\u2581"  # stands for a space inside pieces
FIXED_PIECES = (UNK_PIECE, BOS_PIECE, EOS_PIECE, *BYTE_PIECES)
CHARACTER_COVERAGE = 0.9995  # of the text; rarer characters become bytes


def main(arguments: Sequence[str]) -> None:
    parser = script_parser("Train a tokenizer on the cleaned text, into tokenizer.source.")
    parser.set_defaults(config=DEMO_CONFIG_PATH)
    config = config_from(parser.parse_args(arguments))
    folder = Path(config.tokenizer.source).expanduser()
    if not folder.is_absolute():
        raise ConfigError(
            f"tokenizer.source is {config.tokenizer.source}, a name on the Hugging Face Hub",
            "Name the folder to write: a path that starts with /, ./ or ../.",
        )
    texts = chain.from_iterable(map(read_articles, cleaned_files(config.paths.cleaned_dir)))
    train_tokenizer(texts, folder, config.model.vocab_size)
    say(f"trained a tokenizer of {config.model.vocab_size:,} tokens: {folder}", "green")


def train_tokenizer(texts: Iterable[str], folder: Path, vocab_size: int) -> None:
    """Write tokenizer.json of exactly `vocab_size` tokens, trained on `texts`, into `folder`.

    Ids 0 to 2 are <unk>, <s> and </s>, the next 256 are bytes. Raises TokenizerError if the text
    is too small to fill the vocabulary.
    """
    texts = list(texts)
    # as in CodeLlama, each character of a piece is a piece too: engines count on it
    alphabet = sorted({*_alphabet(texts), *"".join(FIXED_PIECES)})
    tokenizer = Tokenizer(BPE(unk_token=UNK_PIECE, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = _training_borders()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(FIXED_PIECES),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    found = tokenizer.get_vocab_size()
    if found != vocab_size:
        raise TokenizerError(
            f"the text yields {found:,} tokens, but {vocab_size:,} are wanted",
            f"Train on more text, or set model.vocab_size to {found}.",
        )
    with atomic_write(folder / TOKENIZER_FILE) as file:
        file.write(codellama_layout(tokenizer.model).to_str(pretty=True).encode())


def _alphabet(texts: Sequence[str]) -> list[str]:
    """The commonest characters of normalized text, enough for CHARACTER_COVERAGE of it."""
    counts = Counter(chain.from_iterable(texts))
    counts.pop("\n", None)  # always a byte, as in CodeLlama
    counts[SPACE] += counts.pop(" ", 0) + len(texts)
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    covered = list(accumulate(counts[character] for character in ranked))
    return ranked[: bisect_left(covered, CHARACTER_COVERAGE * covered[-1]) + 1]


def _training_borders() -> PreTokenizer:
    """What merges must not cross: the start of a word, either side of a digit, and a line end.

    No piece of the result then has a space after another character, nor a digit or line end
    beside one, so BPE without these borders gives the same ids: no merge could ever cross one.
    """
    return PreTokenizerSequence(
        [
            Split("\n", "removed"),
            Split(Regex(r"[0-9]"), "isolated"),
            Split(Regex(f"{SPACE}+[^{SPACE}]*"), "isolated"),
        ]
    )


def codellama_layout(model: Model) -> Tokenizer:
    """A trained BPE model with everything around it as in CodeLlama's tokenizer.json."""
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens([UNK_PIECE, BOS_PIECE, EOS_PIECE])
    tokenizer.normalizer = _normalizer()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS_PIECE} $A",
        pair=f"{BOS_PIECE} $A {BOS_PIECE}:1 $B:1",
        special_tokens=[(BOS_PIECE, FIXED_PIECES.index(BOS_PIECE))],
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def _normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])


if __name__ == "__main__":
    run_script(main)
