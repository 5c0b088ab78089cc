"""One training step of a soft prompt: ours beside the same step through PEFT's `PromptTuningConfig`.

Both train a prompt of 100 vectors in front of the same frozen BERT of random weights: float32 on the CPU, 16 texts a
step, dropout off, AdamW. The texts are random tokens with lengths like SST-2's; what a text says does not change what
it costs.

- ours: `Backbone.read_out_states` and `read_out` as `tune_prompt` calls them, on random batches;
- PEFT: the mask stands in the text, batches are padded to their longest text too, and the masked-LM model gives
  the logits of the whole vocabulary at every position and the cross entropy of the label word.

The two take turns in one process. A step is everything from picking its texts to the optimizer's update. Memory is
measured in a fresh process for each side: the peak resident size (`ru_maxrss`) after all steps, less the peak before
the first one, when model and texts stand.
"""

import argparse
import json
import math
import platform
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from peft import PromptTuningConfig, get_peft_model
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from prompt_transferability.backbones import Backbone, EncodedTexts
from prompt_transferability.prompts import random_prompt
from prompt_transferability.tasks import PAPER_TASKS
from prompt_transferability.training import Batches

SIZES = {
    "minilm": dict(num_hidden_layers=6, hidden_size=384, num_attention_heads=12, intermediate_size=1536),
    "small": dict(num_hidden_layers=4, hidden_size=256, num_attention_heads=4, intermediate_size=1024),
}
VOCABULARY, LENGTH, BATCH, LEARNING_RATE, WARM_UP, TEXTS = 30522, 100, 16, 1e-3, 3, 6920
TASK = PAPER_TASKS["sst2"]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *TASK.label_words]
PAD, _, CLS, SEP, MASK, *LABEL_WORDS = range(len(TOKENS))

Step = Callable[[], float]  # one training step, returning its loss


def make_model(size: str, seed: int) -> BertForMaskedLM:
    "The frozen model, random weights."
    torch.manual_seed(seed)
    return BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, **SIZES[size])).eval()


def make_texts(seed: int) -> tuple[list[list[int]], torch.Tensor]:
    "Token ids of each text with [CLS] and [SEP], and the labels, int64 [texts]."
    random = np.random.default_rng(seed)
    # SST-2's train sentences have 3 to 67 BERT tokens, specials included: 23.3 in the mean, standard deviation 10.8.
    lengths = random.gamma(4.7, 5, TEXTS).round().clip(3, 67).astype(int)
    texts = [[CLS, *random.integers(len(TOKENS), VOCABULARY, length - 2), SEP] for length in lengths]
    return texts, torch.from_numpy(random.integers(0, len(TASK.labels), TEXTS))


def our_step(model: BertForMaskedLM, texts: list[list[int]], labels: torch.Tensor, seed: int) -> Step:
    "A training step as `tune_prompt` does it."
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(TOKENS)})
    backbone = Backbone(model, tokenizer, "benchmark")
    encoded = EncodedTexts(texts, [[0] * len(text) for text in texts], PAD)
    prompt = torch.nn.Parameter(random_prompt(backbone, LENGTH, seed).values)
    optimizer = torch.optim.AdamW([prompt], lr=LEARNING_RATE, weight_decay=0.0)
    batches = map(Batches(len(encoded), BATCH, seed).__getitem__, count())

    def step() -> float:
        rows = next(batches)
        logits = backbone.read_out(backbone.read_out_states(prompt, encoded.batch(rows)), TASK)
        return update(F.cross_entropy(logits, labels[rows]), optimizer)

    return step


