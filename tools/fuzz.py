"""Mutate the files and commands that the package reads, and count the cases that it does not handle.

    python tools/fuzz.py --cases 100000 --out results/fuzzing/counts.json

Every case is a valid file with a few bytes, values or words changed, read in this process. It passes if it is read, or
rejected with a one-line error that the command line shows as a sentence. Everything else is counted as a failure: a
traceback, a message of several lines or with control characters, more than 5 s, 1 GB more memory, or a file created by
a malicious pickle. The same seed yields the same cases.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import pickle
import random
import resource
import shlex
import shutil
import sys
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from prompt_transferability.backbones import Backbone
from prompt_transferability.cells import MANIFEST, TABLE, TENSORS, hash_of, pack
from prompt_transferability.cli import main as prompt_transfer
from prompt_transferability.files import is_printable, save_tensors
from prompt_transferability.microworld import model_folder
from prompt_transferability.projectors import Projection, Projector
from prompt_transferability.prompts import SoftPrompt
from prompt_transferability.provenance import environment
from prompt_transferability.results import Results
from prompt_transferability.study import CrossModel, Study
from prompt_transferability.tasks import task_from_files
from prompt_transferability.training import Loop, Training

SLOW_SECONDS, MOST_MEMORY, LIMIT = 5.0, 2**30, 12 * 2**30
ANSWERED = (ValueError, OSError, ModuleNotFoundError)  # errors that the command line shows as a sentence

# ---------------------------------------------------------------- mutations

ODD = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        2**64,
        10**30,
        -(10**30),
        0.5,
        1e308,
        -0.0,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        " ",
        "x",
        "null",
        "../../outside",
        "/etc/passwd",
        "a\nb",
        "\x1b[2J",
        "\u202e",
        "é数🙂",
        "x" * 5000,
        "5",
        "NaN",
    ),
    *([], {}, [[]], [None], [5], ["x"], {"a": 1}, {"": None}, [[[[[]]]]], {"a": {"a": {"a": {}}}}),
]
TEXTS = [
    *(
        "[" * 1000,
        "[" * 90 + "]" * 90,
        '{"a":' * 1000 + "1" + "}" * 1000,
        "9" * 4301,
        "-" + "9" * 5000,
        '{"a": 1, "a": 2}',
    ),
    *(
        "\x00",
        "\ufeff",
        "\ud800",
        "{",
        "}",
        "[1, 2",
        '"',
        "'",
        "NaN",
        "Infinity",
        "1e999",
        "\\",
        "\\u12",
        "\t",
        "\r",
        "\r\n",
    ),
    *(
        "!!bool x",
        "!!timestamp foo",
        "2020-13-45",
        "&a [*a]",
        "*b",
        "<<: 5",
        "!!python/object:os.system",
        "%YAML 9",
        "---",
    ),
]


def changed_bytes(chance: random.Random, content: bytes) -> bytes:
    "A file with a few bytes changed, removed, duplicated or inserted."
    content = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 5, 20))):
        at, width = chance.randrange(len(content) + 1), chance.choice((1, 1, 2, 8, 100))
        way = chance.randrange(6)
        if way == 0 and content:
            content[min(at, len(content) - 1)] ^= 1 << chance.randrange(8)
        elif way == 1:
            del content[at : at + width]
        elif way == 2:
            content[at:at] = bytes(chance.randrange(256) for _ in range(width))
        elif way == 3:
            content[at : at + 8] = chance.choice((b"\xff" * 8, bytes(8), (2**63 - 1).to_bytes(8, "little")))
        elif way == 4:
            content[at:at] = content[max(0, at - width) : at]
        else:
            content[at:at] = chance.choice(TEXTS).encode("utf-8", "surrogatepass")
        if chance.random() < 0.05:
            del content[at:]
    return bytes(content)


def changed_value(chance: random.Random, value: Any) -> Any:
    "JSON with one value or one key changed at any depth."
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key, way = chance.choice([*value]), chance.randrange(8)
        if way == 0:
            return {k: v for k, v in value.items() if k != key}
        if way == 1:
            return value | {chance.choice(("", "x", "seed", "__class__")): chance.choice(ODD)}
        return value | {key: changed_value(chance, value[key])}
    if isinstance(value, list) and value and chance.random() < 0.7:
        at = chance.randrange(len(value))
        return [*value[:at], changed_value(chance, value[at]), *value[at + 1 :]]
    return chance.choice(ODD)


def changed_text(chance: random.Random, text: str) -> bytes:
    "JSON with a change in its values or in its text."
    if chance.random() < 0.7:
        return json.dumps(changed_value(chance, json.loads(text))).encode("utf-8", "surrogatepass")
    if chance.random() < 0.3:
        return chance.choice(TEXTS).encode("utf-8", "surrogatepass")
    return changed_bytes(chance, text.encode())


def changed_tensors(chance: random.Random, whole: bytes) -> bytes:
    "A safetensors file with a change in its header's JSON or in its bytes."
    if chance.random() < 0.3:
        return changed_bytes(chance, whole)
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    if chance.random() < 0.6:  # the table of texts, whose values may contain JSON
        texts = dict(header["__metadata__"])
        key = chance.choice([*texts])
        try:
            texts[key] = changed_text(chance, texts[key]).decode("utf-8", "replace")
        except ValueError:
            texts[key] = str(chance.choice([*ODD, *TEXTS]))
        header["__metadata__"] = texts
    else:
        header = changed_value(chance, header)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + whole[8 + size :]


# ---------------------------------------------------------------- files and commands


class Job:
    "The smallest possible training job."

    names, scores = ["a job"], (0.0, 1.0)

    def __init__(self):
        self.weights = [{"prompt": torch.nn.Parameter(torch.ones(3, 4))}]


def prompts(folder: Path) -> Callable[[random.Random], None]:
    header = {"seed": 3, "label_words": ["no", "yes"], "accuracy": 0.5, "init": {"task": "t", "seed": 1}}
    whole = SoftPrompt(torch.randn(3, 4), "micro-bert", "micro/sst2", metadata=header).save(folder / "p").read_bytes()

    def case(chance: random.Random) -> None:
        (folder / "p").write_bytes(changed_tensors(chance, whole))
        repr(SoftPrompt.load(folder / "p"))

    return case


def tasks(folder: Path) -> Callable[[random.Random], None]:
    rows = [{"text_a": f"text {i}, a", "text_b": f"b {i}", "label": ["bad", "good"][i % 2]} for i in range(6)]
    jsonl = "".join(json.dumps(row) + "\n" for row in rows).encode()
    wholes = {
        "a.jsonl": jsonl,
        "a.jsonl.gz": gzip.compress(jsonl, mtime=0),
        "a.csv": b"text_a,label\n" + b"".join(b'"text %d, a",good\n' % i for i in range(6)),
        "a.tsv": b"text_a\ttext_b\tlabel\n" + b"".join(b"text %d\tb\tbad\n" % i for i in range(6)),
    }

    def case(chance: random.Random) -> None:
        name = chance.choice([*wholes])
        content = changed_bytes(chance, wholes[name])
        if name == "a.jsonl" and chance.random() < 0.7:
            at = chance.randrange(len(rows))
            lines = jsonl.splitlines(keepends=True)
            content = b"".join([*lines[:at], changed_text(chance, json.dumps(rows[at])) + b"\n", *lines[at + 1 :]])
        (folder / name).write_bytes(content)
        repr(task_from_files("t", "SA", {"bad": "no", "good": "yes"}, folder / name, dev=folder / name))

    return case


def projectors(folder: Path) -> Callable[[random.Random], None]:
    projector = Projector(4, 5, 2, 3)
    curve = {"step": [0, 1], "loss": [None, 0.5], "score": [-1.0, -0.5]}
    projector.metadata = {"objective": "x", "source_backbone": "a", "tasks": ["t"], "seed": 0, "curve": curve}
    whole = projector.save(folder / "p").read_bytes()

    def case(chance: random.Random) -> None:
        (folder / "p").write_bytes(changed_tensors(chance, whole))
        repr(Projection.load(folder / "p"))

    return case


def checkpoints(folder: Path) -> Callable[[random.Random], None]:
    training, asked = Training(steps=4, eval_every=2), {"seed": 1, "tasks": ["t"]}
    loop = Loop(Job(), training)
    loop.step, loop.curves = 2, [[{"step": i, "loss": None, "score": 0.5, "seconds": 0.0} for i in (0, 2)]]
    loop.best = [{"prompt": torch.ones(3, 4)}]
    loop.objective.weights[0]["prompt"].grad = torch.ones(3, 4)
    loop.optimizer.step()
    loop.save(folder / "c", asked)
    whole = (folder / "c").read_bytes()

    def case(chance: random.Random) -> None:
        (folder / "c").write_bytes(changed_tensors(chance, whole))
        again = Loop(Job(), training)
        again.load(folder / "c", asked)
        again.objective.weights[0]["prompt"].grad = torch.ones(3, 4)
        again.optimizer.step()

    return case


def adapters(folder: Path) -> Callable[[random.Random], None]:
    config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3, "token_dim": 4, "base_model_name_or_path": "m"}
    save_tensors(
        {"prompt_embeddings": torch.ones(3, 4)}, folder / "adapter_model.safetensors", {"format": "pt", "task": "t"}
    )
    weights = (folder / "adapter_model.safetensors").read_bytes()

    def case(chance: random.Random) -> None:
        of_config = chance.random() < 0.6
        text = json.dumps(config)
        (folder / "adapter_config.json").write_bytes(changed_text(chance, text) if of_config else text.encode())
        (folder / "adapter_model.safetensors").write_bytes(weights if of_config else changed_tensors(chance, weights))
        repr(SoftPrompt.from_peft(folder))

    return case


def pickles(folder: Path) -> Callable[[random.Random], None]:
    torch.save(torch.randn(3, 4), folder / "p")
    whole = (folder / "p").read_bytes()
    with zipfile.ZipFile(folder / "p") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    harmful = pickle.dumps(Touch(str(folder.parent / "outside")), 2)

    def case(chance: random.Random) -> None:
        if chance.random() < 0.3:
            (folder / "p").write_bytes(changed_bytes(chance, whole))
        else:
            with zipfile.ZipFile(folder / "p", "w") as archive:
                for name, content in parts.items():
                    if name.endswith("data.pkl"):
                        content = harmful if chance.random() < 0.05 else changed_bytes(chance, content)
                    archive.writestr(name, content)
        repr(SoftPrompt.from_authors(folder / "p", "m", "t"))

    return case


class Touch:
    "A malicious pickle: a call that creates a file."

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def models(folder: Path) -> Callable[[random.Random], None]:
    names = ("micro-bert", "micro-roberta", "micro-llama", "micro-t5")
    files = ("config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors")
    whole = {name: {f: (model_folder(name) / f).read_bytes() for f in files} for name in names}
    for name in names:
        shutil.copytree(model_folder(name), folder / name)

    def case(chance: random.Random) -> None:
        name, file = chance.choice(names), chance.choices(files, (6, 2, 1, 1))[0]
        content = whole[name][file]
        if file == "model.safetensors":
            content = changed_bytes(chance, content[: 8 + int.from_bytes(content[:8], "little")]) + content[-1000:]
        else:
            content = changed_text(chance, content.decode())
        (folder / name / file).write_bytes(content)
        try:
            repr(Backbone.from_pretrained(folder / name, device="cpu"))
        finally:
            (folder / name / file).write_bytes(whole[name][file])

    return case


SMALLEST = Study(
    name="smallest",
    backbones=("micro-bert", "micro-roberta"),
    tasks=("micro/sst2", "micro/mrpc"),
    length=3,
    steps=2,
    eval_every=1,
    max_train=20,
    max_eval=10,
    random_seeds=(1,),
    fine_tuning_rates=(1e-4,),
    tpt=("best", "every"),
    probe_steps=1,
    cross_model=CrossModel(
        directions=(("micro-bert", "micro-roberta"),),
        fitted_on=(("micro/sst2",),),
        methods=("directly reused", "task tuning"),
        hidden_size=4,
        steps=2,
        eval_every=1,
        tpt_seeds=(0,),
    ),
)
"A study that has cells of every kind."


def read_study(folder: Path) -> None:
    "Every result that is read from a study's folder, except figures."
    results = Results(folder)
    for backbone in results.study.backbones:
        for ask in (results.transfer, results.transfers, results.curves, results.summary, results.trainings):
            ask(backbone)
        results.tpt_runs("every", backbone), results.probed("cosine_concat", 0, backbone)
        results.prompts(backbone)
    source, target = results.study.backbones
    results.cross_model(source, target), results.impossible(source, target)
    results.carried_prompts(source, target, "task tuning (sst2)", 0)
    results.tpt_model_by_kind(source, target, "task tuning (sst2)")
    results.rows(), results.origin(), results.study.status(folder)


def loose_studies(folder: Path) -> Callable[[random.Random], None]:
    SMALLEST.run(folder / "study", workers=1, progress=False)
    files = sorted(path for path in (folder / "study").rglob("*") if path.is_file())

    def case(chance: random.Random) -> None:
        file = chance.choice(files)
        whole = file.read_bytes()
        changed = changed_tensors if file.suffix == ".safetensors" else changed_bytes
        if file.suffix == ".json":
            content = changed_text(chance, whole.decode())
        else:
            content = changed(chance, whole)
        try:
            file.unlink() if chance.random() < 0.05 else file.write_bytes(content)
            read_study(folder / "study")
        finally:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(whole)

    return case


def packed_studies(folder: Path) -> Callable[[random.Random], None]:
    loose, packed = folder / "loose", folder / "study"
    SMALLEST.run(loose, workers=1, progress=False)
    pack(loose, packed, Results(loose).planned)
    wholes = {name: (packed / name).read_bytes() for name in (TABLE, TENSORS, MANIFEST, "study.yaml")}
    rows = pq.read_table(packed / TABLE).to_pylist()

    def case(chance: random.Random) -> None:
        name = chance.choices([*wholes], (6, 3, 1, 1))[0]
        if name == TABLE and chance.random() < 0.8:  # a complete table with other contents
            at, part = chance.randrange(len(rows)), chance.choice(("key", "result", "provenance"))
            text = changed_text(chance, json.dumps(rows[at][part]) if part == "key" else rows[at][part])
            changed = [*rows[:at], rows[at] | {part: text.decode("utf-8", "replace")}, *rows[at + 1 :]]
            pq.write_table(pa.Table.from_pylist(changed), packed / name)
        else:
            changed = changed_tensors if name == TENSORS else changed_bytes
            (packed / name).write_bytes(changed(chance, wholes[name]))
        try:
            if name != MANIFEST and chance.random() < 0.9:  # otherwise the change is detected at once
                others = [each for each in wholes if each != MANIFEST]
                lines = [f"{hash_of(packed / each)}  {each}\n" for each in others]
                (packed / MANIFEST).write_text("".join(lines))
            read_study(packed)
        finally:
            for each, content in wholes.items():
                (packed / each).write_bytes(content)

    return case


def declarations(folder: Path) -> Callable[[random.Random], None]:
    own = {"mine": {"task_type": "SA", "label_words": {"bad": "terrible", "good": ["great", "fine"]}}}
    text = replace(SMALLEST, tasks=(*SMALLEST.tasks, "mine"), own_tasks=own).to_yaml()
    declared = yaml.safe_load(text)
    lines = text.splitlines(keepends=True)

    def case(chance: random.Random) -> None:
        if chance.random() < 0.4:  # a nested value that YAML can represent
            changed = json.dumps(changed_value(chance, declared)).encode("utf-8", "surrogatepass")
        elif chance.random() < 0.5:
            at = chance.randrange(len(lines))
            key = lines[at].partition(":")[0]
            odd = chance.choice([*TEXTS, *(json.dumps(value) for value in ODD)])
            changed = "".join([*lines[:at], f"{key}: {odd}\n", *lines[at + 1 :]]).encode("utf-8", "surrogatepass")
        else:
            changed = changed_bytes(chance, text.encode())
        (folder / "study.yaml").write_bytes(changed)
        Study.from_file(folder / "study.yaml").cells()

    return case


def commands(folder: Path) -> Callable[[random.Random], None]:
    SoftPrompt(torch.randn(3, 128), "micro-bert", "micro/sst2").save(folder / "p")
    base = [
        "similarity p p2 --metric cosine_average --out table.csv",
        "neurons p p2 --backbone micro-bert",
        "evaluate p micro/sst2 --split dev --max-length 64",
        "project carry p --projector p --out out",
        "study status nowhere",
        "release verify --data nowhere",
        "tune micro/none --backbone micro-bert --out out --length 3 --steps 2",
    ]
    SoftPrompt(torch.randn(3, 128), "micro-bert", "micro/mnli").save(folder / "p2")

    def case(chance: random.Random) -> None:
        words = shlex.split(chance.choice(base))
        for _ in range(chance.choice((1, 1, 2, 3))):
            at = chance.randrange(len(words) + 1)
            odd = str(
                chance.choice([*ODD, *TEXTS, "p", "p2", ".", "/dev/null", "--json", "--out", "--seed", "--dtype"])
            )
            way = chance.randrange(3)
            words[at : at + (way > 0)] = [odd] if way < 2 else []
        if "study" in words[:1] and "run" in words or words[:1] in (["bench"], ["microworld"]):
            return
        before, here = os.getcwd(), io.StringIO()
        os.chdir(folder)
        try:
            with redirect_stdout(here), redirect_stderr(here):
                prompt_transfer(words)
        except SystemExit:  # argparse's own sentence
            pass
        finally:
            os.chdir(before)

    return case


KINDS = {
    "prompts": prompts,
    "task files": tasks,
    "projectors": projectors,
    "checkpoints": checkpoints,
    "adapters": adapters,
    "authors' pickles": pickles,
    "study files": declarations,
    "study folders": loose_studies,
    "packed studies": packed_studies,
    "model folders": models,
    "command lines": commands,
}
SLOW = {
    "model folders": 0.005,
    "command lines": 0.02,
    "study folders": 0.01,
    "packed studies": 0.01,
}  # their shares of the cases; the other kinds share the rest

# ---------------------------------------------------------------- counting


def outcome(case: Callable[[random.Random], None], chance: random.Random) -> tuple[str, str]:
    "How one case ended, with details if it failed."
    started, before = time.perf_counter(), most_memory()
    try:
        case(chance)
        how, where = "read", ""
    except ANSWERED as error:
        one_line = str(error).strip() and is_printable(str(error))
        how, where = ("refused", "") if one_line else ("not one line", f"{type(error).__name__}: {error}")
    except BaseException as error:  # any other error is a failure
        if isinstance(error, KeyboardInterrupt):
            raise
        how, where = "traceback", "".join(traceback.format_exception(error)[-3:])
    if most_memory() - before > MOST_MEMORY:
        how, where = "memory", f"{(most_memory() - before) // 2**20} MiB; {where}"
    elif time.perf_counter() - started > SLOW_SECONDS:
        how, where = "slow", f"{time.perf_counter() - started:.1f} s; {where}"
    return how, where


def shares(cases: int) -> Iterator[tuple[str, int]]:
    "The number of cases of each kind."
    rest = cases - sum(int(share * cases) for share in SLOW.values())
    others = [kind for kind in KINDS if kind not in SLOW]
    for kind in KINDS:
        yield kind, max(1, int(SLOW[kind] * cases)) if kind in SLOW else -(-rest // len(others))


def fuzz(cases: int, seed: int, shown: int = 5) -> dict[str, Any]:
    "Counts by kind, and the first examples of failures."
    found: dict[str, Any] = {}
    with TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind, count in shares(cases):
            folder = Path(place) / kind.replace(" ", "_").replace("'", "")
            folder.mkdir()
            torch.manual_seed(seed)
            case, counts, wrong, started = KINDS[kind](folder), Counter(), [], time.perf_counter()
            for i in range(count):
                how, where = outcome(case, random.Random(f"{seed}/{kind}/{i}"))
                counts[how] += 1
                if where and len(wrong) < shown:
                    wrong.append({"case": i, "what": where[-1500:]})
            made = sorted(path.name for path in Path(place).iterdir() if path.name == "outside")
            names = ("read", "refused", "traceback", "not one line", "slow", "memory")
            found[kind] = {"cases": count} | {name: counts[name] for name in names}
            found[kind] |= {
                "code run": len(made),
                "seconds": round(time.perf_counter() - started, 1),
                "examples": wrong,
            }
    return found


def most_memory() -> int:
    "The peak memory of this process, in bytes."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file for the counts (.json)")
    options = parser.parse_args(arguments)
    before = most_memory()
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))  # a case that requires more memory than this fails
    found = fuzz(options.cases, options.seed)
    total = Counter()
    for counts in found.values():
        total.update({name: value for name, value in counts.items() if isinstance(value, int)})
    report = {
        "command": f"python tools/fuzz.py --cases {options.cases} --seed {options.seed}",
        "seed": options.seed,
        "total": dict(total),
        "more_memory_mib": (most_memory() - before) // 2**20,
        "memory_mib": most_memory() // 2**20,
        "kinds": found,
        "provenance": environment(),
    }
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for kind, counts in found.items():
        print(f"{kind:18}", {name: value for name, value in counts.items() if name != "examples"})
        for example in counts["examples"]:
            print("   ", example["case"], example["what"].strip().replace("\n", "\n      "))
    print("memory", report["memory_mib"], "MiB")
    good = not (total["traceback"] or total["not one line"] or total["slow"] or total["memory"] or total["code run"])
    return 0 if good and most_memory() - before < MOST_MEMORY else 1


if __name__ == "__main__":
    sys.exit(main())
