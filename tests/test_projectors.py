"Projectors: what a reader of the notebook should not have to see."

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from prompt_transferability.backbones import Backbone
from prompt_transferability.projectors import (
    MisfitError,
    Projection,
    Projector,
    ProjectorError,
    fit_linear_map,
    fit_prompt_mapping,
    fit_relative_map,
    fit_task_tuning,
    fit_token_mapping,
)
from prompt_transferability.prompt_tuning import TuningError
from prompt_transferability.prompts import SoftPrompt, random_prompt
from prompt_transferability.tasks import load_task

RUN = """
import sys
import torch
from prompt_transferability.backbones import Backbone
from prompt_transferability.projectors import fit_task_tuning
from prompt_transferability.prompts import SoftPrompt, random_prompt
from prompt_transferability.tasks import load_task
torch.set_num_threads(1)
source, target = Backbone.from_pretrained("micro-bert"), Backbone.from_pretrained("micro-roberta")
datas = [load_task(f"micro/{name}", max_train=rows, max_eval=60) for name, rows in (("sst2", 100), ("laptop", 50))]
prompts = [SoftPrompt(random_prompt(source, 4, 0).values, source.name, data.task.name) for data in datas]
fit_task_tuning(target, prompts, datas, hidden_size=8, steps=30, eval_every=5, checkpoint=sys.argv[1],
                progress=False).save(sys.argv[2])
"""
SETTINGS = dict(hidden_size=8, steps=6, eval_every=3, progress=False)


@pytest.fixture(scope="module")
def source():
    return Backbone.from_pretrained("micro-bert")


@pytest.fixture(scope="module")
def target():
    return Backbone.from_pretrained("micro-roberta")


@pytest.fixture(scope="module")
def data():
    return load_task("micro/sst2", max_train=60, max_eval=40)


@pytest.fixture(scope="module")
def prompt(source):
    return SoftPrompt(random_prompt(source, 4, 0).values, source.name, "micro/sst2", metadata={"seed": 0})


def same(one: Projection, other: Projection) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_killed_fit_ends_as_if_it_had_not_been_killed(tmp_path):
    whole, killed = (
        [sys.executable, "-c", RUN, str(tmp_path / f"{name}.checkpoint"), str(tmp_path / f"{name}.safetensors")]
        for name in ("whole", "killed")
    )
    subprocess.run(whole, check=True)
    process = subprocess.Popen(killed)
    while not (tmp_path / "killed.checkpoint").exists():
        time.sleep(0.01)
        assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed.safetensors").exists()
    subprocess.run(killed, check=True)
    one, other = (Projector.load(tmp_path / f"{name}.safetensors") for name in ("whole", "killed"))
    assert same(one, other)
    assert one.metadata | {"seconds": 0} == other.metadata | {"seconds": 0}


@pytest.mark.parametrize("change", [dict(seed=1), dict(layer_norm=False), dict(learning_rate=1e-3), dict(batch_size=8)])
def test_the_checkpoint_of_another_fit_is_refused(target, data, prompt, tmp_path, change):
    fit_task_tuning(target, [prompt], [data], **SETTINGS, checkpoint=tmp_path / "state")
    with pytest.raises(TuningError, match=f"differs in .*{next(iter(change))}"):
        fit_task_tuning(target, [prompt], [data], **SETTINGS | change, checkpoint=tmp_path / "state")


def test_the_checkpoint_of_other_prompts_is_refused(target, data, prompt, tmp_path):
    fit_task_tuning(target, [prompt], [data], **SETTINGS, checkpoint=tmp_path / "state")
    other = SoftPrompt(prompt.values + 1, prompt.backbone, prompt.task)
    with pytest.raises(TuningError, match="differs in .*source"):
        fit_task_tuning(target, [other], [data], **SETTINGS, checkpoint=tmp_path / "state")


def test_mappings_go_on_from_a_checkpoint(source, target, prompt, tmp_path):
    pairs = [(prompt, SoftPrompt(random_prompt(target, 4, seed).values, target.name, prompt.task)) for seed in (1, 2)]
    settings = dict(hidden_size=8, batch_size=1, eval_every=10, progress=False)
    whole = fit_prompt_mapping(pairs, steps=40, **settings, checkpoint=tmp_path / "whole")
    calls = []

    class Stop(Exception):
        pass

    def stops(projector, x):
        calls.append(x)
        if len(calls) > 25:
            raise Stop
        return forward(projector, x)

    forward, Projector.forward = Projector.forward, stops
    try:
        with pytest.raises(Stop):
            fit_prompt_mapping(pairs, steps=40, **settings, checkpoint=tmp_path / "state")
    finally:
        Projector.forward = forward
    assert (tmp_path / "state").is_file()
    assert same(fit_prompt_mapping(pairs, steps=40, **settings, checkpoint=tmp_path / "state"), whole)


