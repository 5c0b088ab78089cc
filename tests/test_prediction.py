"Labels for texts that have none: from Python and on the command line, in every format, and what may be wrong."

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from datasets import Dataset
from safetensors import safe_open
from safetensors.torch import save_file

from prompt_transferability import cli, prediction
from prompt_transferability.backbones import Backbone
from prompt_transferability.cli import main
from prompt_transferability.prediction import predict, predicted_rows, save_predictions
from prompt_transferability.prompts import PromptError, SoftPrompt, task_entries
from prompt_transferability.tasks import (
    ALL_TASKS,
    DataError,
    Task,
    UnknownNameError,
    load_task,
    read_text_lines,
    read_texts,
)

COMMAND = Path(sys.executable).with_name("prompt-transfer")
SST2, SNLI = ALL_TASKS["micro/sst2"], ALL_TASKS["micro/snli"]
TEXTS = ["the film was charming", "the plot was boring", 'a "dull", silly film', "the music was gripping ünd 漢"]


@pytest.fixture(scope="module")
def backbone():
    return Backbone.from_pretrained("micro-bert", device="cpu")


def drawn(task=SST2, **metadata):
    values = torch.randn(6, 128, generator=torch.Generator().manual_seed(0))
    return SoftPrompt(values, "micro-bert", task.name, metadata=task_entries(task) | metadata)


@pytest.fixture
def prompt(tmp_path):
    "The file of a prompt that declares its task."
    return str(drawn().save(tmp_path / "prompt.safetensors"))


def write(path, rows):
    "Rows in the format that the ending names."
    ending = path.name.removesuffix(".gz").rpartition(".")[2]
    if ending == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        how = (
            {"sep": ",", "quoting": csv.QUOTE_MINIMAL} if ending == "csv" else {"sep": "\t", "quoting": csv.QUOTE_NONE}
        )
        text = pd.DataFrame(rows).to_csv(index=False, **how)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture
def lines(capsys):
    "Run a command that succeeds; the JSON objects that it prints."

    def run(*words):
        code = main(["predict", *map(str, words), "--json"])
        out, err = capsys.readouterr()
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]

    return run


@pytest.fixture
def refused(capsys):
    "Run a command that is a mistake; the sentence it ends with."

    def run(*words):
        code = main(["predict", *map(str, words), "--json"])
        out, err = capsys.readouterr()
        assert code == 2 and err.startswith("prompt-transfer: ") and err.count("\n") == 1 and "Traceback" not in err
        return err

    return run


@pytest.fixture
def stdin(monkeypatch):
    "Let these bytes stand on standard input."
    return lambda content: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


# ---- from Python


def test_probabilities_are_the_softmax_of_the_label_logits(backbone):
    prompt = drawn()
    logits = backbone.label_logits(prompt.values, [{"text_a": text} for text in TEXTS], SST2)
    found = predict(backbone, prompt, TEXTS)
    assert [*found] == ["text_a", "prediction", "p_negative", "p_positive"] and [*found["text_a"]] == TEXTS
    shares = torch.tensor(found[["p_negative", "p_positive"]].to_numpy()).float()
    assert torch.allclose(shares, logits.softmax(-1), atol=1e-6)
    assert [*found["prediction"]] == [SST2.labels[i] for i in logits.argmax(-1)]


def test_pairs_and_labels_of_several_words(backbone):
    task = Task("own", "NLI", ("holds", "fails"), (("yes", "true"), "no"))
    found = predict(backbone, drawn(), [("the man sold it", "he sold it"), ("a", "b")], task)
    assert [*found] == ["text_a", "text_b", "prediction", "p_holds", "p_fails"]
    rows = [{"text_a": "a", "text_b": "b"}]
    shares = backbone.label_logits(drawn().values, rows, task).softmax(-1)[0]
    assert found["p_holds"][1] == pytest.approx(shares[0].item())
    assert predict(backbone, drawn(SNLI), rows)["prediction"][0] in SNLI.labels


def test_a_prompt_says_how_it_is_read_and_a_task_may_be_given(backbone):
    assert [*predict(backbone, drawn(), TEXTS, SNLI)][-3:] == [f"p_{label}" for label in SNLI.labels]
    with pytest.raises(PromptError, match="does not specify the labels of its task 'random'"):
        predict(backbone, SoftPrompt(torch.ones(2, 128), "micro-bert", "random"), TEXTS)


