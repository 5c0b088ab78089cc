"""The cost of bfloat16 in accuracy: prompts trained and evaluated in float32 and in bfloat16.

    python benchmarks/number_types.py micro-bert micro-llama --tasks micro --out micro.json
    python benchmarks/number_types.py SmolLM2-135M-Instruct.Q4_1.gguf --tasks sst2 qnli --out smollm2.json

trains two prompts on each task, which differ only in the number type of the model's computations (same first vectors,
same batches), and evaluates each of them in both types on the whole dev split. An interrupted run continues after the
last row that it wrote.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from prompt_transferability.backbones import Backbone
from prompt_transferability.prompt_tuning import tune_prompt
from prompt_transferability.prompts import atomic_write, vocabulary_prompt
from prompt_transferability.provenance import environment
from prompt_transferability.tasks import MICRO_NAMES, load_task
from prompt_transferability.training import Training
from prompt_transferability.zero_shot_transfer import evaluate

DTYPES = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="+", help="a micro model, a .gguf file, a folder or a name on the Hub")
    parser.add_argument("--tasks", nargs="+", required=True, help="names of tasks; micro: all micro tasks")
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, default=0.1, help="relative to the size of the first vectors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    training = Training(
        steps=given.steps,
        learning_rate=given.learning_rate,
        relative=True,
        schedule="linear",
        warmup=20,
        eval_every=given.steps,
    )
    asked = {"length": given.length, "seed": given.seed, "init": "vocabulary", "training": asdict(training)}
    found = json.loads(given.out.read_text()) if given.out.is_file() else asked | {"rows": []}
    if {name: found[name] for name in asked} != asked:
        parser.error(f"{given.out} was made with other settings; name another file")
    command = "python benchmarks/number_types.py " + " ".join(Path(word).name for word in sys.argv[1:])
    tasks = [*MICRO_NAMES] if given.tasks == ["micro"] else given.tasks
    for name in given.backbones:
        models = {dtype: Backbone.from_pretrained(name, dtype=dtype) for dtype in DTYPES}
        for task in tasks:
            model, data = models["float32"], load_task(task)
            if any((row["model"], row["task"]) == (model.name, task) for row in found["rows"]):
                continue
            init = vocabulary_prompt(model, given.length, given.seed)
            read = {}
            for trained in DTYPES:
                run = tune_prompt(models[trained], data, init, seed=given.seed, **asdict(training))
                read |= {(trained, dtype): evaluate(models[dtype], run.last, data) for dtype in DTYPES}
            row = {"model": model.name, "task": task, "dev_rows": len(data.dev), "majority": data.majority()}
            row |= {f"{trained}, read in {dtype}": read[trained, dtype].accuracy for trained, dtype in read}
            agreed = [(read[t, "float32"].predictions == read[t, "bfloat16"].predictions).mean() for t in DTYPES]
            row |= {"same label": sum(agreed) / 2, "fingerprint": model.fingerprint}
            row |= {"command": command, "threads": torch.get_num_threads(), "provenance": environment()}
            found["rows"].append(row)
            with atomic_write(given.out) as unfinished:
                unfinished.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
