"Projectors: what a reader of the notebook should not have to see."

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.optim import AdamW

from prompt_transferability import layernorm_ablation as module
from prompt_transferability.backbones import Backbone
from prompt_transferability.layernorm_ablation import layernorm_ablation
from prompt_transferability.projectors import (
    PROJECTION_METHODS,
    MisfitError,
    Projection,
    Projector,
    ProjectorError,
    _TaskTuning,
    fit_linear_map,
    fit_prompt_mapping,
    fit_relative_map,
    fit_task_tuning,
    fit_token_mapping,
    reuse_directly,
)
from prompt_transferability.prompt_tuning import TuningJob, tune_prompts
from prompt_transferability.prompts import SoftPrompt, random_prompt
from prompt_transferability.similarity import METRICS, similarity_matrix
from prompt_transferability.tasks import ALL_TASKS, load_task, unify_label_words
from prompt_transferability.tpt_model import similarity_to_tuned, tune_from_model
from prompt_transferability.training import TuningError, epoch_batches
from prompt_transferability.zero_shot_transfer import evaluate_prompts, recovered_by_kind

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


def test_a_killed_fit_ends_as_if_it_had_not_been_killed(source, target, tmp_path, whole_and_killed):
    datas = [load_task(f"micro/{name}", max_train=rows, max_eval=60) for name, rows in (("sst2", 100), ("laptop", 50))]
    prompts = [SoftPrompt(random_prompt(source, 4, 0).values, source.name, data.task.name) for data in datas]
    settings = dict(hidden_size=8, steps=30, eval_every=5, progress=False)

    def fit(name):
        found = fit_task_tuning(target, prompts, datas, **settings, checkpoint=tmp_path / f"{name}.checkpoint")
        found.save(tmp_path / f"{name}.safetensors")

    one, other = (Projector.load(path) for path in whole_and_killed(fit))
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


def test_the_checkpoint_of_another_mapping_is_refused(target, prompt, tmp_path):
    def mapped(prompt, seed):
        wanted = SoftPrompt(random_prompt(target, 4, seed).values, target.name, prompt.task)
        return fit_prompt_mapping([(prompt, wanted)], **SETTINGS, checkpoint=tmp_path / "state")

    mapped(prompt, 1)
    with pytest.raises(TuningError, match="differs in target"):
        mapped(prompt, 2)
    with pytest.raises(TuningError, match="differs in source"):
        mapped(SoftPrompt(prompt.values + 1, prompt.backbone, prompt.task, metadata=prompt.metadata), 1)


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
    read_out_states, read_out, texts = target.read_out_states, target.read_out, []
    target.read_out_states = lambda p, text: texts.append(text) or read_out_states(p, text)

    def notes(states, task):
        if states.requires_grad:
            seen[task.name].append(texts[-1].ids.tolist())
        return read_out(states, task)

    target.read_out = notes
    try:
        fit_task_tuning(target, prompts, datas, **SETTINGS | dict(steps=8, batch_size=8, eval_every=8))
    finally:
        del target.read_out, target.read_out_states
    # Two batches of the small task are an epoch. Of eight steps each task has four: the small one sees all of its
    # texts twice, the large one the first two of the eight batches that it has in each of two epochs of its own.
    for data in datas:
        encoded = target.encode(data.train)
        orders = [epoch_batches(len(encoded), 8, 0, epoch)[:2] for epoch in (0, 1)]
        expected = [encoded.batch(rows).ids.tolist() for order in orders for rows in order]
        assert seen[data.task.name] == expected


def test_the_best_weights_are_kept_and_not_the_last(target, data, prompt, monkeypatch):
    scores = iter([0.1, 0.5, 0.5, 0.2])
    monkeypatch.setattr("prompt_transferability.projectors._TaskTuning.score", lambda self, job: next(scores))
    kept = fit_task_tuning(target, [prompt], [data], **SETTINGS | dict(steps=6, eval_every=2))
    assert (kept.metadata["steps"], kept.metadata["best_step"]) == (6, 2) and kept.metadata["score"] == 0.5
    scores = iter([0.1, 0.5])
    assert same(kept, fit_task_tuning(target, [prompt], [data], **SETTINGS | dict(steps=2, eval_every=2)))


