"""What program this is and what it runs on, for the record."""

import platform
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import torch


@cache
def git_commit() -> str:
    """The commit of this program, or an empty string outside a git checkout."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():  # git would look further up, into another project
        return ""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()


def versions() -> dict[str, str]:
    """Versions that decide what a run computes."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
