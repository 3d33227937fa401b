"""Validation: what the model is worth on held-out windows, and what it writes by then."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from utils.config import TrainingConfig
from utils.evaluation import continuations, evaluate
from utils.logging_utils import SAMPLE_TAG, DualLogger
from utils.terminal import Progress, format_seconds, printable, say
from utils.training.state import TrainingState


class TextCodec(Protocol):
    """What sampling needs of a tokenizer; tokenizer.py has it."""

    bos_id: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str: ...

    def token_bytes(self) -> list[int]: ...


class Batches(Sized, Iterable[Tensor], Protocol):
    """Batches of windows whose number is known."""


class Validator:
    """Validates a run at its position, and says, logs and records what it found."""

    def __init__(
        self,
        state: TrainingState,
        batches: Batches,
        codec: TextCodec,
        logger: DualLogger,
        settings: TrainingConfig,
    ) -> None:
        self.state, self.batches, self.codec = state, batches, codec
        self.logger = logger
        self.settings: TrainingConfig = settings
        self.token_bytes = torch.tensor(codec.token_bytes(), device=state.device)  # (vocabulary,)

    def validate(self, should_stop: Callable[[], bool]) -> bool:
        """True for a new best loss. Leaves nothing recorded if `should_stop` cut it short."""
        state, settings = self.state, self.settings
        step = state.position.step
        began = time.perf_counter()
        with Progress("Validating", self._count(), "batches") as progress:
            found = evaluate(
                state.model,
                self._batches(progress),
                state.device,
                settings.precision,
                settings.batch_size,
                self.token_bytes,
                should_stop,
            )
        if found is None:
            return False
        is_best = state.metrics.record_validation(found.loss, step)
        state.position.validated_step, state.position.validation_loss = step, found.loss
        self.logger.log_scalars(step, found.scalars())
        say(
            f"step {step:,}: validation loss {found.loss:.4f}, perplexity {found.perplexity:,.1f},"
            f" {found.bits_per_byte:.3f} bits a byte{', best so far' if is_best else ''}"
            f" ({format_seconds(time.perf_counter() - began)})",
            "green" if is_best else "bold",
        )
        self._sample()
        return is_best

    def _count(self) -> int:
        return min(len(self.batches), self.settings.max_validation_batches or len(self.batches))

    def _batches(self, progress: Progress) -> Iterator[Tensor]:
        for batch in itertools.islice(self.batches, self._count()):
            yield batch
            progress.advance()

    def _sample(self) -> None:
        """Show and log what the model makes of the sample prompts; no training state moves."""
        state, settings = self.state, self.settings
        generate: Callable[..., Any] = state.model.generate  # type: ignore[assignment]
        prompts = [
            [self.codec.bos_id, *self.codec.encode(prompt)] for prompt in settings.sample_prompts
        ]
        texts = continuations(
            partial(generate, max_length=settings.sample_tokens, seed=settings.seed),
            prompts,
            state.device,
            settings.precision,
        )
        for number, ids in enumerate(texts, start=1):
            text = self.codec.decode(ids)
            self.logger.log_text(state.position.step, f"{SAMPLE_TAG}{number}", text)
            say(f"  | {printable(' '.join(text.split()))}", "dim")