def test_several_prompts_of_a_task_take_turns(target, data, prompt, source, monkeypatch):
    other = SoftPrompt(random_prompt(source, 4, 1).values, source.name, prompt.task, metadata={"seed": 1})
    laptop = load_task("micro/laptop", max_train=60, max_eval=40)
    third = SoftPrompt(random_prompt(source, 4, 2).values, source.name, "micro/laptop", metadata={"seed": 2})
    seen, forward = [], Projector.forward
    monkeypatch.setattr(
        Projector, "forward", lambda self, x: (torch.is_grad_enabled() and seen.append(x.clone())) or forward(self, x)
    )
    both = fit_task_tuning(target, [prompt, third, other], [data, laptop], **SETTINGS | dict(steps=8, eval_every=8))
    assert both.metadata["prompt_seeds"] == [[0, 1], [2]]
    # A batch of each task in turn; within a task, each prompt in turn.
    turns = [prompt, third, other, third] * 2
    assert len(seen) == 8 and all(torch.equal(x, turn.values) for x, turn in zip(seen, turns, strict=True))


def test_a_loss_that_is_no_number_stops_the_fit(target, data, prompt, monkeypatch):
    huge = SoftPrompt(torch.full((4, 128), 1e38), prompt.backbone, prompt.task)
    with pytest.raises(TuningError, match="nan at step 0, before any training; check the initial values"):
        fit_task_tuning(target, [huge], [data], **SETTINGS, layer_norm=False, activation="leaky_relu")
    factors, losses = iter([1, 1, 1, float("inf")]), _TaskTuning.losses  # the first is the evaluation's

    def third_explodes(*given):
        found, texts = losses(*given)
        return found * next(factors), texts

    monkeypatch.setattr(_TaskTuning, "losses", third_explodes)
    with pytest.raises(TuningError, match="inf at step 3 with learning rate 0.005; a smaller learning rate may help"):
        fit_task_tuning(target, [prompt], [data], **SETTINGS)


def test_nothing_but_the_projector_is_trained(source, target, data, prompt):
    large = Backbone.from_pretrained("micro-roberta-large")
    wanted = SoftPrompt(random_prompt(target, 4, 1).values, target.name, prompt.task)

    def state():
        networks = [backbone.model for backbone in (source, target, large)]
        held = [dict(network.named_parameters()) | dict(network.named_buffers()) for network in networks]
        return [
            {name: (tensor.clone(), tensor.requires_grad, tensor.grad) for name, tensor in tensors.items()}
            for tensors in held
        ]

    before = state()
    projector = fit_task_tuning(target, [prompt], [data], **SETTINGS)
    fit_prompt_mapping([(prompt, wanted)], **SETTINGS)
    fit_token_mapping(target, large, **SETTINGS | dict(steps=2))
    for fit in (reuse_directly, fit_linear_map, fit_relative_map):
        fit(source, target)
    tuned = tune_from_model(target, data, projector, prompt, steps=3, eval_every=3, progress=False)
    assert not torch.equal(tuned.last.values, projector.project(prompt, target).values)
    for ours, theirs in zip(before, state(), strict=True):
        assert ours.keys() == theirs.keys() and len(ours) > 20
        for name, (tensor, trained, gradient) in ours.items():
            assert torch.equal(tensor, theirs[name][0]) and not trained and not theirs[name][1]
            assert gradient is None and theirs[name][2] is None
    assert not any(weight.requires_grad for weight in projector.parameters())


