"""The vocabulary of a tokenizer.json as SentencePiece describes one: pieces, scores, kinds."""

import json
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


class Kind(IntEnum):
    """SentencePiece's numbers, which are GGUF's too (sentencepiece_model.proto)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Piece, score and kind of each id.

    SentencePiece merges the two neighbours whose joint piece has the highest score, whatever the
    two are; tokenizer.json lists which two make a piece, by rank. `loose_pieces` can also be
    made of two that are not in the list, so ids may differ; CodeLlama has none.
    """

    pieces: list[str]
    scores: list[float]
    kinds: list[Kind]
    loose_pieces: int


def pieces_by_id(tokenizer_json: bytes) -> dict[int, str]:
    """Every piece, added ones too."""
    content = json.loads(tokenizer_json)
    pieces = {number: piece for piece, number in content["model"]["vocab"].items()}
    return pieces | {token["id"]: token["content"] for token in content["added_tokens"]}


def vocabulary(tokenizer_json: bytes, unk_id: int) -> Vocabulary:
    """The vocabulary, scored so that SentencePiece's rule merges in the order of the list.

    A score is minus the piece's place among all, by the first merge that makes it. Ids do not
    have this order: CodeLlama's "▁▁" has a low one and is merged last.
    """
    content = json.loads(tokenizer_json)
    merges = [_pair(merge) for merge in content["model"]["merges"]]
    pieces = [piece for _, piece in sorted(pieces_by_id(tokenizer_json).items())]
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    control = {token["content"] for token in content["added_tokens"] if token["special"]}
    # Pieces that no merge makes stand last: of single characters the score does not matter.
    order = sorted(range(len(pieces)), key=lambda i: (ranks.get(pieces[i], len(merges)), i))
    scores = [0.0] * len(pieces)
    for place, token_id in enumerate(order):
        scores[token_id] = -float(place)
    kinds = [_kind(piece, control) for piece in pieces]
    kinds[unk_id] = Kind.UNKNOWN
    return Vocabulary(pieces, scores, kinds, _count_loose(pieces, set(merges)))


def _kind(piece: str, control: set[str]) -> Kind:
    if piece in control:
        return Kind.CONTROL
    return Kind.BYTE if _BYTE_PIECE.fullmatch(piece) else Kind.NORMAL


def _pair(merge: Any) -> tuple[str, str]:
    """A merge is "a b" in older files, ["a", "b"] in newer ones."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _count_loose(pieces: list[str], merges: set[tuple[str, str]]) -> int:
    known = set(pieces)
    return sum(
        any(
            piece[:cut] in known
            and piece[cut:] in known
            and (piece[:cut], piece[cut:]) not in merges
            for cut in range(1, len(piece))
        )
        for piece in pieces
    )
