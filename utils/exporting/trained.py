"""What an export is made of: the model, its tokenizer, and the figures of its training."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from utils.checkpoint import Checkpoint
from utils.inference_model import InferenceModel
from utils.metrics import perplexity
from utils.tokenizer_files import sha256_of_bytes


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint's weights in fp32 on the CPU, and the tokenizer.json they were trained with."""

    model: InferenceModel
    checkpoint: Checkpoint
    tokenizer_name: str
    tokenizer_json: bytes

    @property
    def name(self) -> str:
        """Its run, or, where the checkpoint does not say, its file."""
        return self.checkpoint.run_name or Path(self.checkpoint.name).stem

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def figures(self) -> dict[str, str]:
        """What is known of its training, for people; what the checkpoint does not say is left out.

        Nothing in it tells where files of the training lay.
        """
        checkpoint, shape = self.checkpoint, self.model.config.model
        loss = checkpoint.validation_loss
        found = {
            "parameters": f"{self.parameters:,}",
            "shape": f"{shape.num_layers} layers of width {shape.hidden_size} with"
            f" {shape.num_heads} heads, {shape.max_position_embeddings} positions",
            "run": checkpoint.run_name,
            "checkpoint": Path(checkpoint.name).name,
            "step": "" if checkpoint.step is None else f"{checkpoint.step:,}",
            "validation loss": "" if loss is None else f"{loss:.4f} nats a token",
            "perplexity": "" if loss is None else f"{perplexity(loss):,.2f}",
            "dataset fingerprint": checkpoint.dataset_fingerprint,
            "tokenizer": f"{self.tokenizer_name}, {shape.vocab_size:,} tokens",
            "tokenizer SHA-256": sha256_of_bytes(self.tokenizer_json),
            "git commit": checkpoint.git_commit,
            "versions": ", ".join(f"{key} {value}" for key, value in checkpoint.versions.items()),
            "saved": checkpoint.saved_at,
        }
        return {key: value for key, value in found.items() if value}

    def weights(self, names: Mapping[str, str], layer: str) -> Iterator[tuple[str, Tensor]]:
        """Every parameter under another program's name.

        `names` has theirs for each module of ours, `layer` what stands before those inside a
        layer, "{}" being its number.
        """
        for name, parameter in self.model.named_parameters():
            module, _, kind = name.rpartition(".")
            if module in names:
                yield f"{names[module]}.{kind}", parameter.detach()
            else:
                _, number, part = module.split(".")
                yield f"{layer.format(number)}.{names[part]}.{kind}", parameter.detach()
