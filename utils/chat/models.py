"""Models ready to generate: their memory estimated, then checkpoints loaded and warmed up."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from utils.chat.checkpoint_menu import describe_parameters, problem_of
from utils.chat.completion import TextCodec
from utils.chat.menus import ask_yes
from utils.chat.prompts import encode_prompt
from utils.chat.settings import Settings
from utils.checkpoint import Checkpoint, CheckpointSummary, summarise_checkpoint
from utils.device import free_memory_bytes, memory_errors
from utils.errors import CheckpointError, ConfigError, DeviceError
from utils.files import format_bytes
from utils.generation import Engine
from utils.loading import inference_dtype, load_for_inference, required_bytes
from utils.runs import short_names
from utils.terminal import format_seconds, is_interactive, printable, say, say_error, warn

# Finds the tokenizer that a checkpoint was trained with.
CodecLoader = Callable[[Checkpoint], TextCodec]


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint ready to generate, and what to call it."""

    label: str
    path: Path
    step: int | None
    parameters: int
    window: int
    quantize: str | None
    engine: Engine
    codec: TextCodec

    def encode(self, prompt: str) -> list[int]:
        """The prompt's ids behind <s>; warns if the model cannot read all of them."""
        prompt_ids = encode_prompt(self.codec, prompt)
        count = len(prompt_ids)
        if (read := self.engine.readable(count)) < count:
            warn(
                f"the prompt has {count:,} tokens, {printable(self.label)} reads at most"
                f" {self.window:,}: it sees the last {read:,}"
            )
        return prompt_ids


def load_models(
    paths: Sequence[Path],
    settings: Settings,
    load_codec: CodecLoader,
    required: Collection[Path],
    problems: dict[Path, str],
) -> list[LoadedModel]:
    """Load checkpoints and their tokenizers; none if memory is short and the person says no.

    A file that cannot be used raises its error if it is `required`; others are left out, their
    reasons noted in `problems`. Raises DeviceError when memory is short and nobody can be asked.
    """
    is_alone = len(paths) == 1
    summaries: dict[Path, CheckpointSummary] = {}
    for path in paths:
        with _noted(path, required, problems, is_alone):
            summaries[path] = summarise_checkpoint(path, settings.config)
    if not summaries or not _may_load(list(summaries.values()), settings):
        return []
    models: list[LoadedModel] = []
    for label, (path, summary) in zip(short_names(summaries), summaries.items(), strict=True):
        say(f"Loading {printable(label)}, {format_bytes(path.stat().st_size)}", "dim")
        with _noted(path, required, problems, is_alone):
            models.append(_load(path, label, summary, settings, load_codec))
    return models


@contextmanager
def _noted(
    path: Path, required: Collection[Path], problems: dict[Path, str], is_alone: bool
) -> Iterator[None]:
    """Say what is wrong with a file, one of several or alone, and note it in `problems`.

    It is raised if the file is `required`.
    """
    try:
        yield
    except (CheckpointError, ConfigError) as error:
        if path in required:
            raise
        problems[path] = problem_of(error, path)
        if is_alone:
            say_error(error)
        else:
            warn(printable(f"{path.name} is left out: {problems[path]}"))


def _load(
    path: Path,
    label: str,
    summary: CheckpointSummary,
    settings: Settings,
    load_codec: CodecLoader,
) -> LoadedModel:
    """One checkpoint with its tokenizer, warmed up so that its first answer is timed fairly."""
    device, quantize = settings.device, settings.quantize
    began = time.perf_counter()
    with memory_errors(f"loading {path}", "Choose fewer checkpoints, or give --device cpu."):
        model, checkpoint = load_for_inference(path, settings.config, device, quantize)
        codec = load_codec(checkpoint)
        engine = Engine(model, codec.eos_id, codec.pad_id)
        engine.warm_up(settings.samples)
    held = quantize or str(inference_dtype(device)).removeprefix("torch.")
    facts = [f"{describe_parameters(summary.parameters)} parameters in {held}"]
    if checkpoint.step is not None:
        facts.append(f"step {checkpoint.step:,}")
    if checkpoint.validation_loss is not None:
        facts.append(f"validation loss {checkpoint.validation_loss:.4f}")
    say(f"  ready in {format_seconds(time.perf_counter() - began)}: {', '.join(facts)}", "dim")
    return LoadedModel(
        f"{label} {quantize}" if quantize else label,
        path,
        checkpoint.step,
        summary.parameters,
        model.max_positions,
        quantize,
        engine,
        codec,
    )


def _may_load(summaries: Sequence[CheckpointSummary], settings: Settings) -> bool:
    """Say what models will take, before they are loaded; ask or raise if that is not free."""
    device, samples, quantize = settings.device, settings.samples, settings.quantize
    needed = sum(required_bytes(s.config, device, samples, quantize) for s in summaries)
    parameters = sum(summary.parameters for summary in summaries)
    free = free_memory_bytes(device)
    what = (
        f"{len(summaries)} model{'s' * (len(summaries) != 1)},"
        f" {describe_parameters(parameters)} parameters: about {format_bytes(needed)}"
        f" of {'GPU' if device.type == 'cuda' else 'main'} memory"
    )
    if free is None:
        say(what, "dim")
        return True
    if needed <= free:
        say(f"{what}, {format_bytes(free)} free", "dim")
        return True
    ways = ["fewer checkpoints"] if len(summaries) > 1 else []
    ways += ["fewer --num-samples"] if samples > 1 else []
    ways += ["--quantize int8"] if quantize is None else []
    ways += ["--device cpu"] if device.type == "cuda" else ["a machine with more memory"]
    shortage = f"{what} needed, but only {format_bytes(free)} free"
    hint = f"Try {', '.join(ways[:-1])}{' or ' * (len(ways) > 1)}{ways[-1]}."
    if not is_interactive():
        raise DeviceError(shortage, hint)
    warn(f"{shortage}\n  {hint}")
    return ask_yes("Load anyway?", "--quantize")
