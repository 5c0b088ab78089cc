"Fixtures that several test files share."

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
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
        pytest.skip(f"needs the real task data: set {REAL} to a folder that contains tasks/")
    return folder


@pytest.fixture(scope="session")
def real_models(real_data: Path) -> Path:
    "The folder with the small real models beside the data; the test is skipped where it is missing."
    folder = real_data.parent / "models"
    if not folder.is_dir():
        pytest.skip("needs the small real models: a folder models/ beside the data")
    return folder


@dataclass
class Child:
    "A process that this one started, and what it says."

    process: multiprocessing.Process
    said: Path  # a folder with the files "out" and "err"

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait(self, seconds: float | None = None) -> int:
        "Its exit code."
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"process {self.pid} has not ended in {seconds} s"
        return self.process.exitcode

    @property
    def returncode(self) -> int:
        return self.wait()

    @property
    def stdout(self) -> str:
        return (self.said / "out").read_text(encoding="utf-8") if self.wait() is not None else ""

    @property
    def stderr(self) -> str:
        return (self.said / "err").read_text(encoding="utf-8") if self.wait() is not None else ""


def _run(program: Callable[[], int | None], said: Path, folder: Path | None, environment: Mapping[str, str]) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    torch.set_num_threads(1)  # those of the parent are not there
    os.environ |= environment
    if folder is not None:
        os.chdir(folder)
    sys.exit(program())


@pytest.fixture(scope="session")
def fork(tmp_path_factory) -> Callable[..., Child]:
    """Starts a process that need not import again what this one has imported, which takes it seven seconds.

    Takes a function, whose answer is the exit code, a folder to work in, and what to add to the environment.
    """
    context = multiprocessing.get_context("fork")

    def started(program: Callable[[], int | None], folder: Path | None = None, **environment: str) -> Child:
        said = tmp_path_factory.mktemp("said")
        process = context.Process(target=_run, args=(program, said, folder, environment))
        process.start()
        return Child(process, said)

    return started


@pytest.fixture
def whole_and_killed(fork, tmp_path):
    "What a run saves under a name in a folder: left alone, and killed at its first checkpoint and then run again."

    def ends(run):  # run(name) keeps {name}.checkpoint and saves {name}.safetensors
        assert fork(partial(run, "whole")).wait() == 0
        killed = fork(partial(run, "killed")).process
        while not (tmp_path / "killed.checkpoint").exists():
            time.sleep(0.01)
            assert killed.is_alive(), "the run ended before it could be killed"
        killed.kill()
        killed.join()
        assert not (tmp_path / "killed.safetensors").exists()
        assert fork(partial(run, "killed")).wait() == 0
        return [tmp_path / f"{name}.safetensors" for name in ("whole", "killed")]

    return ends