def peft_step(model: BertForMaskedLM, texts: list[list[int]], labels: torch.Tensor, seed: int) -> Step:
    "The same through PEFT, with the mask after [CLS] and the loss of a masked-LM model."
    # Of PEFT's wrappers, FEATURE_EXTRACTION is the one that puts a prompt before a `BertForMaskedLM`; it passes the
    # labels on as they are, so the prompt's positions are added to them here.
    config = PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=LENGTH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks `transformers` for an attribute by its old name
        tuned = get_peft_model(model, config).eval()
    trained = [weight for weight in tuned.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    masked = [torch.tensor([CLS, MASK, *text[1:]]) for text in texts]
    words = torch.tensor(LABEL_WORDS)[labels]

    def random_batches() -> Iterator[np.ndarray]:
        for epoch in count():
            order = np.random.default_rng([seed, epoch]).permutation(TEXTS)
            yield from (order[start : start + BATCH] for start in range(0, TEXTS, BATCH))

    batches = random_batches()

    def step() -> float:
        rows = next(batches)
        ids = pad_sequence([masked[row] for row in rows], batch_first=True, padding_value=PAD)
        targets = F.pad(torch.where(ids == MASK, words[rows][:, None], -100), (LENGTH, 0), value=-100)
        return update(tuned(input_ids=ids, attention_mask=(ids != PAD).long(), labels=targets).loss, optimizer)

    return step


def update(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
    "Backward and the optimizer's update; the loss as a number."
    value = loss.item()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return value


SIDES = {"ours": our_step, "peft": peft_step}


def check_losses(losses: dict[str, float]) -> None:
    "An untrained model can only guess: its cross entropy is about the logarithm of what it chooses from."
    for side, choices in {"ours": len(TASK.labels), "peft": VOCABULARY}.items():
        if not abs(losses[side] - math.log(choices)) < 1:
            raise SystemExit(f"the loss of {side} is {losses[side]}; about {math.log(choices):.2f} was expected")


def measure_times(size: str, steps: int, seed: int) -> dict[str, list[float]]:  # milliseconds of each step
    "Time both sides in turn."
    texts, labels = make_texts(seed)
    sides = {side: make(make_model(size, seed), texts, labels, seed) for side, make in SIDES.items()}
    check_losses({side: step() for side, step in sides.items()})
    for _ in range(WARM_UP - 1):
        for step in sides.values():
            step()
    times = {side: [] for side in sides}
    for _ in range(steps):
        for side, step in sides.items():
            started = time.perf_counter()
            step()
            times[side].append(1000 * (time.perf_counter() - started))
    return times


def summary(times: dict[str, list[float]]) -> dict:
    "Medians, means and how many times as fast ours is. Batches differ in length, so the means count too."
    medians = {side: statistics.median(values) for side, values in times.items()}
    means = {side: statistics.mean(values) for side, values in times.items()}
    return {
        "median_ms": medians,
        "ratio_of_medians": medians["peft"] / medians["ours"],
        "mean_ms": means,
        "ratio_of_means": means["peft"] / means["ours"],
        "step_ms": times,
    }


def measure_memory(size: str, side: str, steps: int, threads: int, seed: int) -> float:  # MiB
    "By how much the steps of one side raise the peak resident size of this process."
    torch.set_num_threads(threads)
    step = SIDES[side](make_model(size, seed), *make_texts(seed), seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(steps):
        step()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return grown / (2**20 if sys.platform == "darwin" else 2**10)


def in_fresh_process(function: Callable, *args) -> float:
    "What a function returns in a new Python process."
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def cpu_model() -> str:
    "The processor's name, where the system tells it."
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def provenance(args: argparse.Namespace) -> dict:
    "What the numbers depend on."
    settings = {name: getattr(args, name) for name in ("steps", "threads", "size", "seed")}
    packages = ("prompt_transferability", "torch", "transformers", "peft", "numpy")
    return {
        "command": " ".join(
            ["python benchmarks/step_vs_peft.py", *(f"--{name} {settings[name]}" for name in settings)]
        ),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        **settings,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a prompt-tuning step beside the same step through PEFT.")
    parser.add_argument("--steps", type=int, default=20, help="measured steps of each side (default 20)")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of torch (default: its own)"
    )
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all", help="size of the model (default all)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, texts and batches (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here, with what they depend on")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes = list(SIZES) if args.size == "all" else [args.size]
    # Memory first: on Linux a process inherits the peak of the one that starts it, so that one must still be small.
    memory = {
        size: {
            side: in_fresh_process(measure_memory, size, side, args.steps, args.threads, args.seed) for side in SIDES
        }
        for size in sizes
    }
    print(f"prompt of {LENGTH} vectors, {BATCH} texts a step, {args.threads} thread(s), median of {args.steps} steps")
    results = {}
    for size in sizes:
        result = summary(measure_times(size, args.steps, args.seed)) | {"memory_mib": memory[size]}
        results[size] = {"config": SIZES[size]} | result
        print(
            f"{size:>6}: ours {result['median_ms']['ours']:.0f} ms, PEFT {result['median_ms']['peft']:.0f} ms a step: "
            f"{result['ratio_of_medians']:.2f} times as fast ({result['ratio_of_means']:.2f} by means); "
            f"memory of the steps: ours {memory[size]['ours']:.0f} MiB, PEFT {memory[size]['peft']:.0f} MiB"
        )
    if args.json:
        args.json.write_text(json.dumps({"provenance": provenance(args), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
