"""CodeLlama's layout of a tokenizer: its fixed pieces, and what keeps a file from having it."""

from collections.abc import Iterator

from tokenizers import Tokenizer
from tokenizers.models import BPE

from utils.config import Config
from utils.errors import TokenizerError
from utils.tokenizer_files import FETCH_AGAIN, TOKENIZER_FILE

BOS_PIECE, EOS_PIECE, UNK_PIECE = "<s>", "</s>", "<unk>"
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def parse(origin: str, content: bytes) -> Tokenizer:
    """The tokenizer of a tokenizer.json, which reads text that looks like a control token as text.

    Raises TokenizerError naming `origin` for what is none.
    """
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except ValueError as error:
        raise TokenizerError(
            f"{origin}: {TOKENIZER_FILE} is damaged or no tokenizer: {error}",
            FETCH_AGAIN,
        ) from None
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def misfits(tokenizer: Tokenizer, config: Config) -> Iterator[str]:
    """What keeps this tokenizer from being the one that `config` describes."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if len(vocabulary) != config.model.vocab_size:
        yield (
            f"it has {len(vocabulary):,} tokens, but model.vocab_size is"
            f" {config.model.vocab_size:,}"
        )
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        yield f"its ids are not 0 to {len(vocabulary) - 1}"
    for piece, key in (
        (BOS_PIECE, "bos_token_id"),
        (EOS_PIECE, "eos_token_id"),
        (UNK_PIECE, "unk_token_id"),
    ):
        expected = getattr(config.tokenizer, key)
        if vocabulary.get(piece) != expected:
            yield f"{piece} has id {vocabulary.get(piece)}, but tokenizer.{key} is {expected}"
    model = tokenizer.model
    missing = sum(piece not in vocabulary for piece in BYTE_PIECES)
    if missing or not isinstance(model, BPE) or not model.byte_fallback:
        yield f"it is no BPE with byte fallback ({missing} of 256 byte tokens are missing)"


def token_bytes(tokenizer: Tokenizer) -> list[int]:
    """How many bytes of UTF-8 text each id stands for; a special one stands for none.

    U+2581, which comes back as a space, counts as one.
    """
    byte_pieces = frozenset(BYTE_PIECES)
    pieces = (tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size()))
    sizes = [
        1 if piece in byte_pieces else len(piece.replace("▁", " ").encode()) for piece in pieces
    ]
    for token_id, token in tokenizer.get_added_tokens_decoder().items():
        if token.special:
            sizes[token_id] = 0
    return sizes
