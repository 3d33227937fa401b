"""The language model: token ids in, logits out. The only file that knows nn.TransformerDecoder.

Exactly GPT-2's function (pre-norm, biases, tanh GELU, learned positions, tied head), so an export
gives the same logits everywhere. Shapes: B rows, T tokens, C width, H heads, V vocabulary.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.config import Config, ModelConfig
from utils.config_file import load_config
from utils.errors import UsageError
from utils.generation import Engine
from utils.inference_model import InferenceModel
from utils.kernels import AVAILABLE as KERNELS_AVAILABLE
from utils.sampling import Sampling

if KERNELS_AVAILABLE:
    from utils.kernels.cross_entropy import tied_head_loss
    from utils.kernels.decoder import FusedDecoder, kernels_fit

IGNORED_LABEL = -100  # F.cross_entropy's own default


class DecoderLayer(nn.TransformerDecoderLayer):
    """A decoder layer that attends only to its own past: nothing here comes from an encoder.

    The stock layer's cross-attention and its norm are removed (they would add 34 M parameters to
    the default model), and attention calls the fused kernel directly.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(
            d_model=config.hidden_size,
            nhead=config.num_heads,
            dim_feedforward=4 * config.hidden_size,
            dropout=config.dropout,
            # A function: a module would turn into ReLU when nn.TransformerDecoder copies the layer.
            activation=partial(F.gelu, approximate="tanh"),
            layer_norm_eps=config.layer_norm_eps,
            batch_first=True,
            norm_first=True,
        )
        del self.multihead_attn, self.norm3, self.dropout, self.dropout3
        self.self_attn.dropout = config.attention_dropout

    def forward(
        self,
        tgt: Tensor,  # (B, T, C)
        memory: Tensor,  # nn.TransformerDecoder passes one on; a decoder alone has none to read
        tgt_mask: Tensor | None = None,  # (B, 1, T, T), true where a query may look
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Attention, then the feed-forward block, each on a normalised copy and added back."""
        q, k, v = self._project(self.norm1(tgt))
        x = tgt + self.dropout1(self._attend(q, k, v, tgt_mask, tgt_is_causal))
        out: Tensor = x + self.dropout2(self._feed_forward(self.norm2(x)))
        return out

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.self_attn
        projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)  # (B, T, 3C)
        heads = projected.view(*x.shape[:2], 3, attention.num_heads, attention.head_dim)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind()  # each (B, H, T, C/H)
        return q, k, v

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool
    ) -> Tensor:
        dropout = self.self_attn.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal
        )
        out: Tensor = self.self_attn.out_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def _feed_forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear2(self.activation(self.linear1(x)))
        return out


class FinalNorm(nn.LayerNorm):
    """A LayerNorm that answers in its input's type, also under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(x.dtype)


def logits_and_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, T, V) of hidden states (B, T, C), and their mean loss on targets (B, T)."""
    logits = F.linear(hidden, weight)
    loss = F.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED_LABEL
    )
    return logits, loss


class LanguageModel(nn.Module):
    """A GPT-2-shaped transformer on `nn.TransformerDecoder`, built from the configuration.

    `model(input_ids, labels=input_ids)` returns {"logits", "loss"}; `model.generate` continues
    prompts. With the default configuration it has 117,531,648 parameters.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        shape = config.model
        self.token_embedding = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.position_embedding = nn.Embedding(shape.max_position_embeddings, shape.hidden_size)
        self.embedding_dropout = nn.Dropout(shape.dropout)
        self.decoder = nn.TransformerDecoder(
            DecoderLayer(shape),
            shape.num_layers,
            norm=FinalNorm(shape.hidden_size, eps=shape.layer_norm_eps),
        )
        self.fused_decoder: FusedDecoder | None = None  # where our kernels serve this model
        self.head: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = logits_and_loss
        self._initialize(shape)

    def _initialize(self, shape: ModelConfig) -> None:
        """GPT-2's: normal weights, zero biases, and smaller projections into the residual stream.

        Each layer adds twice to the stream; 1/sqrt(2 layers) keeps its variance from growing with
        depth (Radford et al. 2019, section 2.3).
        """
        residual_std = shape.initializer_range / math.sqrt(2 * shape.num_layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                nn.init.constant_(parameter, 1.0 if "norm" in name and "weight" in name else 0.0)
            elif name.endswith(("out_proj.weight", "linear2.weight")):
                nn.init.normal_(parameter, std=residual_std)
            else:
                nn.init.normal_(parameter, std=shape.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Logits (B, T, V) for `input_ids` (B, T), and with `labels` the mean loss.

        Labels are the inputs themselves: shifting happens here. Position T - 1 has no target.
        `attention_mask` (B, T) is 1 on real tokens, 0 on padding, which may stand left or right;
        positions count real tokens. Labels of -100 and of padding do not count.
        """
        hidden = self.hidden_states(input_ids, attention_mask)
        if labels is None:
            return {"logits": self.logits(hidden)}
        targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
        if attention_mask is not None:
            real = attention_mask.bool()
            # Neither is padding predicted, nor does it predict the first token behind it.
            is_scored = real & F.pad(real[:, 1:], (0, 1))
            targets = targets.masked_fill(~is_scored, IGNORED_LABEL)
        logits, loss = self.head(hidden, self.token_embedding.weight, targets)
        return {"logits": logits, "loss": loss}

    def loss(self, input_ids: Tensor) -> Tensor:
        """The mean loss of predicting each token of (B, T) from those before it, without logits."""
        hidden = self.hidden_states(input_ids)
        targets = F.pad(input_ids[:, 1:], (0, 1), value=IGNORED_LABEL)
        weight = self.token_embedding.weight
        if self.fused_decoder is not None and hidden.dtype == torch.bfloat16:
            count = input_ids.size(0) * (input_ids.size(1) - 1)
            return tied_head_loss(hidden.flatten(0, 1), weight, targets.flatten(), count)
        return self.head(hidden, weight, targets)[1]

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The last layer's normalised output, (B, T, C)."""
        length = input_ids.size(1)
        if length > self.max_positions:
            raise UsageError(
                f"the input has {length} tokens, but the model has {self.max_positions} positions",
                "Shorten the input, or raise model.max_position_embeddings and train again.",
            )
        positions = torch.arange(length, device=input_ids.device)
        mask = None
        if attention_mask is not None:
            real = attention_mask.bool()
            positions = (real.cumsum(dim=-1) - 1).clamp(min=0)
            itself = torch.eye(length, dtype=torch.bool, device=input_ids.device)
            # Padding sees itself, so that no row of the softmax is empty.
            mask = (real[:, None, :] & itself.new_ones(length, length).tril() | itself)[:, None]
        x = self._embed(input_ids, positions)
        if self.fused_decoder is not None and mask is None and x.dtype == torch.bfloat16:
            return self.fused_decoder(x)
        hidden: Tensor = self.decoder(x, memory=x, tgt_mask=mask, tgt_is_causal=mask is None)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every token of the vocabulary, through the embedding's own weights."""
        return F.linear(hidden, self.token_embedding.weight)

    def _embed(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        embedded = self.token_embedding(input_ids) + self.position_embedding(positions)
        # Under autocast the residual stream is bf16 from here on: half the memory traffic.
        if torch.is_autocast_enabled(embedded.device.type):
            embedded = embedded.to(torch.get_autocast_dtype(embedded.device.type))
        out: Tensor = self.embedding_dropout(embedded)
        return out

    @property
    def max_positions(self) -> int:
        return self.config.model.max_position_embeddings

    @property
    def device(self) -> torch.device:
        return self.token_embedding.weight.device

    def compile_for_training(self) -> None:
        """Compile each layer, once for all of them, and the head; with our kernels where they fit.

        Parameter names stay as they are, and generation stays eager.
        """
        if KERNELS_AVAILABLE and kernels_fit(self.config.model, self.device):
            self.fused_decoder = FusedDecoder(self.decoder, self.config.model.dropout)
        for module in (*self.decoder.layers, self.decoder.norm):
            module.compile()
        self.head = torch.compile(logits_and_loss)

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def generate(
        self,
        prompt_ids: Tensor,
        max_length: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        attention_mask: Tensor | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Continue prompts (B, T) by up to `max_length` tokens each.

        Returns (B, T + new) int64: the prompts as given, then what followed, filled up with the
        padding id behind a row's </s>. Unset values are config.json's `generation`. Prompts of
        different lengths are padded, on the left, and told apart by `attention_mask`.
        """
        sampling = Sampling.from_config(
            self.config.generation,
            max_length=max_length,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
        )
        if attention_mask is None:
            prompts = prompt_ids.tolist()
        else:
            real = attention_mask.bool()
            prompts = [row[keep].tolist() for row, keep in zip(prompt_ids, real, strict=True)]
        weight, ids = self.token_embedding.weight, self.config.tokenizer
        is_autocast = torch.is_autocast_enabled(weight.device.type)
        dtype = torch.get_autocast_dtype(weight.device.type) if is_autocast else weight.dtype
        model = InferenceModel.from_weights(self.config, self.state_dict(), weight.device, dtype)
        # A graph would take longer to capture than a text or two to write.
        engine = Engine(model, ids.eos_token_id, ids.pad_token_id, uses_graphs=False)
        with torch.autocast(weight.device.type, enabled=False):
            new_ids = [step.token_ids for step in engine.generate(prompts, sampling)]
        behind = torch.tensor(new_ids, dtype=torch.long, device=prompt_ids.device)
        return torch.cat([prompt_ids.long(), behind.view(len(new_ids), len(prompts)).T], dim=1)


def create_model(config: Config | str | Path | None = None) -> LanguageModel:
    """A freshly initialised model from a configuration or the path of one.

    Weights follow torch's global seed, so `torch.manual_seed` makes them repeatable.
    """
    return LanguageModel(config if isinstance(config, Config) else load_config(config))
