"""The documents that a token stream is made of: whether they are all there, and whole."""

import numpy as np

from utils.windows import Ids, Positions


def are_documents(
    stream: Ids, starts: Positions, bos_id: int, eos_id: int, vocab_size: int
) -> bool:
    """Whether documents start at `starts`, each is `<s> ... </s>`, and every id is known.

    `stream` (tokens,) is uint16, `starts` (documents,) int64.
    """
    return bool(
        len(starts)
        and starts[0] == 0
        and (np.diff(starts) > 0).all()
        and starts[-1] < len(stream)
        and (stream[starts] == bos_id).all()
        and (stream[starts - 1] == eos_id).all()  # -1: the end of the stream
        and stream.max() < vocab_size
    )