def test_a_projector_says_what_it_was_fitted_with_and_refuses_another_layout(source, target, data, prompt):
    prompt = SoftPrompt(prompt.values, prompt.backbone, prompt.task, metadata={"backbone_revision": "abc", "seed": 0})
    wanted = SoftPrompt(prompt.values, target.name, prompt.task, metadata={"backbone_revision": "def"})
    authors = Backbone.from_pretrained("micro-roberta", layout="authors")
    for fitted in (
        fit_task_tuning(target, [prompt], [data], **SETTINGS),
        fit_prompt_mapping([(prompt, wanted)], **SETTINGS),
    ):
        facts = fitted.metadata
        assert (facts["layout"], facts["source_revision"], facts["steps"]) == ("paper", "abc", 6)
        assert facts["best_step"] in (0, 3, 6)
        theirs = SoftPrompt(prompt.values, prompt.backbone, prompt.task, "authors")
        with pytest.raises(ProjectorError, match="layout 'authors'; the projector was trained on 'paper'"):
            fitted.project(theirs, authors)
    assert facts["target_revision"] == "def"
    # What knows words only serves either layout.
    carried = fit_linear_map(source, target).project(theirs, authors)
    assert carried.layout == "authors"


def test_a_projector_says_which_rows_and_words_it_learned_from(target, data, prompt):
    fewer, unified = data.train.select(range(30)), unify_label_words([data.task])[data.task.name]
    others = {"words": replace(data, task=unified), "texts": replace(data, train=fewer)}
    others["labels"] = replace(data, train=data.train.map(lambda row: {"label": 1 - row["label"]}))
    facts = {
        name: fit_task_tuning(target, [prompt], [given], **SETTINGS).metadata
        for name, given in {"own": data, **others}.items()
    }
    own = facts.pop("own")
    assert own["label_words"] == [[*data.task.label_words]] and facts["words"]["label_words"] == [["1", "2"]]
    assert own["rows"] == [{"train": 60, "dev": 40}] and facts["texts"]["rows"] == [{"train": 30, "dev": 40}]
    for name in ("texts", "labels"):
        assert facts[name]["fingerprints"][name] != own["fingerprints"][name]
    moved = fit_task_tuning(target, [of(prompt, seed=0)], [data], **SETTINGS).metadata
    assert moved["fingerprints"] == own["fingerprints"]
    shifted = SoftPrompt(prompt.values + 1, prompt.backbone, prompt.task)
    moved = fit_task_tuning(target, [shifted], [data], **SETTINGS).metadata["fingerprints"]
    assert moved["prompt"] != own["fingerprints"]["prompt"] and moved["texts"] == own["fingerprints"]["texts"]


def test_the_seeds_of_mapped_prompts_stand_by_their_tasks(target, prompt):
    def wanted(task, seed):
        return SoftPrompt(random_prompt(target, 4, seed).values, target.name, task, metadata={"seed": seed})

    pairs = [(of(prompt, seed=0), wanted(prompt.task, 3)), (of(prompt, "micro/imdb", seed=1), wanted("micro/imdb", 4))]
    pairs.append((of(prompt, seed=2), wanted(prompt.task, 5)))
    facts = fit_prompt_mapping(pairs, **SETTINGS).metadata
    assert facts["tasks"] == [prompt.task, "micro/imdb"]
    assert facts["prompt_seeds"] == [[0, 2], [1]] and facts["wanted_seeds"] == [[3, 5], [4]]
    ((one, two), (three,)) = facts["fingerprints"]["prompt"]
    assert one == two == three and len({found for group in facts["fingerprints"]["wanted"] for found in group}) == 3


@pytest.mark.parametrize("change", [dict(layer_norm=False), dict(activation="leaky_relu")])
def test_a_carried_prompt_says_which_kind_of_projector_it_came_through(target, data, prompt, change):
    for settings in ({}, change):
        carried = fit_task_tuning(target, [prompt], [data], **SETTINGS, **settings).project(prompt, target)
        kind = dict(layer_norm=True, activation="tanh") | settings
        learned = {"objective": "task tuning", "tasks": ["micro/sst2"], "seed": 0}
        assert carried.metadata["projection"] == learned | kind


