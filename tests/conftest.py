"Fixtures that several test files share."

import os
from pathlib import Path

import pytest
import torch

LONGEST = ("test_tutorials", "test_study", "test_site", "test_browser")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    "The longest files come first, so that no process is left with one of them in the end."
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


REAL = "PROMPT_TRANSFERABILITY_DATA"


@pytest.fixture(scope="session")
def device() -> str:
    "Where identities are tested: on a GPU where there is one."
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session")
def real_data() -> Path:
    "The folder with the real tasks; the test is skipped where it is missing."
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get(REAL) or beside)
    if not (folder / "tasks").is_dir():
        pytest.skip(f"needs the real task data: set {REAL} to a folder with tasks/ below it")
    return folder


@pytest.fixture(scope="session")
def real_models(real_data: Path) -> Path:
    "The folder with the small real models beside the data; the test is skipped where it is missing."
    folder = real_data.parent / "models"
    if not folder.is_dir():
        pytest.skip("needs the small real models: a folder models/ beside the data")
    return folder
