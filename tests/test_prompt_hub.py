"""The authors' README runs, and every argument of `transformers` means something or is rejected."""

import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from transformers import HfArgumentParser, TrainerCallback, TrainingArguments
from transformers.integrations import integration_utils

from prompt_transferability import training
from prompt_transferability.prompt_hub import MEANINGS, HubError, PromptHub, PromptTrainingArguments, Watch, checkpoints
from prompt_transferability.prompt_tuning import tune_prompt
from prompt_transferability.prompts import SoftPrompt, random_prompt
from prompt_transferability.tasks import DataError, UnknownNameError, load_task
from prompt_transferability.training import TuningError
from prompt_transferability.warehouse import Warehouse
from prompt_transferability.zero_shot_transfer import evaluate

ROOT = Path(__file__).parents[1]
BLOCKS = dict(
    block.split("\n", 1)
    for block in re.split(
        r"^---- ", (Path(__file__).parent / "authors_readme.txt").read_text(encoding="utf-8"), flags=re.M
    )[1:]
)
PROMPT = "prompt.safetensors"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> dict[str, str]:
    "Three folders with small tasks of the micro world, called as in the README and by one of paraphrases."
    root = tmp_path_factory.mktemp("tasks")
    for name, micro in {"sst2": "micro/sst2", "rotten_tomatoes": "micro/imdb", "qqp": "micro/qqp"}.items():
        data, folder = load_task(micro, max_train=200, max_eval=80), root / name
        folder.mkdir()
        words = dict(zip(data.task.labels, data.task.label_words, strict=True))
        (folder / "task.yaml").write_text(json.dumps({"task_type": data.task.task_type, "label_words": words}))
        for split, rows in data.splits().items():
            named = ({**row, "label": data.task.labels[row["label"]]} for row in rows)
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named))
    return {path.name: str(path) for path in root.iterdir()}


@pytest.fixture
def arguments(tasks, tmp_path):
    "Arguments for a short run on the small task."

    def make(**changes) -> PromptTrainingArguments:
        settings = dict(backbone="micro-roberta", dataset=tasks["sst2"], prompt_len=4, learning_rate=1e-2, max_steps=12)
        settings |= dict(save_strategy="no", disable_tqdm=True, use_cpu=True, output_dir=str(tmp_path / "outputs"))
        return PromptTrainingArguments(**settings | changes)

    return make


def written(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("checkpoint-")) for path in checkpoints(folder)]


# ---- the README


def adapted(text: str, tasks: dict[str, str]) -> str:
    "The README's code with the names of models and data that are at hand."
    names = {"roberta-base": "micro-roberta", "roberta-large": "micro-roberta-large"} | tasks
    return re.sub("'(.*?)'", lambda quoted: repr(names[quoted[1]]), text)


def test_every_block_of_the_readme_runs(tasks, tmp_path):
    known = dict(OUTPUT=str(tmp_path), DATASET_1=tasks["sst2"], MODEL="micro-roberta", PRMOPTLEN=10, LEARNINGRATE=1e-2)
    for name, block in BLOCKS.items():
        exec(compile(adapted(block, tasks), name, "exec"), known)
    for result in ("eval_results", "cross_task_eval_results", "cross_model_eval_results", "eval_metric"):
        assert 0 < known[result]["eval_accuracy"] <= 1 and known[result]["eval_samples"] == 80
    assert known["eval_results"]["eval_accuracy"] > 0.7  # it has learned something
    assert known["activated_neuron_before_relu"].shape == known["activated_neuron_after_relu"].shape == (4, 512)
    assert 0 < known["cos_sim"] < 1
    assert known["mask"].float().mean() == pytest.approx(0.2, abs=1e-3)
    assert isinstance(known["trainer"].plot_neuron(), Figure)


