"""The model as generation needs it: plain linear layers and a static key/value cache.

It computes what model.py's LanguageModel computes, with the same weights, which it shares where
type and device agree. Nothing here can be trained. Every matrix is an `nn.Linear`, so that
quantization reaches all of them (nn.MultiheadAttention hides its own from it).

Shapes: B rows, T tokens, C width, H heads, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.config import Config, ModelConfig
from utils.kernels import AVAILABLE as KERNELS_AVAILABLE

if KERNELS_AVAILABLE:
    from utils.kernels import decoding

# Where model.py's state_dict has what a layer here holds: ours -> theirs.
LAYER_NAMES = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "qkv.weight": "self_attn.in_proj_weight",
    "qkv.bias": "self_attn.in_proj_bias",
    "out.weight": "self_attn.out_proj.weight",
    "out.bias": "self_attn.out_proj.bias",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "up.weight": "linear1.weight",
    "up.bias": "linear1.bias",
    "down.weight": "linear2.weight",
    "down.bias": "linear2.bias",
}
_NAMES = {
    "token_embedding.weight": "token_embedding.weight",
    "position_embedding.weight": "position_embedding.weight",
    "norm.weight": "decoder.norm.weight",
    "norm.bias": "decoder.norm.bias",
}


def names_in_checkpoint(layers: int) -> dict[str, str]:
    """For each of our parameters, its name in a checkpoint."""
    names = dict(_NAMES)
    for layer in range(layers):
        for ours, theirs in LAYER_NAMES.items():
            names[f"layers.{layer}.{ours}"] = f"decoder.layers.{layer}.{theirs}"
    return names


@dataclass
class KeyValueCache:
    """Keys and values of every layer: two tensors (layers, rows, heads, capacity, head_size)."""

    keys: Tensor
    values: Tensor


class InferenceLayer(nn.Module):
    """A pre-norm decoder layer: attention, then the feed-forward block."""

    def __init__(self, shape: ModelConfig) -> None:
        super().__init__()
        width = shape.hidden_size
        self.heads = shape.num_heads
        self.norm1 = nn.LayerNorm(width, eps=shape.layer_norm_eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=shape.layer_norm_eps)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(
        self, x: Tensor, keys: Tensor | None = None, values: Tensor | None = None
    ) -> Tensor:
        """(B, T, C), each token seeing those up to itself; see `attend` for the cache."""
        return self.finish(x, self.attend(self.norm1(x), keys, values))

    def attend(
        self, normed: Tensor, keys: Tensor | None = None, values: Tensor | None = None
    ) -> Tensor:
        """What each token of (B, T, C) mixes from those up to itself, (B, T, C).

        `keys` and `values` (B, H, capacity, C/H), if given, are filled from the front.
        """
        q, k, v = self.project(normed)
        if keys is not None and values is not None:
            keys[:, :, : k.size(2)], values[:, :, : v.size(2)] = k, v
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return mixed.transpose(1, 2).flatten(2)

    def decode_one(
        self, x: Tensor, keys: Tensor, values: Tensor, positions: Tensor, mask: Tensor
    ) -> Tensor:
        """The same for one token of every row, x (B, 1, C) at `positions` (B,) of a cache.

        `keys` and `values` are written in place; `mask` (B, 1, 1, capacity) is true where the
        token may look.
        """
        q, k, v = self.project(self.norm1(x))
        index = positions[:, None, None, None].expand_as(k)
        keys.scatter_(2, index, k)
        values.scatter_(2, index, v)
        mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return self.finish(x, mixed.transpose(1, 2).flatten(2))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of normalised (B, T, C), each (B, H, T, C/H)."""
        heads = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind()
        return q, k, v

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The stream (B, T, C) behind the layer, given what attention mixed (B, T, C)."""
        x = x + self.out(mixed)
        out: Tensor = x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))
        return out


class InferenceModel(nn.Module):
    """A trained model, ready to read and to continue token ids."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        shape = config.model
        # Not nn.Embedding(...): drawing its weights imports torch's compiler, for seconds.
        self.token_embedding, self.position_embedding = (
            nn.Embedding(
                rows, shape.hidden_size, _weight=torch.empty(rows, shape.hidden_size), _freeze=True
            )
            for rows in (shape.vocab_size, shape.max_position_embeddings)
        )
        self.layers = nn.ModuleList(InferenceLayer(shape) for _ in range(shape.num_layers))
        self.norm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)

    @classmethod
    def from_weights(
        cls,
        config: Config,
        weights: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ) -> Self:
        """From weights under a checkpoint's names (model.py's), which must fit the configuration.

        Weights that are of this type and on this device already are shared, not copied.
        """
        with torch.device("meta"):
            model = cls(config)
        for ours, theirs in names_in_checkpoint(config.model.num_layers).items():
            owner, _, name = ours.rpartition(".")
            tensor = weights[theirs].detach().to(device=device, dtype=dtype).contiguous()
            parameter = nn.Parameter(tensor, requires_grad=False)
            setattr(model.get_submodule(owner), name, parameter)
        return model.eval()

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits (B, T, V) for (B, T) ids, at most `max_positions` of them a row."""
        return self.logits(self.hidden_states(input_ids))

    def hidden_states(self, input_ids: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """The final norm's output, (B, T, C); a cache, if given, is filled from position 0 on."""
        if cache is not None and self._has_kernels:
            return decoding.read_prompts(self, input_ids, cache)
        x = self.token_embedding(input_ids) + self.position_embedding.weight[: input_ids.size(1)]
        for index, layer in enumerate(self.layers):
            x = layer(x) if cache is None else layer(x, cache.keys[index], cache.values[index])
        out: Tensor = self.norm(x)
        return out

    def decode_one(self, token_ids: Tensor, positions: Tensor, cache: KeyValueCache) -> Tensor:
        """Read one token of every row, (B,) at `positions` (B,), into the cache; return (B, C).

        A token attends to every cache position up to its own. On a GPU by kernels of our own,
        without asking the host: it can be captured in a CUDA graph.
        """
        if self._has_kernels:
            return decoding.decode_one(self, token_ids, positions, cache)
        return self.decode_one_plainly(token_ids, positions, cache)

    def decode_one_plainly(
        self, token_ids: Tensor, positions: Tensor, cache: KeyValueCache
    ) -> Tensor:
        """The same by torch's operators: the referee of the kernels."""
        x = (self.token_embedding(token_ids) + self.position_embedding(positions))[:, None]
        slots = torch.arange(cache.keys.size(3), device=x.device)
        mask = (slots <= positions[:, None])[:, None, None]  # (B, 1, 1, capacity)
        for layer, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            assert isinstance(layer, InferenceLayer)
            x = layer.decode_one(x, keys, values, positions, mask)
        out: Tensor = self.norm(x)[:, 0]
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every token of the vocabulary, through the embedding's own weights."""
        return F.linear(hidden, self.token_embedding.weight)

    def new_cache(self, rows: int, capacity: int) -> KeyValueCache:
        """An empty cache for `rows` sequences of up to `capacity` tokens."""
        shape = self.config.model
        weight = self.token_embedding.weight
        head_size = shape.hidden_size // shape.num_heads
        size = (shape.num_layers, rows, shape.num_heads, capacity, head_size)
        keys, values = torch.zeros(2, *size, dtype=weight.dtype, device=weight.device)
        return KeyValueCache(keys, values)

    @property
    def _has_kernels(self) -> bool:
        return KERNELS_AVAILABLE and decoding.kernels_fit(self)

    @property
    def max_positions(self) -> int:
        return self.config.model.max_position_embeddings

    @property
    def device(self) -> torch.device:
        return self.token_embedding.weight.device
