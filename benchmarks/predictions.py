"""How many texts per minute does a prompt classify on one thread of a processor?

    OMP_NUM_THREADS=1 python benchmarks/predictions.py micro-bert all-MiniLM-L6-v2 --out predictions.json

classifies the same rows of real tasks with every model and a prompt of 100 random vectors, whose values do not affect
the time. The script measures processor time, which other work on the machine affects less than elapsed time, but does
affect: `load` is the average number of processes in the minute before. The time includes reading and tokenizing the
rows, but not loading the model. An existing file keeps its results for other models, number types and tasks.
"""

import argparse
import json
import os
import sys
import time
from itertools import islice
from pathlib import Path

import torch

from prompt_transferability.backbones import DTYPES, Backbone
from prompt_transferability.prediction import predicted_rows
from prompt_transferability.prompts import random_prompt
from prompt_transferability.provenance import environment
from prompt_transferability.tasks import ALL_TASKS, read_texts


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="+", help="names, folders or .gguf files")
    parser.add_argument("--data", type=Path, required=True, help="folder that contains tasks/")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        default=["float32"],
        choices=DTYPES,
        help="number types for the model (default: %(default)s)",
    )
    parser.add_argument("--tasks", nargs="+", default=["sst2", "imdb"])
    parser.add_argument("--rows", type=int, default=300, help="rows of each task's test split (default: %(default)s)")
    parser.add_argument(
        "--length", type=int, default=100, help="number of vectors in the prompt (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    words = " ".join(Path(word).name for word in (sys.argv[1:] if arguments is None else arguments))
    about = {"command": f"python benchmarks/predictions.py {words}", "length": given.length, "threads": 1}
    found = json.loads(given.out.read_text(encoding="utf-8")) if given.out.is_file() else []
    for name in given.backbones:
        for dtype in given.dtypes:
            backbone = Backbone.from_pretrained(name, device="cpu", dtype=dtype)
            for task in given.tasks:
                one = {"dtype": dtype} | measured(backbone, task, given) | about | {"provenance": environment()}
                found = [*(other for other in found if what(other) != what(one)), one]
                given.out.parent.mkdir(parents=True, exist_ok=True)
                given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def what(one: dict) -> tuple[str, str, str]:
    "The measurements."
    return one["model"], one["dtype"], one["task"]


def measured(backbone: Backbone, task: str, given: argparse.Namespace) -> dict:
    file, prompt = given.data / "tasks" / task / "test.jsonl.gz", random_prompt(backbone, given.length, seed=0)

    def answered(count: int) -> int:
        return sum(1 for _ in predicted_rows(backbone, prompt, islice(read_texts(file), count), ALL_TASKS[task]))

    tokens = float(backbone.encode([*islice(read_texts(file), given.rows)]).lengths.mean())
    answered(5)  # things that are created only once
    before = time.process_time()
    rows = answered(given.rows)
    seconds = time.process_time() - before
    about = {"model": backbone.name, "task": task, "rows": rows, "tokens_a_row": tokens}
    return about | {"seconds": seconds, "rows_a_minute": 60 * rows / seconds, "load": round(os.getloadavg()[0], 1)}


if __name__ == "__main__":
    main()
