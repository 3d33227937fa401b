"""What a run has measured: smoothed training metrics, throughput, the best validation loss."""

import math
import time
from collections import deque
from typing import Any

import torch

# The tags that numbers are logged under.
TRAIN_LOSS = "train/loss"
GRADIENT_NORM = "train/gradient_norm"
LEARNING_RATE = "train/learning_rate"
MUON_LEARNING_RATE = "train/muon_learning_rate"
TOKENS_SEEN = "train/tokens"
SKIPPED_STEPS = "train/skipped_steps"
VALIDATION_LOSS = "val/loss"
PERPLEXITY = "val/perplexity"
BITS_PER_BYTE = "val/bits_per_byte"
TOKENS_PER_SECOND = "perf/tokens_per_second"
STEP_MS = "perf/step_ms"
MFU = "perf/mfu"
DATA_SHARE = "perf/data_share"
PEAK_MEMORY = "mem/peak_gib"
RESERVED_MEMORY = "mem/reserved_gib"


class MetricsTracker:
    """Means over the last `window_steps` steps, and validation with early stopping.

    Losses and norms survive a resume; the clock does not, so throughput starts afresh.
    `peak_tokens_per_second` is what utils/throughput.py says of the model on its device; without
    it there is no MFU.
    """

    def __init__(
        self,
        window_steps: int,
        patience: int,
        min_delta: float,
        peak_tokens_per_second: float | None = None,
    ) -> None:
        self.patience, self.min_delta = patience, min_delta
        self.peak_tokens_per_second = peak_tokens_per_second
        self.losses: deque[float] = deque(maxlen=window_steps)
        self.gradient_norms: deque[float] = deque(maxlen=window_steps)
        self.spans: deque[tuple[int, float, float]] = deque(maxlen=window_steps)
        self.tokens_seen = 0
        self.best_loss = math.inf
        self.best_step: int | None = None
        self.validations_since_best = 0
        self._step_began = time.perf_counter()

    def start_clock(self) -> None:
        """Begin timing here: time since the last step was not training."""
        self._step_began = time.perf_counter()

    def record_step(
        self,
        loss: float,
        gradient_norm: float,
        tokens: int,
        data_seconds: float,
    ) -> None:
        """Count one optimizer step on `tokens` tokens, `data_seconds` of it spent on batches."""
        now = time.perf_counter()
        self.losses.append(loss)
        self.gradient_norms.append(gradient_norm)
        self.spans.append((tokens, now - self._step_began, data_seconds))
        self.tokens_seen += tokens
        self._step_began = now

    def summary(self) -> dict[str, float]:
        """Means over the window, and counts, by the names they are logged under."""
        tokens, seconds, data_seconds = (
            sum(column) for column in zip((0, 0.0, 0.0), *self.spans, strict=True)
        )
        tokens_per_second = tokens / seconds if seconds else 0.0
        summary = {
            TRAIN_LOSS: _mean(self.losses),
            GRADIENT_NORM: _mean(self.gradient_norms),
            TOKENS_SEEN: float(self.tokens_seen),
            TOKENS_PER_SECOND: tokens_per_second,
            STEP_MS: 1e3 * seconds / max(len(self.spans), 1),
            DATA_SHARE: data_seconds / seconds if seconds else 0.0,
        }
        if self.peak_tokens_per_second:
            summary[MFU] = tokens_per_second / self.peak_tokens_per_second
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            summary[PEAK_MEMORY] = torch.cuda.max_memory_allocated() / 2**30
            summary[RESERVED_MEMORY] = torch.cuda.max_memory_reserved() / 2**30
        return summary

    def status(self, validation_loss: float | None = None, skipped_steps: int = 0) -> str:
        """The summary in a line for people. It sums over the window: ask now and then."""
        summary = self.summary()
        parts = [f"loss {summary[TRAIN_LOSS]:.3f}"]
        if validation_loss is not None:
            parts.append(f"val {validation_loss:.3f}")
        parts.append(f"{summary[TOKENS_PER_SECOND] / 1e3:,.1f}k tokens/s")
        parts.append(f"{summary[STEP_MS]:,.1f} ms/step")
        if MFU in summary:
            parts.append(f"MFU {summary[MFU]:.1%}")
        if PEAK_MEMORY in summary:
            parts.append(f"{summary[PEAK_MEMORY]:.1f} GiB")
        parts.append(f"data {summary[DATA_SHARE]:.1%}")
        if skipped_steps:
            parts.append(f"{skipped_steps:,} skipped")
        return ", ".join(parts)

    def record_validation(self, loss: float, step: int) -> bool:
        """Note a validation loss; true if it beats the best by more than `min_delta`."""
        if loss < self.best_loss - self.min_delta:
            self.best_loss, self.best_step = loss, step
            self.validations_since_best = 0
            return True
        self.validations_since_best += 1
        return False

    @property
    def should_stop(self) -> bool:
        """Whether patience is spent: that many validations in a row without improvement."""
        return self.validations_since_best >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {
            "losses": list(self.losses),
            "gradient_norms": list(self.gradient_norms),
            "tokens_seen": self.tokens_seen,
            "best_loss": self.best_loss,
            "best_step": self.best_step,
            "validations_since_best": self.validations_since_best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses.extend(state["losses"])
        self.gradient_norms.extend(state["gradient_norms"])
        self.tokens_seen = state["tokens_seen"]
        self.best_loss, self.best_step = state["best_loss"], state["best_step"]
        self.validations_since_best = state["validations_since_best"]


def perplexity(loss: float) -> float:
    """e to the loss, or infinity where that overflows."""
    return math.inf if loss > 700 else math.exp(loss)  # NaN stays NaN


def _mean(values: deque[float]) -> float:
    return sum(values) / len(values) if values else math.nan
