"A warehouse: files and index, two writers, searches, what is rejected, and the Hub's interface on this machine."

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from prompt_transferability import warehouse as module
from prompt_transferability.backbones import Backbone
from prompt_transferability.cells import hash_of
from prompt_transferability.files import save_tensors
from prompt_transferability.prompts import PromptError, SoftPrompt, random_prompt
from prompt_transferability.release import load_release
from prompt_transferability.similarity import (
    EMBEDDING_METRICS,
    METRICS,
    activation_states,
    euclidean_average,
    similarity_matrix,
)
from prompt_transferability.tasks import load_task
from prompt_transferability.tpt_task import usable_sources
from prompt_transferability.warehouse import INDEX, Warehouse, WarehouseError


def prompt_of(seed=0, task="sst2", backbone="some-model", length=4, width=6, layout="paper", **metadata):
    values = torch.randn(length, width, generator=torch.Generator().manual_seed(seed))
    return SoftPrompt(values, backbone, task, layout, {"seed": seed} | metadata)


def settle(warehouse):
    "Let all files of a folder look an hour old, so that the index need not doubt their times."
    for path in warehouse.folder.glob("[!.]*.safetensors"):
        os.utime(path, ns=(path.stat().st_mtime_ns - 3600 * 10**9,) * 2)
    return warehouse.index()


@pytest.fixture
def warehouse(tmp_path):
    found = Warehouse(tmp_path / "prompts")
    found.add_all({f"{task} {seed}": prompt_of(seed, task) for task in ("sst2", "mnli") for seed in range(3)})
    return found


# ---- files and index


def test_a_prompt_comes_back_and_the_index_says_what_it_is(tmp_path):
    warehouse = Warehouse(tmp_path / "new" / "folder")
    prompt = prompt_of(7, "micro/sst2", accuracy=0.75, backbone_fingerprint="abc")
    assert warehouse.add(prompt) == "micro/sst2"
    back = warehouse.load("micro/sst2")
    assert torch.equal(back.values, prompt.values) and back.metadata == prompt.metadata
    path = warehouse.folder / "micro--sst2.safetensors"
    text = (warehouse.folder / INDEX).read_text(encoding="utf-8")
    entry = json.loads(text)["prompts"]["micro/sst2"]
    assert entry == {
        **{"file": path.name, "task": "micro/sst2", "task_type": "SA", "backbone": "some-model", "fingerprint": "abc"},
        **{"layout": "paper", "length": 4, "width": 6, "accuracy": 0.75, "seed": 7, "sha256": hash_of(path)},
        **{"bytes": path.stat().st_size, "modified": path.stat().st_mtime_ns},
    }
    assert len(text.splitlines()) == 6  # a line a prompt
    assert [*warehouse.folder.glob(".*")] == []


def test_the_index_is_sorted_and_the_same_for_the_same_prompts_in_any_order(tmp_path):
    texts = []
    for order in ([0, 1, 2], [2, 0, 1]):
        warehouse = Warehouse(tmp_path / str(order))
        for seed in order:
            warehouse.add(prompt_of(seed), f"p{seed}")
        found = json.loads((warehouse.folder / INDEX).read_text())["prompts"]
        texts.append([(name, {k: v for k, v in entry.items() if k != "modified"}) for name, entry in found.items()])
    assert texts[0] == texts[1] and [name for name, _ in texts[0]] == ["p0", "p1", "p2"]


def test_names_are_numbered_and_the_same_prompt_is_kept_once(tmp_path):
    warehouse = Warehouse(tmp_path)
    assert warehouse.add_all([prompt_of(0), prompt_of(1), prompt_of(2)]) == ["sst2", "sst2 2", "sst2 3"]
    assert warehouse.add(prompt_of(1)) == "sst2 2"
    assert warehouse.add(prompt_of(1), "mine") == "mine"  # whoever names it means it
    assert warehouse.add(prompt_of(1), "mine") == "mine"
    with pytest.raises(WarehouseError, match="has another prompt 'mine'"):
        warehouse.add(prompt_of(2), "mine")
    assert [*warehouse.index()] == ["mine", "sst2", "sst2 2", "sst2 3"]


@pytest.mark.parametrize(
    "name", ["", ".hidden", "../up", "/etc/passwd", "a\\b", "C:a", "a\nb", "a\0b", "a--b", "x" * 190]
)
def test_a_name_that_is_none_is_rejected_before_anything_is_written(tmp_path, name):
    warehouse = Warehouse(tmp_path / "w")
    with pytest.raises(WarehouseError, match="cannot be the name of a prompt"):
        warehouse.add_all({"good": prompt_of(0), name: prompt_of(1)})
    assert not warehouse.folder.exists()


