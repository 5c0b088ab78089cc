"""A training step of a soft prompt beside one of the whole model: what Figure 2 gives as 2.15 s and 1.78 s.

Both are steps of `tune_prompt` and `fine_tune` on the same model and the same 16 texts, float32 on the CPU, one thread.
A model has random weights, but for `micro`, which ships with the package; what a weight is does not change what a step
costs. Texts are as long as MNLI's are in BERT's tokens (`mean`), or all of them 131 tokens (`padded`), which is what
the authors' code pads MNLI to before it adds the prompt (`formatter/MNLIPromptRobertaFormatter.py`).

A step is timed in seconds of the processor, which are those of the clock on an idle machine and hardly change on a busy
one. Memory is measured in a fresh process for each side: the peak resident size (`ru_maxrss`) after all steps, less the
peak before the first one, when model and texts stand.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from step_vs_peft import cpu_model, in_fresh_process
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from prompt_transferability.backbones import Backbone
from prompt_transferability.fine_tuning import fine_tune
from prompt_transferability.prompt_tuning import tune_prompt
from prompt_transferability.tasks import PAPER_TASKS, TaskData, load_task
from prompt_transferability.training import Loop

SIZES = {
    "minilm": dict(num_hidden_layers=6, hidden_size=384, num_attention_heads=12, intermediate_size=1536),
    "base": dict(num_hidden_layers=12, hidden_size=768, num_attention_heads=12, intermediate_size=3072),
}
CASES = {  # size of the model, vectors of the prompt, texts
    "micro": ("micro", 20, "micro/mnli"),
    "minilm": ("minilm", 20, "mean"),
    "base": ("base", 100, "mean"),
    "base, padded": ("base", 100, "padded"),
}
VOCABULARY, BATCH = 30522, 16


def make_texts(kind: str, seed: int) -> TaskData:
    "Texts of nothing but a label word; how many tokens they have is what counts."
    task, random = PAPER_TASKS["sst2"], np.random.default_rng(seed)
    # MNLI's train pairs have 40 BERT tokens in the mean, specials included.
    lengths = np.full(512, 131) if kind == "padded" else random.gamma(4.7, 40 / 4.7, 512).round().clip(5, 128)
    rows = [
        {"text_a": " ".join([task.label_words[0]] * int(length - 2)), "text_b": None, "label": i % 2}
        for i, length in enumerate(lengths)
    ]
    # The steps are what is measured, so dev is as small as it can be.
    return TaskData(task, train=Dataset.from_list(rows), dev=Dataset.from_list(rows[:1]))


def make_case(case: str, seed: int) -> tuple[Backbone, TaskData, int]:
    "The model, the texts, and the length of the prompt."
    size, length, texts = CASES[case]
    if size == "micro":
        return Backbone.from_pretrained("micro-roberta", device="cpu"), load_task(texts, max_eval=1), length
    torch.manual_seed(seed)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PAPER_TASKS["sst2"].label_words]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    model = BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, **SIZES[size])).eval()
    return Backbone(model, tokenizer, case, max_length=131), make_texts(texts, seed), length


def measure(case: str, side: str, steps: int, seed: int) -> dict:  # seconds of each step, MiB
    "Steps of one side, in this process."
    torch.set_num_threads(1)
    backbone, data, length = make_case(case, seed)
    advance, seconds = Loop.advance, []

    def timed(loop: Loop) -> None:
        started = time.process_time()
        advance(loop)
        seconds.append(time.process_time() - started)

    Loop.advance = timed
    train = {"prompt": partial(tune_prompt, length=length), "model": fine_tune}[side]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train(backbone, data, steps=steps, batch_size=BATCH, seed=seed, eval_every=steps, progress=False)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"step_s": seconds, "memory_mib": grown / (2**20 if sys.platform == "darwin" else 2**10)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a step of a soft prompt beside one of the whole model.")
    parser.add_argument("--steps", type=int, default=10, help="measured steps of each side (default 10)")
    parser.add_argument("--case", choices=[*CASES, "all"], default="all", help="model and texts (default all)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, texts and batches (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add the results to this file")
    args = parser.parse_args()
    kept = json.loads(args.json.read_text()) if args.json and args.json.is_file() else {}
    for case in CASES if args.case == "all" else [args.case]:
        # The first step warms up, and is not counted.
        sides = {side: in_fresh_process(measure, case, side, args.steps + 1, args.seed) for side in ("prompt", "model")}
        medians = {side: statistics.median(found["step_s"][1:]) for side, found in sides.items()}
        memory = {side: found["memory_mib"] for side, found in sides.items()}
        size, length, texts = CASES[case]
        kept[case] = {
            "prompt_length": length,
            "texts": texts,
            "config": SIZES.get(size),
            "median_s": medians,
            "memory_mib": memory,
            "step_s": {side: found["step_s"] for side, found in sides.items()},
            "provenance": {
                "command": f"python benchmarks/fine_tuning_step.py --case {case!r} --steps {args.steps}",
                "seed": args.seed,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "cpu": cpu_model(),
                "versions": {name: version(name) for name in ("prompt_transferability", "torch", "transformers")},
            },
        }
        print(
            f"{case}: prompt {medians['prompt']:.3f} s, {memory['prompt']:.0f} MiB; whole model "
            f"{medians['model']:.3f} s, {memory['model']:.0f} MiB a step",
            flush=True,
        )
        if args.json:
            args.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