def test_a_prompt_of_another_model_is_used_with_a_warning(backbone):
    with pytest.warns(UserWarning, match="was trained for a model other than"):
        predict(backbone, drawn(backbone_fingerprint="0123"), TEXTS)


def test_no_more_rows_are_read_than_are_answered(backbone, monkeypatch):
    monkeypatch.setattr(prediction, "CHUNK", 10)
    read = []

    def endless():
        while True:
            read.append(len(read))
            yield {"text_a": f"the film was dull {len(read)}"}

    answers = predicted_rows(backbone, drawn(), endless())
    found = [next(answers) for _ in range(25)]
    assert len(read) == 30
    together = predict(backbone, drawn(), [row["text_a"] for row in found])
    assert [row["probabilities"]["positive"] for row in found] == pytest.approx([*together["p_positive"]], abs=1e-6)


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ("reviews.csv", "texts is 'reviews.csv'; give a list"),
        (Path("reviews.csv"), r"read_texts\(path\) for those of a file"),
        ([], "texts has no texts"),
        (None, "texts is 'None'; give a list"),
        (pd.DataFrame({"review": ["a"]}), "there is no column 'text_a' or 'text'; the columns are review"),
        (pd.DataFrame({"text": ["a", None]}), "texts, row 2: text_a must be a text, not None"),
        (["a", ""], "texts, row 2: text_a must be a text, not ''"),
        ([5], "texts, row 1: expected a text, two in a tuple, or a dict; got 5"),
        ([("a", "b", "c")], "texts, row 1: expected a text, two in a tuple"),
        ([("a", "b"), "c"], "texts, row 2: text_b is blank, but row 1 has one"),
        (["x \ud800"], "half of a character"),
        ([{"words": "a"}], "there is no column 'text_a' or 'text'; the columns are words"),
        ([{"text": "a", "prediction": "b"}], "already have a column 'prediction'"),
        ([{"text": "a", "probabilities": "b"}], "already have a column 'probabilities'"),
        ([{"text": "a", "p_negative": "b"}], "already have a column 'p_negative'"),
    ],
)
def test_what_is_no_text_is_one_sentence(backbone, texts, sentence):
    with pytest.raises(DataError, match=sentence) as error:
        predict(backbone, drawn(), texts)
    assert "\n" not in str(error.value)


def test_a_table_is_read_by_its_rows_not_by_its_columns(backbone):
    expected = predict(backbone, drawn(), TEXTS)
    frame = pd.DataFrame({"id": range(len(TEXTS)), "text": TEXTS})
    for table in (frame, Dataset.from_pandas(frame)):
        found = predict(backbone, drawn(), table)
        assert found["id"].tolist() == [0, 1, 2, 3]
        pd.testing.assert_frame_equal(found.drop(columns="id"), expected)


def test_the_task_may_be_named(backbone):
    expected = predict(backbone, drawn(), TEXTS, ALL_TASKS["micro/restaurant"])
    pd.testing.assert_frame_equal(predict(backbone, drawn(), TEXTS, "micro/restaurant"), expected)
    with pytest.raises(UnknownNameError, match="unknown task 'restaurent'"):
        predict(backbone, drawn(), TEXTS, "restaurent")


# ---- the task of a prompt


def test_what_tune_writes_is_all_that_predict_needs(lines, tmp_path):
    own = tmp_path / "guestbook"
    own.mkdir()
    (own / "task.yaml").write_text("{task_type: SA, label_words: {leaves: negative, returns: positive}}")
    rows = [
        {"text_a": f"the soup was {word} {i}", "label": label}
        for i in range(20)
        for word, label in (("good", "returns"), ("bad", "leaves"))
    ]
    write(own / "train.csv", rows)
    out = tmp_path / "p.safetensors"
    words = ["tune", str(own), "--backbone", "micro-bert", "--length", "3", "--steps", "2", "--eval-every", "2"]
    assert main([*words, "--out", str(out), "--json"]) == 0
    for path in own.iterdir():
        path.unlink()
    (tuned, *answers) = lines(out, "--text", "the soup was good")
    assert "prompt" in tuned and answers[0]["probabilities"].keys() == {"leaves", "returns"}