def test_the_index_is_made_again_from_the_files(warehouse):
    whole = settle(warehouse)
    (warehouse.folder / INDEX).unlink()
    assert warehouse.index() == whole
    (warehouse.folder / "sst2 0.safetensors").unlink()
    assert {*whole} - {*warehouse.index()} == {"sst2 0"}
    prompt_of(9, "qqp").save(warehouse.folder / "sst2 1.safetensors")
    assert warehouse.index()["sst2 1"]["task"] == "qqp"
    assert json.loads((warehouse.folder / INDEX).read_text())["prompts"] == warehouse.index()


def test_a_change_within_a_tick_of_the_clock_is_seen(warehouse):
    "The same size and the same time, as of a file system that counts seconds."
    path = warehouse.folder / "sst2 0.safetensors"
    before = path.stat()
    assert warehouse.index()["sst2 0"]["seed"] == 0
    prompt_of(5).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert warehouse.index()["sst2 0"]["seed"] == 5


def test_what_has_not_changed_is_not_read_again(warehouse, monkeypatch):
    settle(warehouse)
    monkeypatch.setattr(module, "_entry", None)
    assert len(warehouse.index()) == 6
    warehouse.nearest(prompt_of(40), metric="euclidean_concat")


def test_an_index_that_lost_an_update_is_healed(warehouse):
    "What two processes do to each other at worst: the one writes an index that does not know the other's prompt."
    stale = (warehouse.folder / INDEX).read_text()
    warehouse.add(prompt_of(50), "late")
    (warehouse.folder / INDEX).write_text(stale)
    assert "late" in warehouse.index()
    assert "late" in json.loads((warehouse.folder / INDEX).read_text())["prompts"]


WRITER = """
import sys, torch
from prompt_transferability.prompts import SoftPrompt
from prompt_transferability.warehouse import Warehouse
folder, me = sys.argv[1], int(sys.argv[2])
for seed in range(50):
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(1000 * me + seed))
    print(Warehouse(folder).add(SoftPrompt(values, "some-model", "sst2", metadata={"seed": 1000 * me + seed})))
"""


