"The published prompts and results: files that are not as published, where they are looked for, and their download."

import io
import json
import pickle
import re
import shlex
import shutil
import tarfile
import threading
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import rmtree

import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, RobertaConfig, RobertaForMaskedLM

from prompt_transferability import recomputed, release
from prompt_transferability.backbones import Backbone
from prompt_transferability.cli import main
from prompt_transferability.microworld import model_folder
from prompt_transferability.paper import printed, table
from prompt_transferability.prompts import PromptError, SoftPrompt
from prompt_transferability.recomputed import TABLES, read_origin, read_table, write_tables
from prompt_transferability.release import Release, ReleaseError, download_release, load_release, published
from prompt_transferability.similarity import similarity_matrix
from prompt_transferability.tasks import PAPER_TASKS, UnknownNameError

TOP = "Prompt-Transferability-1.0"
IMDB = f"{TOP}/task_prompt_emb/IMDBPromptRoberta/task_prompt"
AGAIN = f"{TOP}/task_prompt_emb/RobertaLarge_from_chimin/IMDBPromptRobertaLarge/task_prompt"
RESULT = f"{TOP}/result/IMDBPromptRoberta/result_SST2PromptRoberta.json"


def pickled(values) -> bytes:
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()


@pytest.fixture
def contents() -> dict[str, bytes]:
    "A made-up release of four files."
    draw = torch.Generator().manual_seed(0)
    return {
        "LICENSE": b"MIT",
        IMDB: pickled(torch.nn.Parameter(torch.randn(100, 768, generator=draw))),
        AGAIN: pickled(torch.randn(100, 1024, generator=draw)),
        RESULT: json.dumps(json.dumps({"acc": 0.7363})).encode(),
    }


