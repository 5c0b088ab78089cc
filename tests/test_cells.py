"Computations that are done once: whatever happens to a process, answers are complete and the result is the same."

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import save_file

from prompt_transferability.cells import (
    MANIFEST,
    TABLE,
    Cell,
    Schedule,
    Store,
    StoreError,
    _Workers,
    hash_of,
    pack,
    run_cells,
    shard_of,
)
from prompt_transferability.study import Study

FIRST = [Cell("first", {"number": number}) for number in range(12)]
SECOND = [Cell("second", {"of": [a.key, b.key]}, (a, b)) for a, b in zip(FIRST, FIRST[1:], strict=False)]
CELLS = [*FIRST, *SECOND]


def answer(cell, store, folder, seconds=0.0):
    "A number, or the sum of two, with a file of tensors."
    time.sleep(seconds)
    value = cell.asked["number"] if cell.kind == "first" else sum(store.read(need)["value"] for need in cell.needs)
    save_file({"vectors": torch.full((2, 3), float(value))}, folder / "prompt.safetensors", metadata={"task": "sum"})
    return {"value": value}, {"seed": None}


def kills_once(cell, store, folder):
    "A worker that is killed the first time it answers a certain cell."
    killed = store.folder / "killed"
    if cell.asked.get("number") == 3 and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return answer(cell, store, folder)


def always_killed(cell, store, folder):
    if cell.asked.get("number") == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer(cell, store, folder)


def fails(cell, store, folder):
    if cell.asked.get("number") == 3:
        raise ZeroDivisionError("three")
    return answer(cell, store, folder)


def contents(folder):
    "Every file of the answers, byte for byte."
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("cells/*/[!.]*/*")}