def test_a_carried_prompt_says_where_it_comes_from(source, target, prompt, monkeypatch):
    known = {"backbone_revision": "abc", "label_words": ["no", "yes"], "seed": 0, "steps": 3, "accuracy": 0.5}
    monkeypatch.setattr(target, "revision", "def")
    given = SoftPrompt(prompt.values, prompt.backbone, prompt.task, metadata=known)
    carried = reuse_directly(source, target).project(given, target)
    assert carried.metadata["backbone_revision"] == "def" and carried.metadata["label_words"] == ["no", "yes"]
    origin = {"backbone": "micro-bert", "backbone_revision": "abc", "seed": 0, "steps": 3, "accuracy": 0.5}
    assert carried.metadata["projected_from"] == origin
    assert carried.metadata["projection"] == {"objective": "directly reused"}


def test_every_way_says_its_name(source, target, data, prompt):
    large = Backbone.from_pretrained("micro-roberta-large")
    wanted = SoftPrompt(prompt.values, target.name, prompt.task)
    arguments = {"task tuning": (target, [prompt], [data]), "prompt mapping": ([(prompt, wanted)],)}
    arguments |= {"token mapping": (target, large)}
    for name, fit in PROJECTION_METHODS.items():
        settings = SETTINGS | dict(steps=1) if name in arguments else {}
        assert fit(*arguments.get(name, (source, target)), **settings).metadata["objective"] == name


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(source_size="4"), "source_size must be a whole number of at least 1; got '4'"),
        (dict(source_size=4.5), "source_size must be a whole number"),
        (dict(length=0), "length must be a whole number"),
        (dict(hidden_size=True), "hidden_size must be a whole number"),
    ],
)
def test_sizes_that_no_projector_has_are_refused(change, sentence):
    with pytest.raises(ProjectorError, match=sentence):
        Projector(**dict(source_size=4, target_size=4, length=2) | change)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("backbone", dict(backbone="micro-roberta-large")),
        ("hidden size", dict(values=torch.ones(4, 127))),
        ("length", dict(values=torch.ones(5, 128))),
        ("layout", dict(layout="authors")),
    ],
)
def test_prompts_that_are_learned_from_are_of_one_kind(target, data, prompt, name, other):
    imdb = load_task("micro/imdb", max_train=60, max_eval=40)
    with pytest.raises(ProjectorError, match=f"source model must be alike: {name} is .* for task 'micro/sst2' and"):
        fit_task_tuning(target, [prompt, replace(prompt, task="micro/imdb", **other)], [data, imdb], **SETTINGS)


@pytest.mark.parametrize("change", [dict(steps=2.5), dict(steps="10"), dict(eval_every=None), dict(seed=0.5)])
def test_settings_that_no_fit_can_have_are_refused(source, target, data, prompt, change):
    wanted, large = SoftPrompt(prompt.values, target.name, prompt.task), Backbone.from_pretrained("micro-roberta-large")
    for fit, *given in (
        (fit_task_tuning, target, [prompt], [data]),
        (fit_prompt_mapping, [(prompt, wanted)]),
        (fit_token_mapping, target, large),
    ):
        with pytest.raises(TuningError, match=f"{next(iter(change))} must be a whole number of at least"):
            fit(*given, **SETTINGS | change)


def of(prompt: SoftPrompt, task: str | None = None, **metadata) -> SoftPrompt:
    "The prompt, as if it were of another task or another revision of its model."
    return SoftPrompt(prompt.values, prompt.backbone, task or prompt.task, metadata=metadata)


def test_prompts_of_two_revisions_are_not_learned_from_together(target, data, prompt):
    a, b, unknown = of(prompt, "micro/imdb", backbone_revision="a"), of(prompt, backbone_revision="b"), of(prompt)
    imdb = load_task("micro/imdb", max_train=60, max_eval=40)
    sentence = "source model must be alike: revision is 'a' for task 'micro/imdb' and 'b' for task 'micro/sst2'"
    with pytest.raises(ProjectorError, match=sentence):
        fit_task_tuning(target, [unknown, a, b], [imdb, data], **SETTINGS)
    wanted = SoftPrompt(prompt.values, target.name, prompt.task)
    with pytest.raises(ProjectorError, match="revision is 'b' for task 'micro/sst2' and 'a'"):
        fit_prompt_mapping([(b, wanted), (of(a, "micro/sst2", backbone_revision="a"), wanted)], **SETTINGS)
    # Whose revision is not known may be of any; the file says the one that is known.
    fitted = fit_task_tuning(target, [unknown, a], [imdb, data], **SETTINGS)
    assert fitted.metadata["source_revision"] == "a"


