"The command line: its answers as JSON, and one sentence for each of a user's mistakes."

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from prompt_transferability.backbones import Backbone
from prompt_transferability.cli import main
from prompt_transferability.microworld import model_folder
from prompt_transferability.neurons import CHOICES, mask_neurons
from prompt_transferability.projectors import Projection, Projector
from prompt_transferability.prompts import UNTRAINED, SoftPrompt
from prompt_transferability.provenance import recorded_command
from prompt_transferability.similarity import layer_groups, layer_label, neuron_overlap, similarity_matrix
from prompt_transferability.tasks import load_task, task_from_files
from prompt_transferability.zero_shot_transfer import evaluate

COMMAND = Path(sys.executable).with_name("prompt-transfer")
SMALL = ["--length", "5", "--steps", "20", "--eval-every", "10", "--max-train", "200", "--learning-rate", "0.01"]
STUDY = """
name: tiny
backbones: [micro-bert]
tasks: [micro/sst2, micro/mrpc]
length: 5
steps: 10
eval_every: 10
max_train: 100
max_eval: 30
random_seeds: [0]
"""


def tune(task, out, *more):
    return ["tune", task, "--backbone", "micro-bert", "--out", str(out), *SMALL, *more]


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    "The tests do not use the data folder of the person who runs them."
    monkeypatch.delenv("PROMPT_TRANSFERABILITY_DATA", raising=False)