def test_two_processes_add_fifty_prompts_each_under_one_name(tmp_path):
    folder = tmp_path / "shared"
    command = [sys.executable, "-c", WRITER, str(folder)]
    writers = [subprocess.Popen([*command, str(me)], stdout=subprocess.PIPE, text=True) for me in (1, 2)]
    names = [writer.communicate()[0].splitlines() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len({*names[0], *names[1]}) == 100
    found = Warehouse(folder).index()
    assert {entry["seed"] for entry in found.values()} == {1000 * me + seed for me in (1, 2) for seed in range(50)}
    for me, mine in enumerate(names, start=1):
        assert [found[name]["seed"] for name in mine] == [1000 * me + seed for seed in range(50)]
    assert json.loads((folder / INDEX).read_text())["prompts"] == found
    assert [*folder.glob(".*")] == []


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    warehouse = Warehouse(tmp_path)
    assert warehouse.add_all([prompt_of(0), prompt_of(1)]) == ["sst2", "sst2 2"]
    (tmp_path / "sst2 3.safetensors").touch()  # another process has taken the name, and is writing
    assert warehouse.add(prompt_of(2)) == "sst2 4"
    assert [*warehouse.index()] == ["sst2", "sst2 2", "sst2 4"]


def test_what_a_killed_process_left_is_removed_in_time(warehouse):
    old, new = warehouse.folder / ".0.part", warehouse.folder / ".1.part"
    old.touch(), new.touch()
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    warehouse.add(prompt_of(60))
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_only_be_read(warehouse):
    (warehouse.folder / INDEX).unlink()
    warehouse.folder.chmod(0o500)
    try:
        assert len(warehouse.index()) == 6 and len(warehouse.nearest("sst2 0", 2)) == 2
    finally:
        warehouse.folder.chmod(0o700)


def test_a_full_disk_does_not_stop_a_reading(warehouse, monkeypatch):
    def write(*_, **__):
        raise OSError(28, "No space left on device")

    (warehouse.folder / INDEX).unlink()
    monkeypatch.setattr(module, "_write_index", write)
    monkeypatch.setattr(module, "save_tensors", write)
    assert len(warehouse.index()) == 6 and len(warehouse.nearest("sst2 0", 2)) == 2


# ---- listing


def test_filters(warehouse):
    warehouse.add(prompt_of(70, "own task", task_type="SA", backbone_fingerprint="abc"), "own")
    assert [*warehouse.prompts(task="mnli").index] == ["mnli 0", "mnli 1", "mnli 2"]
    assert [*warehouse.prompts(task_type="SA").index] == ["own", "sst2 0", "sst2 1", "sst2 2"]
    assert [*warehouse.prompts(task_type="SA", fingerprint="abc").index] == ["own"]
    assert warehouse.prompts(backbone="another").empty
    assert warehouse.prompts(backbone="some-model", task="mnli").seed.tolist() == [0, 1, 2]


def test_what_a_header_says_wrongly_is_not_known(tmp_path):
    warehouse = Warehouse(tmp_path)
    warehouse.add(prompt_of(0, accuracy="high", task_type=["SA"]), "odd")
    prompt = prompt_of(1, accuracy=7.5)
    prompt.metadata["seed"] = 2**70
    warehouse.add(prompt, "odder")
    assert warehouse.prompts()["accuracy"].isna().all()
    assert warehouse.prompts()["seed"].tolist() == [0, pd.NA]


# ---- searching


@pytest.mark.parametrize("metric", EMBEDDING_METRICS)
def test_a_search_gives_what_the_matrix_says(tmp_path, metric):
    "500 prompts, and among them those that cannot be compared."
    warehouse, prompts = Warehouse(tmp_path), {f"p{i}": prompt_of(i, length=5, width=16) for i in range(500)}
    warehouse.add_all(prompts | {"wide": prompt_of(width=17), "authors": prompt_of(layout="authors", width=16)})
    target = prompt_of(1000, "new", length=5, width=16)
    matrix = similarity_matrix({"target": target} | {name: prompts[name] for name in prompts}, metric)
    expected = matrix["target"].drop("target").sort_values(ascending=False)
    for _ in range(2):  # the second time from what was kept
        found = warehouse.nearest(target, 10, metric)
        assert [*found.index] == [*expected.index[:10]]
        assert found["similarity"].to_numpy() == pytest.approx(expected.to_numpy()[:10], abs=1e-6)
    assert "p3" not in warehouse.nearest("p3", 500, metric).index


@pytest.mark.parametrize("k", [1, 7, 30])
def test_a_search_by_all_pairs_ranks_as_comparing_all_exactly_does(tmp_path, k):
    "Ties, near ties that bfloat16 does not tell apart, prompts of several lengths, and the prompt itself."
    draw = torch.Generator().manual_seed(0)
    target = prompt_of(1000, length=5, width=64)
    prompts = {f"p{i}": prompt_of(i, length=(3, 5)[i % 2], width=64) for i in range(40)}
    for i in range(40):
        near = target.values + 0.5 + 1e-5 * torch.randn(5, 64, generator=draw)
        prompts |= {name: replace(target, values=near, metadata={"copy": name}) for name in (f"near {i}", f"copy {i}")}
    prompts["the same"] = replace(target, metadata={"copy": "the same"})
    prompts["zeros"] = replace(target, values=torch.zeros(5, 64))
    warehouse = Warehouse(tmp_path)
    warehouse.add_all(prompts)
    exact = {name: euclidean_average(target.values, prompts[name].values) for name in warehouse.index()}
    expected = pd.Series(exact).sort_values(ascending=False, kind="stable").head(k)
    found = warehouse.nearest(target, k, "euclidean_average")["similarity"]
    assert found.to_dict() == expected.to_dict() and [*found.index] == [*expected.index]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_mean_distances_are_within_their_bounds(scale):
    draw = torch.Generator().manual_seed(1)
    target = scale * (torch.randn(20, 256, generator=draw) + 2 * torch.randn(256, generator=draw))
    others = torch.stack([target + scale * share * torch.randn(20, 256, generator=draw) for share in (0, 0.01, 0.3, 3)])
    means, wrong = module._mean_distances(target, [others.numpy()])
    exact = torch.tensor([1 / euclidean_average(target, other) - 1 for other in others], dtype=torch.float64)
    assert ((means - exact).abs() <= wrong).all()
    assert wrong[3] < 0.05 * exact[3]  # and they are of use


def test_products_are_coarse_for_the_search_alone(warehouse):
    before = torch.backends.mkldnn.matmul.fp32_precision
    warehouse.nearest(prompt_of(40), 2, "euclidean_average")
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_directions_are_kept_when_prompts_are_added(tmp_path, monkeypatch):
    warehouse = Warehouse(tmp_path)
    warehouse.add_all([prompt_of(seed, width=6 + seed % 2) for seed in range(4)])
    settle(warehouse)
    monkeypatch.setattr(module.Warehouse, "_vectors", None)  # nothing is read
    assert len(warehouse.nearest(prompt_of(50))) == 2 and len(warehouse.nearest(prompt_of(50, width=7))) == 2


@pytest.mark.parametrize("metric", EMBEDDING_METRICS)
def test_a_search_of_500_prompts_takes_little_of_the_processor(tmp_path, metric):
    warehouse, target = Warehouse(tmp_path), prompt_of(1000, length=10, width=32)
    warehouse.add_all({f"p{i}": prompt_of(i, length=10, width=32) for i in range(500)})
    settle(warehouse)
    warehouse.nearest(target, 5, metric)
    started = time.process_time()
    warehouse.nearest(target, 5, metric)
    assert time.process_time() - started < 2


def test_the_nearest_by_neurons_and_what_is_kept_of_them(tmp_path):
    backbone = Backbone.from_pretrained("micro-bert", device="cpu")
    prompts = {f"p{i}": random_prompt(backbone, 4, i) for i in range(8)}
    warehouse = Warehouse(tmp_path)
    warehouse.add_all(prompts)
    expected = similarity_matrix(prompts, "neuron_overlap", backbone)["p0"].drop("p0").sort_values(ascending=False)
    for _ in range(2):
        found = warehouse.nearest("p0", 3, "neuron_overlap", backbone)
        assert found["similarity"].to_numpy() == pytest.approx(expected.to_numpy()[:3], abs=1e-12)
        assert [*found.index] == [*expected.index[:3]]


def test_neurons_are_looked_at_once(tmp_path, monkeypatch):
    backbone = Backbone.from_pretrained("micro-bert", device="cpu")
    warehouse = Warehouse(tmp_path)
    warehouse.add_all({f"p{i}": random_prompt(backbone, 4, i) for i in range(4)})
    looked = []
    monkeypatch.setattr(
        module, "activation_states", lambda prompts, model: looked.extend(prompts) or activation_states(prompts, model)
    )
    for _ in range(2):
        warehouse.nearest("p0", 3, "neuron_overlap", backbone)
    assert looked == ["the prompt", "p1", "p2", "p3", "the prompt"]


def test_what_is_kept_follows_the_files(warehouse):
    target, [path] = prompt_of(80), [None]
    warehouse.nearest(target)
    [path] = warehouse.folder.glob(".cosine_average-6.cache")
    before = warehouse.nearest(target, 10)["similarity"]
    prompt_of(81).save(warehouse.folder / "sst2 0.safetensors")
    after = warehouse.nearest(target, 10)["similarity"]
    assert after["sst2 0"] != before["sst2 0"] and after["sst2 1"] == before["sst2 1"]
    for content in (b"", b"no tensors", b"[" * 1000):  # it is a cache: what is damaged is made again
        path.write_bytes(content)
        assert warehouse.nearest(target, 10)["similarity"].equals(after)
    save_tensors({"rows": torch.zeros(1, 6)}, path, {"sha256": "a b c"})
    assert warehouse.nearest(target, 10)["similarity"].equals(after)


def test_a_file_that_changes_during_a_search_is_not_mixed_up(warehouse):
    entries = settle(warehouse)
    prompt_of(82).save(warehouse.folder / "sst2 0.safetensors")
    with pytest.raises(WarehouseError, match="'sst2 0.safetensors' in .* has changed while it was read; try again"):
        [*warehouse._vectors(entries)]


def test_models_are_not_mixed(warehouse):
    target = prompt_of(90, backbone="another-model")
    with pytest.raises(WarehouseError, match="no prompt in .* was trained for the model of this one, 'another-model'"):
        warehouse.nearest(target)
    assert len(warehouse.nearest(target, same_model=False)) == 5
    warehouse.add(prompt_of(91, backbone="org/other-name", backbone_fingerprint="abc"), "by fingerprint")
    warehouse.add(prompt_of(92, backbone="some-model", backbone_fingerprint="def"), "other weights")
    target = prompt_of(93, backbone_fingerprint="abc")
    found = {*warehouse.nearest(target, 20).index}
    assert "by fingerprint" in found and "other weights" not in found and "sst2 0" in found


def test_a_prompt_that_is_alone_in_its_warehouse(tmp_path):
    warehouse = Warehouse(tmp_path)
    warehouse.add(prompt_of(0))
    with pytest.raises(WarehouseError, match="has no other prompt that cosine_average can compare with this one"):
        warehouse.nearest("sst2")


def test_other_weights_of_one_name(tmp_path):
    warehouse = Warehouse(tmp_path)
    warehouse.add(prompt_of(0, backbone_fingerprint="abc"))
    with pytest.raises(WarehouseError, match="'some-model', but only for other weights of that name; vectors of"):
        warehouse.nearest(prompt_of(1, backbone_fingerprint="def"))


def test_prompts_that_cannot_be_compared_are_named(warehouse):
    with pytest.raises(WarehouseError, match="has no other prompt that cosine_concat can compare .* 9 vectors long"):
        warehouse.nearest(prompt_of(length=9), metric="cosine_concat")
    with pytest.raises(WarehouseError, match="7 wide"):
        warehouse.nearest(prompt_of(width=7))
    with pytest.raises(FileNotFoundError, match="there is no warehouse"):
        Warehouse(warehouse.folder / "nothing").nearest(prompt_of())


def test_sources_are_what_tuning_can_start_from(tmp_path):
    backbone, data = Backbone.from_pretrained("micro-bert", device="cpu"), load_task("micro/sst2")
    width, own = backbone.embedding_size, {"backbone_fingerprint": backbone.fingerprint}
    warehouse = Warehouse(tmp_path / "w")
    with pytest.raises(FileNotFoundError):
        warehouse.sources(backbone, data)
    warehouse.folder.mkdir()
    with pytest.raises(WarehouseError, match="has no prompt of another task than 'micro/sst2' for 'micro-bert'"):
        warehouse.sources(backbone, data)
    warehouse.add_all(
        {
            "good": prompt_of(0, "micro/imdb", "micro-bert", width=width, **own),
            "same weights": prompt_of(1, "micro/mnli", "copies/of-it", width=width, **own),
            "target": prompt_of(2, "micro/sst2", "micro-bert", width=width, **own),
            "other weights": prompt_of(3, "micro/imdb", "micro-bert", width=width, backbone_fingerprint="abc"),
            "other layout": prompt_of(4, "micro/imdb", "micro-bert", width=width, layout="authors"),
            "other width": prompt_of(5, "micro/imdb", "micro-bert", width=width + 1),
            "untrained": random_prompt(backbone, 4, 0),
        }
    )
    found = warehouse.sources(backbone, data)
    assert [*found] == ["good", "same weights"]
    assert [*usable_sources(backbone, data, found)] == [*found]


# ---- what is rejected


BROKEN = {
    "a list": "[]",
    "a number": "3",
    "nothing": "",
    "deep": "[" * 1000 + "]" * 1000,
    "deep inside": '{"format": "prompt_transferability/warehouse/1", "prompts": ' + '{"a":' * 1000 + "1" + "}" * 1001,
    "another format": '{"format": "1", "prompts": {}}',
    "prompts are a list": '{"format": "prompt_transferability/warehouse/1", "prompts": []}',
    "an entry is a text": '{"format": "prompt_transferability/warehouse/1", "prompts": {"a": "b"}}',
    "no UTF-8": b"\xff\xfe",
    "twice": '{"format": "prompt_transferability/warehouse/1", "prompts": {}, "prompts": {}}',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_an_index_that_is_none(warehouse, text):
    (warehouse.folder / INDEX).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(WarehouseError, match=INDEX) as caught:
        warehouse.prompts()
    assert "\n" not in str(caught.value)


def altered(warehouse, of="sst2 0", name=None, **changes):
    "An index with another entry, under another name where one is given."
    found = json.loads((warehouse.folder / INDEX).read_text())
    found["prompts"][name or of] = found["prompts"].pop(of) | changes
    return json.dumps(found)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"file": "../x.safetensors"}, "is in '../x.safetensors', where no warehouse puts it"),
        ({"file": "/etc/passwd"}, "is in '/etc/passwd'"),
        ({"file": "sub/sst2 0.safetensors"}, "is in 'sub/sst2 0.safetensors'"),
        ({"file": "sst2 0.pt"}, "is in 'sst2 0.pt'"),
        ({"name": "../x", "file": "../x.safetensors"}, "'../x' cannot be the name of a prompt"),
        ({"name": "a\0b", "file": "a\0b.safetensors"}, r"'a\x00b' cannot be the name"),
        ({"name": "\ud800", "file": "\ud800.safetensors"}, "cannot be the name"),
        ({"length": "4"}, "prompts sst2 0 length"),
        ({"accuracy": [1]}, "prompts sst2 0 accuracy"),
    ],
)
def test_an_index_that_leads_elsewhere(warehouse, changes, said):
    (warehouse.folder / INDEX).write_text(altered(warehouse, **changes))
    with pytest.raises(WarehouseError) as caught:
        warehouse.prompts()
    assert said in str(caught.value) and not {"\n", "\0"} & {*str(caught.value)}


