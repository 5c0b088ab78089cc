"""Tasks: malformed input, the held-out dev split, reading and writing of every format, and no network."""

import csv
import gzip
import json
import pickle
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from huggingface_hub import HfApi

from prompt_transferability import tasks
from prompt_transferability.tasks import (
    ALL_TASKS,
    OTHER_TASKS,
    PAPER_TASKS,
    DataError,
    HubSource,
    Task,
    TaskData,
    UnknownNameError,
    load_task,
    task_from_files,
    unify_label_words,
)

WORDS = {"bad": "negative", "good": "positive"}
ROWS = [
    {"text_a": f'Sentence {i}, with a comma and "quotes".', "text_b": f"part {i}", "label": ["bad", "good"][i % 2]}
    for i in range(40)
]


def write(path, rows):
    """Write rows in the format that the file's name asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        plain = write(path.with_suffix(""), rows)
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    elif path.suffix in (".csv", ".tsv"):
        with open(path, "w", newline="", encoding="utf-8") as file:
            if path.suffix == ".tsv":
                file.writelines(
                    "\t".join(map(str, row)) + "\n" for row in [rows[0].keys(), *(r.values() for r in rows)]
                )
                return path
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(path, **others):
    return task_from_files("reviews", "SA", WORDS, train=path, **others)


def restaurant(folder, sentences=60):
    """A local copy of the restaurant task, two rows a sentence, without a dev split."""
    rows = [
        {"text_a": f"The soup of table {i} was cold.", "text_b": aspect, "label": label}
        for i in range(sentences)
        for aspect, label in [("soup", "negative"), (f"table {i}", "neutral")]
    ]
    write(folder / "tasks" / "restaurant" / "train.jsonl.gz", rows)
    return folder


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch, request):
    """The folder of whoever runs the tests is used by the tests of real data only."""
    if "real_data" not in request.fixturenames:
        monkeypatch.delenv("PROMPT_TRANSFERABILITY_DATA", raising=False)


@pytest.fixture
def csv_limit():
    """The csv module's limit as Python starts with it."""
    before = csv.field_size_limit(131_072)
    yield 131_072
    csv.field_size_limit(before)


# Names and tasks


def test_unknown_name_shows_the_nearest_and_survives_pickling():
    error = UnknownNameError("task", "SST-2", PAPER_TASKS)
    assert "did you mean 'sst2'?" in str(error) and "ethics_justice" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(UnknownNameError("task", "zzz", ["a"])) == "unknown task 'zzz'. Known: a."
    known = ["best", "other types", "other types, as many"]
    assert str(UnknownNameError("start", "x", known)).endswith("Known: best, other types, 'other types, as many'.")


@pytest.mark.parametrize(
    "given, nearest",
    [
        ("ROBERTA-base", "roberta-base"),
        ("maker/robertabase", "roberta-base"),
        ("all-mini", "org/All-Mini"),
        ("x", None),
    ],
)
def test_the_nearest_name_is_found_in_any_case_and_without_its_owner(given, nearest):
    assert UnknownNameError("model", given, ["roberta-base", "org/All-Mini"]).nearest == nearest


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("t", "XX", ("a", "b"), ("x", "y")), "unknown task type 'XX'"),
        (("t", "SA", ("a",), ("x",)), "needs at least two labels"),
        (("t", "SA", ("a", "a"), ("x", "y")), "names a label twice"),
        (("t", "SA", ("a", "b"), ("x",)), "label without a word: b;"),
        (("t", "SA", ("a", "b"), ("x", "")), "label without a word: b;"),
        (("t", "SA", ("a", "b"), ("x", "y", "z")), "3 label words for 2 labels"),
        (("t", "SA", ("a", "b"), ("x", "x")), "one word to two labels"),
        (("t", "SA", ("a", "b"), {"a": "x", "b": "y"}), r"a word, or a list of words, for each label .* got {'a': 'x'"),
        (("t", "SA", ("a", "b"), ("x", None)), "a word, or a list of words, for each label"),
        (("t", "SA", ("a", "b"), (1, 2)), "a word, or a list of words, for each label"),
        (("t", "SA", ("a", "b"), "xy"), "a word, or a list of words, for each label"),
        (("t", "SA", (0, 1), ("x", "y")), r"must be texts, such as '1' for a 1; got \(0, 1\)"),
        (("t", "SA", "ab", ("x", "y")), "must be a list of texts; got 'ab'"),
    ],
)
def test_task_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Task(*arguments)


def test_task_is_hashable_and_can_get_other_words():
    assert len({*PAPER_TASKS.values()}) == 13
    assert replace(PAPER_TASKS["sst2"], label_words=["no", "yes"]).label_words == ("no", "yes")
    with pytest.raises(ValueError, match="label without a word: positive"):
        replace(PAPER_TASKS["sst2"], label_words=("no",))


