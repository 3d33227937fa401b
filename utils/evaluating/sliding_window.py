"""The likelihood of documents longer than a model's window, as Hugging Face's guide to perplexity
(https://huggingface.co/docs/transformers/perplexity) defines it.

The window moves over each document by `stride` tokens, and in each place those tokens are scored
that were in no window before. So every token but a document's first is scored once, from at least
`window - stride` tokens before it, or from all there are.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.evaluating.documents import Documents
from utils.inference_model import InferenceModel
from utils.windows import Positions

LOGIT_ROWS = 1024  # tokens scored at once: their logits are the largest tensor by far


@dataclass(frozen=True)
class Places:
    """Where the window stands: positions in the joined documents, int64 (places,) each.

    In `begins[i]` to `ends[i]`, tokens are scored from `firsts[i]` on.
    """

    begins: Positions
    firsts: Positions
    ends: Positions

    def __len__(self) -> int:
        return len(self.begins)

    @property
    def lengths(self) -> Positions:
        return self.ends - self.begins

    @property
    def scored_tokens(self) -> int:
        return int((self.ends - self.firsts).sum())


def places_of(offsets: Positions, window: int, stride: int) -> Places:
    """The places of a window of `window` tokens over documents at `offsets` (documents + 1,).

    >>> places = places_of(np.array([0, 10]), window=4, stride=3)
    >>> places.begins.tolist(), places.firsts.tolist(), places.ends.tolist()
    ([0, 3, 6], [1, 4, 7], [4, 7, 10])
    """
    assert 1 <= stride < window, "a token before each is left to predict it from"
    starts, lengths = offsets[:-1], np.diff(offsets)
    counts = np.maximum(-(-(lengths - window) // stride), 0) + 1
    document = np.repeat(np.arange(len(starts)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    begins = starts[document] + number * stride
    return Places(
        begins=begins,
        firsts=begins + np.where(number == 0, 1, window - stride),
        ends=np.minimum(begins + window, offsets[document + 1]),
    )


@torch.no_grad()
def total_nats(
    model: InferenceModel,
    documents: Documents,
    places: Places,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda _: None,
) -> float:
    """The sum of -ln p of all scored tokens, added up in float64.

    `on_batch` is called after each batch with the number of tokens that the model read.
    """
    device = model.device
    nats = torch.zeros((), dtype=torch.float64, device=device)
    for ids, scored, read_tokens in _batches(documents, places, batch_size):
        hidden = model.hidden_states(ids[:, :-1].to(device)).flatten(0, 1)
        targets = ids[:, 1:].flatten()[scored]
        for part in range(0, len(scored), LOGIT_ROWS):
            rows = scored[part : part + LOGIT_ROWS].to(device)
            wanted = targets[part : part + LOGIT_ROWS].to(device)
            logits = model.logits(hidden[rows]).float()
            nats += F.cross_entropy(logits, wanted, reduction="none").double().sum()
        on_batch(read_tokens)
    return nats.item()


def _batches(
    documents: Documents, places: Places, batch_size: int
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Ids (rows, longest) int64, and which of ids[:, 1:].flatten() are scored, int64 (scored,);
    last the number of ids that are no padding.

    The longest places come first, so that rows of a batch are of about one length, and memory
    that does not suffice is known at once. Padding stands behind the text, which never sees it.
    """
    order = np.argsort(-places.lengths, kind="stable")
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        begins, ends = places.begins[rows, None], places.ends[rows, None]
        positions = begins + np.arange(places.lengths[rows[0]])  # (rows, longest)
        ids = documents.ids[np.minimum(positions, ends - 1)].astype(np.int64)
        scored = (positions >= places.firsts[rows, None]) & (positions < ends)
        yield (
            torch.from_numpy(ids),
            torch.from_numpy(np.flatnonzero(scored[:, 1:])),
            int(places.lengths[rows].sum()),
        )