def test_files_that_are_no_prompts(warehouse, tmp_path):
    outside = prompt_of().save(tmp_path / "outside.safetensors")
    (warehouse.folder / "link.safetensors").symlink_to(outside)
    with pytest.raises(WarehouseError, match="link.safetensors' is a link"):
        warehouse.prompts()
    with pytest.raises(WarehouseError, match="there is no prompt 'link'"):
        warehouse.load("link")
    (warehouse.folder / "link.safetensors").unlink()
    for content in (b"\x80\x04\x95", b"x" * 100):
        (warehouse.folder / "bad.safetensors").write_bytes(content)
        with pytest.raises(PromptError, match="'bad.safetensors' is not a safetensors file"):
            warehouse.prompts()
    save_file({"weights": torch.zeros(3)}, warehouse.folder / "bad.safetensors")
    with pytest.raises(PromptError, match="'bad.safetensors' is a safetensors file but not a soft prompt"):
        warehouse.prompts()
    (warehouse.folder / "bad.safetensors").unlink()
    (warehouse.folder / "a\nb.safetensors").write_bytes(outside.read_bytes())
    with pytest.raises(WarehouseError, match="cannot be the name of a prompt"):
        warehouse.prompts()
    (warehouse.folder / "a\nb.safetensors").unlink()
    (warehouse.folder / "folder.safetensors").mkdir()
    os.mkfifo(warehouse.folder / "pipe.safetensors")
    assert len(warehouse.prompts()) == 6  # nothing that is no file is looked at