def test_paper_tasks_are_those_of_table_8():
    words = {name: set(task.label_words) for name, task in PAPER_TASKS.items()}
    assert (
        list(words)
        == (
            "imdb sst2 laptop restaurant movie_rationales tweet_eval mnli qnli snli "
            "ethics_deontology ethics_justice qqp mrpc"
        ).split()
    )
    assert words["imdb"] == words["sst2"] == words["movie_rationales"] == {"positive", "negative"}
    assert words["laptop"] == words["restaurant"] == words["tweet_eval"] == {"positive", "moderate", "negative"}
    assert words["mnli"] == words["snli"] == {"yes", "neutral", "no"} and words["qnli"] == {"yes", "no"}
    assert words["ethics_deontology"] == words["ethics_justice"] == {"acceptable", "un"}
    assert words["qqp"] == words["mrpc"] == {"true", "false"}
    sides = {name: dict(zip(task.labels, task.label_words, strict=True)) for name, task in PAPER_TASKS.items()}
    assert sides["mnli"]["entailment"] == "yes" and sides["qnli"]["not_entailment"] == "no"
    assert sides["ethics_justice"]["unacceptable"] == "un" and sides["tweet_eval"]["neutral"] == "moderate"
    assert sides["qqp"]["duplicate"] == sides["mrpc"]["equivalent"] == "true"


def test_unified_words_are_numbers_by_position():
    unified = unify_label_words(["mnli", PAPER_TASKS["sst2"]])
    assert {name: task.label_words for name, task in unified.items()} == {"mnli": ("1", "2", "3"), "sst2": ("1", "2")}
    assert unified["mnli"].labels == PAPER_TASKS["mnli"].labels
    with pytest.raises(UnknownNameError, match="did you mean 'mnli'"):
        unify_label_words(["mnly"])


# Files of the user


@pytest.mark.parametrize(
    "name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.csv.gz", "rows.tsv.gz", "rows.jsonl.gz", "ROWS.CSV"]
)
def test_every_format_comes_back_whole(tmp_path, name):
    lower = write(tmp_path / name.lower(), ROWS)
    file = lower.rename(tmp_path / name)
    data = load(file, dev=file, test=file)
    labels = data.task.labels
    assert [dict(row, label=labels[row["label"]]) for row in data.dev] == ROWS
    assert data.dev[:] == data.test[:] == data.train[:]


def test_texts_are_kept_as_they_are(tmp_path, csv_limit):
    texts = ["NA", "null", '  two  spaces, "a quote" and\na line', "long " * 60_000, "naïve – 数"]
    for name in ("rows.csv", "rows.tsv", "rows.jsonl"):
        kept = texts if not name.endswith("tsv") else [text for text in texts if "\n" not in text]
        data = load(write(tmp_path / name, [{"text_a": text, "label": "good"} for text in kept]), dev=tmp_path / name)
        assert list(data.train["text_a"]) == kept and set(data.train["text_b"]) == {None}
    assert csv.field_size_limit() == csv_limit


