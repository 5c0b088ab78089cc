"""Gather what the Explorer page shows from results/ into nbs/explorer/data.js: run by `make explorer`.

Every study under results/ that has a transfer matrix becomes one collection for each of its models, and so does every
model whose transfer matrix the paper's authors published. Pages that are opened from a folder may fetch no file, so the
data are a script that sets one variable.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from prompt_transferability.backbones import Backbone
from prompt_transferability.microworld import MICRO_MODELS
from prompt_transferability.paper import printed, table
from prompt_transferability.plots import TYPE_COLORS
from prompt_transferability.prompts import SoftPrompt
from prompt_transferability.recomputed import read_table
from prompt_transferability.results import TYPES, Results
from prompt_transferability.similarity import (
    METRICS,
    activation_states,
    independent_pairs,
    overlap_matrix,
    overlap_profile,
    similarity_matrix,
    task_means,
    transferability_correlation,
)
from prompt_transferability.statistics import FEWEST_UNITS
from prompt_transferability.study import StudyError
from prompt_transferability.tasks import PAPER_TASKS

ROOT = Path(__file__).resolve().parent.parent
VARIABLE = "promptTransferExplorer"
PUBLISHED = {  # the models whose transfer matrix was published: their name, and the paper's table about each row
    "roberta-base": ("RoBERTa-base", {"tuned": 1, "random": 4, "directly reused": 4}),
    "roberta-large": ("RoBERTa-large", {"tuned": 5, "random": 5}),
    "t5-base": ("T5-base", {}),
    "t5-small": ("T5-small", {}),
}
# Published rows whose projector was trained in a way that is not known: the table with those whose way is
PROJECTED = {
    "roberta-base": {"projected from bert-base-uncased": "Table 4"},
    "roberta-large": {"projected from roberta-base": "Table 5"},
}
COSINES = ("cosine_concat", "neuron_overlap")  # the metrics that are cosines, and so have principal components
WORDS = {
    "euclidean_concat": "Euclidean, vectors end to end",
    "euclidean_average": "Euclidean, mean over pairs of vectors",
    "cosine_concat": "cosine, vectors end to end",
    "cosine_average": "cosine, mean over pairs of vectors",
    "neuron_overlap": "overlap of activated neurons",
}


def rounded(values, digits: int = 5) -> list | float | None:
    """Numbers as JSON has them: rounded, and None for NaN."""
    if isinstance(values, float | int | np.number):
        return None if np.isnan(values) else round(float(values), digits)
    return [rounded(value, digits) for value in (values.to_numpy() if hasattr(values, "to_numpy") else values)]


def tasks_of(names: list[str]) -> list[dict]:
    """Name, title and type of each task; what is not the paper's own task does not bear its title."""
    titles = {name: task.title for name, task in PAPER_TASKS.items()}
    return [{"name": name, "title": titles.get(name, name), "type": TYPES[name]} for name in names]


def components(
    cosines: pd.DataFrame,  # [prompts, prompts]
) -> dict:
    """Where each prompt stands along the first two principal components of the vectors that the cosines are of.

    The vectors count as of length 1, so that their cosines, centred, are all that is needed.
    """
    centring = np.eye(len(cosines)) - 1 / len(cosines)
    values, vectors = np.linalg.eigh(centring @ cosines.to_numpy(float) @ centring)
    places = vectors[:, [-1, -2]] * np.sqrt(values[[-1, -2]])
    places *= np.sign(places[np.abs(places).argmax(0), [0, 1]])  # else each sign would be left to chance
    return {"places": rounded(places), "shares": rounded(values[[-1, -2]] / values.clip(0).sum())}


def correlations(found: pd.DataFrame) -> dict:  # of `transferability_correlation`
    overall = found.loc["overall"]
    return {name: rounded(overall[name]) for name in ("rho", "low", "high", "p")} | {"n": int(overall["n"])}


# ---------------------------------------------------------------- what the authors published


def published(kept: Path) -> Iterator[dict]:  # kept: results/release
    """A collection for each model whose transfer matrix was published."""
    for backbone, (model, tables) in PUBLISHED.items():
        matrix = read_table(kept, f"transfer_{backbone}")
        collection = {
            "id": f"published-{backbone}",
            "group": "Published by the paper's authors",
            "name": model,
            "says": f"{model} on the paper's 13 tasks, as published by the paper's authors: one prompt a task, "
            "100 vectors. How many examples stand behind an accuracy was not published.",
            "source": "results/release/files.html",
            "tasks": tasks_of(list(matrix)),
            "transfer": {"rows": list(matrix.index), "accuracy": rounded(matrix)},
            "paper": [],
            "elsewhere": PROJECTED.get(backbone, {}),
        }
        for row, number in tables.items():
            cells = printed(number).loc[("tuned", "accuracy") if number == 1 else row]
            known = {task: cell for task, cell in cells.items() if cell not in ("?", "-")}
            collection["paper"] += [
                {
                    "source": task if row == "tuned" else row,
                    "target": task,
                    "accuracy": cell,
                    "where": f"Table {number}",
                }
                for task, cell in known.items()
            ]
        if backbone == "roberta-base":
            collection |= base_similarities(kept)
        yield collection