def test_what_the_readme_leaves_as_comments_runs_too(tasks, tmp_path):
    known = dict(OUTPUT=str(tmp_path), DATASET_1=tasks["sst2"], MODEL="micro-roberta", PRMOPTLEN=4, LEARNINGRATE=1e-2)
    exec(adapted(BLOCKS["usage"].partition("# Prompt training")[0], tasks), known)
    known["trainer"].args.max_steps = 2
    for step in ("step 2: prompt training", "step 3: prompt evaluation"):
        block = re.sub(r"^# (?=(\w+ = )?trainer\.)", "", BLOCKS[step], flags=re.M)
        assert block.count("trainer.") == 2 and "#" in block
        exec(adapted(block, tasks), known)
    assert (known["trainer"].folder("micro-roberta-large", tasks["sst2"]) / PROMPT).is_file()


def test_the_blocks_are_those_of_the_readme(real_data):
    readme = real_data.parent / "paper" / "authors-readme.md"
    if not readme.is_file():
        pytest.skip("needs the copy of the authors' README beside the data")
    there = {line.strip() for line in readme.read_text(encoding="utf-8").splitlines()}
    ours = [line for block in BLOCKS.values() for line in block.splitlines() if not line.endswith("# repaired")]
    assert [line for line in ours if line not in there] == []
    code = {line for line in there if re.search(r"\btrainer\b|PromptTrainingArguments", line) and "(" in line}
    assert code - {*ours} == set()


README_LINE = (
    "--learning_rate 1e-2 --num_train_epochs 3 --save_total_limit 1 --evaluation_strategy epoch --save_strategy epoch "
    "--load_best_model_at_end true --metric_for_best_model combined_score"
)


def run_example(*arguments: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ["bash", "example/train.sh", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_readmes_command_line_runs(tasks, tmp_path):
    script = " ".join((ROOT / "example/train.sh").read_text(encoding="utf-8").replace("\\\n", "").split())
    assert f"python example/train.py --output_dir outputs --dataset sst2 {README_LINE}" in script
    done = run_example(
        *f"--backbone micro-roberta --dataset {tasks['sst2']} --output_dir {tmp_path} --prompt_len 10".split()
    )
    assert done.returncode == 0, done.stderr
    for said in ("TuningRun(", "evaluation: {'eval_accuracy'", "activated neurons:", "evaluation without the 410 most"):
        assert said in done.stdout
    (prompt,) = tmp_path.glob(f"*/*/{PROMPT}")
    steps = written(prompt.parent)
    assert 75 in steps and len(steps) <= 2 and SoftPrompt.load(prompt).metadata["steps"] in steps


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--deepspeed zero.json", "deepspeed='zero.json' is not supported: one process on one device trains a prompt"),
        ("--backbone micro-roberta --dataset micro/sst3", "unknown task 'micro/sst3'; did you mean 'micro/sst2'?"),
        ("--warmup_steps 0.5 --lr_scheduler_type constant", "has no warm-up; give constant_with_warmup"),
    ],
)
def test_a_mistake_on_the_command_line_gets_a_sentence(arguments, sentence, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["example/train.py", *arguments.split()])
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(SystemExit, match=re.escape(sentence)):
        runpy.run_path(str(ROOT / "example/train.py"), run_name="__main__")


# ---- the arguments


def changed(value):
    "Another value of the type."
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else ["something"] if isinstance(value, list) else "something"


@pytest.mark.parametrize("of", fields(TrainingArguments), ids=lambda of: of.name)
def test_every_argument_of_transformers_means_something_or_is_rejected(of):
    default = next(one for one in fields(PromptTrainingArguments) if one.name == of.name)
    default = default.default_factory() if callable(default.default_factory) else default.default
    if of.name not in MEANINGS:
        with pytest.raises(HubError, match=f"^{of.name}=.* is not supported: .*; leave it out$"):
            PromptTrainingArguments(**{of.name: changed(default)})
    assert PromptTrainingArguments(**{of.name: default})


def test_what_has_a_meaning_is_an_argument():
    assert {*MEANINGS} <= {one.name for one in fields(PromptTrainingArguments)}


