"""Fixtures that several test files share."""

import os
from pathlib import Path

# Before torch: what cuBLAS needs for deterministic algorithms, which some GPU tests ask for.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch

from demo.train_tokenizer import train_tokenizer
from tests.small_text import ENGLISH, VOCABULARY
from tests.workspaces import Workspace, WorkspaceMaker, prepare

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real Wikipedia files and CodeLlama's tokenizer, kept beside the checkout."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the real data in ../shared")
    return folder


@pytest.fixture(scope="session")
def prepared_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The small corpus, cleaned and tokenized once for all tests: read only."""
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def make_workspace(tmp_path: Path, prepared_workspace: Workspace) -> WorkspaceMaker:
    """Makes folders to train in."""
    return WorkspaceMaker(tmp_path, prepared_workspace)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer in CodeLlama's format, trained on a page of English: read only."""
    folder = tmp_path_factory.mktemp("tiny_tokenizer")
    train_tokenizer([ENGLISH], folder, VOCABULARY)
    return folder
