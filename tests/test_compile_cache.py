"""utils/compile_cache.py: what one process compiles, the next one finds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch._functorch.config as functorch_config
import torch._inductor.config as inductor_config

from tests.conftest import REPOSITORY
from utils.compile_cache import INDUCTOR, TRITON, is_warm, mark_warm, use_compile_cache
from utils.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (INDUCTOR, TRITON):
        monkeypatch.setenv(variable, "")  # so that it is put back whatever the test does
        monkeypatch.delenv(variable)


def test_both_caches_are_below_the_folder_and_on(tmp_path: Path) -> None:
    use_compile_cache(tmp_path / "cache")
    for variable in (INDUCTOR, TRITON):
        place = Path(os.environ[variable])
        assert place.is_dir()
        assert place.parent == tmp_path / "cache"
    assert inductor_config.fx_graph_cache
    assert functorch_config.enable_autograd_cache


def test_a_place_that_the_user_has_set_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(INDUCTOR, "elsewhere")
    use_compile_cache(tmp_path)
    assert os.environ[INDUCTOR] == "elsewhere"
    assert os.environ[TRITON] == str(tmp_path / "triton")


def test_a_place_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"compile_cache_dir: cannot write to (.|\n)*--set paths"):
        use_compile_cache(tmp_path / "file")
    assert INDUCTOR not in os.environ


def test_a_cache_is_warm_for_what_was_compiled_until_it_is_deleted(tmp_path: Path) -> None:
    use_compile_cache(tmp_path)
    assert not is_warm("32 layers", CPU)
    mark_warm("32 layers", CPU)
    assert is_warm("32 layers", CPU)
    assert not is_warm("33 layers", CPU)
    shutil.rmtree(tmp_path)
    assert not is_warm("32 layers", CPU)


COMPILE = """
import json, sys
from pathlib import Path
from utils.compile_cache import use_compile_cache
use_compile_cache(Path(sys.argv[1]))
import torch
from torch._dynamo.utils import counters
ones = torch.ones(9, requires_grad=True)
torch.compile(lambda x: (x.sin() * 3).sum())(ones).backward()
print(json.dumps({**counters["inductor"], **counters["aot_autograd"]}))
"""


@pytest.mark.slow
def test_another_process_compiles_nothing_again(tmp_path: Path) -> None:
    if not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("needs a C++ compiler")

    def compile_in_a_process() -> dict[str, int]:
        output = subprocess.run(
            [sys.executable, "-c", COMPILE, str(tmp_path)],
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        counts: dict[str, int] = json.loads(output)
        return counts

    first, second = compile_in_a_process(), compile_in_a_process()
    assert first["autograd_cache_miss"] == 1
    assert "autograd_cache_hit" not in first
    assert second["autograd_cache_hit"] == 1
    assert "autograd_cache_miss" not in second