@pytest.mark.parametrize(
    "name", ["checkpoint", "num_proj_layers", "flatten_proj", "pad_to_max_length", "model_parallel"]
)
def test_the_authors_own_arguments_without_a_meaning_are_rejected(name):
    default = getattr(PromptTrainingArguments, name)
    with pytest.raises(HubError, match=f"^{name}="):
        PromptTrainingArguments(**{name: changed(default)})


@pytest.mark.parametrize("spelling", ["evaluation_strategy", "eval_strategy", "evaluation-strategy"])
def test_old_and_new_spellings_parse(spelling):
    (args,) = HfArgumentParser(PromptTrainingArguments).parse_args_into_dataclasses([f"--{spelling}", "epoch"])
    assert args.eval_strategy == "epoch" and args.evaluation_strategy is None
    assert json.loads(args.to_json_string())["eval_strategy"] == "epoch"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (dict(max_steps=-1, num_train_epochs=3), dict(steps=39)),
        (dict(max_steps=-1, num_train_epochs=0.1), dict(steps=2)),
        (dict(per_device_train_batch_size=4), dict(batch_size=4)),
        (dict(gradient_accumulation_steps=3), dict(batch_size=24)),
        (dict(learning_rate=0.5), dict(learning_rate=0.5)),
        (dict(weight_decay=0.1), dict(weight_decay=0.1)),
        (dict(optim="adafactor"), dict(optimizer="adafactor")),
        (dict(optim="sgd"), dict(optimizer="sgd")),
        (dict(optim="adamw_torch"), dict(optimizer="adamw")),
        (dict(), dict(schedule="linear", warmup=0, eval_every=12)),
        (dict(lr_scheduler_type="cosine", warmup_steps=3), dict(schedule="cosine", warmup=3)),
        (dict(lr_scheduler_type="constant_with_warmup", warmup_ratio=0.3), dict(schedule="constant", warmup=4)),
        (dict(lr_scheduler_type="constant"), dict(schedule="constant")),
        (dict(eval_strategy="epoch", per_device_train_batch_size=20), dict(eval_every=5)),
        (dict(eval_strategy="steps", eval_steps=3), dict(eval_every=3)),
        (dict(eval_strategy="steps", eval_steps=0.5), dict(eval_every=6)),
        (dict(eval_strategy="steps", logging_steps=4), dict(eval_every=4)),
    ],
    ids=str,
)
def test_arguments_become_settings_of_the_training(arguments, changes, expected):
    found = arguments(**changes).settings(100)
    assert {name: found[name] for name in expected} == expected
    assert training.Training(**found)


def test_impossible_arguments_get_a_sentence(arguments):
    for changes, error, sentence in (
        (dict(warmup_steps=20), TuningError, "warmup must be less than steps"),
        (dict(per_device_train_batch_size=0), TuningError, "per_device_train_batch_size must be a whole number"),
        (dict(learning_rate=-1.0), TuningError, "learning_rate must be a number above 0"),
        (dict(max_steps=-1, num_train_epochs=0), TuningError, "steps must be a whole number of at least 1; got 0"),
    ):
        with pytest.raises(error, match=sentence):
            PromptHub(args=arguments(**changes)).train_prompt()
    with pytest.raises(UnknownNameError, match="unknown metric_for_best_model 'loss'"):
        arguments(metric_for_best_model="loss")
    with pytest.raises(HubError, match="the best prompt is chosen by evaluations; give eval_strategy"):
        arguments(load_best_model_at_end=True)
    with pytest.raises(HubError, match="there is no task; name one, or give dataset= in the arguments"):
        PromptHub(args=arguments(dataset=None)).train_prompt()
    with pytest.raises((DataError, UnknownNameError, FileNotFoundError)):
        PromptHub(args=arguments(dataset="no/such/task")).train_prompt()


