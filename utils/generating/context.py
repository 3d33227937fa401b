"""What a model sees of each text while it generates: its end, at most a window of tokens."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from utils.inference_model import InferenceModel


def readable(tokens: int, limit: int) -> int:
    """How many of the last of so many tokens a model of `limit` positions reads at once."""
    return tokens if tokens <= limit else max(1, limit // 2)


class Context:
    """What the model sees of each row: `seen[i]` tokens, at positions 0 to seen[i] - 1.

    When a row sees all that the model can, its last half moves to the front. Lengths are counted
    on the host, which so need not ask the device.
    """

    def __init__(self, model: InferenceModel, prompts: Sequence[Sequence[int]]) -> None:
        self.limit, self.rows = model.max_positions, len(prompts)
        self.seen = [readable(len(prompt), self.limit) for prompt in prompts]
        tokens = np.zeros((self.rows, self.limit), dtype=np.int64)
        for row, prompt, seen in zip(tokens, prompts, self.seen, strict=True):
            row[:seen] = prompt[-seen:]
        self.tokens = torch.from_numpy(tokens).to(model.device)
        self.ends = self._ends()  # where the next token of each row goes, (rows,)

    def append(self, token_ids: Tensor) -> list[int]:
        """Append one token to every row; return the rows whose window was full."""
        full = [row for row, seen in enumerate(self.seen) if seen == self.limit]
        for row in full:
            self.seen[row] = readable(self.limit + 1, self.limit) - 1
            if moved := self.seen[row]:
                self.tokens[row, :moved] = self.tokens[row, -moved:].clone()
        if full:
            self.ends = self._ends()
        self.tokens.scatter_(1, self.ends[:, None], token_ids[:, None])
        self.ends += 1
        self.seen = [seen + 1 for seen in self.seen]
        return full

    def longest(self, rows: Sequence[int]) -> int:
        """The tokens that the row of `rows` sees which sees most.

        At least two, where the window allows: int8 layers compute one alone in another way.
        """
        return min(max(2, *(self.seen[row] for row in rows)), self.limit)

    def _ends(self) -> Tensor:
        return torch.tensor(self.seen, device=self.tokens.device)