@pytest.fixture
def command(capsys):
    "Run a command that succeeds, and return its JSON answer."

    def run(*arguments):
        code = main([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        assert code == 0, err
        assert out.count("\n") == 1
        return json.loads(out)

    return run


@pytest.fixture
def refused(capsys):
    "Run a command that is a mistake, and return its error message."

    def run(*arguments):
        code = main([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        assert code == 2 and out == ""
        assert err.startswith("prompt-transfer: ") and err.count("\n") == 1 and "Traceback" not in err
        return err

    return run


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    "A prompt trained by the command."
    path = tmp_path_factory.mktemp("prompts") / "sst2.safetensors"
    assert main([*tune("micro/sst2", path), "--json"]) == 0
    return path


@pytest.fixture
def entries(tmp_path):
    "The files and folders below the test's folder."
    return lambda: sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))


@pytest.fixture
def prompt(tmp_path):
    "Write an untrained prompt to a file with this name."

    def write(name, backbone="micro-bert", layout="paper", width=128):
        return SoftPrompt(torch.zeros(5, width), backbone, "imdb", layout).save(tmp_path / f"{name}.safetensors")

    return write


def write_rows(data, split, n):
    "Write a split of SST-2 to a data folder."
    folder = data / "tasks" / "sst2"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.jsonl").write_text(
        "".join(
            json.dumps({"text_a": f"text {i}", "text_b": None, "label": ("positive", "negative")[i % 2]}) + "\n"
            for i in range(n)
        )
    )


# ---- answers


def test_tune_evaluate_transfer(command, tuned, tmp_path):
    answer = command(*tune("micro/mrpc", tmp_path / "new" / "mrpc.safetensors"))
    assert {"prompt", "task", "backbone", "accuracy", "step", "majority", "seconds"} <= answer.keys()
    assert (answer["task"], answer["backbone"]) == ("micro/mrpc", "micro-bert")
    other = SoftPrompt.load(answer["prompt"])
    assert (other.task, other.length, other.metadata["accuracy"]) == ("micro/mrpc", 5, answer["accuracy"])

    evaluated = command("evaluate", answer["prompt"], "micro/mrpc")
    assert evaluated["accuracy"] == answer["accuracy"] and evaluated["trained_on"] == "micro/mrpc"
    assert evaluated["low"] < evaluated["accuracy"] < evaluated["high"] and 0 <= evaluated["f1"] <= 1

    on_target = command("evaluate", tuned, "micro/mrpc", "--split", "test")
    expected = evaluate(Backbone.from_pretrained("micro-bert"), SoftPrompt.load(tuned), load_task("micro/mrpc"), "test")
    assert (on_target["accuracy"], on_target["n"], on_target["split"]) == (expected.accuracy, expected.n, "test")

    table = tmp_path / "matrix.csv"
    paths = tuned, answer["prompt"]
    matrix = command("transfer", *paths, "--tasks", "micro/mrpc", "micro/sst2", "--out", table)["matrix"]
    assert list(matrix) == ["sst2", "mrpc", "random"] and list(matrix["mrpc"]) == ["micro/mrpc", "micro/sst2"]
    assert matrix["mrpc"]["micro/mrpc"] == answer["accuracy"]
    assert pd.read_csv(table, index_col=0).round(9).to_dict("index") == {
        source: {target: round(value, 9) for target, value in row.items()} for source, row in matrix.items()
    }


def test_an_answer_for_people(tuned, capsys):
    assert main(["evaluate", str(tuned), "micro/sst2"]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["task"] == "micro/sst2" and len(lines["accuracy"]) == len("0.1234")


@pytest.mark.parametrize("split", ["test", "dev"])
def test_only_the_requested_split_is_needed(command, refused, prompt, tmp_path, split):
    "If there is no dev split, it may be held out from train."
    data = tmp_path / "data"
    write_rows(data, {"test": "test", "dev": "train"}[split], 40)
    where = ["--data", data, "--split", split]
    assert command("evaluate", prompt("one"), "sst2", *where)["split"] == split
    assert list(command("transfer", prompt("one"), "--tasks", "sst2", *where)["matrix"]) == ["one", "random"]
    other = {"test": "dev", "dev": "test"}[split]
    assert f"has no {other} split" in refused("evaluate", prompt("one"), "sst2", "--data", data, "--split", other)


def test_a_matrix_of_many_tasks_is_shown_completely(prompt, monkeypatch, capsys):
    names = [f"micro/task{i:02}" for i in range(13)]
    monkeypatch.setattr(
        "prompt_transferability.cli.transfer_matrix", lambda *_: pd.DataFrame(0.123456, ["one", "random"], names)
    )
    assert main(["transfer", str(prompt("one")), "--tasks", "micro/sst2"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in names) and "..." not in shown and shown.count("0.123") == 26


@pytest.mark.parametrize(
    "name",
    ["tune", "evaluate", "predict", "transfer", "similarity", "neurons", "mask", "study run", "microworld build"],
)
def test_help_shows_the_defaults(capsys, name):
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "(default: " in shown and "None" not in shown
    if name == "tune":
        shown = " ".join(shown.split())
        for text in (
            "unless --init is given (default: 100)",
            "training steps (default: 3000)",
            "constant learning rate of AdamW (default: 0.001)",
        ):
            assert text in shown


def test_training_continues_from_a_prompt_and_from_a_checkpoint(command, tuned, tmp_path):
    out, checkpoint = tmp_path / "prompt.safetensors", tmp_path / "checkpoint"
    settings = ["--init", tuned, "--checkpoint", checkpoint, "--length", "99"]
    first = command(*tune("micro/sst2", out), *settings)
    assert SoftPrompt.load(out).length == 5 and checkpoint.is_file()
    again = command(*tune("micro/sst2", out), *settings)
    assert (again["accuracy"], again["step"]) == (first["accuracy"], first["step"])


def test_the_installed_command_prints_one_json_object(tuned, tmp_path):
    arguments = [*tune("micro/sst2", tmp_path / "prompt.safetensors"), "--json"]
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["prompt"] == str(tmp_path / "prompt.safetensors")
    assert torch.allclose(
        SoftPrompt.load(tmp_path / "prompt.safetensors").values, SoftPrompt.load(tuned).values, atol=1e-2
    )


def test_a_study(command, refused, tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    out = tmp_path / "out"
    assert "no study file" in refused("study", "status", out)
    answer = command("study", "run", tmp_path / "study.yaml", "--out", out, "--workers", 1)
    assert answer["study"] == "tiny" and Path(answer["report"]).is_file()
    done = {kind: {"done": cells, "missing": 0} for kind, cells in (("data", 2), ("tune", 2), ("transfer", 6))}
    assert command("study", "status", out) == {"study": "tiny"} | done
    Path(answer["report"]).unlink()
    assert command("study", "report", out) == {"report": answer["report"]}
    assert Path(answer["report"]).is_file()
    (tmp_path / "other.yaml").write_text(STUDY.replace("length: 5", "length: 6"))
    assert "differs in length" in refused("study", "run", tmp_path / "other.yaml", "--out", out)


def test_a_study_shows_its_progress(tmp_path, capfd):
    (tmp_path / "study.yaml").write_text(STUDY.replace(", micro/mrpc", "").replace("steps: 10", "steps: 2"))
    assert main(["study", "run", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert "\r6/6 cells" in capfd.readouterr().err  # a data cell, a prompt, its two rows, and two of a random prompt


# ---- own files

WORDS = ["--words", "leaves=negative", "returns=positive"]


@pytest.fixture
def guests(tmp_path, monkeypatch):
    "A guest book in two files in the working folder."
    monkeypatch.chdir(tmp_path)
    praise, blame = ("great", "lovely", "excellent", "superb", "nice"), ("awful", "bad", "terrible", "nasty", "poor")
    things = ("soup", "bread", "waiter", "coffee")
    for name, link in {"train.csv": "was", "test.csv": "seemed"}.items():
        rows = [f"the {thing} {link} {word}." for thing in things for word in (*praise, *blame)]
        labels = (["returns"] * 5 + ["leaves"] * 5) * len(things)
        pd.DataFrame({"text": rows, "label": labels}).to_csv(name, index=False)
    return tmp_path


def test_a_prompt_is_trained_and_tested_on_own_files_and_predicts(command, guests):
    answer = command(*tune("train.csv", "guests.safetensors")[:-4], "--learning-rate", "0.01", *WORDS)
    prompt = SoftPrompt.load("guests.safetensors")
    task = prompt.declared_task()
    assert (answer["task"], answer["backbone"], prompt.task, task.task_type) == (
        "train.csv",
        "micro-bert",
        "guests",
        "SA",
    )
    assert dict(zip(task.labels, task.label_words, strict=True)) == {"leaves": "negative", "returns": "positive"}

    tested = command("evaluate", "guests.safetensors", "test.csv")
    data = task_from_files("guests", "SA", {"leaves": "negative", "returns": "positive"}, test="test.csv")
    expected = evaluate(Backbone.from_pretrained("micro-bert"), prompt, data, "test")
    assert (tested["accuracy"], tested["n"], tested["majority"]) == (expected.accuracy, 40, 0.5)
    assert tested["task"] == "test.csv" and "split" not in tested

    assert command("predict", "guests.safetensors", "--file", "test.csv", "--out", "answers.csv")["rows"] == 40
    predicted = pd.read_csv("answers.csv")
    assert (predicted["prediction"] == predicted["label"]).mean() == expected.accuracy


def test_dev_rows_and_type_of_a_file_are_those_given(command, guests):
    settings = ["--backbone", "micro-bert", "--length", 3, "--steps", 1, "--eval-every", 1]
    few = pd.read_csv("test.csv").query("label == 'leaves'")
    few.to_csv("dev.csv", index=False)
    answer = command("tune", "train.csv", *WORDS, "--dev", "dev.csv", "--type", "EJ", "--out", "a", *settings)
    assert answer["majority"] == 1 and SoftPrompt.load("a").declared_task().task_type == "EJ"


@pytest.mark.parametrize("name", ["imdb", "random"])
def test_an_own_task_cannot_have_a_reserved_name(name, refused, guests):
    out = f"{name}.safetensors"
    assert f"the name {name!r} is reserved" in refused(
        "tune", "train.csv", *WORDS, "--backbone", "micro-bert", "--out", out
    )


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("train.csv", "needs a word for each of its labels, as in --words bad=negative"),
        ("train.csv --words leaves returns", "needs a word for each of its labels"),
        ("train.csv --words leaves=bad leaves=good", "needs a word for each of its labels"),
        ("train.csv --words leave=bad returns=good", "train.csv, line 7: unknown label 'leaves'"),
        ("train.csv --words leaves=unlovable returns=good", "unlovable"),
        ("train.csv --words leaves=bad returns=good --type XY", "unknown task type 'XY'"),
        ("train.csv --words leaves=bad returns=good --max-train 5", "--max-train is only for named tasks"),
        ("trian.csv --words leaves=bad returns=good", "there is no file trian.csv"),
        ("micro/sst2 --words leaves=bad returns=good", "--words is only for a file of rows (.csv, "),
        ("micro/sst2 --dev train.csv", "--dev is only for a file of rows"),
    ],
)
def test_files_that_cannot_be_trained_on(line, sentence, refused, guests, entries):
    there = entries()
    assert sentence in refused("tune", *line.split(), "--backbone", "micro-bert", "--out", "out.safetensors")
    assert entries() == there


def test_a_file_is_evaluated_with_the_labels_of_the_prompt(refused, tuned, guests):
    assert "test.csv, line 2: unknown label 'returns'" in refused("evaluate", tuned, "test.csv")
    assert "there is no file tets.csv" in refused("evaluate", tuned, "tets.csv")


# ---- comparing prompts


@pytest.fixture
def drawn(tmp_path):
    "Write a prompt of random vectors to a file with this name."

    def write(name, task="micro/sst2", backbone="micro-bert", length=5, layout="paper", seed=0):
        values = torch.randn(length, 128, generator=torch.Generator().manual_seed(seed))
        return SoftPrompt(values, backbone, task, layout).save(tmp_path / f"{name}.safetensors")

    return write


def test_similarity_of_files(command, drawn, tmp_path):
    tasks = ("micro/sst2", "micro/sst2", "micro/imdb", "micro/mrpc")
    paths = [drawn(f"p{i}", task, seed=i) for i, task in enumerate(tasks)]
    out = tmp_path / "new" / "matrix.csv"
    answer = command("similarity", *paths, "--metric", "euclidean_average", "--out", out)
    prompts = {path.stem: SoftPrompt.load(path) for path in paths}
    expected = similarity_matrix(prompts, "euclidean_average")
    assert answer["metric"] == "euclidean_average" and "layers" not in answer
    assert answer["matrix"] == expected.to_dict("index")
    assert pd.read_csv(out, index_col=0).round(12).equals(expected.round(12))
    assert {kind: row["pairs"] for kind, row in answer["pairs"].items()} == {
        "same task": 1,
        "same type": 2,
        "different type": 3,
        "different task": 5,
    }
    assert answer["pairs"]["same task"]["mean"] == pytest.approx(expected.at["p0", "p1"])
    assert answer["pairs"]["same task"]["low"] is None  # one task says nothing about others


def test_similarity_by_neurons_and_layers(command, drawn):
    paths = [drawn("a", "one of mine"), drawn("b", "micro/mrpc", seed=1, length=7)]
    backbone = Backbone.from_pretrained("micro-bert")
    prompts = {path.stem: SoftPrompt.load(path) for path in paths}
    for option, layers, shown in (
        ([], None, f"1-{backbone.num_layers}"),
        (["--layers", "2-3"], (2, 3), "2-3"),
        (["--layers", "3"], (3, 3), "3"),
    ):
        answer = command("similarity", *paths, "--metric", "neuron_overlap", *option)
        assert (answer["layers"], answer["backbone"]) == (shown, "micro-bert")
        expected = similarity_matrix(prompts, "neuron_overlap", backbone, layers)
        assert answer["matrix"]["a"]["b"] == pytest.approx(expected.at["a", "b"], abs=1e-3)
        assert list(answer["pairs"]) == ["different task"]  # of a task that nobody knows there is no type


def test_one_prompt_is_compared_only_with_itself(command, drawn, capsys):
    one = ["similarity", str(drawn("a")), "--metric", "cosine_concat"]
    answer = command(*one)
    assert answer["matrix"] == {"a": {"a": pytest.approx(1)}} and answer["pairs"] == {}
    assert main(one) == 0
    shown = capsys.readouterr().out
    assert "matrix:" in shown and "pairs" not in shown and "Empty" not in shown


def test_untrained_prompts_have_no_task(command, drawn):
    paths = [drawn(name, name, seed=i) for i, name in enumerate(UNTRAINED)] + [drawn("again", "random", seed=8)]
    answer = command("similarity", *paths, "--metric", "cosine_average")
    assert len(answer["matrix"]) == 4 and answer["pairs"] == {}
    trained = [drawn("a"), drawn("b", seed=1), drawn("c", "micro/mrpc", seed=2)]
    answer = command("similarity", *paths, *trained, "--metric", "cosine_average")
    assert len(answer["matrix"]) == 7
    kinds = {kind: row["pairs"] for kind, row in answer["pairs"].items()}
    assert kinds == {"same task": 1, "different type": 2, "different task": 2}
    assert answer["pairs"]["same task"]["mean"] == answer["matrix"]["a"]["b"]


def test_neurons_of_files(command, drawn, capsys, tmp_path):
    paths, out = [drawn("a"), drawn("b", "micro/mrpc", seed=1)], tmp_path / "new" / "active.csv"
    answer = command("neurons", *paths, "--out", out)
    assert pd.read_csv(out, index_col=0).round(12).equals(pd.DataFrame(answer["active"]).T.round(12))
    backbone = Backbone.from_pretrained("micro-bert")
    states = {path.stem: backbone.neuron_states(SoftPrompt.load(path).values) for path in paths}
    assert (answer["backbone"], answer["layers"]) == ("micro-bert", backbone.num_layers)
    assert answer["neurons_in_a_layer"] == backbone.ffn_size
    whole = f"1-{backbone.num_layers}"
    for name, state in states.items():
        shares = answer["active"][name]
        assert shares["2"] == pytest.approx(state[1].double().mean().item(), abs=1e-3)
        assert shares[whole] == pytest.approx(state.double().mean().item(), abs=1e-3)
    for group in (None, *layer_groups(backbone.num_layers)):
        found = answer["overlap"][whole if group is None else layer_label(group)]["a"]["b"]
        assert found == pytest.approx(neuron_overlap(states["a"], states["b"], group), abs=2e-3)
    assert main(["neurons", *map(str, paths)]) == 0
    shown = capsys.readouterr().out
    assert "share of active neurons" in shown and f"overlap in layers {whole}:" in shown
    assert "overlap in layer 1:" in shown


def test_masked_neurons(command, drawn, capsys, tmp_path):
    one, other, out = drawn("a"), drawn("b", "micro/mrpc", seed=1), tmp_path / "new" / "masks.csv"
    words = ["mask", one, "micro/sst2", "--ratio", "0.3", "--layers", "3-4", "--draws", "2", "--seed", "5"]
    answer = command(*words, "--others", other, "--out", out)
    prompt, backbone = SoftPrompt.load(one), Backbone.from_pretrained("micro-bert", device="cpu")
    by = [*CHOICES, SoftPrompt.load(other)]
    table = mask_neurons(backbone, prompt, load_task("micro/sst2"), 0.3, (3, 4), by, draws=2, seed=5)
    assert [row["accuracy"] for row in answer["masks"]] == table["accuracy"].tolist()
    assert pd.read_csv(out)["accuracy"].tolist() == table["accuracy"].tolist()
    assert (answer["layers"], answer["neurons"]) == ("3-4", round(0.3 * 2 * backbone.ffn_size))
    assert [*answer["masked"]] == ["nothing", *CHOICES, "other prompt b"]
    at_random = answer["masked"]["random"]
    assert at_random["masks"] == 2 and at_random["lowest"] <= at_random["accuracy"] <= at_random["highest"]
    assert answer["masked"]["nothing"]["of_own"] is None and answer["masks"][-1]["prompt"] == "b"
    assert main([*map(str, words)]) == 0
    assert "random by layer" in capsys.readouterr().out


def test_invalid_masks_are_rejected(refused, drawn, tmp_path):
    one, out = drawn("one"), tmp_path / "masks.csv"
    for words, sentence in (
        (["--ratio", "20"], "ratio is 20; give the share of the 2048 neurons to take, above 0 and at most 1"),
        (["--layers", "3-9"], "there are no layers 3 to 9"),
        (["--draws", "0"], "draws is 0; give 1 or more"),
        (["--others", one], "is given twice"),
        (["--split", "tset"], "unknown split 'tset'"),
    ):
        assert sentence in refused("mask", one, "micro/sst2", *words, "--out", out)
    assert "unknown task 'micro/sst3'" in refused("mask", one, "micro/sst3")
    assert not out.exists()


def test_prompts_with_the_same_name_are_distinguished_by_their_folders(command, drawn, tmp_path):
    first = drawn("seed0/sst2")
    second = drawn("seed1/sst2", seed=1)
    answer = command("similarity", first, second, "--metric", "cosine_average")
    assert list(answer["matrix"]) == [str(first), str(second)]


def test_a_prompt_given_twice_is_rejected(refused, drawn, tmp_path):
    one, other = drawn("one"), drawn("other", seed=1)
    roundabout = tmp_path / "." / ".." / tmp_path.name / "one.safetensors"
    for name in (
        ["similarity", "--metric", "cosine_concat"],
        ["neurons"],
        ["transfer", "--tasks", "micro/sst2", "--backbone=micro-bert"],
    ):
        for again in (one, roundabout):
            command, *options = name
            assert f"the prompt file '{again}' is given twice" in refused(command, one, other, again, *options)


def test_prompts_that_cannot_be_compared_are_rejected(refused, drawn, prompt, tmp_path):
    one, out = drawn("one"), tmp_path / "matrix.csv"
    by_vectors = ["--metric", "cosine_concat", "--out", out]
    assert "'one' has 5 vectors and 'long' 9" in refused("similarity", one, drawn("long", length=9), *by_vectors)
    other = drawn("other", backbone="micro-roberta")
    assert "which live in different spaces" in refused("similarity", one, other, *by_vectors)
    authors = drawn("authors", layout="authors")
    assert "overwrites the first vector" in refused("similarity", one, authors, *by_vectors)
    assert "has a vector of zeros" in refused("similarity", one, prompt("zeros"), *by_vectors)
    for name in (["similarity", "--metric", "neuron_overlap"], ["neurons"]):
        sentence = refused(*name, one, other)
        assert "different models (micro-bert, micro-roberta)" in sentence and "--backbone" in sentence
        assert "different layouts (paper, authors)" in refused(*name, one, authors)
        assert "is 64 wide; 'micro-bert' takes 128" in refused(*name, prompt("narrow", width=64))
        assert "there is no prompt file 'absent'" in refused(*name, tmp_path / "absent")
    assert not out.exists()


def test_invalid_options_of_a_comparison_are_rejected(refused, drawn, tmp_path):
    one = drawn("one")
    assert "unknown metric 'cosin'" in refused("similarity", one, "--metric", "cosin")
    neurons = ["similarity", one, "--metric", "neuron_overlap", "--layers"]
    assert "there are no layers 3 to 9" in refused(*neurons, "3-9")
    assert "layers belong to neuron_overlap" in refused(
        "similarity", one, "--metric", "cosine_concat", "--layers", "1-2"
    )
    assert "folder" in refused("similarity", one, "--metric", "cosine_concat", "--out", tmp_path)
    assert "folder" in refused("neurons", one, "--out", tmp_path)


@pytest.mark.parametrize("given", ["top", "1-2-3", "-1", "", "1,2", "3-1", "0-1", "0"])
def test_invalid_layers_are_reported_before_the_model_is_searched_for(refused, drawn, given):
    path = drawn("one", backbone="a-model-that-is-nowhere")
    sentence = refused("similarity", path, "--metric", "neuron_overlap", f"--layers={given}")
    assert f"--layers is '{given}'; give the first and the last layer, as in 10-12" in sentence


# ---- mistakes


def test_micro_models_are_built(command, refused, tmp_path, capsys):
    built = command("microworld", "build", "micro-bert", "--steps", "2", "--seed", "5", "--out", tmp_path / "models")
    assert built["micro-bert"]["steps"] == 2 and built["micro-bert"]["seed"] == 5
    assert Backbone.from_pretrained(tmp_path / "models" / "micro-bert").hidden_size == 128
    assert main(["microworld", "build", "micro-bert", "--steps", "2", "--out", str(tmp_path / "shown")]) == 0
    assert re.search(r"held-out loss \d\.\d\d; label words: imdb 0\.\d\d, .*mrpc 0\.\d\d", capsys.readouterr().out)
    sentence = refused("microworld", "build", "micro-bert", "micro-brt", "--out", tmp_path / "none")
    assert "did you mean 'micro-bert'" in sentence and not (tmp_path / "none").exists()
    assert "from 1 to 100,000" in refused("microworld", "build", "micro-bert", "--steps", "0", "--out", tmp_path / "x")


def test_unknown_names_are_reported(refused, tuned, tmp_path, entries):
    out = tmp_path / "prompt.safetensors"
    assert "unknown task 'micro/sst'; did you mean 'micro/sst2'?" in refused(*tune("micro/sst", out))
    assert "unknown task 'mrcp'; did you mean 'mrpc'?" in refused("evaluate", tuned, "mrcp")
    assert "did you mean 'authors'?" in refused(*tune("micro/sst2", out), "--layout", "author")
    assert "unknown split" in refused("evaluate", tuned, "micro/sst2", "--split", "validation")
    assert "unknown preset 'smal'; did you mean 'small'?" in refused("study", "run", "smal", "--out", tmp_path / "out")
    assert "no study file" in refused("study", "run", "smal.yaml", "--out", tmp_path / "out")
    assert "no study file" in refused("study", "report", tmp_path / "out")
    assert entries() == []


def test_an_unknown_model_is_reported_in_seconds(tmp_path, tmp_path_factory, entries):
    "Without a network, and from the installed command, as a user sees it."
    arguments = ["tune", "micro/sst2", "--backbone", "roberta-bas", "--out", str(tmp_path / "prompt.safetensors")]
    started = time.monotonic()
    done = subprocess.run(
        [COMMAND, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path_factory.mktemp("cache"))},
    )
    assert time.monotonic() - started < 60  # the imports included, on a busy machine
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert "there is no model 'roberta-bas'" in done.stderr and "did you mean 'roberta-base'?" in done.stderr
    assert entries() == []


def test_a_missing_model_of_a_prompt_is_reported(refused, prompt, monkeypatch):
    def absent(*_):
        raise FileNotFoundError("there is no model")

    monkeypatch.setattr("prompt_transferability.cli.Sources.backbone", absent)
    path = prompt("one", backbone="mymodel")
    for arguments in (["evaluate", path, "micro/sst2"], ["transfer", path, "--tasks", "micro/sst2"]):
        sentence = refused(*arguments)
        assert "the model 'mymodel' that the prompt was trained for was not found" in sentence
        assert "--backbone" in sentence and "--models" in sentence
        assert refused(*arguments, "--backbone", "another") == "prompt-transfer: there is no model\n"


def test_prompts_of_different_models_are_evaluated_on_the_given_model(command, refused, prompt):
    arguments = ["transfer", prompt("one"), prompt("two", backbone="another"), "--tasks", "micro/mrpc"]
    sentence = refused(*arguments)
    assert "different models (micro-bert, another)" in sentence and "--backbone" in sentence
    assert list(command(*arguments, "--backbone", "micro-bert")["matrix"]) == ["one", "two", "random"]


def test_prompts_that_do_not_fit_are_rejected(refused, tuned, prompt, tmp_path):
    narrow, authors = prompt("narrow", width=64), prompt("authors", layout="authors")
    sentence = "is 64 wide; 'micro-bert' takes 128: carry it over with a projector"
    out = tmp_path / "out"
    assert sentence in refused("evaluate", narrow, "micro/sst2")
    assert sentence in refused("transfer", tuned, narrow, "--tasks", "micro/sst2", "--out", out)
    assert sentence in refused(*tune("micro/sst2", out), "--init", narrow)
    for more in ([], ["--backbone", "micro-bert"]):
        sentence = refused("transfer", tuned, authors, "--tasks", "micro/sst2", "--out", out, *more)
        assert "different layouts (paper, authors)" in sentence
    assert not out.exists()


def test_files_without_a_prompt_are_rejected(refused, tuned, tmp_path):
    text, weights, pickled = (tmp_path / name for name in ("notes.txt", "model.safetensors", "task_prompt"))
    text.write_text("hello")
    save_file({"weight": torch.zeros(2)}, weights)
    torch.save(torch.zeros(100, 768), pickled)
    out = tmp_path / "out"
    assert "'notes.txt' is not a safetensors file" in refused("evaluate", text, "micro/sst2")
    assert "is a safetensors file but not a soft prompt" in refused("evaluate", weights, "micro/sst2")
    assert "SoftPrompt.from_authors" in refused("evaluate", pickled, "micro/sst2")
    assert "there is no prompt file 'absent'" in refused("evaluate", tmp_path / "absent", "micro/sst2")
    assert "there is no prompt file" in refused("transfer", tuned, tmp_path, "--tasks", "micro/sst2", "--out", out)
    assert "'notes.txt'" in refused(*tune("micro/sst2", out), "--init", text)
    assert not out.exists()


def test_missing_data_is_reported(refused, tmp_path, entries):
    out = tmp_path / "prompt.safetensors"
    assert "no rows of task 'sst2'" in refused(*tune("sst2", out), "--data", tmp_path / "absent")
    assert entries() == []
    (tmp_path / "study.yaml").write_text(STUDY.replace("micro/", ""))
    arguments = ["study", "run", tmp_path / "study.yaml", "--out", tmp_path / "out", "--workers", 1]
    assert "no rows of task 'sst2'" in refused(*arguments, "--data", tmp_path / "absent")
    assert not any(Path(name).name.startswith(".") for name in entries())  # no cell that is half written


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ('{"text_a": "fine", "text_b": null, "label": "positve"}', "line 3: unknown label 'positve'; did you mean"),
        ('{"text_a": "fine", "text_b": null}', "line 3: there is no column 'label'"),
        ('{"text_a": "fine", "text_b": null, "label": "positive"', "line 3: this is not JSON"),
        ('{"text_a": " ", "text_b": null, "label": "positive"}', "line 3: text_a must be a text"),
    ],
    ids=["unknown label", "no label", "no JSON", "no text"],
)
def test_rows_that_do_not_fit_their_task_are_rejected(refused, tmp_path, entries, row, sentence):
    good = [
        f'{{"text_a": "text {i}", "text_b": null, "label": "{label}"}}'
        for i, label in enumerate(["positive", "negative"] * 4)
    ]
    folder = tmp_path / "tasks" / "sst2"
    folder.mkdir(parents=True)
    (folder / "dev.jsonl").write_text("\n".join(good))
    (folder / "train.jsonl").write_text("\n".join([*good[:2], row, *good[2:]]))
    error = refused(*tune("sst2", tmp_path / "prompt.safetensors"), "--data", tmp_path)
    assert "train.jsonl, " + sentence in error
    assert entries() == ["tasks", "tasks/sst2", "tasks/sst2/dev.jsonl", "tasks/sst2/train.jsonl"]


def test_invalid_training_settings_are_rejected(refused, tmp_path, entries):
    out, checkpoint = (tmp_path / "new" / name for name in ("prompt.safetensors", "checkpoint"))
    error = refused(*tune("micro/sst2", out), "--learning-rate", "1e30", "--checkpoint", checkpoint)
    assert "the loss of task 'micro/sst2' is nan at step" in error and "smaller learning rate" in error
    assert "steps must be a whole number of at least 1; got 0" in refused(*tune("micro/sst2", out), "--steps", "0")
    assert "seed must be a whole number of at least 0; got -1" in refused(*tune("micro/sst2", out), "--seed", "-1")
    assert "learning_rate must be a number above 0" in refused(*tune("micro/sst2", out), "--learning-rate", "-1")
    assert "at least one vector" in refused(*tune("micro/sst2", out), "--length", "0")
    assert "max_length is 4000" in refused(*tune("micro/sst2", out), "--max-length", "4000")
    assert "max_train is 0" in refused(*tune("micro/sst2", out), "--max-train", "0")
    assert entries() == []


def test_a_loss_that_is_not_finite_is_reported_below_the_progress_bar(tmp_path, capfd):
    assert main([*tune("micro/sst2", tmp_path / "prompt.safetensors"), "--learning-rate", "1e30"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and "Traceback" not in err
    assert err.splitlines()[-1].startswith("prompt-transfer: the loss of task 'micro/sst2' is nan")


@pytest.mark.parametrize("workers", ["0", "-1"])
def test_an_invalid_number_of_workers_is_rejected(refused, tmp_path, workers):
    (tmp_path / "study.yaml").write_text(STUDY)
    arguments = ["study", "run", tmp_path / "study.yaml", "--out", tmp_path / "out"]
    assert "workers" in refused(*arguments, "--workers", workers)


def test_settings_of_a_study_must_be_numbers(refused, tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY.replace("steps: 10", "steps: many"))
    arguments = ["study", "run", tmp_path / "study.yaml", "--out", tmp_path / "out", "--workers", 1]
    assert "steps" in refused(*arguments) and not (tmp_path / "out" / "cells").exists()


def test_an_unwritable_output_is_rejected_before_the_work(refused, tuned, tmp_path, monkeypatch):
    def work(*_, **__):
        pytest.fail("the work was done before the output was looked at")

    for name in ("prompt_tuning.tune_prompts", "cli.transfer_matrix"):
        monkeypatch.setattr(f"prompt_transferability.{name}", work)
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    file.write_text("")
    assert "folder" in refused(*tune("micro/sst2", folder))
    assert "folder" in refused(*tune("micro/sst2", tmp_path / "out"), "--checkpoint", folder)
    nowhere = [file / "out", file / "new" / "out", *([Path("/proc/out")] if Path("/proc").is_dir() else [])]
    for path in nowhere:
        assert "cannot be written" in refused(*tune("micro/sst2", path))
        assert "cannot be written" in refused(*tune("micro/sst2", tmp_path / "out"), "--checkpoint", path)
        assert "cannot be written" in refused("transfer", tuned, "--tasks", "micro/sst2", "--out", path)
    assert "folder" in refused("transfer", tuned, "--tasks", "micro/sst2", "--out", folder)
    (tmp_path / "study.yaml").write_text(STUDY)
    assert "file" in refused("study", "run", tmp_path / "study.yaml", "--out", file)


def test_a_matrix_is_written_to_a_new_folder(command, tuned, tmp_path):
    "`tune` does the same with a prompt."
    command("transfer", tuned, "--tasks", "micro/sst2", "--out", tmp_path / "new" / "matrix.csv")
    assert (tmp_path / "new" / "matrix.csv").is_file()


@pytest.mark.parametrize("checkpoint", [False, True])
def test_an_interrupted_command_says_whether_it_can_resume(tmp_path, monkeypatch, capsys, checkpoint):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("prompt_transferability.prompt_tuning.tune_prompts", interrupt)
    more = ["--checkpoint", str(tmp_path / "checkpoint")] if checkpoint else []
    assert main([*tune("micro/sst2", tmp_path / "out"), *more]) == 130
    said = "interrupted; run the same command again to resume" if checkpoint else "interrupted"
    assert capsys.readouterr().err == f"prompt-transfer: {said}\n"


def test_interrupted_commands_without_a_checkpoint(prompt, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    for name in ("evaluate", "transfer_matrix", "Study.run"):
        monkeypatch.setattr(f"prompt_transferability.cli.{name}", interrupt)
    path = str(prompt("one"))
    for arguments in (["evaluate", path, "micro/sst2"], ["transfer", path, "--tasks", "micro/sst2"]):
        assert main(arguments) == 130
        assert capsys.readouterr().err == "prompt-transfer: interrupted\n"
    assert main(["study", "run", "micro", "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "prompt-transfer: interrupted; run the same command again to resume\n"


def test_prompts_with_the_same_file_name_are_not_confused(command, tuned, tmp_path):
    "A row of the matrix has the name of its file, or the path if two files have the same name."
    for name in ("first", "second"):
        SoftPrompt.load(tuned).save(tmp_path / name / "prompt.safetensors")
    paths = [str(tmp_path / name / "prompt.safetensors") for name in ("first", "second")]
    assert list(command("transfer", *paths, "--tasks", "micro/sst2")["matrix"]) == [*paths, "random"]


def test_a_prompt_file_named_random_is_rejected(refused, tuned, tmp_path):
    path = SoftPrompt.load(tuned).save(tmp_path / "random.safetensors")
    assert "cannot be called 'random'" in refused("transfer", path, "--tasks", "micro/sst2")


# ---- prompts for another model

FIT = ["--steps", "4", "--eval-every", "2", "--hidden-size", "8"]


@pytest.fixture(scope="module")
def projector(tuned, tmp_path_factory):
    "A projector trained by the command with task tuning."
    path = tmp_path_factory.mktemp("projectors") / "projector.safetensors"
    arguments = [
        "project",
        "fit",
        "task-tuning",
        "--prompts",
        str(tuned),
        "--target",
        "micro-roberta",
        "--out",
        str(path),
    ]
    assert main([*arguments, *FIT, "--json"]) == 0
    return path


def test_a_projector_is_fitted_and_maps_a_prompt(projector, tuned, tmp_path, command):
    answer = command("project", "carry", tuned, "--projector", projector, "--out", tmp_path / "carried.safetensors")
    assert (answer["task"], answer["from"], answer["backbone"]) == ("micro/sst2", "micro-bert", "micro-roberta")
    carried, fitted = SoftPrompt.load(answer["prompt"]), Projector.load(projector)
    backbone = Backbone.from_pretrained("micro-roberta")
    assert torch.equal(carried.values, fitted.project(SoftPrompt.load(tuned), backbone).values)
    assert fitted.metadata["tasks"] == ["micro/sst2"] and fitted.hidden_size == 8
    accuracy = command("evaluate", answer["prompt"], "micro/sst2")["accuracy"]
    assert accuracy == evaluate(backbone, carried, load_task("micro/sst2")).accuracy


def test_every_method_is_on_the_command_line(tuned, tmp_path, command):
    wanted, out = tmp_path / "wanted.safetensors", tmp_path / "fitted.safetensors"
    prompt = SoftPrompt.load(tuned)
    SoftPrompt(prompt.values, "micro-roberta", prompt.task).save(wanted)
    mapping = ("prompt-mapping", "--prompts", tuned, "--wanted", wanted, "--target", "micro-roberta", *FIT)
    words = ("--source", "micro-roberta", "--target", "micro-roberta-large")
    for arguments in (
        mapping,
        ("directly-reused", "--source", "micro-bert", "--target", "micro-roberta"),
        ("token-mapping", *words, *FIT),
        ("linear-map", *words),
        ("relative-representations", *words),
    ):
        answer = command("project", "fit", *arguments, "--out", out)
        assert answer["objective"] == arguments[0].replace("-", " ")
        assert Projection.load(answer["projector"]).metadata["objective"] == answer["objective"]


def test_the_ablation_is_on_the_command_line(tuned, tmp_path, command):
    out = tmp_path / "fitted.safetensors"
    arguments = ("project", "fit", "task-tuning", "--prompts", tuned, "--target", "micro-roberta", "--out", out, *FIT)
    command(*arguments, "--no-layer-norm", "--activation", "leaky_relu")
    fitted = Projector.load(out)
    assert (fitted.layer_norm, fitted.activation) == (False, "leaky_relu")


def test_prompts_and_models_that_do_not_fit_a_projector_are_rejected(projector, tuned, tmp_path, refused):
    out = ("--out", tmp_path / "carried.safetensors")
    large = ("--backbone", "micro-roberta-large")
    assert "'micro-roberta', not for" in refused("project", "carry", tuned, "--projector", projector, *large, *out)
    assert "not a soft prompt" in refused("project", "carry", projector, "--projector", projector, *out)
    assert "not a projector" in refused("project", "carry", tuned, "--projector", tuned, *out)
    assert not list(tmp_path.iterdir())
    nameless = Projector(128, 128, 6, 8).save(tmp_path / "nameless.safetensors")
    assert "give it with --backbone" in refused("project", "carry", tuned, "--projector", nameless, *out)


@pytest.mark.parametrize(
    "line",
    [
        "project fit task-tuning --prompts PROMPT --target micro-roberta --out PROMPT",
        "project fit task-tuning --prompts PROMPT --target micro-roberta --out OUT --checkpoint PROMPT",
        "project fit task-tuning --prompts PROMPT --target micro-roberta --out OUT --checkpoint OUT",
        "project fit prompt-mapping --prompts OTHER --wanted PROMPT --target micro-bert --out PROMPT",
        "project carry PROMPT --projector PROJECTOR --out PROMPT",
        "project carry PROMPT --projector PROJECTOR --out PROJECTOR",
        "tune micro/sst2 --backbone micro-bert --init PROMPT --out PROMPT",
        "tune micro/sst2 --backbone micro-bert --init PROMPT --out OUT --checkpoint PROMPT",
        "tune micro/sst2 --backbone micro-bert --out OUT --checkpoint OUT",
        "tune ROWS --words negative=bad positive=good --backbone micro-bert --out ROWS",
        "tune ROWS --words negative=bad positive=good --backbone micro-bert --out OUT --dev ROWS --checkpoint ROWS",
        "transfer PROMPT --tasks micro/sst2 --out PROMPT",
        "similarity PROMPT OTHER --metric cosine_concat --out OTHER",
        "neurons PROMPT --out PROMPT",
        "mask PROMPT micro/sst2 --out PROMPT",
    ],
)
def test_no_file_that_a_command_reads_is_overwritten(line, tuned, projector, tmp_path, refused, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    prompt, read = SoftPrompt.load(tuned), {"PROMPT": tmp_path / "prompt", "OTHER": tmp_path / "other"}
    for path in read.values():
        SoftPrompt(prompt.values, "micro-roberta" if path.stem == "other" else prompt.backbone, prompt.task).save(path)
    read["PROJECTOR"] = Projector.load(projector).save(tmp_path / "projector")
    read["ROWS"] = tmp_path / "rows.csv"
    read["ROWS"].write_text("text,label\nfine,positive\nawful,negative\n")
    before = {path: path.read_bytes() for path in read.values()}
    *words, last = line.split()
    words = [read.get(word, tmp_path / "out" if word == "OUT" else word) for word in words]
    # The same file by another name.
    assert "is also another file of this command" in refused(*words, f"../{read[last].name if last in read else 'out'}")
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("linear-map", "--target", "micro-roberta"), "give the source model with --source"),
        (
            ("linear-map", "--source", "micro-bert", "--target", "micro-roberta", "--steps", "3"),
            "does not use --steps",
        ),
        (("linear-map", "--source", "micro-bert", "--target", "micro-roberta", "--seed", "0"), "does not use --seed"),
        (
            ("linear-map", "--source", "micro-bert", "--target", "micro-roberta", "--prompts", "PROMPT"),
            "does not use --prompts",
        ),
        (
            ("task-tuning", "--source", "micro-bert", "--target", "micro-roberta", "--prompts", "PROMPT"),
            "does not use --source",
        ),
        (
            ("task-tuning", "--target", "micro-roberta", "--prompts", "PROMPT", "--wanted", "PROMPT"),
            "does not use --wanted",
        ),
        (("directly-reused", "--source", "micro-roberta", "--target", "micro-roberta-large"), "takes 144"),
        (("token-mapping", "--source", "micro-bert", "--target", "micro-roberta"), "one vocabulary"),
        (("prompt-mapping", "--target", "micro-roberta", "--wanted", "PROMPT"), "0 prompts and 1 after --wanted"),
        (
            ("prompt-mapping", "--target", "micro-roberta", "--prompts", "PROMPT", "--wanted", "PROMPT"),
            "the prompt for task 'micro/sst2' belongs to 'micro-bert'",
        ),
        (
            ("task-tuning", "--target", "micro-roberta", "--prompts", "PROMPT", "PROMPT"),
            "sst2.safetensors' is given twice",
        ),
        (
            ("prompt-mapping", "--target", "micro-roberta", "--prompts", "PROMPT", "--wanted", "PROMPT", "PROMPT"),
            "sst2.safetensors' is given twice",
        ),
        (
            ("prompt-mapping", "--target", "micro-robert", "--prompts", "PROMPT", "--wanted", "PROMPT"),
            "'micro-robert'",
        ),
        (("task-tuning", "--target", "micro-roberta"), "there is no prompt of the source model"),
    ],
)
def test_an_impossible_fit_is_one_sentence(arguments, sentence, tuned, tmp_path, refused):
    arguments = [tuned if word == "PROMPT" else word for word in arguments]
    assert sentence in refused("project", "fit", *arguments, "--out", tmp_path / "fitted.safetensors")
    assert not list(tmp_path.iterdir())


# ---- data types and devices


def test_prompts_are_trained_in_the_requested_data_type(command, tuned, tmp_path):
    "bfloat16 keeps about three digits, so the prompt is close to the one trained in float32, but different."
    answer = command(*tune("micro/sst2", tmp_path / "half.safetensors"), "--dtype", "bfloat16", "--device", "cpu")
    assert (answer["device"], answer["dtype"]) == ("cpu", "bfloat16")
    half, whole = (SoftPrompt.load(path).values for path in (answer["prompt"], tuned))
    assert half.dtype == torch.float32 and not torch.equal(half, whole)
    assert torch.nn.functional.cosine_similarity(half, whole).min() > 0.5


COMPUTING = {
    "tune": "tune micro/sst2 --backbone micro-bert --length 5 --steps 2 --max-train 50 --out OUT",
    "evaluate": "evaluate PROMPT micro/sst2",
    "predict": "predict PROMPT --file TEXTS --out OUT",
    "transfer": "transfer PROMPT --tasks micro/sst2",
    "similarity": "similarity PROMPT --metric neuron_overlap",
    "neurons": "neurons PROMPT",
    "mask": "mask PROMPT micro/sst2 --draws 1",
    "task tuning": "project fit task-tuning --prompts PROMPT --target micro-roberta --out OUT --steps 2",
    "prompt mapping": "project fit prompt-mapping --prompts A --wanted B --target micro-bert --out OUT --steps 2",
    "linear map": "project fit linear-map --source micro-roberta --target micro-roberta-large --out OUT",
    "carry": "project carry PROMPT --projector PROJECTOR --out OUT",
    "study": "study run STUDY --out OUT --workers 1",
}


@pytest.fixture
def computing(tuned, projector, prompt, tmp_path):
    "The words of a command that computes, with files of this test."
    (tmp_path / "study.yaml").write_text(STUDY.replace(", micro/mrpc", "").replace("steps: 10", "steps: 2"))
    files = {"PROMPT": tuned, "A": prompt("a", "micro-roberta"), "B": prompt("b"), "PROJECTOR": projector}
    (tmp_path / "texts.csv").write_text("text\nthe film was dull\n")
    files |= {"STUDY": tmp_path / "study.yaml", "OUT": tmp_path / "out", "TEXTS": tmp_path / "texts.csv"}
    return lambda name: [files.get(word, word) for word in COMPUTING[name].split()]


@pytest.mark.parametrize("name", COMPUTING)
def test_every_command_uses_and_reports_the_requested_device_and_data_type(name, computing, command, tmp_path):
    told = command(*computing(name), "--dtype", "float64", "--device", "cpu")
    assert told["dtype"] == "float64"
    if name == "study":
        found = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("cells/*/*/provenance.json")]
        assert {(cell["dtype"], cell["device"]) for cell in found} == {("float64", "cpu"), (None, None)}
        assert "\ndtype: float64\n" in (tmp_path / "out" / "study.yaml").read_text()
    else:
        assert told["device"] == "cpu" and command(*computing(name))["dtype"] == "float32"


@pytest.mark.parametrize("name", COMPUTING)
@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (("--dtype", "int8"), r"'int8'.*float32, bfloat16, float16, float64"),
        (("--device", "gpu"), "device 'gpu' is not available"),
    ],
)
def test_unavailable_data_types_and_devices_are_rejected(name, mistake, sentence, computing, refused, tmp_path):
    assert re.search(sentence, refused(*computing(name), *mistake))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_gguf_file_needs_the_package_gguf(place, refused, tmp_path, monkeypatch):
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    name = (tmp_path / "tiny.gguf",) if place == "file" else ("tiny", "--models", tmp_path)
    assert "prompt_transferability[gguf]" in refused(
        "tune", "micro/sst2", "--out", tmp_path / "out", "--backbone", *name
    )


# ---- names from files, and paths


def prompt_file(path, **header):
    "A prompt's file with a header that `SoftPrompt` would not write."
    names = {"format": "prompt_transferability/1", "backbone": "micro-bert", "task": "micro/sst2", "layout": "paper"}
    save_file({"soft_prompt": torch.ones(3, 128)}, path, metadata=names | header)
    return str(path)


@pytest.mark.parametrize(
    "name", ["/etc", "../elsewhere", "./here", "~/models/x", "a/../b", "a/b/c", "..", ".hidden", "a\\b", ""]
)
def test_a_prompt_cannot_choose_the_folder_that_is_opened(tmp_path, capsys, name):
    assert main(["evaluate", prompt_file(tmp_path / "p", backbone=name), "micro/sst2"]) == 2
    said = capsys.readouterr().err
    assert "the prompt names" in said and "give it with --backbone" in said and said.count("\n") == 1


def test_a_prompt_does_not_use_a_folder_that_happens_to_have_its_models_name(tmp_path, capsys, monkeypatch):
    shutil.copytree(model_folder("micro-bert"), tmp_path / "models" / "mine")
    monkeypatch.chdir(tmp_path / "models")
    line = ["evaluate", prompt_file(tmp_path / "p", backbone="mine"), "micro/sst2", "--json"]
    assert main(line) == 2
    assert "a folder or file of that name here may be another model" in (said := capsys.readouterr().err)
    assert "add --backbone mine to use it" in said and said.count("\n") == 1
    for words in (["--backbone", "mine"], ["--models", "."]):
        assert main([*line, *words]) == 0 and json.loads(capsys.readouterr().out)["n"] == 500


@pytest.mark.parametrize("task", ["x\naccuracy: 1.0000", "\x1b[2J\x1b[H", "x\r", "\u202eabc", "\x9b2J"])
def test_names_in_files_cannot_forge_a_line_in_the_terminal(tmp_path, capsys, task):
    assert main(["evaluate", prompt_file(tmp_path / "p", task=task), "micro/sst2"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.strip().isprintable()


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", "a\rb"])
def test_control_characters_in_file_names_are_escaped(tmp_path, capsys, name):
    files = [prompt_file(tmp_path / f"{name}{i}.safetensors") for i in range(2)]
    assert main(["evaluate", files[0], "micro/sst2", "--device", "cpu"]) == 0
    assert "\x1b" not in (out := capsys.readouterr().out) and "\r" not in out and out.count("\n") < 14
    assert main(["similarity", *files, "--metric", "cosine_average"]) == 0
    assert "\x1b" not in (out := capsys.readouterr().out) and "\r" not in out


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("--out=/secret/place/x.json", "--out=x.json"),
        ("/secret/place/x.json", "x.json"),
        ("--out=~/place/x.json", "--out=x.json"),
        ("--out=x.json", "--out=x.json"),
        ("--models=/secret/models/", "--models=models"),
        ("--steps=3", "--steps=3"),
        ("micro/sst2", "micro/sst2"),
        ("-", "-"),
        ("a=/secret", "a=/secret"),
    ],
)
def test_absolute_paths_are_not_recorded(given, kept):
    assert recorded_command(["prompt-transfer", given]) == f"prompt-transfer {kept}"


def test_out_may_be_a_link_or_a_pipe_but_not_a_circular_link(tmp_path, capsys):
    prompts = [prompt_file(tmp_path / f"{i}.safetensors") for i in range(2)]
    command = ["similarity", *prompts, "--metric", "cosine_average", "--out"]
    (tmp_path / "link").symlink_to(tmp_path / "table.csv")
    assert main([*command, str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "table.csv").read_text().count("\n") == 3
    assert main([*command, "/dev/null"]) == 0 and Path("/dev/null").is_char_device()
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "prompt").symlink_to(prompts[0])
    for wrong in (tmp_path / "a" / "x", tmp_path, tmp_path / "prompt", tmp_path / "table.csv" / "x"):
        capsys.readouterr()
        assert main([*command, str(wrong)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["evaluate", str(tmp_path / "a"), "micro/sst2"]) == 2


def test_a_prompt_called_random_gets_advice_that_can_be_followed(tmp_path, capsys):
    assert main(["transfer", prompt_file(tmp_path / "random.safetensors"), "--tasks", "micro/sst2"]) == 2
    said = capsys.readouterr().err
    assert "rename its file" in said and "random_seeds" not in said


@pytest.mark.parametrize("command", [["--version"], ["tune", "--help"]])
def test_the_module_is_the_command(command):
    done = subprocess.run([sys.executable, "-m", "prompt_transferability", *command], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("prompt-transfer 0." if command == ["--version"] else "usage: prompt-transfer tune")


@pytest.mark.parametrize(
    "words",
    [
        ["--seed", str(2**64)],
        ["--seed", "-1"],
        ["--length", str(10**12)],
        ["--length", "0"],
        ["--dtype", "float8_e4m3fn"],
        ["--max-length", "0"],
        ["--learning-rate", "nan"],
        ["--device", "gpu"],
    ],
)
def test_invalid_settings_are_one_sentence(tmp_path, capsys, words):
    assert main(["tune", "micro/sst2", "--backbone", "micro-bert", "--out", str(tmp_path / "p"), *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_the_command_starts_without_the_code_of_models():
    "Importing it takes three seconds, and neither `--help` nor a misspelled word needs it."
    script = "import sys, prompt_transferability.cli; sys.exit('transformers.modeling_utils' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