def test_models_are_loaded_as_the_arguments_say(arguments):
    backbone = PromptHub(args=arguments(bf16=True, max_source_length=40)).backbone()
    assert (backbone.dtype, backbone.max_length, backbone.device.type) == (torch.bfloat16, 40, "cpu")
    assert PromptHub(args=arguments(fp16=True)).backbone().dtype == torch.float16
    run = PromptHub(args=arguments(bf16=True, max_steps=2)).train_prompt()
    assert run.prompt.values.dtype == torch.float32


def test_no_output_dir_is_the_authors_folder():
    assert PromptTrainingArguments().output_dir == "outputs"
    assert PromptTrainingArguments(out_dir_root="there").output_dir == "there"


# ---- training


def test_it_is_a_face_of_tune_prompt(arguments, tasks):
    args = arguments(eval_strategy="epoch", weight_decay=0.01, warmup_steps=2, seed=7, lr_scheduler_type="cosine")
    hub = PromptHub(args=args)
    run = hub.train_prompt()
    settings = dict(steps=12, batch_size=8, learning_rate=1e-2, weight_decay=0.01, warmup=2, schedule="cosine")
    theirs = tune_prompt(
        hub.backbone(), load_task(tasks["sst2"]), length=4, seed=7, eval_every=25, progress=False, **settings
    )
    assert torch.equal(run.prompt.values, theirs.last.values)
    assert (
        hub.eval_prompt()["eval_accuracy"] == evaluate(hub.backbone(), theirs.last, load_task(tasks["sst2"])).accuracy
    )
    assert (
        hub.eval_prompt(split="test")["eval_accuracy"]
        == evaluate(hub.backbone(), run.prompt, hub.data(), "test").accuracy
    )


def test_the_named_task_and_model_are_trained_on(arguments, tasks):
    hub = PromptHub(args=arguments(max_steps=2))
    hub.train_prompt("micro-bert", tasks["qqp"])
    prompt = hub.prompt("micro-bert", tasks["qqp"])
    assert (prompt.backbone, prompt.task) == ("micro-bert", "qqp")
    with pytest.raises(HubError, match="call train_prompt"):
        hub.prompt()


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        (dict(save_strategy="no"), []),
        (dict(save_strategy="steps", save_steps=5), [5, 10, 12]),
        (dict(save_strategy="steps", save_steps=0.25), [3, 6, 9, 12]),
        (dict(save_strategy="epoch", per_device_train_batch_size=40), [5, 10, 12]),
        (dict(save_strategy="steps", save_steps=2, save_total_limit=2), [10, 12]),
        (dict(save_strategy="steps", save_steps=2, save_total_limit=2, save_only_model=True), [10, 12]),
    ],
    ids=str,
)
def test_checkpoints_are_written_and_removed(arguments, changes, steps):
    hub = PromptHub(args=arguments(**changes))
    run = hub.train_prompt()
    assert written(hub.folder()) == steps
    for path in checkpoints(hub.folder()):
        prompt = SoftPrompt.load(path / PROMPT)
        assert prompt.metadata["steps"] == int(path.name.removeprefix("checkpoint-"))
        assert ("accuracy" in prompt.metadata) == (prompt.metadata["steps"] == 12)  # the only step that was evaluated
        assert (path / "state.safetensors").is_file() != hub.args.save_only_model
    assert torch.equal(run.prompt.values, run.last.values)


BY_STEPS = dict(eval_strategy="steps", eval_steps=3, save_strategy="steps", save_steps=3)