def test_the_larger_task_is_cut_to_the_smaller_each_epoch(target, source):
    seen = {"micro/sst2": [], "micro/laptop": []}
    datas = [load_task(name, max_train=rows, max_eval=20) for name, rows in (("micro/sst2", 64), ("micro/laptop", 16))]
    prompts = [SoftPrompt(random_prompt(source, 4, 0).values, source.name, name) for name in seen]
    mask_states, read_out, texts = target.mask_states, target.read_out, []
    target.mask_states = lambda p, text: texts.append(text) or mask_states(p, text)

    def notes(states, task):
        if states.requires_grad:
            seen[task.name].append(texts[-1].ids.tolist())
        return read_out(states, task)

    target.read_out = notes
    try:
        fit_task_tuning(target, prompts, datas, **SETTINGS | dict(steps=8, batch_size=8, eval_every=8))
    finally:
        del target.read_out, target.mask_states
    # Two batches of the small task are an epoch: of eight steps each task has four, and the small one sees all
    # of its texts twice while the large one brings others in its second epoch.
    large, small = seen.values()
    assert len(large) == len(small) == 4

    def texts_of(batches):
        rows = [ids for batch in batches for ids in batch]
        return sorted([token for token in ids if token != target.tokenizer.pad_token_id] for ids in rows)

    assert texts_of(small[:2]) == texts_of(small[2:])
    assert texts_of(large[:2]) != texts_of(large[2:])


def test_the_best_weights_are_kept_and_not_the_last(target, data, prompt, monkeypatch):
    scores = iter([0.1, 0.5, 0.5, 0.2])
    monkeypatch.setattr("prompt_transferability.projectors._TaskTuning.score", lambda self, projector: next(scores))
    kept = fit_task_tuning(target, [prompt], [data], **SETTINGS | dict(steps=6, eval_every=2))
    assert (kept.metadata["steps"], kept.metadata["best_step"]) == (6, 2) and kept.metadata["score"] == 0.5
    scores = iter([0.1, 0.5])
    assert same(kept, fit_task_tuning(target, [prompt], [data], **SETTINGS | dict(steps=2, eval_every=2)))


def test_several_prompts_of_a_task_take_turns(target, data, prompt, source):
    other = SoftPrompt(random_prompt(source, 4, 1).values, source.name, prompt.task, metadata={"seed": 1})
    both = fit_task_tuning(target, [prompt, other], [data], **SETTINGS)
    assert both.metadata["prompt_seeds"] == [[0, 1]]
    assert not same(both, fit_task_tuning(target, [prompt], [data], **SETTINGS))


def test_a_loss_that_is_no_number_stops_the_fit(target, data, prompt):
    huge = SoftPrompt(torch.full((4, 128), 1e38), prompt.backbone, prompt.task)
    with pytest.raises(TuningError, match="the loss of the projector is nan"):
        fit_task_tuning(target, [huge], [data], **SETTINGS, layer_norm=False, activation="leaky_relu")


def test_models_without_words_in_common_are_refused(source, target, monkeypatch):
    monkeypatch.setattr(type(target.tokenizer), "get_vocab", lambda self: {f"Ġ{self.name_or_path}x": 0})
    for fit in (fit_linear_map, fit_relative_map):
        with pytest.raises(MisfitError, match="have 0 (tokens|words) in common"):
            fit(source, target)


def altered(path, header=None, tensors=None, drop=()):
    "The file again, with another header or other tensors."
    with safe_open(path, framework="pt") as file:
        ours, held = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}
    header = {name: value for name, value in (ours | (header or {})).items() if name not in drop}
    save_file({name: value for name, value in (held | (tensors or {})).items() if name not in drop}, path, header)
    return path


@pytest.mark.parametrize(
    "change",
    [
        dict(header={"format": "prompt_transferability/1"}),
        dict(header={"kind": "unknown"}),
        dict(header={"settings": "{"}),
        dict(header={"settings": json.dumps({"source_size": 3})}),
        dict(header={"metadata": "no JSON"}),
        dict(drop=("metadata",)),
        dict(drop=("inner.weight",)),
        dict(tensors={"inner.weight": torch.zeros(3, 3)}),
    ],
)
def test_a_file_that_is_no_projector_is_refused(tmp_path, change):
    path = altered(Projector(4, 5, 2, 3).save(tmp_path / "projector.safetensors"), **change)
    with pytest.raises(ProjectorError, match="'projector.safetensors' is"):
        Projection.load(path)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no projector file 'none.safetensors'"):
        Projector.load(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ProjectorError, match="no safetensors file"):
        Projector.load(tmp_path / "text")


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    def breaks(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("prompt_transferability.projectors.save_file", breaks)
    with pytest.raises(KeyboardInterrupt):
        Projector(4, 5, 2, 3).save(tmp_path / "projector.safetensors")
    assert not list(tmp_path.iterdir())


def test_token_mapping_learns_from_every_token(target, monkeypatch):
    large, seen = Backbone.from_pretrained("micro-roberta-large"), []
    forward = Projector.forward
    monkeypatch.setattr(Projector, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    fit_token_mapping(target, large, hidden_size=8, steps=5, eval_every=5, batch_size=256, progress=False)
    vocabulary = len(target.tokenizer)
    assert seen[0] == vocabulary and sum(seen[1:6]) == vocabulary  # an evaluation, then one epoch of five batches