def base_similarities(kept: Path) -> dict:
    """What the release and the paper say of how alike the prompts of RoBERTa-base are."""
    similarities = read_table(kept, "similarity_to_tuned_tuned").set_index(["vectors", "tuned"], append=True)
    found = read_table(kept, "correlation_roberta-base").reset_index().set_index(["metric", "vectors", "self_pairs"])
    metrics, cosines, names = [], {}, list(PAPER_TASKS)
    for metric in METRICS[:-1]:
        for vectors, words in ((99, "99 vectors, those that act"), (100, "100 vectors, as in the paper")):
            matrix = similarities.xs(vectors, level="vectors")[metric].unstack().loc[names, names]
            cosines[metric, vectors] = matrix
            metrics.append(
                {
                    "name": f"{metric} ({words})",
                    "words": WORDS[metric],
                    "values": rounded(matrix, 7),
                    "overall": [
                        correlations(found.loc[(metric, vectors, own)].set_index("target")) for own in (False, True)
                    ],
                }
            )
    place = {"of": "the 99 vectors of each prompt that act, end to end", "prompts": [[name, None] for name in names]}
    overlap = table(2).filter(like="-", axis=0)
    kinds = {"same task": "same task", "different tasks": "different task"}
    return {
        "similarity": metrics,
        "maps": [place | components(cosines["cosine_concat", 99])],
        "profile": {
            "says": "Printed in the paper's Table 2, by groups of three layers, without intervals; the neuron states "
            "were not published.",
            "layers": [name.split()[-1] for name in overlap.index],
            "kinds": [{"name": kinds[column], "mean": rounded(overlap[column])} for column in overlap],
        },
    }


# ---------------------------------------------------------------- our studies


def of_study(results: Results, backbone: str) -> dict:
    """A collection of one study and one of its models; raises `StudyError` where it has no transfer matrix yet."""
    study, matrix = results.study, results.transfer(backbone)
    micro = all(name.startswith("micro/") for name in study.tasks)
    data = "generated tasks of the micro world, a made-up language" if micro else "samples of the paper's tasks"
    words = ", all with the label words 1, 2, 3" if getattr(study, "unified_label_words", False) else ""
    seeds = f"{len(study.seeds)} seed{'s' if len(study.seeds) > 1 else ''}"
    collection = {
        "id": f"{study.name}-{backbone}",
        "group": "Our studies: not RoBERTa",
        "name": f"{backbone}, study {study.name}",
        "says": f"{backbone} on {data}{words}: our {study.name} study, {seeds}, {study.length} vectors, "
        f"{study.steps} steps. These are not RoBERTa's numbers{', and not English either' if micro else ''}.",
        "source": f"results/{results.out.name}/files.html",
        "tasks": tasks_of(list(matrix)),
        "transfer": {"rows": list(matrix.index), "accuracy": rounded(matrix)} | evaluations(results, backbone, matrix),
        "curves": curves(results, backbone),
    }
    runs = {
        f"{task} {seed}": prompt for seed in study.seeds for task, prompt in results.prompts(backbone, seed).items()
    }
    return collection | similarities(runs, backbone, study.layout, matrix)


def evaluations(results: Results, backbone: str, matrix: pd.DataFrame) -> dict:
    """For each cell of a matrix: an interval, how many examples, and the accuracy of each seed.

    The interval goes from the lowest to the highest bound of the seeds' own 95 % intervals.
    """
    rows = results.evaluations(backbone).query("split == 'dev'").sort_values("seed").groupby(["source", "target"])
    found = {
        pair: ([cell["low"].min(), cell["high"].max()], int(cell["n"].iloc[0]), list(cell["accuracy"]))
        for pair, cell in rows
    }
    missing = (None, None, None)
    parts = [[found.get((source, target), missing) for target in matrix] for source in matrix.index]
    return {
        "interval": [[part and rounded(part) for part, _, _ in row] for row in parts],
        "n": [[part for _, part, _ in row] for row in parts],
        "by_seed": [[part and rounded(part) for _, _, part in row] for row in parts],
    }


def curves(results: Results, backbone: str) -> dict:
    """Every training curve, and what costs nothing: the most frequent label, and a random prompt."""
    summary, runs = results.summary(backbone), []
    for (task, seed), curve in results.curves(backbone).groupby(["task", "seed"], sort=False):
        runs.append(
            {"task": task, "seed": int(seed), "step": curve["step"].tolist(), "accuracy": rounded(curve["accuracy"])}
        )
    return {"runs": runs, "majority": dict(zip(summary.index, rounded(summary["majority"]), strict=True))}