@pytest.fixture
def scores(monkeypatch):
    "What the evaluations after steps 3, 6, 9 and 12 are told to find, of paraphrases: accuracy and F1."
    given = {3: (0.6, 0.9), 6: (0.8, 0.2), 9: (0.8, 0.2), 12: (0.5, 0.5)}
    monkeypatch.setattr(
        "prompt_transferability.prompt_hub.metrics_of",
        lambda found: {
            "eval_accuracy": (pair := given[next(steps)])[0],
            "eval_f1": pair[1],
            "eval_combined_score": sum(pair) / 2,
        },
    )
    steps = iter(given)
    return given


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        (dict(), 12),
        (dict(load_best_model_at_end=True), 6),  # the earliest of equals
        (dict(load_best_model_at_end=True, metric_for_best_model="combined_score"), 3),
        (dict(load_best_model_at_end=True, metric_for_best_model="eval_combined_score"), 3),
        (dict(load_best_model_at_end=True, greater_is_better=False), 12),
        (dict(load_best_model_at_end=True, greater_is_better=False, metric_for_best_model="combined_score"), 6),
    ],
    ids=str,
)
def test_the_best_by_the_named_metric_is_kept(arguments, scores, changes, kept):
    hub = PromptHub(args=arguments(save_total_limit=1, **BY_STEPS | changes))
    run = hub.train_prompt()
    assert hub.prompt().metadata["steps"] == run.prompt.metadata["steps"] == kept
    assert written(hub.folder()) == sorted({kept, 12})


def test_a_best_between_checkpoints_is_kept_too(arguments, scores):
    "`transformers` lets a run be evaluated more often than it is saved."
    changes = BY_STEPS | dict(save_steps=6, load_best_model_at_end=True, metric_for_best_model="combined_score")
    hub = PromptHub(args=arguments(save_total_limit=1, **changes))
    hub.train_prompt()
    assert hub.prompt().metadata["steps"] == 3 and written(hub.folder()) == [3, 12]


def test_a_new_best_is_when_checkpoints_are_written(arguments, scores):
    hub = PromptHub(args=arguments(**BY_STEPS | dict(save_strategy="best", load_best_model_at_end=True)))
    hub.train_prompt()
    assert written(hub.folder()) == [3, 6] and hub.prompt().metadata["steps"] == 6


def test_combined_score_is_of_accuracy_and_f1(arguments, tasks):
    hub = PromptHub(args=arguments(dataset=tasks["qqp"], **BY_STEPS | dict(metric_for_best_model="combined_score")))
    hub.train_prompt()
    found = evaluate(hub.backbone(), hub.prompt(), hub.data())
    assert hub.eval_prompt() == {
        "eval_accuracy": found.accuracy,
        "eval_f1": found.f1,
        "eval_combined_score": (found.accuracy + found.f1) / 2,
        "eval_samples": 80,
    }
    journal = json.loads((hub.folder() / "checkpoint-12/trainer_state.json").read_text())
    rows = [row for row in journal["log_history"] if "eval_f1" in row]
    assert [row["step"] for row in rows] == [3, 6, 9, 12] and journal["best_metric"] == max(
        row["eval_combined_score"] for row in rows
    )


def test_a_killed_run_goes_on_to_the_same_end(arguments, monkeypatch):
    args = arguments(**BY_STEPS, save_total_limit=1, load_best_model_at_end=True)
    hub, call = PromptHub(args=args), Watch.__call__
    whole = hub.train_prompt()

    def killed(watch, loop, asked):
        call(watch, loop, asked)
        if loop.step == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Watch, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            hub.train_prompt()
    newest = checkpoints(hub.folder())[-1]
    assert newest.name == "checkpoint-6"
    resumed = PromptHub(args=replace(args, resume_from_checkpoint=str(newest))).train_prompt()
    assert torch.equal(resumed.last.values, whole.last.values) and torch.equal(
        resumed.prompt.values, whole.prompt.values
    )
    assert resumed.curve.drop(columns="seconds").equals(whole.curve.drop(columns="seconds"))
    again = hub.train_prompt(resume_from_checkpoint=True)  # of a run that has ended
    assert torch.equal(again.last.values, whole.last.values)


