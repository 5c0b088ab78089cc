"The paper's printed tables, cell by cell; and the files that `release tables` writes, and what is refused."

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, RobertaConfig, RobertaForMaskedLM

from prompt_transferability import recomputed, release
from prompt_transferability.backbones import Backbone
from prompt_transferability.cli import main
from prompt_transferability.microworld import model_folder
from prompt_transferability.paper import printed, table
from prompt_transferability.recomputed import TABLES, read_origin, read_table, write_tables
from prompt_transferability.release import Release, load_release
from prompt_transferability.similarity import similarity_matrix
from prompt_transferability.tasks import UnknownNameError

KEPT = Path(__file__).parents[1] / "results" / "release"
MADE_UP = pd.DataFrame({"imdb": [0.1 + 0.2, None], "sst2": [1 / 3, 1.0]}, pd.Index(["imdb", "random"], name="source"))


@pytest.fixture
def two_tables(monkeypatch):
    "Two tables that need no published file."
    tables = {"first": lambda release: MADE_UP, "second": lambda release: 1 - MADE_UP}
    monkeypatch.setattr(recomputed, "TABLES", tables)


def test_a_table_is_read_as_it_was_computed(two_tables, tmp_path):
    write_tables(Release(tmp_path), tmp_path / "out", "a command")
    for name, expected in (("first", MADE_UP), ("second", 1 - MADE_UP)):
        pd.testing.assert_frame_equal(read_table(tmp_path / "out", name), expected, check_exact=True)
    origin = read_origin(tmp_path / "out")
    assert origin["command"] == "a command" and origin["release"] == release.COMMIT
    assert origin["tables"] == "2" and "torch 2" in origin["libraries"]
    assert all(isinstance(fact, str) and fact for fact in origin)
    assert str(tmp_path) not in (tmp_path / "out" / "provenance.json").read_text()


