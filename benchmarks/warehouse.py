"""A warehouse of many prompts: the cost of adding them, and of a search by each metric that compares vectors.

    python benchmarks/warehouse.py --out results/benchmarks/warehouse.json

draws 10,000 prompts of RoBERTa-base's size, 100 vectors of 768 numbers, into a temporary folder (3 GB, removed at the
end), and searches them by each metric: with no file in the page cache ("cold"), and again ("warm", the fastest of
three searches, or a single one if it is slow); if a search stores something, also the search that computes it
("first"). The script records elapsed time and processor time, which differ if the process waits for a disk or for other
processes; `load` is the average number of processes in the minute before.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from prompt_transferability.files import atomic_write
from prompt_transferability.prompts import SoftPrompt
from prompt_transferability.provenance import environment
from prompt_transferability.similarity import EMBEDDING_METRICS
from prompt_transferability.tasks import PAPER_TASKS
from prompt_transferability.warehouse import Warehouse

LENGTH, WIDTH = 100, 768


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--folder", help="parent of the temporary folder (default: that of the system)")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    size = given.prompts * LENGTH * WIDTH * 4
    with TemporaryDirectory(dir=given.folder) as folder:
        if shutil.disk_usage(folder).free < 2 * size:
            sys.exit(f"{folder} has less than {2 * size / 1e9:.1f} GB free; name another place with --folder")
        about = {"command": f"python benchmarks/warehouse.py --prompts {given.prompts}"}
        about |= {"threads": torch.get_num_threads(), "prompts": given.prompts, "length": LENGTH, "width": WIDTH}
        about |= {"gigabytes": size / 1e9, "provenance": environment(), "seconds": {}}
        for step, seconds in measured(Warehouse(folder), given.prompts):
            about["seconds"][step] = seconds
            with atomic_write(given.out) as path:
                path.write_text(json.dumps(about, indent=1) + "\n")


def measured(warehouse: Warehouse, count: int) -> Iterator[tuple[str, dict[str, dict[str, float]]]]:
    "The seconds of each step."
    draw, tasks = torch.Generator().manual_seed(0), [*PAPER_TASKS]

    def drawn(i: int) -> SoftPrompt:
        values = 0.3 * torch.randn(LENGTH, WIDTH, generator=draw)
        return SoftPrompt(values, "roberta-base", tasks[i % len(tasks)], metadata={"seed": i})

    target = drawn(0)
    yield "adding", {"first": timed(lambda: warehouse.add_all(drawn(i) for i in range(count)))}
    time.sleep(3)  # until the warehouse trusts the times of all files
    warehouse.index()
    yield "listing", {"cold": cold(warehouse, warehouse.prompts), "warm": warm(warehouse.prompts)}
    for metric in sorted(EMBEDDING_METRICS, key=lambda metric: metric == "euclidean_average"):  # the slowest last

        def search(metric=metric):
            return warehouse.nearest(target, 5, metric)

        first = {} if metric != "cosine_average" else {"first": timed(search)}
        yield metric, first | {"cold": cold(warehouse, search), "warm": warm(search)}


def timed(step: Callable[[], object]) -> dict[str, float]:
    wall, processor = time.perf_counter(), time.process_time()
    step()
    passed = {"passed": time.perf_counter() - wall, "worked": time.process_time() - processor}
    return {name: round(seconds, 3) for name, seconds in passed.items()} | {"load": round(os.getloadavg()[0], 1)}


def warm(step: Callable[[], object]) -> dict[str, float]:
    "The fastest of three, or a single one if it is slow."
    found = timed(step)
    more = 2 if found["worked"] < 10 else 0
    return min([found, *(timed(step) for _ in range(more))], key=lambda found: found["worked"])


def cold(warehouse: Warehouse, step: Callable[[], object]) -> dict[str, float]:
    "The time of a step with no file in memory."
    os.sync()
    for path in warehouse.folder.iterdir():
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return timed(step)


if __name__ == "__main__":
    main()