def test_a_checkpoint_of_another_run_is_rejected(arguments, tmp_path):
    hub = PromptHub(args=arguments(**BY_STEPS))
    hub.train_prompt()
    for changes, what in (
        (dict(seed=1), "seeds"),
        (dict(learning_rate=0.5), "learning_rate"),
        (dict(max_steps=20), "steps"),
    ):
        with pytest.raises(TuningError, match=f"belongs to another run: it differs in {what}"):
            PromptHub(args=replace(hub.args, **changes)).train_prompt(resume_from_checkpoint=True)
    (hub.folder() / "checkpoint-12/trainer_state.json").write_text('{"best_global_step": "x"}')
    with pytest.raises(HubError, match="is not the journal of a run"):
        hub.train_prompt(resume_from_checkpoint=True)
    with pytest.raises(HubError, match="there is no checkpoint .* to resume from"):
        hub.train_prompt(resume_from_checkpoint=tmp_path / "nowhere")


def test_a_run_from_the_start_replaces_the_one_before(arguments):
    hub = PromptHub(args=arguments(**BY_STEPS))
    hub.train_prompt()
    other = hub.folder() / "checkpoint-of-mine"
    other.mkdir()
    first = hub.prompt().values
    PromptHub(args=replace(hub.args, max_steps=3, seed=5)).train_prompt()
    assert written(hub.folder()) == [3] and other.is_dir() and not torch.equal(hub.prompt().values, first)


# ---- loggers


class Told(TrainerCallback):
    "Notes what it is told of."

    events, logs = [], []

    def __init__(self):
        Told.events, Told.logs = [], []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        Told.events.append(
            ("begin", Path(args.output_dir).name, args.run_name, state.max_steps, model.config.model_type)
        )

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        Told.events.append(("evaluate", state.global_step))

    def on_save(self, args, state, control, **kwargs):
        Told.events.append(("save", state.global_step))

    def on_epoch_end(self, args, state, control, **kwargs):
        Told.events.append(("epoch", state.epoch))

    def on_train_end(self, args, state, control, **kwargs):
        Told.events.append(("end", state.global_step))

    def on_log(self, args, state, control, logs=None, **kwargs):
        Told.logs.append({"step": state.global_step} | logs)


@pytest.fixture
def told(monkeypatch):
    "A logger that is registered as those of transformers are."
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "told", Told)
    return Told


def test_loggers_are_told_what_a_trainer_tells_them(arguments, told, tasks):
    settings = dict(
        report_to="told", run_name="a name", logging_steps=5, per_device_train_batch_size=40, eval_on_start=True
    )
    hub = PromptHub(args=arguments(**BY_STEPS | dict(eval_steps=6, save_steps=6), **settings))
    run = hub.train_prompt()
    assert told.events == [
        ("begin", hub.folder().name, "a name", 12, "roberta"),
        ("evaluate", 0),
        ("epoch", 1.0),
        *[("evaluate", 6), ("save", 6)],
        ("epoch", 2.0),
        ("epoch", 2.4),
        *[("evaluate", 12), ("save", 12)],
        ("end", 12),
    ]
    assert [row["step"] for row in told.logs if "loss" in row] == [5, 10]
    assert [row["eval_accuracy"] for row in told.logs if "eval_accuracy" in row] == run.curve.accuracy.tolist()
    alone = tune_prompt(
        hub.backbone(), hub.data(), length=4, seed=42, eval_every=5, progress=False, steps=12, learning_rate=1e-2,
        batch_size=40, schedule="linear"
    )  # fmt: skip
    assert told.logs[1]["loss"] == pytest.approx(alone.curve.loss[1], abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        (dict(logging_strategy="no"), []),
        (dict(logging_strategy="epoch", per_device_train_batch_size=40), [5, 10, 12]),
        (dict(logging_first_step=True, logging_steps=10), [1, 10]),
        (dict(logging_steps=0.25), [3, 6, 9, 12]),
    ],
    ids=str,
)
def test_losses_are_reported_when_asked(arguments, told, changes, steps):
    PromptHub(args=arguments(report_to=["told"], **changes)).train_prompt()
    assert [row["step"] for row in told.logs if "loss" in row] == steps
    assert not any("eval_accuracy" in row for row in told.logs)