def test_nothing_is_written_when_one_table_fails(two_tables, tmp_path, monkeypatch):
    monkeypatch.setitem(recomputed.TABLES, "third", lambda release: release.transfer("roberta-base"))
    with pytest.raises(FileNotFoundError, match="release download"):
        write_tables(Release(tmp_path / "empty"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tables_that_are_not_there(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'transfer_t5-base'"):
        read_table(KEPT, "transfer_t5base")
    with pytest.raises(FileNotFoundError, match="release tables --out"):
        read_table(tmp_path, "transfer_t5-base")


def test_the_command_writes_the_tables(two_tables, tmp_path, capsys, monkeypatch):
    (tmp_path / "authors-release").mkdir()
    out = tmp_path / "out"
    assert main(["release", "tables", "--data", str(tmp_path), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(out)}
    assert sorted(path.name for path in out.iterdir()) == ["first.csv", "provenance.json", "second.csv"]
    monkeypatch.undo()
    assert main(["release", "tables", "--data", str(tmp_path), "--out", str(tmp_path / "other")]) == 2
    assert (
        f"`prompt-transfer release download --data {tmp_path}`" in capsys.readouterr().err
        and not (tmp_path / "other").exists()
    )


def test_the_kept_tables_are_all_there():
    assert {path.stem for path in KEPT.glob("*.csv")} == {*TABLES}
    assert json.loads((KEPT / "provenance.json").read_text())["tables"] == [*TABLES]


@pytest.mark.parametrize("name", TABLES)
def test_the_kept_tables_are_those_of_the_published_files(name, real_data):
    if not (real_data / "authors-release").is_dir():
        pytest.skip("needs the published files: authors-release/ beside the tasks")
    again = TABLES[name](load_release(real_data))
    # Another processor sums in another order, which moves the last digits of the distances.
    pd.testing.assert_frame_equal(read_table(KEPT, name), again, rtol=1e-9, atol=1e-12, check_names=False)


# ---- the neurons of the published prompts


def test_whoever_has_the_model_gets_the_tables_of_its_neurons(real_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recomputed, "TABLES", {})
    config = RobertaConfig(
        hidden_size=768,
        num_hidden_layers=5,
        num_attention_heads=4,
        intermediate_size=24,
        vocab_size=len(AutoTokenizer.from_pretrained(model_folder("micro-roberta"))),
    )
    torch.manual_seed(0)
    RobertaForMaskedLM(config).save_pretrained(tmp_path / "roberta-base")
    for file in model_folder("micro-roberta").glob("tokenizer*"):
        shutil.copy(file, tmp_path / "roberta-base")
    line = ["release", "tables", "--data", str(real_data), "--out", str(tmp_path / "out"), "--json"]
    assert main([*line, "--backbone", "roberta-base", "--models", str(tmp_path)]) == 0, capsys.readouterr().err
    found = read_table(tmp_path / "out", "neuron_correlation_roberta-base")
    assert [*dict.fromkeys(found.index)] == ["1-5", "1-2", "3", "4", "5"]
    assert found.query("target == 'overall' and not self_pairs")["n"].tolist() == [13] * 5
    release, backbone = load_release(real_data), Backbone.from_pretrained(tmp_path / "roberta-base", "authors")
    pairs = read_table(tmp_path / "out", "neurons_to_tuned_proj").query("layers == '3'").set_index("tuned", append=True)
    one, other = release.prompt("sst2", "roberta-base", "proj"), release.prompt("imdb", "roberta-base")
    matrix = similarity_matrix({"one": one, "other": other}, "neuron_overlap", backbone, (3, 3))
    assert pairs.loc[("sst2", "imdb"), "neuron_overlap"] == pytest.approx(matrix.loc["one", "other"])
    assert backbone.fingerprint in json.loads((tmp_path / "out" / "provenance.json").read_text())["model"]


# ---------------------------------------------------------------- the tables as printed


@pytest.fixture(scope="module")
def paper(real_data: Path) -> str:
    "The paper's text; the test is skipped where it is missing."
    file = real_data.parent / "paper" / "paper.md"
    if not file.is_file():
        pytest.skip("needs the paper's text: a folder paper/ beside the data")
    return file.read_text(encoding="utf-8")


def rows_of(paper: str, n: int) -> list[tuple[str, ...]]:
    "The cells with numbers of each row of a table; a row of pairs gives two rows, those before the slash first."
    before = paper[: paper.index(f"\nTable {n}: ")]
    lines = before.rstrip().rpartition("\n\n")[2].splitlines()
    number = r"-?\d+\.\d+(?:e-\d+)?|<1e-5|-"
    pairs = rf"(?:{number}|\d)(?: / (?:{number}))?"
    rows = []
    for line in lines:
        line = re.sub(r"</?b>|</?sub>", "", line)
        line = line.replace("$< 10^{-5}$", "<1e-5")
        line = re.sub(r"\$([-\d.]+) \\times 10\^\{(-\d+)\}\$", r"\1e\2", line)
        cells = [cell for cell in line.split("\t") if re.fullmatch(pairs, cell)]
        if any(" / " in cell for cell in cells):
            rows += [tuple(cell.split(" / ")[i] for cell in cells) for i in (0, 1)]
        elif cells:
            rows.append(tuple(cells))
    return rows


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 9, 10])
def test_every_cell_is_the_papers(paper, n):
    ours = [tuple(cell for cell in row if cell != "?") for row in printed(n).to_numpy()]
    theirs = rows_of(paper, n)
    if n == 7:  # in the paper, a line holds a projected prompt and a tuned one
        pairs = 2 * 10
        theirs = theirs[:pairs:2] + theirs[1:pairs:2] + theirs[pairs:]
    assert ours == theirs


def test_every_label_word_is_the_papers(paper):
    before = paper[: paper.index("\nTable 8: ")]
    lines = [line.split("\t") for line in before.rpartition("Task\tLabel Tokens\n")[2].splitlines() if "\t" in line]
    theirs = [words for _, words in lines if words]
    assert printed(8)["label words"].tolist() == theirs


def test_tables_are_new_frames_each_time():
    numbers = table(4)
    numbers.loc["tuned", "imdb"] = 0
    assert table(4).loc["tuned", "imdb"] == 0.899
