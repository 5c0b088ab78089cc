"""The workflows for GitHub: they parse, use a Python that the package takes, and call targets that the Makefile has."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))


def steps(workflow: Path) -> list[dict]:
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_calls_what_is_there(workflow):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    called = [target for step in steps(workflow) for target in re.findall(r"make (\w+)", step.get("run", ""))]
    assert called and set(called) <= set(targets)
    versions = [step["with"]["python-version"] for step in steps(workflow) if "python-version" in step.get("with", {})]
    oldest = re.search(r"^min_python = (.+)$", (ROOT / "settings.ini").read_text(encoding="utf-8"), re.M)[1]
    assert versions == [oldest]


def test_only_what_was_tested_is_deployed():
    deploy, test = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in WORKFLOWS)
    assert deploy[True] == {  # YAML 1.1 reads `on` so
        "workflow_run": {"workflows": [test["name"]], "types": ["completed"], "branches": ["main"]},
        "workflow_dispatch": None,
    }
    condition = deploy["jobs"]["deploy"]["if"]
    assert "workflow_run.conclusion == 'success'" in condition and "workflow_run.event == 'push'" in condition
    checkout, *_ = deploy["jobs"]["deploy"]["steps"]
    assert "workflow_run.head_sha" in checkout["with"]["ref"]
    assert deploy["permissions"] == {"contents": "read", "pages": "write", "id-token": "write"}
    assert test["permissions"] == {"contents": "read"} and {"push", "pull_request"} < test[True].keys()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_torch_comes_without_cuda(workflow):
    assert yaml.safe_load(workflow.read_text(encoding="utf-8"))["env"]["PIP_EXTRA_INDEX_URL"].endswith("/whl/cpu")


def test_the_site_is_tested_and_deployed():
    assert [path.stem for path in WORKFLOWS] == ["deploy", "test"]
    (uploaded,) = (step["with"]["path"] for step in steps(WORKFLOWS[0]) if "upload" in step.get("uses", ""))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^site:.*into (\S+)/$", makefile, re.M)[1] == uploaded