def test_projectors_are_reported_too(arguments, told, tasks):
    hub = PromptHub(args=arguments(report_to="told", **BY_STEPS))
    hub.train_prompt()
    projector = hub.cross_model_train("micro-roberta", "micro-bert", tasks["sst2"])
    assert [event for event in told.events if event[0] == "save"] == [("save", step) for step in (3, 6, 9, 12)]
    assert told.events[0][-1] == "bert" and projector.metadata["best_step"] == 12


def test_a_logger_that_is_not_installed_gets_a_sentence(arguments, monkeypatch):
    monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: False)
    with pytest.raises(HubError, match="report_to=.'tensorboard'. names a logger that cannot be used here"):
        PromptHub(args=arguments(report_to="tensorboard")).train_prompt()


def test_tensorboard_shows_the_run(arguments):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    hub = PromptHub(args=arguments(report_to="tensorboard", logging_steps=4, **BY_STEPS))
    run = hub.train_prompt()
    (events,) = (hub.folder() / "runs").glob("*")
    found = EventAccumulator(str(events)).Reload()
    assert [scalar.step for scalar in found.Scalars("train/loss")] == [4, 8, 12]
    shown = [scalar.value for scalar in found.Scalars("eval/accuracy")]
    assert shown == pytest.approx(run.curve.accuracy[1:].tolist())


# ---- transfer and neurons


@pytest.mark.parametrize("model", ["micro-bert", "micro-roberta", "micro-llama", "micro-t5"])
def test_every_kind_of_model_is_served(arguments, tasks, model):
    hub = PromptHub(args=arguments(backbone=model, max_steps=4))
    hub.train_prompt()
    backbone, prompt = hub.backbone(), hub.prompt()
    assert hub.eval_prompt()["eval_accuracy"] == evaluate(backbone, prompt, hub.data()).accuracy
    across = hub.cross_task_eval(model, tasks["sst2"], tasks["rotten_tomatoes"])
    assert across["eval_accuracy"] == evaluate(backbone, prompt, load_task(tasks["rotten_tomatoes"])).accuracy
    before, after = hub.activated_neuron(model, tasks["sst2"])
    assert before.shape == after.shape == (backbone.num_layers, backbone.ffn_size)
    assert hub.neuron_similarity(model, tasks["sst2"], tasks["sst2"]) == pytest.approx(1)
    metrics, mask = hub.mask_activated_neuron(model, tasks["sst2"])
    with backbone.without_neurons(mask):
        assert metrics["eval_accuracy"] == evaluate(backbone, prompt, hub.data()).accuracy
    assert (
        hub.eval_prompt()["eval_accuracy"] == evaluate(backbone, prompt, hub.data()).accuracy
    )  # nothing is left behind
    assert isinstance(hub.plot_neuron(), Figure)


def test_similar_neurons_are_asked_of_a_task_that_was_not_trained(arguments, tasks):
    hub = PromptHub(args=arguments(max_steps=2))
    similarity = hub.neuron_similarity("micro-roberta", tasks["sst2"], tasks["qqp"])
    states = [hub.activated_neuron("micro-roberta", tasks[name])[0].flatten() > 0 for name in ("sst2", "qqp")]
    assert similarity == pytest.approx(torch.cosine_similarity(*(state.double() for state in states), dim=0).item())


@pytest.mark.parametrize("best", [False, True])
def test_the_projector_that_is_kept_is_the_one_that_is_asked_for(arguments, tasks, best):
    hub = PromptHub(args=arguments(**BY_STEPS, load_best_model_at_end=best, max_steps=9))
    hub.train_prompt()
    models = ("micro-roberta", "micro-bert", tasks["sst2"])
    projector = hub.cross_model_train(*models)
    scores = projector.curve.set_index("step").score.drop(0)
    assert projector.metadata["best_step"] == (scores.idxmax() if best else 9)
    assert hub.cross_model_eval(*models)["eval_accuracy"] == scores[projector.metadata["best_step"]]
    assert projector.metadata["learning_rate"] == 1e-2 and projector.layer_norm