def test_byte_order_mark_blank_lines_and_empty_second_text(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes(b"\xef\xbb\xbftext_a,text_b,label\r\nfine,,good\r\n\r\npoor, ,bad\r\nfair,  ,bad\r\n")
    assert load(file, dev=file).train[:]["text_b"] == [None, None, None]
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text_a": "fine", "label": "good"}\n\n{"text_a": "poor", "text_b": null, "label": "bad"}\n')
    assert load(file, dev=file).train[:]["text_b"] == [None, None]


def test_labels_may_be_numbers(tmp_path):
    rows = [{"text_a": f"text {i}", "label": i % 2} for i in range(10)]
    for name in ("rows.csv", "rows.jsonl"):
        file = write(tmp_path / name, rows)
        data = task_from_files("numbers", "SA", {0: "bad", 1: "good"}, train=file, dev=file)
        assert data.task.labels == ("0", "1") and list(data.train["label"]) == [0, 1] * 5


def test_the_column_of_texts_may_be_called_text(tmp_path):
    rows = [{"text": f"text {i}", "label": ("bad", "good")[i % 2]} for i in range(10)]
    named = [{"text_a": row["text"], "label": row["label"]} for row in rows]
    words = {"bad": "negative", "good": "positive"}
    one, other = (
        task_from_files("reviews", "SA", words, train=write(tmp_path / name, of), dev=tmp_path / name).train
        for name, of in (("a.csv", rows), ("b.csv", named))
    )
    assert one.to_dict() == other.to_dict() and one["text_a"][0] == "text 0"


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "a.csv",
            "text_a,lable\nx,good\n",
            r"a\.csv, line 2: there is no column 'label'; the columns are text_a, lable",
        ),
        (
            "a.jsonl",
            '{"review": "x", "label": "good"}',
            r"a\.jsonl, line 1: there is no column 'text_a' or 'text'; the columns are re",
        ),
        ("a.csv", 'text_a,label\nx,good\n"two\nlines",bad\ny,god\n', r"a\.csv, line 5: unknown label 'god'; did you m"),
        (
            "a.jsonl",
            '{"text_a": "x", "label": "good"}\n\n{"text_a": "x", "label": "ugly"}',
            "line 3: unknown label 'ugly'",
        ),
        ("a.jsonl", '{"text_a": "x", "label": null}', "line 1: unknown label 'None'"),
        ("a.csv", "", r"a\.csv has no rows"),
        ("a.csv", "text_a,label\n", r"a\.csv has no rows"),
        ("a.jsonl", "\n\n", r"a\.jsonl has no rows"),
        ("a.csv", "text_a,label\nx,good\nx\n", "line 3: 1 fields, but the header has 2"),
        ("a.csv", "text_a,label\nx,y,good\n", "line 2: 3 fields, but the header has 2"),
        ("a.csv", 'text_a,label\n"open,good\nx,bad\n', r"line 2: .* check for a quote that is never closed"),
        ("a.csv", "text_a,label\n  ,good\n", "line 2: text_a must be a text, not '  '"),
        ("a.jsonl", '{"text_a": 3, "label": "good"}', "line 1: text_a must be a text, not 3"),
        ("a.jsonl", '{"text_a": "x", "text_b": ["y"], "label": "good"}', "line 1: text_b must be a text or absent"),
        ("a.jsonl", '{"text_a": "x", "label": "good"}\n{"text_a"', "line 2: this is not JSON"),
        ("a.jsonl", '["x", "good"]', "line 1: expected one JSON object per line"),
        (
            "a.jsonl",
            '{"text_a": "x", "label": "good"}\n{"text_a": "x \\ud800", "label": "good"}',
            r"a\.jsonl, line 2: a text contains '\\ud800', half of a character",
        ),
        ("a.jsonl", '{"text_a": ' + "[" * 100_000, r"a\.jsonl, line 1: this is nested too deeply"),
        ("a.csv", "text_a,label,label\nx,good,bad\n", r"a\.csv, line 1: the header names the column 'label' twice"),
        ("a.xlsx", "x", r"cannot read .*a\.xlsx: its name must end in \.csv, \.tsv, \.jsonl, \.csv\.gz, "),
        ("a.jsonl.gz", "not compressed", "not a complete gzip file"),
    ],
)
def test_malformed_files_are_named_with_their_place(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        load(file, dev=file)


def test_broken_bytes(tmp_path):
    whole = write(tmp_path / "rows.jsonl.gz", ROWS).read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(DataError, match="not a complete gzip file"):
        load(tmp_path / "cut.jsonl.gz")
    (tmp_path / "latin.csv").write_bytes("text_a,label\ncafé,good\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        load(tmp_path / "latin.csv")


def test_missing_file_and_bad_words(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.csv"):
        load(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="label without a word: good"):
        task_from_files("t", "SA", {"bad": "negative", "good": ""}, train=tmp_path / "none.csv")


# Rows in memory


FRAME = pd.DataFrame(
    {
        "text_a": [f"The lid of pot {i} {('leaks', 'fits')[i % 2]}." for i in range(12)],
        "label": ["bad", "good"] * 6,
        "stars": range(12),
    }
)
POT_WORDS = {"bad": "terrible", "good": ["great", "fine"]}


def in_memory():
    named = Dataset.from_pandas(FRAME).class_encode_column("label")
    yield from (
        FRAME,
        FRAME.rename(columns={"text_a": "text"}),
        FRAME.assign(text_b=np.nan),
        FRAME.iloc[::-1].iloc[::-1],
    )
    yield from (Dataset.from_pandas(FRAME), named, FRAME.to_dict("records"), iter(FRAME.to_dict("records")))


def test_rows_in_memory_are_those_of_the_file(tmp_path):
    FRAME.to_csv(tmp_path / "train.csv", index=False)
    expected = task_from_files("pots", "SA", POT_WORDS, train=tmp_path / "train.csv")
    for rows in in_memory():
        found = task_from_files("pots", "SA", POT_WORDS, train=rows)
        assert [found.fingerprint(split) for split in found.splits()] == [
            expected.fingerprint(split) for split in expected.splits()
        ]


def test_labels_of_a_dataset_have_the_order_of_the_task_not_that_of_its_numbers():
    named = Dataset.from_pandas(FRAME).class_encode_column("label")
    assert named.features["label"].names == ["bad", "good"]
    data = task_from_files("pots", "SA", {"good": "great", "bad": "terrible"}, train=named, dev=named)
    assert [data.task.labels[label] for label in data.train["label"]] == FRAME["label"].tolist()


def test_a_file_to_train_on_may_call_its_text_column_text(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nIt fits.,good\nIt leaks.,bad\n")
    data = task_from_files("pots", "SA", POT_WORDS, train=tmp_path / "a.csv", dev=tmp_path / "a.csv")
    assert list(data.train["text_a"]) == ["It fits.", "It leaks."]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (FRAME.rename(columns={"label": "stars of it"}), "train of task 'pots', row 1: there is no column 'label'"),
        (FRAME.assign(label="ugly"), "train of task 'pots', row 1: unknown label 'ugly'"),
        (FRAME.assign(label=None), "row 1: unknown label 'None'"),
        (FRAME.assign(text_a=None), "row 1: text_a must be a text, not None"),
        (FRAME.assign(text_b=["x", None] * 6), "row 2: text_b is blank, but row 1 has one"),
        (FRAME.iloc[:0], "train of task 'pots' has no rows"),
        ([], "train of task 'pots' has no rows"),
        (["It fits."], "row 1: expected a dict; got 'It fits.'"),
        (
            FRAME.to_dict("list"),
            "train of task 'pots' is a dict; give a file, a pandas DataFrame, a Dataset, or a list",
        ),
        (DatasetDict(train=Dataset.from_pandas(FRAME)), "train of task 'pots' is a DatasetDict; give a file"),
        (5, "train of task 'pots' is a int; give a file"),
    ],
)
def test_unfit_rows_in_memory_are_named_with_their_place(rows, message):
    with pytest.raises(DataError, match=message) as error:
        task_from_files("pots", "SA", POT_WORDS, train=rows, dev=FRAME)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("words", [["terrible", "great"], "terrible", None])
def test_label_words_are_a_table(words):
    with pytest.raises(ValueError, match="give a table from each label to its word"):
        task_from_files("pots", "SA", words, train=FRAME)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (FRAME, "the dev split of task 'pots' is a DataFrame, not a Dataset; make it with task_from_files"),
        (Dataset.from_dict({"text_a": ["x"], "label": [0]}), "lacks the column text_b; it has text_a, label"),
        (
            Dataset.from_dict({"text_a": ["x"], "text_b": [None], "label": ["good"]}),
            "has the label 'good'; in a Dataset",
        ),
        (
            Dataset.from_dict({"text_a": ["x"] * 2, "text_b": [None] * 2, "label": [1, 2]}),
            "the label 2; .* from 0 to 1",
        ),
        (Dataset.from_dict({"text_a": ["x"] * 2, "text_b": [None] * 2, "label": [0, -1]}), "the label -1"),
        (
            Dataset.from_dict(
                {"text_a": ["x"], "text_b": [None], "label": [-1]},
                Features(text_a=Value("string"), text_b=Value("string"), label=ClassLabel(names=["bad", "good"])),
            ),
            "the label -1",  # as in GLUE's test splits
        ),
        (Dataset.from_dict({"text_a": ["x"], "text_b": [None], "label": [0.0]}), "has the label 0.0"),
    ],
)
def test_splits_whose_labels_are_not_the_tasks_are_rejected(rows, message):
    "They would only be noticed as an accuracy that is too low."
    with pytest.raises(DataError, match=message):
        TaskData(Task("pots", "SA", ("bad", "good"), ("terrible", "great")), dev=rows)