def hidden(folder):
    return [path.name for path in folder.glob("cells/*/.*")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The contents after an undisturbed run."
    folder = tmp_path_factory.mktemp("whole")
    assert run_cells(CELLS, Store(folder), answer).whole
    return contents(folder)


# ---- running cells


@pytest.mark.parametrize("workers", [1, 2])
def test_every_cell_is_answered_once(whole, tmp_path, workers):
    store, told = Store(tmp_path), []
    report = run_cells(CELLS, store, answer, workers=workers, done=lambda cell, seconds: told.append(cell.key))
    assert report.whole and report.answered == len(CELLS) == len(set(told))
    assert contents(tmp_path) == whole and hidden(tmp_path) == []
    assert run_cells(CELLS, store, answer, workers=workers).answered == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failed_cell_blocks_only_cells_that_need_it(tmp_path, workers):
    store = Store(tmp_path)
    report = run_cells(CELLS, store, fails, workers=workers)
    assert [failure.error for failure in report.failed] == ["ZeroDivisionError: three"]
    assert "in fails" in store.failure(FIRST[3]).traceback
    assert {cell.key for cell in report.held_up} == {SECOND[2].key, SECOND[3].key}
    assert report.answered == len(CELLS) - 3
    again = run_cells(CELLS, store, answer, workers=workers)
    assert again.answered == 0 and again.failed == report.failed and len(again.held_up) == 2
    mended = run_cells(CELLS, store, answer, workers=workers, retry_failed=True)
    assert mended.whole and mended.answered == 3 and hidden(tmp_path) == []


def test_a_failed_cell_blocks_indirect_dependents(tmp_path):
    chain = [FIRST[3]]
    for number in range(3):
        chain.append(Cell("second", {"of": [chain[-1].key], "number": -number - 1}, (chain[-1],)))
    report = run_cells(chain, Store(tmp_path), fails)
    assert len(report.failed) == 1 and {cell.key for cell in report.held_up} == {cell.key for cell in chain[1:]}


def test_fail_fast_stops_at_the_first_failure(tmp_path):
    report = run_cells(CELLS, Store(tmp_path), fails, fail_fast=True)
    assert report.answered == 3 and len(report.failed) == 1
    assert len(report.held_up) == len(CELLS) - 4


def test_the_cell_of_a_killed_worker_is_tried_again(whole, tmp_path):
    assert run_cells(CELLS, Store(tmp_path), kills_once, workers=2).whole
    assert contents(tmp_path) == whole and hidden(tmp_path) == []


def test_idle_workers_exit_and_release_their_resources(tmp_path):
    "A worker that is ended by a signal leaves the lock of its progress bar behind, and Python warns about it."
    workers = _Workers(Store(tmp_path), answer, None)
    workers.give(FIRST[0])
    [_] = workers.next()
    [(process, _)] = workers.idle
    workers.end()
    assert process.exitcode == 0


def test_a_cell_that_kills_every_worker_fails(tmp_path):
    report = run_cells(CELLS, Store(tmp_path), always_killed, workers=2)
    assert "killed (SIGKILL), probably because memory ran out" in report.failed[0].error
    assert report.answered == len(CELLS) - 3 and len(report.held_up) == 2


def test_shards_together_compute_all_cells(whole, tmp_path):
    store = Store(tmp_path)
    answered = [run_cells(FIRST, store, answer, shard=(i, 3)).answered for i in (1, 2, 3)]
    assert answered == [sum(shard_of(cell, 3) == i for cell in FIRST) for i in (1, 2, 3)] and sum(answered) == 12
    for i in (1, 2, 3):
        run_cells(CELLS, store, answer, shard=(i, 3), patience=0)
    assert contents(tmp_path) == whole


def test_ten_thousand_cells_are_scheduled_quickly():
    firsts = [Cell("first", {"number": number}) for number in range(5_000)]
    cells = [*firsts, *(Cell("second", {"of": cell.key}, (cell,)) for cell in firsts)]
    started = time.perf_counter()
    schedule, order = Schedule(cells, lambda cell: False), []
    while schedule.ready:
        order.append(schedule.ready.popleft())
        schedule.answered(order[-1])
    assert len(order) == 10_000 and time.perf_counter() - started < 10


# ---- signals, and other processes in the same folder


@pytest.fixture
def started(fork):
    "Start a run with two workers in a separate process."

    def run(folder, seconds):
        run_cells(CELLS, Store(folder), partial(answer, seconds=seconds), workers=2)

    return lambda folder, seconds=0.05: fork(partial(run, folder, seconds))


def children(process):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes through /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("moment", range(3))
def test_a_run_ended_at_any_moment_leaves_complete_answers_and_no_process(whole, tmp_path, number, moment, started):
    folder = tmp_path / "out"
    run = started(folder)
    random_moment = random.Random(f"{number} {moment}").uniform(0, 1.0)
    while not list(folder.glob("cells/first/[!.]*")) and run.process.is_alive():
        time.sleep(0.01)
    time.sleep(random_moment)
    workers = children(run.pid)
    with suppress(ProcessLookupError):
        os.kill(run.pid, number)
    assert run.wait(10) in (-number, 128 + signal.SIGTERM, 0)
    waited = time.monotonic()
    while any(map(alive, workers)) and time.monotonic() - waited < 10:
        time.sleep(0.1)
    assert not any(map(alive, workers)), "a worker outlived its run"
    there = contents(folder)
    assert there.items() <= whole.items()
    assert run_cells(CELLS, Store(folder), answer).whole
    assert contents(folder) == whole and hidden(folder) == []


def test_a_second_run_in_a_folder_names_the_first(whole, tmp_path, started):
    folder = tmp_path / "out"
    first = started(folder, seconds=0.3)
    while not list(folder.glob("cells/first/[!.]*")):
        assert first.process.is_alive()
        time.sleep(0.01)
    with pytest.raises(
        StoreError, match=f"process {first.pid} on .* has been using 'out' since .*Z; wait until it ends"
    ):
        run_cells(CELLS, Store(folder), answer)
    assert first.wait(60) == 0 and contents(folder) == whole
    assert run_cells(CELLS, Store(folder), answer).answered == 0


def test_a_dead_owner_is_replaced_at_once_here_and_after_silence_elsewhere(tmp_path):
    dead = {"host": os.uname().nodename, "process": 2**22 + 1, "started": "1", "since": "long ago", "token": "x"}
    owner = tmp_path / ".owner-1-of-1.json"
    owner.write_text(json.dumps(dead))
    assert run_cells(FIRST[:1], Store(tmp_path), answer).whole and not owner.exists()
    owner.write_text(json.dumps(dead | {"host": "another"}))
    with pytest.raises(StoreError, match="on another has been using"):
        run_cells(FIRST, Store(tmp_path), answer)
    os.utime(owner, (time.time() - 3600,) * 2)
    assert run_cells(FIRST, Store(tmp_path), answer).whole


# ---- packed stores


@pytest.fixture
def packed(tmp_path):
    "A packed folder, and the store that it was made from."
    loose, into = tmp_path / "loose", tmp_path / "packed"
    run_cells(CELLS, Store(loose), answer)
    (loose / "study.yaml").write_text("name: sums\n")
    assert pack(loose, into, CELLS) == len(CELLS)
    return into, Store(loose)


def test_a_packed_store_returns_the_same_as_the_loose_one(packed):
    into, loose = packed
    store = Store(into)
    assert sorted(path.name for path in into.iterdir()) == [MANIFEST, TABLE, "prompts.safetensors", "study.yaml"]
    for cell in CELLS:
        assert cell in store and store.files(cell) == ["prompt.safetensors"]
        for part in ("result", "provenance"):
            assert store.read(cell, part) == loose.read(cell, part)
        (header, tensors), (noted, expected) = (of.tensors(cell, "prompt.safetensors") for of in (store, loose))
        assert torch.equal(tensors["vectors"], expected["vectors"]) and header == noted
    assert run_cells(CELLS, store, fails).answered == 0


def test_packing_again_changes_no_byte_and_adds_new_cells(packed, tmp_path):
    into, _ = packed
    before = {path.name: path.read_bytes() for path in into.iterdir()}
    pack(into, into, CELLS)
    assert {path.name: path.read_bytes() for path in into.iterdir()} == before
    more = [*CELLS, Cell("first", {"number": 99})]
    assert run_cells(more, Store(into), answer).answered == 1
    assert pack(into, into, more) == len(more) and not list(into.glob("cells/*/*"))
    assert Store(into).read(more[-1]) == {"value": 99}


def test_tensors_left_out_are_named_and_the_answer_stays_complete(packed, tmp_path):
    into, _ = packed
    cells, lean = [*CELLS], tmp_path / "lean"
    pack(into, lean, cells, keep=lambda cell, name: cell.kind != "first")
    (first, *_), (second, *_) = (
        [cell for cell in cells if (cell.kind == "first") == is_first] for is_first in (True, False)
    )
    store = Store(lean)
    assert store.files(first) == ["prompt.safetensors"] and store.read(first) == Store(into).read(first)
    assert store.tensors(second, "prompt.safetensors")[1]
    assert (lean / "prompts.safetensors").stat().st_size < (into / "prompts.safetensors").stat().st_size
    other = Store(tmp_path / "other")
    assert other.take([first], [store]) == 1 and other.files(first) == ["prompt.safetensors"]
    pack(lean, lean, cells)
    for left in (store, other, Store(lean)):
        with pytest.raises(StoreError, match="was left out when .* was packed"):
            left.tensors(first, "prompt.safetensors")


def ended_at(call, number):
    "A function of `os` that ends its process instead of making one of its calls, as a kill would."
    calls = iter(range(number))
    return lambda *given, **named: os._exit(9) if next(calls, None) is None else call(*given, **named)


@pytest.mark.parametrize(
    ("name", "number"), [*(("replace", n) for n in range(6)), *(("unlink", n) for n in (0, 1, 2, 5))]
)
def test_a_killed_packing_loses_nothing(tmp_path, name, number):
    run_cells(CELLS[:8], Store(tmp_path), answer)
    (tmp_path / "study.yaml").write_text("name: sums\n")
    pack(tmp_path, tmp_path, CELLS)
    run_cells(CELLS, Store(tmp_path), answer)  # some are packed now, and some are loose
    child = os.fork()
    if not child:
        setattr(os, name, ended_at(getattr(os, name), number))
        pack(tmp_path, tmp_path, CELLS)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended == 9 or (name, number) == ("replace", 5)  # the plan, three files and the manifest have been replaced
    assert run_cells(CELLS, Store(tmp_path), fails).answered == 0  # the next owner of the folder finds them all
    assert pack(tmp_path, tmp_path, CELLS) == len(CELLS)
    store = Store(tmp_path)
    for cell in CELLS:
        assert store.read(cell)["value"] == store.tensors(cell, "prompt.safetensors")[1]["vectors"][0, 0]
    assert sorted(os.listdir(tmp_path)) == [MANIFEST, "cells", TABLE, "prompts.safetensors", "study.yaml"]
    assert not list(tmp_path.glob("cells/*/*"))


def test_an_answer_without_its_result_is_named(tmp_path):
    store = Store(tmp_path)
    run_cells(FIRST[:1], store, answer)
    (store.place(FIRST[0]) / "result.json").unlink()
    with pytest.raises(StoreError, match="result.json' is missing; remove its folder"):
        store.read(FIRST[0])


@pytest.mark.parametrize("name", [TABLE, "prompts.safetensors"])
def test_a_truncated_packed_file_is_named(packed, name):
    into, _ = packed
    (into / name).write_bytes((into / name).read_bytes()[:-5])
    with pytest.raises(StoreError, match=f"'{name}' in .* is missing or does not match MANIFEST"):
        Store(into).read(CELLS[0])


def test_a_truncated_answer_is_named(tmp_path):
    store = Store(tmp_path)
    run_cells(FIRST[:1], store, answer)
    (store.place(FIRST[0]) / "result.json").write_text('{"val')
    with pytest.raises(StoreError, match="result.json"):
        store.read(FIRST[0])


def test_a_hundred_thousand_cells_are_packed_and_read_in_seconds(tmp_path):
    cells = [Cell("first", {"number": number}) for number in range(100_000)]
    for cell in cells[:1000]:
        with Store(tmp_path).writing(cell) as (_, parts):
            parts |= {"result": {"value": 1}, "provenance": {}}
    started = time.perf_counter()
    (tmp_path / "study.yaml").write_text("name: many\n")
    assert pack(tmp_path, tmp_path, cells) == 1000
    store = Store(tmp_path)
    assert sum(cell in store for cell in cells) == 1000
    assert time.perf_counter() - started < 30


def test_a_killed_idle_worker_is_replaced(tmp_path):
    workers = _Workers(Store(tmp_path), answer, None)
    try:
        workers.give(FIRST[0])
        assert [outcome for _, _, outcome in workers.next()] == [None]
        ((process, _),) = workers.idle
        process.kill()
        process.join()
        workers.give(FIRST[1])
        assert [(cell, outcome) for cell, _, outcome in workers.next()] == [(FIRST[1], None)]
    finally:
        workers.end()


@pytest.mark.parametrize("noted", ["", "{", "3", "{}", '{"kind": 1, "key": "a", "error": "b", "traceback": "c"}'])
def test_an_invalid_note_of_a_failure_is_ignored(noted, tmp_path):
    path = Store(tmp_path).sibling(FIRST[0], "failed.json")
    path.parent.mkdir(parents=True)
    path.write_text(noted)
    assert Store(tmp_path).failure(FIRST[0]) is None
    assert run_cells(FIRST, Store(tmp_path), answer).whole and not path.exists()


def test_a_full_disk_hides_no_failure(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    report = run_cells(FIRST[:2], Store(tmp_path), answer)
    assert [failure.error for failure in report.failed] == ["OSError: No space left on device"] * 2
    assert not list(tmp_path.glob("cells/*/[!.]*"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda table: table.drop_columns("key"),
        lambda table: table.set_column(1, "key", pa.array([None] * len(table), pa.string())),
        lambda table: table.set_column(3, "result", pa.array(["{"] * len(table), pa.string())),
    ],
)
def test_an_invalid_packed_table_is_named(damage, tmp_path):
    run_cells(CELLS, Store(tmp_path), answer)
    (tmp_path / "study.yaml").touch()
    pack(tmp_path, tmp_path, CELLS)
    pq.write_table(damage(pq.read_table(tmp_path / TABLE)), tmp_path / TABLE)
    names = [name for name in (TABLE, "prompts.safetensors")]
    (tmp_path / MANIFEST).write_text("".join(f"{hash_of(tmp_path / name)}  {name}\n" for name in names))
    with pytest.raises(StoreError, match="cells.parquet"):
        [Store(tmp_path).read(cell) for cell in CELLS]


def test_a_shard_waits_for_answers_of_another(tmp_path, fork):
    def compute(i):
        return not run_cells(CELLS, Store(tmp_path), partial(answer, seconds=0.05), shard=(i, 2)).whole

    shards = [fork(partial(compute, i)) for i in (1, 2)]
    assert [shard.wait() for shard in shards] == [0, 0]
    assert all(cell in Store(tmp_path) for cell in CELLS)


# ---- on a cluster of two nodes, one of which is lost


def summed(cell, store, folder):
    "A cell's number plus those of the cells it needs, after a delay."
    time.sleep(cell.asked.get("seconds", 0))
    if cell.asked["number"] == cell.asked.get("fails"):
        raise RuntimeError("no such number")
    (folder / "number.txt").write_text(str(cell.asked["number"]))
    return {"sum": cell.asked["number"] + sum(store.read(need)["sum"] for need in cell.needs)}, {}


def triangle(count, **asked):
    "Cells that each need two others, except for the first few."
    cells = [Cell("number", {"number": i} | asked) for i in range(4)]
    for i in range(4, count):
        cells.append(Cell("number", {"number": i} | asked, (cells[i // 2], cells[i // 3])))
    return cells


@pytest.fixture(scope="module")
def cluster():
    "A head node that computes nothing, and two workers."
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 2}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": health}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def results(cells, out):
    return {cell.key: Store(out).read(cell) for cell in cells}


def test_a_lost_node_costs_only_time(cluster, tmp_path):
    cells = triangle(16, seconds=0.4)
    run_cells(cells, Store(tmp_path / "local"), summed)
    lost = threading.Timer(2, lambda: cluster[0].remove_node(cluster[1].pop(), allow_graceful=False))
    lost.start()
    report = run_cells(cells, Store(tmp_path / "cluster"), summed, engine="ray", workers=4)
    lost.join()
    assert report.whole and report.answered == 16 and len(cluster[1]) == 1
    assert results(cells, tmp_path / "cluster") == results(cells, tmp_path / "local")
    for cell in cells:
        there = {path.name for path in Store(tmp_path / "cluster").place(cell).iterdir()}
        assert there == {"cell.json", "result.json", "provenance.json", "number.txt"}


def test_a_failure_is_recorded_by_the_driver_and_blocks_dependents(cluster, tmp_path):
    cells = triangle(10, fails=2)
    report = run_cells(cells, Store(tmp_path), summed, engine="ray", workers=3)
    assert [failure.error for failure in report.failed] == ["RuntimeError: no such number"]
    assert {cell.asked["number"] for cell in report.held_up} == {4, 5, 6, 7, 8, 9}
    assert "no such number" in Store(tmp_path).failure(cells[2]).traceback


def test_packed_answers_are_sent_too(cluster, tmp_path):
    cells = triangle(5)
    (tmp_path / "study.yaml").touch()
    run_cells(cells[:4], Store(tmp_path), summed)
    pack(tmp_path, tmp_path, cells)
    assert run_cells(cells, Store(tmp_path), summed, engine="ray", workers=2).whole
    assert Store(tmp_path).read(cells[4])["sum"] == 4 + 2 + 1


def test_a_study_has_the_same_result_on_a_cluster(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    study = Study(
        "tiny", ("micro-bert",), ("micro/sst2",), random_seeds=(0,), length=4, steps=4, max_train=40, max_eval=20
    )
    for engine, out in (("local", tmp_path / "a"), ("ray", tmp_path / "b")):
        study.run(out, engine=engine, workers=1, device="cpu", progress=False)
    files = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.safetensors")}
    assert files and all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    for path in (tmp_path / "a").rglob("result.json"):
        ours, theirs = (
            json.loads((out / path.relative_to(tmp_path / "a")).read_text()) for out in (tmp_path / "a", tmp_path / "b")
        )
        for times in ("seconds", "examples_per_second"):
            ours.pop(times, None), theirs.pop(times, None)
        (ours.get("curve") or {}).pop("seconds", None), (theirs.get("curve") or {}).pop("seconds", None)
        assert ours == theirs


def test_a_worker_watches_its_run_before_slow_imports():
    code = "import sys, prompt_transferability.__main__, prompt_transferability.cells; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