def test_results_are_written_beside_their_prompt(arguments, tasks):
    hub = PromptHub(args=arguments(max_steps=2))
    hub.train_prompt()
    for name, found in {
        "eval_prompt": hub.eval_prompt(),
        "cross_task_eval_" + hub.folder(dataset=tasks["qqp"]).name: hub.cross_task_eval(
            "micro-roberta", tasks["sst2"], tasks["qqp"]
        ),
        "mask_activated_neuron": hub.mask_activated_neuron("micro-roberta", tasks["sst2"])[0],
    }.items():
        assert json.loads((hub.folder() / f"{name}_results.json").read_text()) == found


def test_a_run_starts_from_the_prompt_of_a_warehouse_that_promises_most(arguments, tasks, tmp_path):
    hub, warehouse = PromptHub(args=arguments(max_steps=3)), Warehouse(tmp_path / "warehouse")
    backbone = hub.backbone()
    good = tune_prompt(backbone, load_task("micro/sst2"), length=6, steps=60, learning_rate=1e-2, progress=False).prompt
    warehouse.add_all(
        {"good": replace(good, task="reviews"), "noise": replace(random_prompt(backbone, 6, 0), task="other")}
    )
    for given, choose in ((warehouse, "transfer"), (str(warehouse.folder), "good"), (warehouse, "neuron_overlap")):
        run = hub.train_prompt(warehouse=given, choose=choose)
        assert run.prompt.length == 6 and hub.prompt().metadata["init"]["task"] in ("reviews", "other")
        if choose != "neuron_overlap":
            assert hub.prompt().metadata["init"]["task"] == "reviews" and run.curve.accuracy[0] > 0.6
    with pytest.raises(UnknownNameError, match="method of choosing"):
        hub.train_prompt(warehouse=warehouse, choose="guess")
    with pytest.raises(HubError, match="choose='good' requires a warehouse; give warehouse="):
        hub.train_prompt(choose="good")
    with pytest.raises(FileNotFoundError, match="there is no warehouse"):
        hub.train_prompt(warehouse=tmp_path / "nothing")


def test_a_task_is_named_in_any_case(arguments):
    hub = PromptHub(args=arguments(dataset="Micro/SST2", max_steps=2))
    assert hub.folder(dataset="MICRO/sst2") == hub.folder() and hub.data("MICRO/IMDB") is hub.data("micro/imdb")


@pytest.mark.parametrize("given", [[[0.0]], 3, {"soft_prompt": None}], ids=str)
def test_what_is_no_prompt_gets_a_sentence(arguments, given):
    with pytest.raises(HubError, match="prompt_emb must be a SoftPrompt, its vectors or its file; got a"):
        PromptHub(args=arguments()).eval_prompt(prompt_emb=given)


def test_a_prompt_can_be_given(arguments, tmp_path):
    hub = PromptHub(args=arguments(max_steps=2))
    hub.train_prompt()
    values = hub.get_prompt_emb()
    torch.save(values, tmp_path / "task_prompt")
    mine = [
        hub.eval_prompt(prompt_emb=given)
        for given in (values, hub.prompt(), hub.folder() / PROMPT, str(hub.folder() / PROMPT))
    ]
    assert mine == [hub.eval_prompt()] * 4
    theirs = SoftPrompt.from_authors(tmp_path / "task_prompt", "micro-roberta", "sst2")
    found = evaluate(hub.backbone(layout="authors"), theirs, hub.data()).accuracy
    assert hub.eval_prompt(prompt_emb=tmp_path / "task_prompt")["eval_accuracy"] == found