def test_a_prompt_and_a_model_of_another_revision_are_refused(target, data, prompt, monkeypatch):
    monkeypatch.setattr(target, "revision", "x")
    fitted = fit_task_tuning(target, [of(prompt, backbone_revision="a")], [data], **SETTINGS)
    for known in ({"backbone_revision": "a"}, {}):
        assert fitted.project(of(prompt, **known), target).metadata["backbone_revision"] == "x"
    with pytest.raises(ProjectorError, match="revision 'a' of 'micro-bert', the source model; got revision 'b'"):
        fitted.project(of(prompt, backbone_revision="b"), target)
    monkeypatch.setattr(target, "revision", "y")
    with pytest.raises(ProjectorError, match="revision 'x' of 'micro-roberta', the target model; got revision 'y'"):
        fitted.project(of(prompt, backbone_revision="a"), target)
    monkeypatch.setattr(target, "revision", None)
    assert fitted.project(of(prompt), target).backbone == target.name


def test_no_way_leads_from_a_model_to_itself(source, target, data, prompt, monkeypatch):
    own = SoftPrompt(prompt.values, target.name, prompt.task, metadata={"backbone_revision": "a"})
    for name, fit in PROJECTION_METHODS.items():
        given = {"task tuning": (target, [own], [data]), "prompt mapping": ([(own, own)],)}.get(name, (target, target))
        with pytest.raises(ProjectorError, match="source and target must be two models; got 'micro-roberta' twice"):
            fit(*given)
    # Two revisions of it are two models.
    monkeypatch.setattr(target, "revision", "b")
    assert fit_task_tuning(target, [own], [data], **SETTINGS).metadata["source_revision"] == "a"


def test_what_is_no_list_is_refused(target, data, prompt):
    with pytest.raises(ProjectorError, match="are lists"):
        fit_task_tuning(target, prompt, [data])
    with pytest.raises(ProjectorError, match="are lists"):
        fit_task_tuning(target, [prompt], data)
    wanted = SoftPrompt(prompt.values, target.name, prompt.task)
    with pytest.raises(ProjectorError, match="is a list of pairs of prompts"):
        fit_prompt_mapping((prompt, wanted))
    mapped = (fit_prompt_mapping(pairs, **SETTINGS) for pairs in ([(prompt, wanted)], iter([(prompt, wanted)])))
    assert same(*mapped)


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
        dict(header={"metadata": "[1]"}),
        dict(header={"metadata": json.dumps({"curve": {"step": [0]}})}),
        dict(drop=("metadata",)),
        dict(tensors={"outer.bias": torch.full((10,), float("nan"))}),
        dict(drop=("inner.weight",)),
        dict(tensors={"inner.weight": torch.zeros(3, 3)}),
    ],
)
def test_a_file_that_is_no_projector_is_refused(tmp_path, change):
    path = altered(Projector(4, 5, 2, 3).save(tmp_path / "projector.safetensors"), **change)
    with pytest.raises(ProjectorError, match="'projector.safetensors' is"):
        Projection.load(path)


def test_a_file_is_read_without_drawing_weights(source, target, tmp_path, monkeypatch):
    kept = [Projector(4, 5, 2, 3), Projector(4, 5, hidden_size=3, layer_norm=False)]
    kept += [fit(source, target) for fit in (reuse_directly, fit_linear_map, fit_relative_map)]
    files = [one.save(tmp_path / f"{i}.safetensors") for i, one in enumerate(kept)]
    monkeypatch.setattr(torch.nn.init, "uniform_", lambda x, *_, **__: x.is_meta or pytest.fail("drawn"))
    for file, one in zip(files, kept, strict=True):
        read = Projection.load(file)
        assert same(read, one) and all(tensor.device.type == "cpu" for tensor in read.state_dict().values())
        given = torch.ones(2, read.source_size)
        assert torch.equal(read(given), one(given)) and not any(weight.requires_grad for weight in read.parameters())