def without(path, *entries, **header):
    "A prompt's file as a version before would have written it."
    with safe_open(path, framework="pt") as file:
        kept = {name: value for name, value in file.metadata().items() if name not in entries}
        save_file({"soft_prompt": file.get_tensor("soft_prompt")}, path, metadata=kept | header)
    return path


def test_older_files_are_read_where_their_task_is_known_or_named(lines, refused, prompt, tmp_path):
    labels = {"negative", "positive"}
    older = without(prompt, "labels", "task_type")
    assert lines(older, "--text", "a")[0]["probabilities"].keys() == labels
    oldest = without(older, "label_words")
    assert lines(oldest, "--text", "a")[0]["probabilities"].keys() == labels
    own = without(oldest, task="guestbook")
    assert "does not specify the labels of its task 'guestbook'; name the task" in refused(own, "--text", "a")
    assert lines(own, "--text", "a", "--task", "micro/sst2")[0]["probabilities"].keys() == labels
    (tmp_path / "task.yaml").write_text("{task_type: SA, label_words: {bad: negative, good: positive}}")
    assert lines(own, "--text", "a", "--task", tmp_path)[0]["probabilities"].keys() == {"bad", "good"}
    assert "did you mean 'micro/sst2'" in refused(own, "--text", "a", "--task", "micro/sst")


# ---- files and streams