@pytest.fixture
def publish(monkeypatch):
    "Makes some contents the published ones."

    def publish(contents):
        sums = {file: sha256(content).hexdigest() for file, content in contents.items()}
        monkeypatch.setattr(release, "_sums", lambda: sums)
        release._catalog.cache_clear()

    yield publish
    release._catalog.cache_clear()


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    "No data folder, an empty cache, no proxy, and an archive that cannot be reached."
    monkeypatch.delenv("PROMPT_TRANSFERABILITY_DATA", raising=False)
    monkeypatch.setenv("PROMPT_TRANSFERABILITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(release, "ARCHIVE", "http://127.0.0.1:9/archive.tar.gz")


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    for file, content in contents.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    return folder


@pytest.fixture
def data(tmp_path, contents, publish) -> Path:
    "A data folder with the made-up release in it."
    publish(contents)
    write(tmp_path / "data" / "authors-release", contents)
    return tmp_path / "data"


# ---------------------------------------------------------------- reading


def test_prompts_and_results_are_read(data):
    found = load_release(data)
    prompt = found.prompt("imdb", "roberta-base")
    assert (prompt.task, prompt.backbone, prompt.layout, prompt.length) == ("imdb", "roberta-base", "authors", 100)
    assert found.prompt("imdb", "roberta-large", "from_chimin").hidden_size == 1024
    matrix = found.transfer("roberta-base")
    assert matrix.loc["sst2", "imdb"] == 0.7363
    assert list(matrix.columns) == list(PAPER_TASKS)
    assert matrix.notna().sum(axis=None) == 1
    listed = found.inventory()
    assert listed["state"].tolist() == ["whole"] * 3
    assert listed.loc[AGAIN, ["length", "hidden_size"]].tolist() == [100, 1024]
    assert listed["accuracy"].dropna().to_dict() == {RESULT: 0.7363}


DAMAGE = {
    "cut short": lambda old: old[:-1],
    "changed": lambda old: old[:10] + bytes([old[10] ^ 1]) + old[11:],
    "empty": lambda old: b"",
    "longer": lambda old: old + b" ",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_an_altered_file_is_refused_by_name(data, contents, damage):
    folder = data / "authors-release"
    for file in (IMDB, RESULT):
        (folder / file).write_bytes(damage(contents[file]))
    found = load_release(data)
    with pytest.raises(ReleaseError, match="IMDBPromptRoberta/task_prompt.*not as it was published"):
        found.prompt("imdb", "roberta-base")
    with pytest.raises(ReleaseError, match="result_SST2PromptRoberta.json.*not as it was published"):
        found.transfer("roberta-base")
    assert found.prompt("imdb", "roberta-large", "from_chimin").length == 100
    assert found.verify().to_dict() == {"LICENSE": "whole", IMDB: "altered", AGAIN: "whole", RESULT: "altered"}
    assert found.inventory().loc[AGAIN, "length"] == 100


def test_a_missing_file_is_named(data):
    (data / "authors-release" / IMDB).unlink()
    with pytest.raises(FileNotFoundError, match="no '.*IMDBPromptRoberta/task_prompt'.*release download"):
        load_release(data).prompt("imdb", "roberta-base")


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("code of a pickle was run",))


def test_no_code_is_run_even_if_the_sums_vouch_for_it(tmp_path, contents, publish):
    contents[IMDB] = pickle.dumps(Trap(), protocol=2)
    publish(contents)
    with pytest.raises(PromptError, match="not a pickled matrix"):
        Release(write(tmp_path, contents)).prompt("imdb", "roberta-base")


def test_what_was_not_published(data):
    found = load_release(data)
    for arguments, sentence in (
        (("imdb", "roberta"), "did you mean 'roberta-"),
        (("imdb", "roberta-base", "proj"), "unknown published prompt of roberta-base, run 'proj'"),
        (("sst2", "roberta-base"), "unknown published prompt of roberta-base, run 'tuned', task 'sst2'"),
    ):
        with pytest.raises(UnknownNameError, match=sentence):
            found.prompt(*arguments)
    for arguments, kind in ((("bert-base-uncased",), "result"), (("roberta-base", True), "result with positions")):
        with pytest.raises(UnknownNameError, match=f"unknown published {kind} of model '{arguments[0]}'"):
            found.transfer(*arguments)


def test_a_copy_is_not_the_prompt_of_another_task(tmp_path, contents, publish):
    folder = f"{TOP}/task_prompt_emb"
    mistaken = f"{folder}/movierationales_trainedPromptRoberta/task_prompt"
    deeper = f"{folder}/movierationales_trainedPromptRoberta/movie_trainedPromptRoberta/task_prompt"
    original = f"{folder}/MNLI_trainedPromptRoberta/task_prompt"
    contents |= {mistaken: contents[IMDB], original: contents[IMDB], deeper: pickled(torch.ones(100, 768))}
    del contents[IMDB]
    publish(contents)
    found = Release(write(tmp_path, contents))
    assert published()["copy_of"].dropna().to_dict() == {mistaken: original}
    assert (found.prompt("movie_rationales", "roberta-base", "trained").values == 1).all()
    assert not (found.prompt("mnli", "roberta-base", "trained").values == 1).any()


def test_the_list_cannot_be_changed_from_outside():
    mine = published()
    mine["kind"] = "nothing"
    assert "nothing" not in published()["kind"].values


# ---------------------------------------------------------------- where they are


def test_the_argument_comes_before_the_environment_and_that_before_the_cache(data, tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_TRANSFERABILITY_DATA", str(tmp_path / "elsewhere"))
    assert load_release(data).folder == data / "authors-release"
    with pytest.raises(FileNotFoundError, match="elsewhere.*release download"):
        load_release()
    monkeypatch.setenv("PROMPT_TRANSFERABILITY_DATA", str(data))
    assert load_release().folder == data / "authors-release"


def test_a_complete_cache_is_used_without_asking_anybody(tmp_path, contents, publish):
    publish(contents)
    folder = write(tmp_path / "cache" / "authors-release", contents)
    assert load_release().folder == folder


# ---------------------------------------------------------------- download


def archive(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for file, content in contents.items():
            member = tarfile.TarInfo(f"Prompt-Transferability-{'2d15de5'.ljust(40, '0')}/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@contextmanager
def served(monkeypatch, body: bytes, status: int = 200, cut: int | None = None):
    "A server with the archive, or the first bytes of it; counts what was asked for."
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(release, "ARCHIVE", f"http://127.0.0.1:{server.server_port}/archive.tar.gz")
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_what_was_published_is_fetched_and_only_once(tmp_path, contents, publish, monkeypatch):
    publish(contents)
    with served(monkeypatch, archive({"README.md": b"hello", "../outside": b"x", **contents})) as asked:
        found = load_release()
        assert files_in(tmp_path / "cache") == {f"authors-release/{file}": data for file, data in contents.items()}
        assert load_release().folder == found.folder == download_release()
        assert len(asked) == 1


def test_what_is_altered_or_missing_is_fetched_anew(data, contents, monkeypatch):
    folder = data / "authors-release"
    (folder / IMDB).write_bytes(b"broken")
    (folder / RESULT).unlink()
    untouched = (folder / AGAIN).stat().st_mtime_ns
    with served(monkeypatch, archive(contents)):
        assert download_release(data, progress=False) == folder
    assert files_in(folder) == contents
    assert (folder / AGAIN).stat().st_mtime_ns == untouched


def test_a_broken_download_leaves_whole_files_and_is_taken_up(tmp_path, contents, publish, monkeypatch):
    publish(contents)
    folder, body = tmp_path / "cache" / "authors-release", archive(contents)
    for cut in (0, len(body) // 2, len(body) - 1000):
        with served(monkeypatch, body, cut=cut), pytest.raises(FileNotFoundError, match="of 4 are in .*try again"):
            load_release()
        there = files_in(folder) if folder.exists() else {}
        assert there.items() < contents.items()
    assert IMDB in there
    with served(monkeypatch, body):
        load_release()
    assert files_in(folder) == contents


def test_an_archive_with_other_contents_is_refused(tmp_path, contents, publish, monkeypatch):
    publish(contents)
    others = contents | {RESULT: b'"{\\"acc\\": 1.0}"'}
    with served(monkeypatch, archive(others)), pytest.raises(ReleaseError, match="another '.*result_SST2"):
        load_release()
    assert RESULT not in files_in(tmp_path / "cache" / "authors-release")
    del others[RESULT]
    with served(monkeypatch, archive(others)), pytest.raises(ReleaseError, match="ended without 1 .*result_SST2"):
        load_release()


@pytest.mark.parametrize("body, status", [(b"not found", 404), (b"wait", 429), (b"no archive at all", 200), (b"", 200)])
def test_an_archive_that_cannot_be_had(contents, publish, monkeypatch, body, status):
    publish(contents)
    with served(monkeypatch, body, status), pytest.raises(FileNotFoundError, match="cannot be fetched.*0 of 4"):
        load_release()


def test_no_network(contents, publish):
    publish(contents)
    with pytest.raises(FileNotFoundError, match="cannot be fetched from http://127.0.0.1:9/.*put a copy of them there"):
        load_release()


# ---------------------------------------------------------------- the command


def answer(capsys, *arguments):
    code = main(["release", *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def complaint(capsys, *arguments) -> str:
    assert main(["release", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    return err


def test_the_list_needs_no_files(capsys):
    files = answer(capsys, "list")["files"]
    assert len(files) == 133 + 1643
    assert {file["kind"] for file in files} == {"prompt", "result", "result with positions"}
    assert main(["release", "list"]) == 0
    assert "from_chimin" in capsys.readouterr().out


def test_verify_says_what_is_wrong(data, capsys):
    folder = data / "authors-release"
    whole = {"folder": str(folder), "files": 4, "missing": [], "altered": []}
    assert answer(capsys, "verify", "--data", data) == whole
    assert main(["release", "verify", "--data", str(data)]) == 0
    assert capsys.readouterr().out == f"folder: {folder}\nfiles: 4\nstate: whole\n"
    (folder / IMDB).write_bytes(b"")
    (folder / "LICENSE").unlink()
    said = complaint(capsys, "verify", "--data", data)
    assert "2 of 4" in said and f"{IMDB} (altered), LICENSE (missing);" in said
    assert "and 1 more" in complaint(capsys, "verify", "--data", data.parent)


def test_verify_tells_a_program_every_file(data, capsys):
    folder = data / "authors-release"
    (folder / IMDB).write_bytes(b"")
    (folder / "LICENSE").unlink()
    everything = ["LICENSE", IMDB, AGAIN, RESULT]
    for data_dir, missing, altered in ((data, ["LICENSE"], [IMDB]), (data.parent, everything, [])):
        assert main(["release", "verify", "--data", str(data_dir), "--json"]) == 2
        out, err = capsys.readouterr()
        found = json.loads(out)
        assert found.pop("folder") == str(data_dir / "authors-release") and err.startswith("prompt-transfer: ")
        assert found == {"files": 4, "missing": missing, "altered": altered}


def error_of(mistake) -> str:
    with pytest.raises((ReleaseError, FileNotFoundError)) as raised:
        mistake()
    return str(raised.value)


def test_what_an_error_advises_mends_the_folder_that_it_is_about(data, contents, capsys, monkeypatch):
    data = data.rename(data.with_name("my data"))
    file = data / "authors-release" / IMDB
    for sentence in (
        lambda: error_of(lambda: load_release(data).path(IMDB)),
        lambda: complaint(capsys, "verify", "--data", data),
    ):
        for damage in (lambda: file.write_bytes(b""), file.unlink, lambda: rmtree(data / "authors-release")):
            damage()
            [advice] = re.findall("`prompt-transfer release (.*?)`", sentence())
            with served(monkeypatch, archive(contents)):
                answer(capsys, *shlex.split(advice))
            assert file.read_bytes() == contents[IMDB]


def test_download_and_export(data, contents, capsys, monkeypatch, tmp_path):
    with served(monkeypatch, archive(contents)):
        assert answer(capsys, "download", "--data", tmp_path / "new") == {
            "folder": str(tmp_path / "new" / "authors-release")
        }
    out = tmp_path / "imdb.safetensors"
    said = answer(capsys, "export", "imdb", "roberta-base", "--data", tmp_path / "new", "--out", out)
    assert (said["prompt"], said["run"], said["published_as"]) == (str(out), "tuned", IMDB)
    prompt = SoftPrompt.load(out)
    assert torch.equal(prompt.values, load_release(data).prompt("imdb", "roberta-base").values)
    assert (prompt.layout, prompt.metadata["published_as"]) == ("authors", IMDB)


def test_mistakes_are_one_sentence(data, capsys, tmp_path):
    out = tmp_path / "imdb.safetensors"
    assert "did you mean 'imdb'" in complaint(capsys, "export", "imbd", "roberta-base", "--data", data, "--out", out)
    (data / "authors-release" / IMDB).write_bytes(b"")
    assert "not as it was published" in complaint(
        capsys, "export", "imdb", "roberta-base", "--data", data, "--out", out
    )
    assert "cannot be fetched" in complaint(capsys, "download")
    assert not out.exists()


# ---------------------------------------------------------------- the real files


@pytest.fixture(scope="module")
def real(real_data: Path) -> Release:
    if not (real_data / "authors-release").is_dir():
        pytest.skip("needs the published prompts: a folder authors-release/ in the data")
    return Release(real_data / "authors-release")


def test_every_published_file_is_whole_and_read(real):
    assert set(real.verify()) == {"whole"}
    listed = real.inventory()
    prompts = listed[listed["kind"] == "prompt"]
    widths = {"bert-base-uncased": 768, "roberta-base": 768, "roberta-large": 1024, "t5-base": 768, "t5-small": 512}
    assert (prompts["length"] == 100).all()
    assert (prompts["hidden_size"] == prompts["backbone"].map(widths)).all()
    assert listed["accuracy"].dropna().between(0, 1).all()


@pytest.mark.parametrize("backbone", ["roberta-base", "roberta-large", "t5-base", "t5-small"])
def test_every_published_matrix_is_full(real, backbone):
    matrix = real.transfer(backbone)
    assert list(matrix.index)[:13] == list(matrix.columns) == list(PAPER_TASKS)
    assert matrix.notna().all(axis=None)


# ---- tables recomputed from what the authors published, beside what the paper prints

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
    pairs = read_table(tmp_path / "out", "neurons_to_tuned").query("run == 'proj' and layers == '3'")
    one, other = release.prompt("sst2", "roberta-base", "proj"), release.prompt("imdb", "roberta-base")
    matrix = similarity_matrix({"one": one, "other": other}, "neuron_overlap", backbone, (3, 3))
    assert pairs.set_index("tuned", append=True).loc[("sst2", "imdb"), "neuron_overlap"] == pytest.approx(
        matrix.loc["one", "other"]
    )
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