def test_the_name_of_a_folder_here_is_no_task_but_its_path_is(tmp_path, monkeypatch):
    (tmp_path / "pots").mkdir()
    (tmp_path / "pots" / "task.yaml").write_text("task_type: SA\nlabel_words: {bad: terrible, good: great}\n")
    FRAME.to_csv(tmp_path / "pots" / "train.csv", index=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no task is named 'pots'; for the folder of that name, write './pots'"):
        load_task("pots")
    assert load_task("./pots").task.name == "pots"


def test_a_task_without_any_rows_is_rejected():
    with pytest.raises(DataError, match="task 'pots' has no rows; give train, dev or test"):
        task_from_files("pots", "SA", {"bad": "terrible", "good": "great"})


@pytest.mark.parametrize("limit", [0, -1, 10.5, "10", True])
def test_limits_are_whole_numbers(limit):
    with pytest.raises(ValueError, match="max_train is .*; give a whole number of at least 1"):
        load_task("micro/sst2", max_train=limit)


# The held-out dev split


def test_held_out_dev_shares_no_sentence_with_train(tmp_path):
    data = load_task("restaurant", restaurant(tmp_path))
    train, dev = ({text.lower() for text in rows["text_a"]} for rows in (data.train, data.dev))
    assert not train & dev and len(train | dev) == 60
    assert data.dev.num_rows == 18 and data.train.num_rows == 102 and data.test is None
    assert data.overlaps().loc[("train", "dev"), "rows"] == 0


def test_case_and_spacing_do_not_part_a_sentence(tmp_path):
    rows = [{"text_a": text, "label": "good"} for i in range(30) for text in (f"Nice thing {i}.", f"nice  THING {i}. ")]
    data = load(write(tmp_path / "rows.jsonl", rows))
    assert data.overlaps()["rows"].tolist() == [0] and data.dev.num_rows == 8


def test_dev_is_the_same_whatever_the_seed_and_splits(tmp_path):
    restaurant(tmp_path)
    whole = load_task("restaurant", tmp_path)
    small = load_task("restaurant", tmp_path, max_train=10, seed=7)
    only_dev = load_task("restaurant", tmp_path, splits=["dev"])
    only_train = load_task("restaurant", tmp_path, splits=["train"])
    assert whole.dev[:] == small.dev[:] == only_dev.dev[:]
    assert only_dev.train is None and only_train.dev is None and only_train.train[:] == whole.train[:]


def test_max_train_draws_with_the_seed(tmp_path):
    restaurant(tmp_path)
    draws = {seed: load_task("restaurant", tmp_path, max_train=10, seed=seed).train[:] for seed in (0, 1)}
    assert draws[0] == load_task("restaurant", tmp_path, max_train=10, seed=0).train[:] != draws[1]
    assert len(draws[0]["text_a"]) == 10
    whole = load_task("restaurant", tmp_path).train
    assert load_task("restaurant", tmp_path, max_train=10_000).train[:] == whole[:]


def test_max_eval_draws_dev_and_test_rows_but_leaves_train(tmp_path):
    rows = [{"text_a": f"Sentence {i}.", "label": "neutral"} for i in range(30)]
    write(restaurant(tmp_path) / "tasks" / "restaurant" / "test.jsonl", rows)
    whole, small = load_task("restaurant", tmp_path), load_task("restaurant", tmp_path, max_eval=7)
    assert small.train[:] == whole.train[:]
    for split, n in (("dev", 18), ("test", 30)):
        chosen = sorted(np.random.default_rng(0).permutation(n)[:7])
        assert small.split(split)[:] == whole.split(split)[chosen]
    assert load_task("restaurant", tmp_path, max_eval=7, seed=1).dev[:] != small.dev[:]
    assert load_task("restaurant", tmp_path, max_eval=1_000).test[:] == whole.test[:]


def test_hold_out_has_a_limit_and_small_files_work(tmp_path):
    rows = [{"text_a": f"text {i}", "label": "good"} for i in range(12_000)]
    assert load(write(tmp_path / "many.jsonl", rows)).dev.num_rows == 1_500
    for sizes in [(1, 1), (1, 9), (9, 1), (5, 5)]:
        rows = [{"text_a": f"text {i}", "label": "good"} for i, size in enumerate(sizes) for _ in range(size)]
        data = load(write(tmp_path / "few.jsonl", rows))
        assert data.train.num_rows and data.dev.num_rows and data.overlaps()["rows"].tolist() == [0]
    with pytest.raises(DataError, match="cannot hold out a dev split"):
        load(write(tmp_path / "same.jsonl", [{"text_a": "same", "label": "good"}] * 5))


def test_a_dev_file_is_taken_as_it_is(tmp_path):
    data = load(write(tmp_path / "a.jsonl", ROWS[:30]), dev=write(tmp_path / "b.jsonl", ROWS[30:]))
    assert (data.train.num_rows, data.dev.num_rows) == (30, 10)


# What a TaskData says of itself


def test_counts_majority_overlaps(tmp_path):
    train = write(tmp_path / "train.jsonl", ROWS[:20])
    test = write(tmp_path / "test.jsonl", [dict(ROWS[0], text_a=ROWS[0]["text_a"].upper()), ROWS[1], ROWS[30]])
    data = load(train, dev=test, test=test)
    assert data.counts().loc["test"].to_dict() == {"bad": 2, "good": 1}
    assert data.majority("test") == pytest.approx(2 / 3)
    assert data.overlaps().to_dict("index") == {
        ("train", "dev"): {"rows": 2, "of": 3},
        ("train", "test"): {"rows": 2, "of": 3},
        ("dev", "test"): {"rows": 3, "of": 3},
    }
    assert repr(data) == "TaskData(reviews: train 20, dev 3, test 3)"
    assert "| train | 10 | 10 |" in data._repr_markdown_()


def test_absent_splits_are_said_to_be_absent(tmp_path):
    data = load_task("restaurant", restaurant(tmp_path))
    with pytest.raises(UnknownNameError, match="unknown split of restaurant 'test'.*train, dev"):
        data.majority("test")


def test_same_texts_with_another_second_text_do_not_overlap(tmp_path):
    train = write(tmp_path / "train.jsonl", ROWS[:10])
    dev = write(tmp_path / "dev.jsonl", [dict(ROWS[0], text_b="another part")])
    assert load(train, dev=dev).overlaps()["rows"].tolist() == [0]


# The local folder


def test_unknown_task_split_and_size(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'imdb'"):
        load_task("imbd", tmp_path)
    with pytest.raises(UnknownNameError, match="unknown split 'validation'"):
        load_task("restaurant", restaurant(tmp_path), splits=["validation"])
    with pytest.raises(ValueError, match="max_train is 0"):
        load_task("restaurant", tmp_path, max_train=0)
    with pytest.raises(ValueError, match="max_eval is 0"):
        load_task("restaurant", tmp_path, max_eval=0)


def test_folder_without_the_task_lists_what_it_has(tmp_path):
    with pytest.raises(FileNotFoundError, match="no rows of task 'imdb'.*tasks in '.*tasks': restaurant"):
        load_task("imdb", restaurant(tmp_path))
    with pytest.raises(FileNotFoundError, match="tasks in '.*tasks': none"):
        load_task("imdb", tmp_path / "nowhere")


def test_folder_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_TRANSFERABILITY_DATA", str(restaurant(tmp_path)))
    assert load_task("restaurant").train.num_rows == 102


def test_empty_split_is_refused_by_name(tmp_path):
    write(restaurant(tmp_path) / "tasks" / "restaurant" / "test.jsonl.gz", [])
    with pytest.raises(DataError, match=r"test\.jsonl\.gz has no rows"):
        load_task("restaurant", tmp_path, splits=["test"])


def test_test_split_alone(tmp_path):
    write(tmp_path / "tasks" / "imdb" / "test.jsonl", [{"text_a": "fine", "label": "positive"}])
    assert load_task("imdb", tmp_path, splits=["test"]).test.num_rows == 1
    with pytest.raises(FileNotFoundError, match="'imdb' has no train split, only test"):
        load_task("imdb", tmp_path)


def test_task_of_ones_own_from_a_folder(tmp_path):
    write(tmp_path / "tasks" / "mine" / "train.jsonl", ROWS)
    mine = Task("mine", "SA", ("bad", "good"), ("negative", "positive"))
    assert load_task(mine, tmp_path).train.num_rows == 34
    with pytest.raises(FileNotFoundError, match="'mine' has no source on the Hub"):
        load_task(mine)


# The Hub


@pytest.mark.parametrize("declared", [True, False])
def test_no_network_and_no_copy_fails_at_once(monkeypatch, tmp_path, declared):
    # A port where nothing listens stands for no network, so that the test is the same on a machine that has one.
    monkeypatch.setattr(tasks, "HfApi", lambda: HfApi(endpoint="http://127.0.0.1:9"))
    if declared:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match="stanfordnlp/imdb cannot be reached.*set PROMPT_TRANSFERABILITY_DATA"):
        load_task("imdb")
    assert time.monotonic() - start < 5


def test_declared_offline_still_asks_the_cache(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = []
    rows = Dataset.from_dict({"text": ["x"], "label": [1]})
    monkeypatch.setattr(tasks, "load_dataset", lambda *args, **options: asked.append(args) or rows)
    assert load_task("imdb", splits=["test"]).test.num_rows == 1 and asked == [("stanfordnlp/imdb",)]


def hub(monkeypatch, columns):
    """Let the Hub answer every question with these columns, and record what it was asked."""
    asked = []
    monkeypatch.setattr(tasks, "ask_hub", lambda name, repo_type: None)
    monkeypatch.setattr(
        tasks, "load_dataset", lambda *args, **options: asked.append((args, options)) or Dataset.from_dict(columns)
    )
    return asked


def test_hub_rows_get_our_columns_and_labels(monkeypatch):
    asked = hub(
        monkeypatch, {"premise": ["a", "b", "c", " "], "hypothesis": ["d", "e", "f", "g"], "label": [2, -1, 0, 1]}
    )
    data = load_task("snli", splits=["train", "dev"])
    assert data.train[:] == {"text_a": ["a", "c"], "text_b": ["d", "f"], "label": [2, 0]}
    assert [options["split"] for _, options in asked] == ["train", "validation"]


def test_hub_labels_by_name_leave_conflict_out(monkeypatch):
    hub(monkeypatch, {"text": ["x", "y", "z"], "span": ["a", "b", "c"], "label": ["positive", "conflict", "negative"]})
    data = load_task("laptop", splits=["test"])
    assert data.test[:]["label"] == [2, 0] and data.test[:]["text_b"] == ["a", "c"]


def test_hub_with_script_is_read_from_the_parquet_export(monkeypatch):
    asked = hub(monkeypatch, {"scenario": ["x", "y"], "excuse": ["a", "b"], "label": [1, 0]})
    assert load_task("ethics_deontology", splits=["test"]).test[:]["label"] == [0, 1]
    assert asked == [
        (
            ("EleutherAI/hendrycks_ethics",),
            {"split": "test", "data_files": {"test": "deontology/test/*.parquet"}, "revision": "refs/convert/parquet"},
        )
    ]


def test_hub_with_other_columns_or_labels(monkeypatch):
    hub(monkeypatch, {"text": ["x"], "sentiment": [1]})
    with pytest.raises(DataError, match="'train' of stanfordnlp/imdb has no column 'label'; the columns are text,"):
        load_task("imdb")
    hub(monkeypatch, {"text": ["x"], "label": [-1]})
    with pytest.raises(DataError, match="'train' of stanfordnlp/imdb has only the hidden label -1"):
        load_task("imdb")


def test_glue_tests_without_labels_are_never_the_test_split():
    sources = {name: task.hub for name, task in PAPER_TASKS.items()}
    assert {name: source.test for name, source in sources.items() if source.dataset == "nyu-mll/glue"} == {
        "mnli": None,
        "qnli": "validation",
        "qqp": None,
        "mrpc": "test",
    }
    for name, source in sources.items():
        assert isinstance(source, HubSource) and len({source.train, source.dev, source.test} - {None}) == sum(
            split is not None for split in (source.train, source.dev, source.test)
        )
        assert set(source.labels.values()) - {None} == set(PAPER_TASKS[name].labels)


# The real data, where it is


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_real_task_has_the_counted_rows(real_data, name):
    counted = json.loads((real_data / "tasks" / "counts.json").read_text())[name]
    start = time.process_time()
    data = load_task(name, real_data)
    assert time.process_time() - start < 5
    counts = data.counts()
    if "dev" not in counted:
        counts.loc["train"] += counts.loc["dev"]
        assert set(data.train["text_a"]).isdisjoint(data.dev["text_a"])
        counts = counts.drop("dev")
    assert {split: row.to_dict() for split, row in counts.iterrows()} == {
        split: {label: counted[split]["labels"][label] for label in data.task.labels} for split in counted
    }
    shares = data.overlaps()["rows"] / data.overlaps()["of"]
    assert shares.max() < 0.01


# What would be read as something else


@pytest.mark.parametrize(
    "text",
    ['"', '"open', 'open"', 'he said "no" and left', '""', "it's"],
)
def test_a_quote_in_a_tsv_is_a_character(tmp_path, text):
    file = tmp_path / "rows.tsv"
    file.write_text(f'text_a\tlabel\n{text}\tgood\nbetween\tbad\n{text}!"\tgood\n')
    data = load(file, dev=file)
    assert data.train[:]["text_a"] == [text, "between", f'{text}!"'] and data.train[:]["label"] == [1, 0, 1]


@pytest.mark.parametrize("name", ["x.JSONL.GZ", "X.Jsonl.Gz", "x.jsonl.GZ", "x.JSONL", "x.TSV", "x.Csv"])
def test_the_case_of_an_ending_means_nothing(tmp_path, name):
    file = write(tmp_path / name.lower(), ROWS).rename(tmp_path / name)
    assert load(file, dev=file).train.num_rows == len(ROWS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text_a": "x", "label": "bad", "label": "good"}', "line 1: this has the key 'label' twice"),
        ("a.jsonl", '{"text_a": "x", "text_a": "y", "label": "good"}', "line 1: this has the key 'text_a' twice"),
        ("a.jsonl", '{"text_a": "x", "label": "bad", "more": {"a": 1, "a": 1}}', "line 1: this has the key 'a' twice"),
        (
            "a.jsonl",
            '{"text_a": "x", "label": ' + "9" * 4301 + "}",
            "line 1: this has a number of more than 4,300 digits",
        ),
        ("a.jsonl", '{"text_a": "x", "label": "bad", "more": ' + "[" * 200 + "]" * 200 + "}", "line 1: .* too deeply"),
        (
            "a.jsonl",
            '{"text_a": "x", "text_b": "y", "label": "bad"}\n{"text_a": "x", "text_b": "", "label": "bad"}',
            "line 2: text_b is blank, but line 1 has one; give every row a second text, or none",
        ),
        (
            "a.jsonl",
            '{"text_a": "x", "label": "bad"}\n{"text_a": "x", "text_b": "y", "label": "bad"}',
            "line 1: text_b is blank, but line 2 has one",
        ),
        ("a.csv", "text_a,text_b,label\nx,y,bad\nx,  ,bad\n", "line 3: text_b is blank, but line 2 has one"),
        ("a.tsv", "text_a\ttext_b\tlabel\nx\t\tbad\nx\ty\tbad\n", "line 2: text_b is blank, but line 3 has one"),
        ("a.jsonl", "version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (
            "a.jsonl",
            '{"text_a": "x", "label": -1}\n{"text_a": "x", "label": "bad"}',
            "line 1: the label is -1, but line 2",
        ),
        ("a.jsonl", '{"text_a": "x", "label": "bad"}\n{"text_a": "x", "label": -1}', "line 2: unknown label '-1'"),
        ("a.jsonl", '{"text_a": "x", "label": -1}\n{"text_a": "x", "label": -1}', "has only the hidden label -1"),
    ],
)
def test_what_is_there_twice_or_half_is_named_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as error:
        load(tmp_path / name, dev=tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_second_text_that_is_blank_everywhere_is_none(tmp_path):
    for text in ("", " ", None):
        rows = [{"text_a": f"text {i}", "text_b": text, "label": "good"} for i in range(4)]
        file = write(tmp_path / "rows.jsonl", rows)
        assert set(load(file, dev=file).train["text_b"]) == {None}


@pytest.mark.parametrize("label", [-1, "-1"])
def test_a_test_split_whose_labels_are_hidden_is_no_test_split(tmp_path, label):
    folder = restaurant(tmp_path)
    write(folder / "tasks" / "restaurant" / "test.jsonl", [{"text_a": "fine", "label": label}] * 3)
    data = load_task("restaurant", folder)
    assert data.train.num_rows == 102 and data.test is None and "test" not in data.splits()
    with pytest.raises(DataError, match=r"test\.jsonl has only the hidden label -1; leave the split out"):
        load_task("restaurant", folder, splits=["test"])
    with pytest.raises(DataError, match="has only the hidden label -1"):
        task_from_files(
            "t", "SA", WORDS, train=write(tmp_path / "a.jsonl", ROWS), test=tmp_path / "tasks/restaurant/test.jsonl"
        )


def test_labels_may_be_minus_one_where_the_task_has_such_a_label(tmp_path):
    file = write(tmp_path / "a.jsonl", [{"text_a": f"text {i}", "label": [-1, 1][i % 2]} for i in range(6)])
    data = task_from_files("t", "SA", {"-1": "bad", "1": "good"}, train=file, dev=file, test=file)
    assert list(data.test["label"]) == [0, 1] * 3


@pytest.mark.parametrize(
    "name",
    [
        "../../outside",
        "..",
        ".",
        "",
        "a/../b",
        "/etc",
        "a//b",
        "a/",
        "a\\b",
        "..\\x",
        "a\nb",
        "a\x1b[2J",
        "a\x00",
        "x" * 201,
        5,
        None,
    ],
)
def test_a_task_is_named_by_what_stands_below_the_data_folder(tmp_path, name):
    with pytest.raises(ValueError, match="a task cannot be named .*; choose a name such as"):
        Task(name, "SA", ("bad", "good"), ("negative", "positive"))
    write(tmp_path / "outside" / "train.jsonl", ROWS)
    with pytest.raises(ValueError, match="a task cannot be named"):
        task_from_files(name, "SA", WORDS, train=tmp_path / "outside" / "train.jsonl")


def test_names_with_folders_stay_possible(tmp_path):
    write(tmp_path / "tasks" / "my" / "reviews" / "train.jsonl", ROWS)
    assert load_task(Task("my/reviews", "SA", ("bad", "good"), ("no", "yes")), tmp_path).train.num_rows == 34


def test_a_bomb_does_not_fill_the_memory(tmp_path, monkeypatch):
    file = tmp_path / "bomb.jsonl.gz"
    with gzip.open(file, "wb") as out:
        for _ in range(300):
            out.write(b" " * 2**20)
    start = time.monotonic()
    with pytest.raises(DataError, match="contains more than 268,435,456 bytes; set PROMPT_TRANSFERABILITY_MAX_BYTES"):
        load(file)
    assert time.monotonic() - start < 5
    small = write(tmp_path / "rows.jsonl.gz", ROWS)
    monkeypatch.setenv("PROMPT_TRANSFERABILITY_MAX_BYTES", "100")
    with pytest.raises(DataError, match="contains more than 100 bytes"):
        load(small)
    monkeypatch.setenv("PROMPT_TRANSFERABILITY_MAX_BYTES", "100000")
    assert load(small).train.num_rows == 34


def test_hub_pairs_with_a_blank_half_are_left_out(monkeypatch):
    columns = {"question1": ["a", "b", "c", " ", "e"], "question2": ["x", "", None, "y", "z"], "label": [1, 0, 1, 0, 0]}
    hub(monkeypatch, columns)
    data = load_task("qqp", splits=["train", "dev"])
    assert data.train[:] == {"text_a": ["a", "e"], "text_b": ["x", "z"], "label": [0, 1]}


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("text", [7, 8], "row 1: text_a must be a text, not 7"),
        ("text", [["a"], ["b"]], r"row 1: text_a must be a text, not \['a'\]"),
        ("label", [1, 9], "row 2: unknown label '9'"),
        ("label", [[1], [0]], r"row 1: unknown label '\[1\]'"),
        ("label", [{"a": 1}, {"a": 0}], "row 1: unknown label"),
        ("label", [0.5, 1.0], "row 1: unknown label '0.5'"),
    ],
)
def test_hub_rows_of_other_types_are_named(monkeypatch, column, values, message):
    hub(monkeypatch, {"text": ["x", "y"], "label": [1, 0]} | {column: values})
    with pytest.raises(DataError, match=message):
        load_task("rotten_tomatoes")