@pytest.mark.parametrize("column", ["text", "text_a"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.csv.gz", "a.tsv.gz", "a.jsonl.gz", "A.CSV"])
def test_every_format_is_read_and_keeps_its_columns(lines, prompt, backbone, tmp_path, name, column):
    rows = [{"id": str(i), column: text, "label": "?"} for i, text in enumerate(TEXTS)]
    found = lines(prompt, "--file", write(tmp_path / name.lower(), rows).rename(tmp_path / name))
    given = [(row["id"], row[column], "?") for row in rows]
    assert [(row["id"], row["text_a"], row["label"]) for row in found] == given
    expected = predict(backbone, drawn(), TEXTS)
    assert [row["prediction"] for row in found] == [*expected["prediction"]]
    assert [row["probabilities"]["positive"] for row in found] == pytest.approx([*expected["p_positive"]], abs=1e-6)


def test_a_table_is_what_python_gives(lines, prompt, backbone, tmp_path):
    rows = [{"id": i, "text": text, "text_b": "and more", "more": {"a": [1]}} for i, text in enumerate(TEXTS)]
    file, out = write(tmp_path / "a.jsonl", rows), tmp_path / "new" / "out.csv"
    (answer,) = lines(prompt, "--file", file, "--out", out)
    table, expected = pd.read_csv(out), predict(backbone, drawn(), read_texts(file))
    assert [*table] == [*expected] == ["id", "text_a", "text_b", "more", "prediction", "p_negative", "p_positive"]
    assert table[["id", "text_a", "prediction"]].equals(expected[["id", "text_a", "prediction"]])
    assert table["p_positive"].round(9).equals(expected["p_positive"].round(9)) and table["more"][0] == '{"a": [1]}'
    assert answer["rows"] == 4 and sum(answer["predicted"].values()) == 4
    assert answer["predicted"] == {label: int((table["prediction"] == label).sum()) for label in SST2.labels}
    assert (answer["task"], answer["backbone"], answer["out"]) == ("micro/sst2", "micro-bert", str(out))


def test_standard_input_is_a_text_a_line_or_json_lines(lines, prompt, stdin):
    stdin("\n".join(TEXTS).encode() + b"\n\n")
    plain = lines(prompt)
    assert [row["text_a"] for row in plain] == TEXTS
    stdin(b"\xef\xbb\xbf" + "".join(json.dumps({"text": text}) + "\r\n" for text in TEXTS).encode())
    assert lines(prompt) == plain
    stdin("\r\n".join(TEXTS).encode())
    assert lines(prompt) == plain


def test_a_text_and_a_pair(lines, prompt, capsys):
    (single,) = lines(prompt, "--text", TEXTS[0])
    assert single["text_a"] == TEXTS[0] and "text_b" not in single
    assert single["probabilities"][single["prediction"]] == max(single["probabilities"].values())
    (pair,) = lines(prompt, "--text", TEXTS[0], "--text-b", TEXTS[1])
    assert pair["text_b"] == TEXTS[1] and pair["probabilities"] != single["probabilities"]
    assert main(["predict", prompt, "--text", "a\tb\x1b[2J " + "long " * 40]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1 and shown.strip().isprintable() and shown.startswith(("negative 0.", "positive 0."))
    assert len(shown) < 130


BAD = {
    "a.csv": [
        ("", "a.csv has no texts; give at least one"),
        ("text\n", "a.csv has no texts"),
        ("words\nx\n", "line 2: there is no column 'text_a' or 'text'; the columns are words"),
        ("text,id\nx,1\n,2\n", "line 3: text_a must be a text, not ''"),
        ("text,text_b\nx,y\nx,\n", "line 3: text_b is blank, but line 2 has one"),
        ("text,text_b\nx,\nx,y\n", "line 2: text_b is blank, but line 3 has one"),
        ("text,id\nx\n", "line 2: 1 fields, but the header has 2"),
        ('text,id\n"x,1\n', "check for a quote that is never closed"),
        ("text,text\nx,y\n", "line 1: the header names the column 'text' twice"),
        ("text,prediction\nx,y\n", "already have a column 'prediction'"),
        ("version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
    "a.jsonl": [
        ("", "a.jsonl has no texts"),
        ('{"text": "x"}\n{"text"', "line 2: this is not JSON"),
        ('{"text": 3}', "line 1: text_a must be a text, not 3"),
        ('{"text": "\\ud800"}', "line 1: a text contains '\\ud800', half of a character"),
        ("[1]", "expected one JSON object per line"),
    ],
    "a.xlsx": [("x", "its name must end in .csv, .tsv, .jsonl, .csv.gz, .tsv.gz, .jsonl.gz")],
    "a.csv.gz": [("text\nx\n", "is not a complete gzip file")],
}


@pytest.mark.parametrize(("name", "content", "sentence"), [(n, *case) for n, cases in BAD.items() for case in cases])
def test_files_that_cannot_be_read_are_one_sentence(refused, prompt, tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content)
    assert sentence in refused(prompt, "--file", tmp_path / name)
    assert sentence in refused(prompt, "--file", tmp_path / name, "--out", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists() and not [*tmp_path.glob("*.part")]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "standard input has no texts"),
        (b"\n \n", "standard input has no texts"),
        (b"a\n\nb\n", "standard input, line 2: the line is blank; give a text on every line"),
        (b'{"text": "a"}\nb\n', "standard input, line 2: this is not JSON"),
        (b'{"text": "a"', "standard input, line 1: this is not JSON"),
        ("café".encode("latin-1"), "standard input is not UTF-8 text"),
        (b"a\n\xff\n", "standard input is not UTF-8 text"),
    ],
)
def test_streams_that_cannot_be_read_are_one_sentence(refused, prompt, stdin, content, sentence):
    stdin(content)
    assert sentence in refused(prompt)


def test_mistakes_of_a_command_line(refused, prompt, tmp_path, stdin, monkeypatch, capsys):
    stdin(b"a\n")
    assert "give the first with --text" in refused(prompt, "--text-b", "b")
    assert "--text, text 1: text_a must be a text" in refused(prompt, "--text", " ")
    assert "there is no file" in refused(prompt, "--file", tmp_path / "none.csv")
    assert "half of a character" in refused(prompt, "--text", os.fsdecode(b"caf\xe9"))
    assert "another file of this command" in refused(prompt, "--text", "a", "--out", prompt)
    file = write(tmp_path / "a.csv", [{"text": "a"}])
    assert "another file of this command" in refused(prompt, "--file", file, "--out", file)
    with pytest.raises(SystemExit):
        main(["predict", prompt, "--text", "a", "--file", str(file)])
    assert "not allowed with" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert "there is no text; give one with --text" in refused(prompt)


def test_what_is_wrong_is_known_before_the_model_is_looked_for(refused, prompt, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "_backbone", lambda *_: pytest.fail("the model was looked for"))
    assert "there is no file" in refused(prompt, "--file", tmp_path / "none.csv")
    (tmp_path / "a.csv").write_text("words\nx\n")
    assert "no column" in refused(prompt, "--file", tmp_path / "a.csv")
    assert "is a folder" in refused(prompt, "--text", "a", "--out", tmp_path)


def test_a_mistake_far_down_leaves_no_file_and_what_was_there_before(refused, prompt, tmp_path):
    rows = [{"text": "a"}] * 1500 + [{"text": ""}]
    file, out = write(tmp_path / "a.jsonl", rows), tmp_path / "out.csv"
    out.write_text("before")
    assert "line 1501: text_a must be a text" in refused(prompt, "--file", file, "--out", out)
    assert out.read_text() == "before" and not [*tmp_path.glob("*.part")]


def test_rows_of_different_columns_make_no_table(lines, refused, prompt, tmp_path):
    file = write(tmp_path / "a.jsonl", [{"text": "a", "id": 1}, {"text": "b"}])
    assert len(lines(prompt, "--file", file)) == 2
    assert "row 2 or the first row has no column 'id'" in refused(prompt, "--file", file, "--out", tmp_path / "out.csv")


def test_half_a_character_in_another_column_is_no_mistake(lines, prompt, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "id": "\\ud800"}')
    lines(prompt, "--file", tmp_path / "a.jsonl", "--out", tmp_path / "out.csv")
    assert "\\ud800" in (tmp_path / "out.csv").read_text()


def test_a_prompt_of_another_model_is_named_once(prompt, capsys):
    noted = SoftPrompt.load(prompt)
    noted.metadata["backbone_fingerprint"] = "0123"
    assert main(["predict", str(noted.save(prompt)), "--text", "a", "--json"]) == 0
    assert capsys.readouterr().err.count("was trained for a model other than") == 1


def test_a_reader_that_goes_ends_the_work(prompt):
    started = subprocess.Popen(
        [COMMAND, "predict", prompt], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    started.stdin.write(b"the film was dull\n" * 5000)
    assert started.stdout.readline().startswith((b"negative", b"positive"))
    started.stdout.close()
    assert started.stderr.read() == b"" and started.wait(60) == 141
    started.stdin.close()


def test_answers_come_while_more_is_asked(prompt):
    "A thousand rows are answered although the stream has not ended."
    started = subprocess.Popen([COMMAND, "predict", prompt, "--json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    started.stdin.write(b"the film was dull\n" * 1500)
    started.stdin.flush()
    assert [json.loads(started.stdout.readline())["text_a"] for _ in range(1000)] == ["the film was dull"] * 1000
    started.stdin.close()
    assert len(started.stdout.read().splitlines()) == 500 and started.wait(60) == 0


def test_only_a_line_of_a_stream_has_to_fit_into_memory(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPT_TRANSFERABILITY_MAX_BYTES", "1000")
    rows = [{"text": "x" * 100, "id": str(i)} for i in range(1000)]
    for name in ("a.csv", "a.jsonl", "a.tsv.gz"):
        assert sum(1 for _ in read_texts(write(tmp_path / name, rows))) == 1000
    assert sum(1 for _ in read_text_lines(io.BytesIO(b"a text\n" * 100_000))) == 100_000
    for name, content in {"b.jsonl": '{"text": "%s"}', "b.csv": 'text\n"%s"', "c.csv": 'text\nx\n"%s"'}.items():
        (tmp_path / name).write_text(content % ("word\n" * 300 if name == "c.csv" else "word " * 300))
        with pytest.raises(DataError, match="a line of more than 1,000 bytes|field larger than field limit"):
            [*read_texts(tmp_path / name)]
    with pytest.raises(DataError, match="'standard input' contains a line of more than 1,000 bytes"):
        [*read_text_lines(io.BytesIO(b"a\n" + b"x" * 2000))]


def test_predictions_of_a_split_are_those_of_an_evaluation(backbone):
    data = load_task("micro/sst2", splits=["dev"])
    texts = backbone.encode(data.dev)
    found = [row["prediction"] for row in predicted_rows(backbone, drawn(), data.dev)]
    assert found == [SST2.labels[i] for i in backbone.predict(drawn().values, texts, SST2)]


def test_an_empty_table_of_predictions_is_a_file(tmp_path):
    assert save_predictions([], tmp_path / "out.csv").total() == 0
