"""Python processes that tests listen to and signal."""

import os
import subprocess
import sys

from tests.conftest import REPOSITORY


def start_python(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Python in the repository's folder; what it says on stdout and stderr is to be read."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
