"Cells on a Ray cluster of two nodes, one of which is lost."

import json
import sys
import threading
import time

import pytest
import ray
from ray.cluster_utils import Cluster

from prompt_transferability.cells import Cell, Store, pack, run_cells
from prompt_transferability.study import Study


def answer(cell, store, folder):
    "Its number and those of the cells that it needs, after a while."
    time.sleep(cell.asked.get("seconds", 0))
    if cell.asked["number"] == cell.asked.get("fails"):
        raise RuntimeError("no such number")
    (folder / "number.txt").write_text(str(cell.asked["number"]))
    return {"sum": cell.asked["number"] + sum(store.read(need)["sum"] for need in cell.needs)}, {}


def triangle(count, **asked):
    "Cells of which each but the first few needs two others."
    cells = [Cell("number", {"number": i} | asked) for i in range(4)]
    for i in range(4, count):
        cells.append(Cell("number", {"number": i} | asked, (cells[i // 2], cells[i // 3])))
    return cells


@pytest.fixture(scope="module")
def cluster():
    "A head that computes nothing, and two nodes."
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


def test_a_node_that_is_lost_costs_nothing_but_time(cluster, tmp_path):
    cells = triangle(16, seconds=0.4)
    run_cells(cells, Store(tmp_path / "local"), answer)
    lost = threading.Timer(2, lambda: cluster[0].remove_node(cluster[1].pop(), allow_graceful=False))
    lost.start()
    report = run_cells(cells, Store(tmp_path / "cluster"), answer, engine="ray", workers=4)
    lost.join()
    assert report.whole and report.answered == 16 and len(cluster[1]) == 1
    assert results(cells, tmp_path / "cluster") == results(cells, tmp_path / "local")
    for cell in cells:
        there = {path.name for path in Store(tmp_path / "cluster").place(cell).iterdir()}
        assert there == {"cell.json", "result.json", "provenance.json", "number.txt"}


def test_a_failure_is_kept_here_and_holds_up_what_needs_it(cluster, tmp_path):
    cells = triangle(10, fails=2)
    report = run_cells(cells, Store(tmp_path), answer, engine="ray", workers=3)
    assert [failure.error for failure in report.failed] == ["RuntimeError: no such number"]
    assert {cell.asked["number"] for cell in report.held_up} == {4, 5, 6, 7, 8, 9}
    assert "no such number" in Store(tmp_path).failure(cells[2]).traceback


def test_packed_answers_are_sent_too(cluster, tmp_path):
    cells = triangle(5)
    (tmp_path / "study.yaml").touch()
    run_cells(cells[:4], Store(tmp_path), answer)
    pack(tmp_path, tmp_path, cells)
    assert run_cells(cells, Store(tmp_path), answer, engine="ray", workers=2).whole
    assert Store(tmp_path).read(cells[4])["sum"] == 4 + 2 + 1


def test_a_study_gives_the_same_on_a_cluster(cluster, tmp_path, monkeypatch):
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