@pytest.mark.parametrize(
    "rows",
    [
        [{"text_a": "fine", "label": "positive"}, {"text_a": "good", "label": -1}],
        [{"text_a": "fine", "label": None}],
        [{"text_a": "", "label": "positive"}],
        [{"review": "fine", "label": "positive"}],
        [],
    ],
)
def test_a_test_split_that_is_wrong_stops_nobody_who_does_not_read_it(tmp_path, rows):
    folder = restaurant(tmp_path)
    write(folder / "tasks" / "restaurant" / "test.jsonl", rows)
    data = load_task("restaurant", folder)
    assert data.train.num_rows == 102 and data.majority("dev") > 0
    with pytest.raises(DataError, match=r"test\.jsonl"):
        data.split("test")


def test_training_does_not_fetch_the_test_split(monkeypatch):
    asked = hub(monkeypatch, {"text": ["x", "y"], "label": [1, 0]})
    data = load_task("rotten_tomatoes", max_eval=1)
    assert (data.train.num_rows, data.dev.num_rows, data.majority("dev")) == (2, 1, 1.0)
    assert [options["split"] for _, options in asked] == ["train", "validation"]
    assert data.test.num_rows == 1 and data.test is data.test
    assert [options["split"] for _, options in asked] == ["train", "validation", "test"]
    load_task("imdb", splits=["test"])
    assert asked[-1][1]["split"] == "test"