def test_a_vector_without_direction_is_refused_by_relative_representations(source, target, prompt):
    values = prompt.values.clone()
    values[1] = 0
    with pytest.raises(ProjectorError, match="a vector of zeros has no direction"):
        fit_relative_map(source, target).project(replace(prompt, values=values), target)


def test_what_no_file_can_hold_is_refused(tmp_path):
    class Other(Projection):
        pass

    with pytest.raises(ProjectorError, match="add Other to KINDS"):
        Other(4, 4).save(tmp_path / "other.safetensors")
    projector = Projector(4, 5, 2, 3)
    projector.metadata["when"] = object()
    with pytest.raises(ProjectorError, match="cannot be written as JSON"):
        projector.save(tmp_path / "other.safetensors")
    assert not list(tmp_path.iterdir())


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no projector file 'none.safetensors'"):
        Projector.load(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ProjectorError, match="not a safetensors file"):
        Projector.load(tmp_path / "text")


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    def breaks(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("prompt_transferability.projectors.save_tensors", breaks)
    with pytest.raises(KeyboardInterrupt):
        Projector(4, 5, 2, 3).save(tmp_path / "projector.safetensors")
    assert not list(tmp_path.iterdir())


def test_token_mapping_learns_from_every_token(target, monkeypatch):
    large, seen = Backbone.from_pretrained("micro-roberta-large"), []
    forward = Projector.forward
    monkeypatch.setattr(
        Projector, "forward", lambda self, x: (torch.is_grad_enabled() and seen.append(len(x))) or forward(self, x)
    )
    fit_token_mapping(target, large, hidden_size=8, steps=5, eval_every=5, batch_size=256, progress=False)
    vocabulary = len(target.tokenizer)
    assert len(seen) == 5 and sum(seen) == vocabulary  # one epoch


# ---- files that anybody may have made


def changed(path, **entries):
    "The file of a projector with other header entries, or other tensors."
    tensors = entries.pop("tensors", {})
    with safe_open(Projector(4, 5, 2, 3).save(path), framework="pt") as file:
        header, held = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    save_file(held | tensors, path, header | entries)
    return path


def metadata(**entries):
    return {"metadata": json.dumps(entries)}


@pytest.mark.parametrize(
    "entries",
    [
        {"settings": "[" * 1000},
        {"metadata": "[" * 1000},
        {"metadata": "9" * 4301},
        {"settings": '{"source_size": ' + "9" * 4301 + "}"},
        {"settings": '{"source_size": 4, "source_size": 4}'},
        {"settings": "[]"},
        {"settings": "5"},
        {"settings": '{"source_size": "4", "target_size": 5, "length": 2, "hidden_size": 3}'},
        {"settings": '{"source_size": -4, "target_size": 5, "length": 2, "hidden_size": 3}'},
        {"settings": '{"source_size": 1e30, "target_size": 5, "length": 2, "hidden_size": 3}'},
        {"settings": '{"source_size": ' + "9" * 30 + ', "target_size": 5, "length": 2, "hidden_size": 3}'},
        {"settings": '{"source_size": null, "target_size": {}, "length": 2, "hidden_size": 3}'},
        {"settings": '{"source_size": 4, "target_size": 5, "length": 2, "hid\u202eden": 3}'},
        {"settings": '{"source_size": 4, "target_size": 5, "length": 2, "h\\u001b[2J": 3}'},
        {"metadata": "5"},
        {"metadata": "null"},
        metadata(curve=5),
        metadata(curve="abc"),
        metadata(curve={"step": [1, 2], "loss": [1]}),
        metadata(curve={"step": [0], "loss": ["x"], "score": [1]}),
        metadata(curve=[[1, 2, 3]]),
        metadata(target_backbone=5),
        metadata(source_backbone=["micro-bert"]),
        metadata(source_backbone="m\n\x1b[2J"),
        metadata(tasks="sst2"),
        metadata(tasks=[5]),
        metadata(objective={}),
        metadata(layout=1),
    ],
    ids=lambda entries: str(entries)[:80],
)
def test_headers_that_no_projector_has_are_refused(tmp_path, entries):
    with pytest.raises(ProjectorError, match="'p' is not as this package writes it") as error:
        Projector.load(changed(tmp_path / "p", **entries))
    assert str(error.value).isprintable() and len(str(error.value)) < 500


@pytest.mark.parametrize("kind", [torch.int64, torch.complex64, torch.float8_e4m3fn, torch.uint8, torch.bool])
def test_weights_of_other_types_are_refused(tmp_path, kind):
    name = next(iter(Projector(4, 5, 2, 3).state_dict()))
    weight = Projector(4, 5, 2, 3).state_dict()[name].to(kind)
    with pytest.raises(ProjectorError, match="'p' contains .*; expected numbers of type F64, F32"):
        Projector.load(changed(tmp_path / "p", tensors={name: weight}))


def test_equal_projectors_are_equal_files(tmp_path):
    one, two = Projector(4, 5, 2, 3), Projector(4, 5, 2, 3)
    two.load_state_dict(one.state_dict())
    one.metadata, two.metadata = {"seed": 1, "objective": "x"}, {"seed": 1, "objective": "x"}
    assert one.save(tmp_path / "1").read_bytes() == two.save(tmp_path / "2").read_bytes()


def test_task_tuning_takes_mappings_and_seeds_of_numpy():
    backbone, data = (
        Backbone.from_pretrained("micro-bert", device="cpu"),
        load_task("micro/sst2", max_train=20, max_eval=8),
    )
    source = SoftPrompt(random_prompt(backbone, 3, 0).values, "other", "micro/sst2")
    settings = dict(steps=1, eval_every=1, hidden_size=4, progress=False)
    listed = fit_task_tuning(backbone, [source], [data], seed=1, **settings)
    named = fit_task_tuning(backbone, {"x": source}, {"x": data}, seed=np.int64(1), **settings)
    assert all(torch.equal(a, b) for a, b in zip(listed.parameters(), named.parameters(), strict=True))
    assert json.dumps(named.metadata["seed"]) == "1"


# ---- tuning that goes on from carried prompts, with and without LayerNorm

FURTHER = dict(steps=6, eval_every=2, progress=False)


def prompt_of_seed(seed: int, backbone: str = "micro-bert") -> SoftPrompt:
    values = torch.randn(4, 128, generator=torch.Generator().manual_seed(seed)) * 0.02
    return SoftPrompt(values, backbone, "micro/sst2", metadata={"seed": seed})


def test_a_run_goes_on_from_its_checkpoint_and_from_no_other_prompts(target, tmp_path):
    data, projector = load_task("micro/sst2", max_train=60, max_eval=40), Projector(128, 128, 4, 8)
    whole = tune_from_model(target, data, projector, prompt_of_seed(0), **FURTHER)
    predict, calls = target.predict, []

    def breaks(*given):
        calls.append(given)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return predict(*given)

    target.predict = breaks
    try:
        with pytest.raises(KeyboardInterrupt):
            tune_from_model(target, data, projector, prompt_of_seed(0), **FURTHER, checkpoint=tmp_path / "state")
    finally:
        del target.predict
    with pytest.raises(TuningError, match="differs in inits"):
        tune_from_model(target, data, projector, prompt_of_seed(1), **FURTHER, checkpoint=tmp_path / "state")
    resumed = tune_from_model(target, data, projector, prompt_of_seed(0), **FURTHER, checkpoint=tmp_path / "state")
    assert torch.equal(resumed.last.values, whole.last.values) and torch.equal(
        resumed.prompt.values, whole.prompt.values
    )
    assert resumed.prompt.metadata["init"] == whole.prompt.metadata["init"]
    assert whole.prompt.metadata["init"]["projected_from"] == {"backbone": "micro-bert", "seed": 0}


def test_each_task_is_compared_with_its_own_prompt(target):
    names = ("sst2", "imdb", "mnli")
    carried = {name: random_prompt(target, 4, seed) for seed, name in enumerate(names)}
    tuned = {name: random_prompt(target, 4, 10 + seed) for seed, name in enumerate(names)} | {"qqp": carried["sst2"]}
    table = similarity_to_tuned(target, carried, tuned)
    assert list(table.index) == list(names) and list(table) == list(METRICS)
    for metric in METRICS:
        pairs = {f"carried {name}": found for name, found in carried.items()} | tuned
        matrix = similarity_matrix(pairs, metric, target)
        for name in names:
            assert table.loc[name, metric] == pytest.approx(matrix.loc[f"carried {name}", name], abs=1e-6)


NAMES = ("micro/sst2", "micro/imdb", "micro/mnli")
GROUPS = [["micro/sst2", "micro/imdb"], ["micro/mnli"]]
TUNING = dict(length=4, steps=4, eval_every=2, progress=False)


@pytest.fixture(scope="module")
def arguments():
    source, target = (Backbone.from_pretrained(name) for name in ("micro-bert", "micro-roberta"))
    datas = [load_task(name, max_train=60, max_eval=30) for name in NAMES]
    prompts = {name: SoftPrompt(random_prompt(source, 4, 0).values, source.name, name) for name in NAMES}
    runs = tune_prompts(target, [TuningJob(data) for data in datas], **TUNING)
    fitting = dict(hidden_size=8, steps=4, eval_every=2, progress=False)
    return dict(
        target_backbone=target,
        prompts=prompts,
        datas=datas,
        runs=runs,
        fitted_on=GROUPS,
        fitting=fitting,
        tuning=TUNING,
    )


def test_each_group_has_its_rows(arguments):
    found = layernorm_ablation(**arguments)
    learned = ("sst2, imdb", "mnli")
    methods = [f"task tuning{kind} ({group})" for group in learned for kind in (" without LayerNorm", "")]
    assert list(found["table9"].index) == ["tuned", "random", *methods] and list(found["table9"]) == list(NAMES)
    assert found["table9"].notna().all(axis=None)
    noise = [random_prompt(arguments["target_backbone"], 4, seed) for seed in (0, 1, 2)]
    for data in arguments["datas"]:
        worth = [result.accuracy for result in evaluate_prompts(arguments["target_backbone"], noise, data)]
        assert found["table9"].loc["random", data.task.name] == pytest.approx(sum(worth) / 3)
    # The rows are those of a study, so what reads a study's reads these.
    types = {name: ALL_TASKS[name].task_type for name in NAMES}
    assert list(recovered_by_kind(found["table9"], types).index) == methods
    assert len(found["table10"]) == len(GROUPS) * 2 * len(NAMES) + 1 == len(found["table10"].index.unique())
    curves = found["figure10"].groupby(["fitted_on", "prompts", "task"]).size()
    assert len(curves) == len(NAMES) * (1 + 2 * len(GROUPS)) and set(curves) == {3}
    # A prompt that is tuned further begins where it came: in each group its own.
    first = found["figure10"].query("step == 0 and prompts == 'tpt_model'").set_index(["fitted_on", "task"]).accuracy
    for group, name in zip(map(", ".join, GROUPS), learned, strict=True):
        assert first[group].to_dict() == found["table9"].loc[f"task tuning ({name})"].to_dict()


def test_an_ablation_goes_on_where_it_was_interrupted(arguments, tmp_path, monkeypatch):
    whole, tune, calls = layernorm_ablation(**arguments), module.tune_from_model, []

    def breaks(*given, **settings):
        calls.append(given)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return tune(*given, **settings)

    monkeypatch.setattr(module, "tune_from_model", breaks)
    with pytest.raises(KeyboardInterrupt):
        layernorm_ablation(**arguments, checkpoints=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 + 4  # two projectors, four tuned prompts
    trained, step = [], AdamW.step
    monkeypatch.setattr(module, "tune_from_model", tune)
    monkeypatch.setattr(AdamW, "step", lambda self, *given: trained.append(self) or step(self, *given))
    again = layernorm_ablation(**arguments, checkpoints=tmp_path)
    assert len(trained) == 4 * (2 + 8)  # the other group's projectors, and the eight prompts that were left
    for name in whole:
        pd.testing.assert_frame_equal(whole[name], again[name])
