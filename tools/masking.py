#!/usr/bin/env python3
"""Measure accuracy with neurons silenced: a prompt's own most activated ones, other prompts', and random ones.

    python tools/masking.py results/micro --out results/masking/micro.csv
    python tools/masking.py results/small --models ../shared/models --data ../shared/data --max-eval 100 \\
        --out results/masking/small.csv

Reads the prompts of a study, masks neurons of its model, and evaluates each prompt on its own task. The table has one
row per mask. Nothing is trained; the same seed yields the same table.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from prompt_transferability.backbones import Backbone
from prompt_transferability.experiments import Sources
from prompt_transferability.files import atomic_write
from prompt_transferability.neurons import (
    evaluate_masked,
    mean_of_others,
    most_activated,
    random_neurons,
    share_of,
)
from prompt_transferability.prompts import SoftPrompt
from prompt_transferability.provenance import environment, recorded_command
from prompt_transferability.results import Results
from prompt_transferability.similarity import activation_values
from prompt_transferability.tasks import TaskData, load_task

Mask = tuple[str, str, int, Tensor]  # what is masked, the other task, the draw, bool [layers, ffn]


def rankings(values: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:  # [layers, ffn] each
    "The values by which the neurons of a task's prompt are ranked: its own, the others' means, and the difference."
    others = mean_of_others(values)[task]
    return {"own": values[task], "shared": others, "specific": values[task] - others}


def own_masks(
    values: Mapping[str, Tensor],  # each [layers, ffn], by task, for the prompts of one seed
    task: str,
    ratio: float,
    draws: int,
    seed: int,
) -> Iterator[Mask]:
    "The neurons of a task's prompt by each ranking, and random ones."
    ranked = {name: most_activated(ranking, ratio) for name, ranking in rankings(values, task).items()}
    for name, masked in ranked.items():
        yield name, "", 0, masked
    for name, masked, by_layer in (
        ("random", ranked["own"], False),
        ("random by layer", ranked["own"], True),
        ("random by layer, as specific", ranked["specific"], True),
    ):
        for draw, drawn in enumerate(random_neurons(masked, draws, seed, by_layer=by_layer), 1):
            yield name, "", draw, drawn


def others_masks(values: Mapping[str, Tensor], task: str, ratio: float, types: Mapping[str, str]) -> Iterator[Mask]:
    "The most activated neurons of each other task's prompt."
    for other in [other for other in values if other != task]:
        kind = "same type" if types[other] == types[task] else "other types"
        yield kind, other, 0, most_activated(values[other], ratio)


def losses_of(
    backbone: Backbone,
    prompt: SoftPrompt,
    data: TaskData,
    masks: Mapping[float, list[Mask]],  # by ratio
) -> Iterator[dict]:
    "One row per mask, and for each ratio one row for the model without a mask."
    own = {ratio: next(masked for name, *_, masked in of if name == "own") for ratio, of in masks.items()}
    listed = [(ratio, *mask) for ratio, of in masks.items() for mask in of]
    nothing = torch.zeros_like(listed[0][-1])
    whole, *found = evaluate_masked(backbone, prompt, data, [nothing, *(mask[-1] for mask in listed)])
    listed = [*((ratio, "nothing", "", 0, nothing) for ratio in masks), *listed]
    found = [whole] * len(masks) + found
    for (ratio, by, name, draw, masked), result in zip(listed, found, strict=True):
        about = {"ratio": ratio, "by": by, "prompt": name, "draw": draw, "neurons": int(masked.sum())}
        yield about | {"of_own": share_of(masked, own[ratio]), "accuracy": result.accuracy, "n": result.n}


def shares_by_layer(of_seeds: Iterable[Mapping[str, Tensor]], ratio: float) -> dict[str, list[float]]:
    "The share of each layer's neurons that is masked, averaged over tasks and seeds."
    shares = {}
    for values in of_seeds:
        for task in values:
            for name, ranking in rankings(values, task).items():
                shares.setdefault(name, []).append(most_activated(ranking, ratio).double().mean(1))
    return {name: [round(share, 4) for share in torch.stack(of).mean(0).tolist()] for name, of in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="folder of a study")
    parser.add_argument("--backbone", help="a model of the study (default: its first)")
    parser.add_argument("--models", help="folder of model folders and .gguf files")
    parser.add_argument("--data", help="folder that contains tasks/ (default: $PROMPT_TRANSFERABILITY_DATA)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.05, 0.1, 0.2, 0.4])
    parser.add_argument("--others-at", nargs="+", type=float, help="ratios for other prompts' neurons (default: all)")
    parser.add_argument("--draws", type=int, default=5, help="number of draws of each kind of random neurons")
    parser.add_argument("--seed", type=int, default=0, help="seed of these draws")
    parser.add_argument("--max-eval", type=int, help="maximum dev rows per task (default: that of the study)")
    parser.add_argument("--out", type=Path, required=True, help="file for the table (.csv); its origin goes into .json")
    options, begun = parser.parse_args(), time.perf_counter()
    results = Results(options.results)
    study, name = results.study, results.check_backbone(options.backbone)
    if study.unified_label_words:
        parser.error("studies with unified label words are not supported; name another study")
    backbone = Sources(None, options.models, options.device).backbone(name, study.layout, study.max_length, study.dtype)
    with_others = options.ratios if options.others_at is None else options.others_at
    datas = {
        task: load_task(study.task(task), options.data, ["dev"], max_eval=options.max_eval or study.max_eval)
        for task in study.tasks
    }
    rows, all_values = [], []
    for seed in study.seeds:
        prompts = results.prompts(name, seed)
        values = activation_values(prompts, backbone)
        all_values.append(values)
        for task, prompt in tqdm(prompts.items(), desc=f"seed {seed}", unit="task"):
            masks = {
                ratio: [
                    *own_masks(values, task, ratio, options.draws, options.seed),
                    *(others_masks(values, task, ratio, study.types()) if ratio in with_others else ()),
                ]
                for ratio in options.ratios
            }
            rows += [{"task": task, "seed": seed} | row for row in losses_of(backbone, prompt, datas[task], masks)]
    origin = {
        "command": recorded_command(["python", "tools/masking.py", *sys.argv[1:]]),
        "seed": options.seed,
        "model": name,
        "dtype": study.dtype,
        "fingerprint": backbone.fingerprint,
        "layers": backbone.num_layers,
        "neurons_in_a_layer": backbone.ffn_size,
        "share_of_each_layer": {ratio: shares_by_layer(all_values, ratio) for ratio in options.ratios},
        "seconds": round(time.perf_counter() - begun),
        "threads": torch.get_num_threads(),
    }
    with atomic_write(options.out) as part:
        pd.DataFrame(rows).to_csv(part, index=False, float_format="%.5g")
    with atomic_write(options.out.with_suffix(".json")) as part:
        part.write_text(json.dumps(origin | environment(), indent=1) + "\n")


if __name__ == "__main__":
    main()