def test_task_data_from_the_hub_can_be_sent_to_another_process(monkeypatch):
    hub(monkeypatch, {"text": ["x", "y"], "label": [1, 0]})
    data = pickle.loads(pickle.dumps(load_task("rotten_tomatoes")))
    assert data.test[:]["text_a"] == ["x", "y"] and replace(data, dev=None).test.num_rows == 2


def test_other_tasks_are_known_by_name_and_are_not_the_papers(monkeypatch):
    assert [*OTHER_TASKS] == ["rotten_tomatoes", "cola", "rte", "wnli"] and OTHER_TASKS.items() <= ALL_TASKS.items()
    assert not {*OTHER_TASKS} & {*PAPER_TASKS} and len(PAPER_TASKS) == 13
    columns = {"sentence": ["a", "b"], "sentence1": ["a", "b"], "sentence2": ["c", "d"], "text": ["a", "b"]}
    asked = hub(monkeypatch, columns | {"label": [0, 1]})
    said = {name: load_task(name).train for name in OTHER_TASKS}
    labels = {name: [OTHER_TASKS[name].labels[label] for label in rows["label"]] for name, rows in said.items()}
    assert labels == {
        "rotten_tomatoes": ["negative", "positive"],
        "cola": ["unacceptable", "acceptable"],
        "rte": ["entailment", "not_entailment"],
        "wnli": ["not_entailment", "entailment"],
    }
    assert said["rte"][:]["text_b"] == ["c", "d"] and said["cola"][:]["text_b"] == [None, None]
    assert {options.get("name") for _, options in asked} == {None, "cola", "rte", "wnli"}
    assert all(OTHER_TASKS[name].hub.test is None for name in ("cola", "rte", "wnli"))


