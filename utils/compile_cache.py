"""Compiled GPU code, kept between runs: compiling takes a minute, reading it back seconds."""

import hashlib
import os
import tempfile
from pathlib import Path

import torch

from utils.errors import ConfigError

INDUCTOR, TRITON = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"


def use_compile_cache(folder: Path) -> None:
    """Let torch.compile and Triton keep what they compile below `folder`.

    To be called before the first compile. Where a variable already names another place, that
    stays. Torch's caches of graphs and of their gradients are on by default. Raises ConfigError if
    `folder` cannot be written to: torch would go on, and every start would compile again.
    """
    for variable, name in ((INDUCTOR, "inductor"), (TRITON, "triton")):
        if variable in os.environ:
            continue
        place = folder.absolute() / name
        try:
            place.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place).close()
        except OSError as error:
            raise ConfigError(
                f"paths.compile_cache_dir: cannot write to {place}: {error.strerror}",
                "Name a folder that can be written to: --set paths.compile_cache_dir=PATH",
            ) from None
        os.environ[variable] = str(place)


def is_warm(recipe: str, device: torch.device) -> bool:
    """Whether the cache in use has all that `mark_warm` was once called with `recipe` for.

    `recipe` is whatever decides the compiled code, as text: settings of model and training.
    """
    return _mark(recipe, device).exists()


def mark_warm(recipe: str, device: torch.device) -> None:
    """Note that all that `recipe` needs has now been compiled."""
    mark = _mark(recipe, device)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def _mark(recipe: str, device: torch.device) -> Path:
    """A file inside the cache, so that it goes when the cache is deleted."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    text = "\n".join((recipe, torch.__version__, hardware))
    return Path(os.environ[INDUCTOR]) / f"compiled_{hashlib.sha256(text.encode()).hexdigest()}"
