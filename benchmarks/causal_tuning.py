"""Prompts of a real causal language model: does it learn the tasks, and how fast?

    python benchmarks/causal_tuning.py SmolLM2-135M-Instruct.Q4_1.gguf --tasks sst2 qnli --out smollm2.json

trains 20 vectors from vocabulary vectors for 500 steps of 16 texts: AdamW, a learning rate that falls linearly after 20
steps of warm-up, evaluated on the whole dev split every 50 steps. One JSON file stores the curve of each task, the
settings, and their provenance. An interrupted run continues from its checkpoints. A task that is already in the file is
not run again; if its settings differ, nothing is run.
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
from prompt_transferability.provenance import environment, recorded_command
from prompt_transferability.tasks import load_task
from prompt_transferability.training import Training

SETTINGS = ("model", "fingerprint", "dtype", "length", "seed", "init", "training")
"The settings that identify a run of a task."


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", help="a .gguf file, a folder or a name on the Hub")
    parser.add_argument("--model", help="name of the model on the Hub, if the file has another name")
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--learning-rate", type=float, default=0.1, help="relative to the size of the first vectors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, required=True)
    arguments = sys.argv[1:] if arguments is None else arguments
    given = parser.parse_args(arguments)
    found = json.loads(given.out.read_text(encoding="utf-8")) if given.out.is_file() else {"runs": {}}
    backbone = Backbone.from_pretrained(given.backbone, dtype=given.dtype)
    training = Training(
        steps=given.steps,
        learning_rate=given.learning_rate,
        relative=True,
        schedule="linear",
        warmup=20,
        eval_every=50,
    )
    init = vocabulary_prompt(backbone, given.length, given.seed)
    about = {
        "command": recorded_command(["python", "benchmarks/causal_tuning.py", *arguments]),
        "model": given.model or backbone.name,
        "fingerprint": backbone.fingerprint,
        "dtype": given.dtype,
        "length": given.length,
        "seed": given.seed,
        "init": "vocabulary",
        "init_size": init.values.square().mean().sqrt().item(),
        "training": asdict(training),
        "threads": torch.get_num_threads(),
        "provenance": environment(),
    }
    for task in given.tasks:
        if before := found["runs"].get(task):
            different = [name for name in SETTINGS if before[name] != about[name]]
            if different:
                parser.error(f"{given.out} has a run of {task} with another {', '.join(different)}; name another --out")
    for task in given.tasks:
        if task in found["runs"]:
            continue
        data = load_task(task)
        checkpoint = given.out.with_name(f"{given.out.stem}.{task.replace('/', '-')}.checkpoint")
        run = tune_prompt(backbone, data, init, seed=given.seed, checkpoint=checkpoint, **asdict(training))
        found["runs"][task] = about | {
            "dev_rows": len(data.dev),
            "majority": data.majority(),
            "best_accuracy": run.best_accuracy,
            "best_step": run.best_step,
            "seconds": run.seconds,
            "curve": json.loads(run.curve.to_json(orient="records")),
        }
        with atomic_write(given.out) as unfinished:
            unfinished.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