def similarities(
    runs: dict[str, SoftPrompt],  # by "task seed"
    backbone: str,
    layout: str,
    transfer: pd.DataFrame,
) -> dict:
    """How alike prompts are, whether that goes with transfer, their principal components, and their neurons by layer.

    Prompts of different tasks are compared across seeds where there are several, since those of one seed began alike.
    """
    tasks, seeds = ({name: name.split()[part] for name in runs} for part in (0, 1))
    names, several = list(transfer), len(set(seeds.values())) > 1
    found, parts = {metric: similarity_matrix(runs, metric) for metric in METRICS[:-1]}, {}
    if backbone in MICRO_MODELS:  # the only models that are always there
        states = activation_states(runs, Backbone.from_pretrained(backbone, layout=layout, device="cpu"))
        found["neuron_overlap"] = overlap_matrix(states)
        parts["profile"] = profile(overlap_profile(states, tasks, TYPES, starts=seeds if several else None), several)
    whole = set(names) <= set(transfer.index) and transfer.notna().all(axis=None)  # a study that has not ended has gaps
    if whole and len(names) >= FEWEST_UNITS:
        parts["similarity"] = [compared(metric, found[metric], tasks, seeds, transfer) for metric in found]
    of = {"cosine_concat": "the vectors of each prompt, end to end", "neuron_overlap": "the neurons that it activates"}
    places = [[tasks[name], int(seeds[name])] for name in runs]
    if len(runs) > 2:
        mapped = [name for name in COSINES if name in found]
        parts["maps"] = [{"of": of[name], "prompts": places} | components(found[name]) for name in mapped]
    return parts | {"pairs": "prompts of different seeds" if several else "prompts of one seed, which began alike"}


def compared(
    metric: str,
    matrix: pd.DataFrame,  # [prompts, prompts]
    tasks: dict[str, str],
    seeds: dict[str, str],
    transfer: pd.DataFrame,
) -> dict:
    """A metric's similarities of tasks, and their correlation with transfer, without and with self pairs."""
    if len(set(seeds.values())) > 1:
        means = task_means(independent_pairs(matrix, seeds), tasks)
    else:
        means = matrix.rename(index=tasks, columns=tasks)
    means = means.loc[list(transfer), list(transfer)]
    overall = [correlations(transferability_correlation(means, transfer, own)) for own in (False, True)]
    return {"name": metric, "words": WORDS[metric], "values": rounded(means, 7), "overall": overall}


def profile(found: pd.DataFrame, several: bool) -> dict:  # of `overlap_profile`
    kinds = ("same task", "same type", "different type") if several else ("same type", "different type")
    rows = {kind: found.xs(kind, level="pairs of") for kind in kinds}
    return {
        "says": "Means over pairs of prompts" + (" from different seeds" if several else "") + ", with 95 % intervals.",
        "layers": list(found.index.unique("layers")),
        "kinds": [
            {"name": kind} | {name: rounded(values[name]) for name in ("mean", "low", "high")}
            for kind, values in rows.items()
        ],
    }


# ---------------------------------------------------------------- the file


def gather(
    results: Path,  # the folder with release/ and the studies
) -> dict:
    """Everything that the Explorer shows."""
    collections, shown = list(published(results / "release")), set()
    for file in sorted(results.glob("*/study.yaml")):
        study = Results(file.parent)
        for backbone in study.study.backbones if study.study.cross_task else ():  # else its matrix is a diagonal
            try:
                rows = {cell.key for cell, _ in study.cells("transfer", backbone)}
                if not rows <= shown:  # a study that took another's prompts over shows nothing new
                    collections.append(of_study(study, backbone))
                    shown |= rows
            except StudyError:  # it has other cells, or none yet
                continue
    return {"colors": TYPE_COLORS, "collections": collections}


def as_script(data: dict) -> str:
    """The data as a script, a line a collection and part, so that a change to one shows as such."""
    parts = [f'"colors": {json.dumps(data["colors"])}', '"collections": [']
    for n, collection in enumerate(data["collections"]):
        lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in collection.items()]
        parts[-1] += (",\n" if n else "\n") + " {\n" + ",\n".join(lines) + "\n }"
    return f"// Made by tools/explorer_data.py from results/.\nwindow.{VARIABLE} = {{" + ",\n".join(parts) + "\n]};\n"


def read_script(text: str) -> dict:
    """The data of such a script."""
    return json.loads(text[text.index("{") : text.rindex("}") + 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="the folder with the studies")
    parser.add_argument("--out", type=Path, default=ROOT / "nbs/explorer/data.js", help="the file to write")
    options = parser.parse_args()
    options.out.write_text(as_script(gather(options.results)), encoding="utf-8")


if __name__ == "__main__":
    main()