def test_two_files_of_a_split_are_refused(tmp_path):
    folder = tmp_path / "tasks" / "sst2"
    folder.mkdir(parents=True)
    for name, row in (
        ("train.jsonl", '{"text_a": "x", "label": "negative"}\n'),
        ("train.csv", "text_a,label\nx,negative\n"),
    ):
        (folder / name).write_text(row * 2)
    with pytest.raises(DataError, match="has train.csv and train.jsonl; keep one"):
        load_task("sst2", tmp_path, ["train"])


def test_a_known_name_is_never_a_folder(tmp_path, monkeypatch):
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "task.yaml").write_text("task_type: SA\nlabel_words: {a: b, c: d}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROMPT_TRANSFERABILITY_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="no local copy|no rows"):
        load_task("sst2", tmp_path / "nowhere")
    for name in (5, "x" * 5000, "a/" * 3000, None):
        with pytest.raises(UnknownNameError):
            load_task(name)


def test_endings_of_local_files_are_read_in_any_case(tmp_path):
    folder = tmp_path / "tasks" / "sst2"
    folder.mkdir(parents=True)
    row = '{"text_a": "%s %d", "label": "%s"}\n'
    for name in ("train.jsonl", "dev.JSONL", "Test.jsonl"):
        rows = [row % (name, k, ("negative", "positive")[k % 2]) for k in range(6)]
        (folder / name).write_text("".join(rows))
    data = load_task("sst2", tmp_path)
    assert [len(split) for split in (data.train, data.dev, data.test)] == [6, 6, 6]
    (folder / "dev.csv").write_text("text_a,label\na,negative\n")
    with pytest.raises(DataError, match="keep one of them"):
        load_task("sst2", tmp_path)