def test_a_prompt_of_half_precision(warehouse):
    save_tensors(
        {"soft_prompt": torch.zeros(4, 6).half()},
        warehouse.folder / "half.safetensors",
        {"format": "prompt_transferability/1", "backbone": "some-model", "task": "sst2", "layout": "paper"},
    )
    with pytest.raises(WarehouseError, match="contains numbers of type F16"):
        warehouse.prompts()


def test_the_published_prompts(real_data, tmp_path):
    warehouse = Warehouse(tmp_path)
    names = warehouse.add_all(load_release(real_data).prompts())
    table = warehouse.prompts()
    assert len(names) == len(table) == 130
    assert {*table["backbone"]} == {"bert-base-uncased", "roberta-base", "roberta-large", "t5-base", "t5-small"}
    near = warehouse.nearest("imdb roberta-base tuned", 200)
    assert {*near["backbone"]} == {"roberta-base"} and {*near["layout"]} == {"authors"}


# ---- the Hub's interface, on this machine


class Hub(BaseHTTPRequestHandler):
    "What the client of the Hub asks for, answered from memory: one branch of each repository."

    protocol_version = "HTTP/1.1"

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def log_message(self, *_):
        pass

    def answer(self, content, code=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, rest = "/".join(parts[2:4]), parts[4:]
        else:
            name, rest = "/".join(parts[:2]), parts[2:]
        repo = self.server.repos.get(name)
        if repo is None:
            return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        commit = hashlib.sha1(repr(sorted(repo.items())).encode()).hexdigest()
        if rest[:1] == ["tree"]:
            return self.answer(
                [
                    {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for file, content in repo.items()
                ]
            )
        if rest[:1] == ["resolve"]:
            content = repo.get("/".join(rest[2:]))
            if content is None:
                return self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.answer(content, X_Repo_Commit=commit, ETag=etag)
        return self.answer({"id": name, "sha": commit, "siblings": [], "tags": [], "private": True})

    do_HEAD = do_GET

    def do_POST(self):
        path, body = unquote(urlsplit(self.path).path), self.body()
        self.server.asked.append(("POST", path))
        parts = path.strip("/").split("/")
        if self.headers.get("Authorization") != "Bearer hf_stand_in":
            return self.answer({"error": "Invalid username or password."}, 401)
        if parts[1:] == ["repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            code = 409 if name in self.server.repos else 200
            self.server.repos.setdefault(name, {})
            self.server.created.append(asked)
            return self.answer({"url": f"{self.address}/{name}"}, code)
        name, action = "/".join(parts[2:4]), parts[4]
        repo = self.server.repos[name]
        if action == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        assert action == "commit"
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                repo[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.answer({"commitUrl": f"{self.address}/{name}/commit/1", "commitOid": "1" * 40})


@pytest.fixture(scope="module")
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repos, server.asked, server.created = {}, [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


RUN = """
import json, os, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from prompt_transferability.cli import main
for line in sys.stdin:
    command, token = json.loads(line)
    os.environ["HF_TOKEN"] = token
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = main(command)
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def online(hub, tmp_path_factory):
    "A process whose Hub is the stand-in: its answer to each command, or what it said where that failed."
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(tmp_path_factory.mktemp("hf")),
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", RUN], env=environment, **pipes) as process:

        def ask(command, token):
            asked = ["warehouse", *map(str, command), "--json"]
            process.stdin.write(json.dumps([asked, token]) + "\n")
            process.stdin.flush()
            code, out, said = json.loads(process.stdout.readline())
            assert bool(out) == (code == 0)
            return json.loads(out) if code == 0 else said

        yield lambda *commands, token="hf_stand_in": [ask(command, token) for command in commands]
        process.stdin.close()


def sums(warehouse):
    return {name: entry["sha256"] for name, entry in warehouse.index().items()}


def test_a_warehouse_goes_to_the_hub_and_comes_back(hub, online, warehouse, tmp_path):
    warehouse.add(prompt_of(1, "micro/sst2"), "micro/sst2 1")
    warehouse.nearest(prompt_of(2))  # leaves a cache
    (warehouse.folder / "notes.txt").write_text("mine")
    (warehouse.folder / "sub").mkdir()
    prompt_of(3).save(warehouse.folder / "sub" / "deep.safetensors")
    push, pull = ("push", warehouse.folder, "user/prompts"), ("pull", "user/prompts", tmp_path / "there")
    pushed, pulled, again, unchanged = online(push, pull, push, pull)
    assert pushed["commit"].endswith("/user/prompts/commit/1") and hub.created[0]["visibility"] == "private"
    assert {*hub.repos["user/prompts"]} == {INDEX, *(entry["file"] for entry in warehouse.index().values())}
    assert pulled["prompts"] == unchanged["prompts"] == 7 and "commit" in again
    assert sums(Warehouse(tmp_path / "there")) == sums(warehouse)


def test_a_push_loses_nobodys_prompts(hub, online, warehouse, tmp_path):
    other = Warehouse(tmp_path / "other")
    other.add(prompt_of(20, "qqp"))
    push, pull = ("push", other.folder, "user/shared"), ("pull", "user/shared", other.folder)
    _, said, pulled, pushed = online(("push", warehouse.folder, "user/shared"), push, pull, push)
    assert "has 6 prompts that" in said and "pull them first" in said and said.count("\n") == 1
    assert pulled["prompts"] == 7 and "commit" in pushed
    assert "qqp.safetensors" in hub.repos["user/shared"] and len(hub.repos["user/shared"]) == 8


EVIL = {
    "nothing": "has no warehouse.json",
    "a list": "is not the index of a warehouse",
    "deep": "nested too deeply",
    "climbing file": "is in '../../x.safetensors'",
    "climbing name": "'../x' cannot be the name",
    "missing": "'mnli 0.safetensors' in the repository 'evil/missing' is missing",
    "flipped": "'mnli 0.safetensors' does not match warehouse.json (its SHA-256 differs)",
    "pickled": "'mnli 0.safetensors' is not a safetensors file",
}


def test_repositories_that_anybody_may_have_filled(hub, online, warehouse, tmp_path):
    into, file = tmp_path / "into", "mnli 0.safetensors"
    content = (warehouse.folder / file).read_bytes()
    pickle = b"\x80\x04\x95" + b"x" * (len(content) - 3)
    pickled = altered(warehouse, "mnli 0", sha256=hashlib.sha256(pickle).hexdigest())
    whole = {path.name: path.read_bytes() for path in warehouse.folder.iterdir()}
    changes = {
        "nothing": {INDEX: None},
        "a list": {INDEX: b"[]"},
        "deep": {INDEX: b"[" * 1000 + b"]" * 1000},
        "climbing file": {INDEX: altered(warehouse, file="../../x.safetensors").encode()},
        "climbing name": {INDEX: altered(warehouse, name="../x", file="../x.safetensors").encode()},
        "missing": {file: None},
        "flipped": {file: content[:-1] + bytes([content[-1] ^ 1])},
        "pickled": {file: pickle, INDEX: pickled.encode()},
    }
    for name, change in changes.items():
        hub.repos[f"evil/{name.replace(' ', '-')}"] = {k: v for k, v in (whole | change).items() if v is not None}
    answers = online(*(("pull", f"evil/{name.replace(' ', '-')}", into) for name in changes))
    for said, answer in zip(EVIL.values(), answers, strict=True):
        assert said in answer and answer.count("\n") == 1, answer
    assert not into.exists()


def test_only_what_the_index_names_is_fetched(hub, online, warehouse, tmp_path):
    whole = {path.name: path.read_bytes() for path in warehouse.folder.iterdir() if path.suffix != ".cache"}
    strangers = {"model.safetensors": b"weights", "code.py": b"print()", "x.pt": b"\x80\x04", "../up.safetensors": b"u"}
    hub.repos["user/mixed"] = whole | strangers
    hub.asked.clear()
    [answer] = online(("pull", "user/mixed", tmp_path / "into"))
    assert answer["prompts"] == 6
    assert {path.rpartition("/")[2] for _, path in hub.asked if "/resolve/" in path} == {*whole}
    assert {path.name for path in (tmp_path / "into").iterdir()} == {*whole}


def test_a_name_that_both_have(hub, online, warehouse, tmp_path):
    hub.repos["user/other"] = {path.name: path.read_bytes() for path in warehouse.folder.iterdir()}
    other = Warehouse(tmp_path / "other")
    other.add(prompt_of(30), "sst2 1")
    [said] = online(("pull", "user/other", other.folder))
    assert "has another prompt 'sst2 1'" in said and [*other.index()] == ["sst2 1"]


def test_the_hub_says_no(hub, online, warehouse, tmp_path):
    names = ("nobody/nothing", "not a name")
    answers = online(*(("pull", name, tmp_path / "x") for name in names), ("push", warehouse.folder, "not a name"))
    answers += online(("push", warehouse.folder, "user/forbidden"), token="hf_other")
    for name, said in zip((*names, names[1], "user/forbidden"), answers, strict=True):
        assert f"the repository '{name}' could not be used" in said and said.count("\n") == 1
    assert not (tmp_path / "x").exists() and "user/forbidden" not in hub.repos


# ---- the command line


def test_the_command_line(tmp_path, capsys, real_results):
    from prompt_transferability.cli import main

    def run(*arguments):
        assert main(["warehouse", *map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    files = [
        prompt_of(seed, task).save(tmp_path / f"{task}-{seed}.safetensors")
        for task in ("sst2", "mnli")
        for seed in (0, 1)
    ]
    folder = tmp_path / "w"
    assert run("add", folder, *files)["added"] == ["sst2", "sst2 2", "mnli", "mnli 2"]
    assert run("add", folder, files[0], "--name", "mine")["added"] == ["mine"]
    assert [*run("list", folder, "--task-type", "NLI")["prompts"]] == ["mnli", "mnli 2"]
    near = run("nearest", folder, "sst2", "--k", 2, "--metric", "euclidean_concat")["nearest"]
    assert [*near][0] == "mine" and near["mine"]["similarity"] == 1.0
    assert [*run("nearest", folder, files[3])["nearest"]][0] == "mnli 2"
    added = run("add", folder, "--study", real_results / "micro")["added"]
    assert "micro/sst2 0" in added
    near = run("nearest", folder, "micro/mnli 0", "--metric", "neuron_overlap", "--k", 3, "--device", "cpu")
    assert near["backbone"] == "micro-roberta" and len(near["nearest"]) == 3


@pytest.fixture
def real_results():
    return Path(__file__).parents[1] / "results"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "nowhere"], "there is no warehouse 'nowhere'"),
        (["nearest", "nowhere", "sst2"], "there is no prompt 'sst2' in 'nowhere'"),
        (["nearest", "nowhere", "x.safetensors"], "there is no prompt file 'x.safetensors'"),
        (["add", "nowhere"], "give prompt files"),
        (["add", "nowhere", "a.safetensors", "b.safetensors", "--name", "c"], "--name is for a single prompt"),
        (["add", "nowhere", "--study", "no-study"], "no-study"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, monkeypatch, capsys, arguments, said):
    from prompt_transferability.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["warehouse", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert [*tmp_path.iterdir()] == []


def test_the_metrics_of_a_search_are_those_of_the_paper():
    assert {*module._SEARCHES} == {*METRICS}
