"Prompts: the header of their files, files that break off, and the files of others."

import json
import os
import pickle
import stat
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import SENTIMENT, SHAPES, SINGLE, build, prompt_of
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertForMaskedLM

from prompt_transferability import prompts
from prompt_transferability.backbones import Backbone
from prompt_transferability.families import FAMILIES
from prompt_transferability.microworld import model_folder
from prompt_transferability.prompt_tuning import tune_prompt
from prompt_transferability.prompts import (
    FORMAT,
    PromptError,
    SoftPrompt,
    label_word_prompt,
    named_prompts,
    random_prompt,
    task_entries,
    vocabulary_prompt,
)
from prompt_transferability.tasks import ALL_TASKS, Task, load_task


@pytest.fixture(scope="module")
def backbone():
    return Backbone.from_pretrained("micro-bert")


@pytest.fixture
def prompt():
    values = torch.randn(7, 128, generator=torch.Generator().manual_seed(0))
    return SoftPrompt(values, "micro-bert", "micro/sst2", metadata={"seed": 3})


def header_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}


def test_the_header_after_tuning_is_the_documented_one(backbone, tmp_path):
    data = load_task("micro/sst2", max_train=64)
    run = tune_prompt(backbone, data, length=4, steps=4, eval_every=2, seed=5, learning_rate=1e-2, progress=False)
    header, tensors = header_of(run.prompt.save(tmp_path / "prompt.safetensors"))
    assert header.keys() == {
        *("format", "backbone", "backbone_revision", "backbone_fingerprint", "task", "layout"),
        *("labels", "label_words", "task_type", "seed", "steps", "accuracy"),
    }
    assert json.loads(header["backbone_fingerprint"]) == backbone.fingerprint
    assert all(isinstance(value, str) for value in header.values())
    assert {name: header[name] for name in ("format", "backbone", "task", "layout")} == {
        "format": "prompt_transferability/1",
        "backbone": "micro-bert",
        "task": "micro/sst2",
        "layout": "paper",
    }
    assert json.loads(header["label_words"]) == json.loads(header["labels"]) == ["negative", "positive"]
    assert json.loads(header["task_type"]) == "SA"
    assert int(header["seed"]) == 5
    assert int(header["steps"]) == run.best_step
    assert float(header["accuracy"]) == run.best_accuracy
    assert list(tensors) == ["soft_prompt"]
    assert tensors["soft_prompt"].shape == (4, 128) and tensors["soft_prompt"].dtype == torch.float32


@pytest.mark.parametrize("before", [None, "whole"])
def test_a_write_that_breaks_off_leaves_what_was_there(prompt, tmp_path, monkeypatch, before):
    path = tmp_path / "prompt.safetensors"
    if before:
        prompt.save(path)
    whole = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def break_off(tensors, target, texts):
        Path(target).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(prompts, "save_tensors", break_off)
    with pytest.raises(OSError, match="No space left"):
        SoftPrompt(prompt.values + 1, "micro-bert", "micro/imdb").save(path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == whole


def test_saving_again_replaces(prompt, tmp_path):
    path = prompt.save(tmp_path / "new folder" / "prompt.safetensors")
    SoftPrompt(prompt.values * 2, "micro-bert", "micro/imdb", "authors").save(path)
    again = SoftPrompt.load(path)
    assert (again.task, again.layout, again.metadata) == ("micro/imdb", "authors", {})
    assert torch.equal(again.values, prompt.values * 2)
    assert [file.name for file in path.parent.iterdir()] == ["prompt.safetensors"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"accuracy": np.float32(0.5)}, "entry 'accuracy' cannot be written as JSON .*float32"),
        ({"task": "micro/imdb"}, "entry 'task' has a name reserved in the header"),
    ],
)
def test_metadata_that_would_not_come_back_is_refused(prompt, tmp_path, entry, message):
    prompt.metadata |= entry
    with pytest.raises(PromptError, match=message):
        prompt.save(tmp_path / "prompt.safetensors")
    assert not list(tmp_path.iterdir())


def test_prompts_can_be_looked_for_in_a_list(prompt):
    twin = SoftPrompt(prompt.values, prompt.backbone, prompt.task)
    assert prompt in [twin, prompt] and prompt not in [twin]


def test_a_prompt_does_not_keep_a_hold_on_a_parameter(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(3, 8, dtype=torch.float64).T)
    prompt = SoftPrompt(parameter, "m", "t")
    assert not prompt.values.requires_grad and prompt.values.is_contiguous()
    assert torch.equal(SoftPrompt.load(prompt.save(tmp_path / "p")).values, torch.ones(8, 3))


@pytest.mark.parametrize(
    ("tensors", "header"),
    [
        ({"weight": torch.zeros(2, 3)}, None),
        ({"soft_prompt": torch.zeros(2, 3)}, {"format": "pt"}),
        ({"soft_prompt": torch.zeros(2, 3)}, {"format": "prompt_transferability/2", "backbone": "m", "task": "t"}),
        ({"soft_prompt": torch.zeros(2, 3), "other": torch.zeros(1)}, {"format": FORMAT}),
        ({"soft_prompt": torch.zeros(2, 3)}, {"format": FORMAT}),
        ({"soft_prompt": torch.zeros(2, 3)}, {"format": FORMAT, "task": "t", "layout": "paper"}),
        (
            {"soft_prompt": torch.zeros(2, 3)},
            {"format": FORMAT, "backbone": "m", "task": "t", "layout": "paper", "seed": "not JSON"},
        ),
        ({"soft_prompt": torch.zeros(6)}, {"format": FORMAT, "backbone": "m", "task": "t", "layout": "paper"}),
    ],
    ids=[
        "other tensor",
        "other format",
        "later format",
        "another tensor too",
        "empty header",
        "no backbone",
        "metadata",
        "a vector",
    ],
)
def test_safetensors_files_that_hold_no_prompt_are_refused(tensors, header, tmp_path):
    save_file(tensors, tmp_path / "file.safetensors", metadata=header)
    with pytest.raises(PromptError) as refused:
        SoftPrompt.load(tmp_path / "file.safetensors")
    assert "\n" not in str(refused.value)


def test_a_file_that_is_cut_off_is_refused(prompt, tmp_path):
    path = prompt.save(tmp_path / "prompt.safetensors")
    whole = path.read_bytes()
    for size in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(PromptError, match="'prompt.safetensors' is not a safetensors file"):
            SoftPrompt.load(path)


class RunsWhenRead:
    "What a malicious pickle holds: a call that makes a file."

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_malicious_pickle_is_refused_and_creates_nothing(how, tmp_path):
    path, made = tmp_path / "task_prompt", tmp_path / "made"
    if how == "pickle":
        path.write_bytes(pickle.dumps(RunsWhenRead(made)))
    else:
        torch.save({"soft_prompt": torch.zeros(2, 3), "more": RunsWhenRead(made)}, path)
    for read in (lambda: SoftPrompt.from_authors(path, "roberta-base", "imdb"), lambda: SoftPrompt.load(path)):
        with pytest.raises(PromptError, match="'task_prompt' is no"):
            read()
    assert not made.exists()
    with open(path, "rb") as file:  # it would have worked: an unguarded reader makes the file
        pickle.load(file).close() if how == "pickle" else torch.load(file, weights_only=False)
    assert made.exists()


def test_a_published_prompt_of_the_authors(real_data, tmp_path):
    release = real_data / "authors-release" / "Prompt-Transferability-1.0" / "task_prompt_emb"
    prompt = SoftPrompt.from_authors(release / "IMDBPromptRoberta" / "task_prompt", "roberta-base", "imdb")
    assert (prompt.length, prompt.hidden_size, prompt.layout) == (100, 768, "authors")
    assert prompt.values.dtype == torch.float32 and prompt.values.std() > 0
    assert torch.equal(SoftPrompt.load(prompt.save(tmp_path / "imdb.safetensors")).values, prompt.values)


@pytest.mark.filterwarnings("ignore")  # PEFT's own
def test_peft_reads_our_adapter_and_we_read_theirs(prompt, backbone, tmp_path):
    peft = pytest.importorskip("peft")
    folder = prompt.to_peft(tmp_path / "ours", backbone)
    config = peft.PromptTuningConfig.from_pretrained(folder)
    assert (config.num_virtual_tokens, config.token_dim) == (prompt.length, prompt.hidden_size)
    assert config.base_model_name_or_path == "micro-bert"
    model = peft.PeftModel.from_pretrained(AutoModelForMaskedLM.from_pretrained(model_folder("micro-bert")), folder)
    assert torch.equal(model.get_prompt_embedding_to_save("default"), prompt.values)
    model.save_pretrained(tmp_path / "theirs")
    again = SoftPrompt.from_peft(tmp_path / "theirs", task="micro/sst2")
    assert torch.equal(again.values, prompt.values)
    assert (again.task, again.layout) == ("micro/sst2", "paper")
    assert SoftPrompt.from_peft(folder).task == prompt.task


@pytest.mark.filterwarnings("ignore")
def test_without_a_backbone_peft_does_not_use_the_adapter_and_that_is_said(prompt, backbone, tmp_path):
    peft = pytest.importorskip("peft")
    with pytest.warns(UserWarning, match="pass the backbone"):
        blind = prompt.to_peft(tmp_path / "blind")
    ids, logits = torch.tensor([[1, 2, 3]]), {}
    for name, folder in {"blind": blind, "told": prompt.to_peft(tmp_path / "told", backbone)}.items():
        model = AutoModelForMaskedLM.from_pretrained(model_folder("micro-bert"))
        logits[name] = peft.PeftModel.from_pretrained(model, folder)(input_ids=ids).logits
    assert logits["blind"].shape[1] == 3 and logits["told"].shape[1] == 3 + prompt.length


def test_an_adapter_keeps_task_backbone_and_layout(prompt, tmp_path):
    pytest.importorskip("peft")
    ours = SoftPrompt(prompt.values, "roberta-base", "imdb", "authors", {"label_words": ["bad", "good"], "seed": 3})
    with pytest.warns(UserWarning, match="pass the backbone"):
        again = SoftPrompt.from_peft(ours.to_peft(tmp_path))
    assert (again.backbone, again.task, again.layout) == ("roberta-base", "imdb", "authors")
    assert again.metadata == ours.metadata and torch.equal(again.values, ours.values)
    assert SoftPrompt.from_peft(tmp_path, task="sst2").task == "sst2"


def test_an_adapter_of_an_earlier_version_is_read(prompt, tmp_path):
    "Which noted names and the bare fingerprint, and nothing else."
    names = {"format": "pt", "backbone": "m", "task": "t", "layout": "authors", "backbone_fingerprint": "0123abcd"}
    folder = adapter(tmp_path / "a")
    save_file({"prompt_embeddings": torch.ones(4, 3)}, folder / "adapter_model.safetensors", metadata=names)
    again = SoftPrompt.from_peft(folder)
    assert (again.backbone, again.task, again.layout) == ("m", "t", "authors")
    assert again.metadata == {"backbone_fingerprint": "0123abcd"}


def test_an_adapter_whose_writing_breaks_off_leaves_what_was_there(prompt, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    prompt.to_peft(tmp_path, Backbone.from_pretrained("micro-bert"))
    whole = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def break_off(tensors, target, texts):
        Path(target).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(prompts, "save_tensors", break_off)
    with pytest.raises(OSError, match="No space left"), pytest.warns(UserWarning):
        SoftPrompt(prompt.values[:3], "roberta-base", "imdb").to_peft(tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == whole


def test_without_peft_the_extra_is_named(prompt, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'prompt_transferability\[peft\]'"):
        prompt.to_peft(tmp_path)


def test_adapters_that_hold_no_prompt_are_refused(prompt, tmp_path):
    pytest.importorskip("peft")
    folder = prompt.to_peft(tmp_path, Backbone.from_pretrained("micro-bert"))
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    good_config, good_weights = config.read_text(), weights.read_bytes()

    def refused(match):
        with pytest.raises(PromptError, match=match) as error:
            SoftPrompt.from_peft(folder)
        assert "\n" not in str(error.value)
        config.write_text(good_config)
        weights.write_bytes(good_weights)

    config.write_text(json.dumps(json.loads(good_config) | {"peft_type": "LORA"}))
    refused("is a LORA, not a PROMPT_TUNING")
    config.write_text("{")
    refused("adapter_config.json")
    config.write_text("[]")
    refused("adapter_config.json in .* contains a list")
    weights.write_bytes(good_weights[:40])
    refused("adapter_model.safetensors")
    save_file({"other": torch.zeros(2, 3)}, weights)
    refused("prompt_embeddings|adapter_model.safetensors")
    assert torch.equal(SoftPrompt.from_peft(folder).values, prompt.values)


def test_words_in_a_starting_prompt_are_whole_and_different(backbone):
    task = ALL_TASKS["micro/snli"]
    for start in (vocabulary_prompt(backbone, 200, seed=1), label_word_prompt(backbone, task, 200, seed=1)):
        same = (start.values[:, None] == backbone.word_embeddings).all(-1)  # [length, vocabulary]
        assert (same.sum(1) == 1).all() and (same.sum(0) <= 1).all()
        assert not same[:, backbone.tokenizer.all_special_ids].any()


def test_starting_tokens_are_those_that_stand_for_something(tmp_path):
    "Neither `[unused...]` tokens nor embeddings beyond the tokenizer."
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "good", "bad", "##ly", "[unused1]"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    tokenizer = AutoTokenizer.from_pretrained(model_folder("micro-bert"))
    tokenizer = type(tokenizer)(vocab=str(tmp_path / "vocab.txt"))
    model = BertForMaskedLM(
        BertConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )
    backbone = Backbone(model, tokenizer, "sixteen")
    start = vocabulary_prompt(backbone, 3, seed=0)
    assert set(map(tuple, start.values.tolist())) == set(map(tuple, backbone.word_embeddings[6:9].tolist()))
    with pytest.raises(PromptError, match="'sixteen' has 3"):
        vocabulary_prompt(backbone, 4, seed=0)


@pytest.mark.parametrize("draw", [random_prompt, vocabulary_prompt])
def test_negative_seeds_are_refused(backbone, draw):
    with pytest.raises(PromptError, match="seed is -1; give 0"):
        draw(backbone, 3, seed=-1)


# ---- files that anybody may have made


def write(path, values=None, **header):
    "A file with a prompt's header, changed."
    names = {"format": FORMAT, "backbone": "m", "task": "t", "layout": "paper"} | header
    save_file({"soft_prompt": torch.zeros(2, 3) if values is None else values}, path, metadata=names)
    return path


def refused(read, match=None):
    with pytest.raises(PromptError, match=match) as error:
        read()
    assert "\n" not in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 500


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(3, 0),
        torch.zeros(0, 3),
        torch.zeros(2, 3, 4),
        torch.zeros(()),
        torch.ones(2, 3).long(),
        torch.ones(2, 3).int(),
        torch.ones(2, 3).bool(),
        torch.ones(2, 3).byte(),
        torch.ones(2, 3) + 1j,
        torch.full((2, 3), float("nan")),
        torch.full((2, 3), float("inf")),
        torch.full((2, 3), 1e300, dtype=torch.float64),
        torch.ones(2, 3).to(torch.float8_e5m2),
    ],
    ids=lambda values: f"{values.dtype} {list(values.shape)}",
)
def test_numbers_that_are_no_prompt_are_refused(tmp_path, values):
    refused(lambda: SoftPrompt.load(write(tmp_path / "p", values)))
    if values.dtype != torch.float8_e5m2:
        refused(lambda: SoftPrompt(values, "m", "t"))


@pytest.mark.parametrize(
    "value",
    [
        "[" * 1000,
        "[" * 101 + "]" * 101,
        '{"a":' * 2000 + "1" + "}" * 2000,
        "9" * 4301,
        '{"a": 1, "a": 2}',
        "",
        "{",
        "'x'",
    ],
)
def test_entries_that_are_no_metadata_are_refused(tmp_path, value):
    refused(lambda: SoftPrompt.load(write(tmp_path / "p", seed=value)), "entry 'seed' in the header of 'p'")


@pytest.mark.parametrize("entry", ["task", "backbone"])
@pytest.mark.parametrize(
    "name", ["t\naccuracy: 1.0", "\x1b[2J", "a\rb", "\x00", "\u2028", "\u202etsr", "\x9b31m", "\x7f"]
)
def test_names_that_command_a_terminal_are_refused(tmp_path, entry, name):
    refused(
        lambda: SoftPrompt.load(write(tmp_path / "p", **{entry: name})), f"the {entry} of a prompt must be one line"
    )
    refused(lambda: SoftPrompt(torch.zeros(2, 3), **{"backbone": "m", "task": "t"} | {entry: name}), "must be one line")


@pytest.mark.parametrize("name", [5, None, ["m"], b"m", True])
def test_names_that_are_no_text_are_refused(name):
    refused(lambda: SoftPrompt(torch.zeros(2, 3), name, "t"), "the backbone of a prompt must be one line of text")
    refused(lambda: SoftPrompt(torch.zeros(2, 3), "m", name), "the task of a prompt must be one line of text")


def test_pointers_of_git_lfs_and_links_that_lead_nowhere(tmp_path):
    (tmp_path / "p").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n")
    refused(lambda: SoftPrompt.load(tmp_path / "p"), "'.*p' is a Git LFS pointer")
    refused(lambda: SoftPrompt.from_authors(tmp_path / "p", "m", "t"), "'p' is not a pickled matrix|Git LFS pointer")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for read in (SoftPrompt.load, SoftPrompt.from_peft, lambda path: SoftPrompt.from_authors(path, "m", "t")):
        with pytest.raises(FileNotFoundError, match="'a'|/a'"):
            read(tmp_path / "a")


def test_equal_prompts_are_equal_files(prompt, tmp_path):
    many = {f"entry {i}": i for i in range(20)}
    files = []
    for i in range(5):
        order = dict(reversed(many.items())) if i % 2 else many
        again = SoftPrompt(prompt.values.clone(), prompt.backbone, prompt.task, metadata=order)
        files.append(again.save(tmp_path / str(i)).read_bytes())
    assert len({*files}) == 1
    assert SoftPrompt.load(tmp_path / "0").save(tmp_path / "again").read_bytes() == files[0]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_prompt_files_are_as_readable_as_other_new_files(prompt, tmp_path, umask):
    before = os.umask(umask)
    try:
        saved = prompt.save(tmp_path / "p")
    finally:
        os.umask(before)
    assert stat.S_IMODE(saved.stat().st_mode) == 0o666 & ~umask


def test_a_prompt_is_written_through_a_link(prompt, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "far" / "p")
    prompt.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and torch.equal(
        SoftPrompt.load(tmp_path / "far" / "p").values, prompt.values
    )


# ---- adapters

ADAPTER = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "token_dim": 3, "base_model_name_or_path": "m"}


def adapter(folder, values=None, text=None, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | changes) if text is None else text)
    save_file(
        {"prompt_embeddings": torch.ones(4, 3) if values is None else values}, folder / "adapter_model.safetensors"
    )
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"num_virtual_tokens": 5},
        {"num_virtual_tokens": "4"},
        {"num_virtual_tokens": -4},
        {"num_virtual_tokens": 0},
        {"num_virtual_tokens": [4]},
        {"num_virtual_tokens": 4.5},
        {"token_dim": 768},
        {"token_dim": {}},
        {"token_dim": "3"},
        {"num_transformer_submodules": 3},
        {"num_transformer_submodules": "two"},
        {"num_transformer_submodules": []},
        {"base_model_name_or_path": 5},
        {"base_model_name_or_path": ["m"]},
        {"base_model_name_or_path": {}},
        {"base_model_name_or_path": "m\n\x1b[2J"},
        {"base_model_name_or_path": True},
        {"peft_type": "LORA\x1b[2J\n"},
        {"peft_type": {"PROMPT_TUNING": 1}},
        {"peft_type": None},
    ],
    ids=str,
)
def test_adapters_that_do_not_describe_their_vectors_are_refused(tmp_path, changes):
    assert SoftPrompt.from_peft(adapter(tmp_path / "good")).length == 4
    refused(lambda: SoftPrompt.from_peft(adapter(tmp_path / "adapter", **changes)))


@pytest.mark.parametrize(
    "changes", [{"num_transformer_submodules": 2}, {"task_type": "SEQ_2_SEQ_LM", "num_transformer_submodules": None}]
)
def test_of_an_adapter_for_both_parts_the_encoders_vectors_are_read(tmp_path, changes):
    both = torch.cat([torch.ones(4, 3), torch.zeros(4, 3)])
    assert torch.equal(SoftPrompt.from_peft(adapter(tmp_path / "a", both, **changes)).values, torch.ones(4, 3))
    unsaid = adapter(tmp_path / "b", both, **changes, num_virtual_tokens=None)
    assert torch.equal(SoftPrompt.from_peft(unsaid).values, torch.ones(4, 3))
    for wrong in (torch.ones(4, 3), torch.ones(7, 3)):
        refused(lambda wrong=wrong: SoftPrompt.from_peft(adapter(tmp_path / "c", wrong, **changes)), "is incomplete")


OTHERS = {
    "PREFIX_TUNING": "keys and values of every layer",
    "P_TUNING": "an encoder that is trained",
    "MULTITASK_PROMPT_TUNING": "for each task",
    "CPT": "tokens of a context",
    "LORA": "changes the model",
    "IA3": "changes the model",
    "ADAPTION_PROMPT": "changes the model",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_adapters_are_refused_by_their_names(tmp_path, kind):
    refused(lambda: SoftPrompt.from_peft(adapter(tmp_path / "a", peft_type=kind)), f"is a {kind}, .*{OTHERS[kind]}")


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_mapping": {"base_model_class": "Own", "parent_library": "transformers_modules.somebody.modeling"}},
        {"auto_mapping": {"base_model_class": "Own", "parent_library": "own"}},
        {"auto_mapping": {"base_model_class": "Own", "parent_library": ["transformers"]}},
        {"auto_mapping": "own"},
        {"auto_map": {"AutoModel": "modeling.Own"}},
        {"trust_remote_code": True},
        {"tokenizer_kwargs": {"trust_remote_code": True}},
    ],
    ids=str,
)
def test_adapters_that_ask_for_code_are_refused(tmp_path, changes):
    refused(lambda: SoftPrompt.from_peft(adapter(tmp_path / "a", **changes)), "requires its own code")
    plain = {"auto_mapping": {"base_model_class": "X", "parent_library": "transformers.models.x"}}
    assert SoftPrompt.from_peft(adapter(tmp_path / "b", **plain, tokenizer_kwargs=None)).length == 4


def test_adapters_that_are_more_than_vectors_are_refused(tmp_path):
    refused(
        lambda: SoftPrompt.from_peft(adapter(tmp_path / "a", modules_to_save=["classifier"])), "trained .*classifier"
    )
    save_file(
        {"prompt_embeddings": torch.ones(4, 3), "base_model.score.weight": torch.ones(2)},
        adapter(tmp_path / "b") / "adapter_model.safetensors",
    )
    refused(lambda: SoftPrompt.from_peft(tmp_path / "b"), "base_model.score.weight.*not prompt_embeddings alone")


def test_an_adapter_that_is_only_a_pickle_is_refused_and_not_opened(tmp_path):
    folder, made = adapter(tmp_path / "a"), tmp_path / "made"
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(RunsWhenRead(made)))
    refused(lambda: SoftPrompt.from_peft(folder), "is a pickle .*safe_serialization=True")
    assert not made.exists()


def test_the_revision_of_an_adapter_is_kept(tmp_path):
    assert SoftPrompt.from_peft(adapter(tmp_path / "a", revision="v1")).metadata == {"backbone_revision": "v1"}
    refused(lambda: SoftPrompt.from_peft(adapter(tmp_path / "b", revision=5)), "revision 5; expected a name")


# ---- the task that a prompt declares


def declaring(**metadata):
    return SoftPrompt(torch.ones(2, 3), "m", metadata.pop("task", "guestbook"), metadata=metadata)


def test_a_prompt_declares_its_task(tmp_path):
    task = Task("guestbook", "SA", ("leaves", "returns"), (("bad", "dull"), "good"))
    saved = SoftPrompt(torch.ones(2, 3), "m", task.name, metadata=task_entries(task)).save(tmp_path / "p")
    assert SoftPrompt.load(saved).declared_task() == task


def test_older_prompts_declare_known_tasks_with_the_words_that_they_note():
    assert declaring(task="sst2").declared_task() == replace(ALL_TASKS["sst2"], title="", hub=None)
    assert declaring(task="sst2", label_words=["1", "2"]).declared_task().label_words == ("1", "2")


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({}, "does not specify the labels of its task 'guestbook'; name the task"),
        ({"label_words": ["bad", "good"]}, "does not specify the labels"),
        ({"task": "random"}, "does not specify the labels of its task 'random'"),
        ({"task": "sst2", "label_words": ["bad"]}, "declares no task: .* a label without a word: positive"),
        ({"task": "sst2", "label_words": "bad"}, "declares no task: .* a word, or a list of words, for each label"),
        ({"task": "sst2", "label_words": [1, 2]}, "declares no task: .* a word, or a list of words, for each label"),
        ({"task": "sst2", "labels": {"a": 1}}, "declares no task: .* must be a list of texts"),
        ({"task": "sst2", "labels": [[], []]}, "declares no task: .* must be texts"),
        ({"task": "sst2", "task_type": ["SA"]}, "declares no task: unknown task type"),
        ({"task": "../x", "labels": ["a", "b"], "label_words": ["c", "d"], "task_type": "SA"}, "cannot be named"),
    ],
)
def test_prompts_that_declare_no_task(metadata, sentence):
    refused(lambda: declaring(**metadata).declared_task(), sentence)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1000,
        "9" * 4301,
        '{"token_dim": ' + "9" * 4301 + "}",
        '{"peft_type": "X", "peft_type": "Y"}',
        "5",
        "\x00",
        "",
    ],
)
def test_adapters_without_a_readable_configuration_are_refused(tmp_path, text):
    refused(lambda: SoftPrompt.from_peft(adapter(tmp_path / "adapter", text=text)), "adapter_config.json")


@pytest.mark.parametrize("values", [torch.ones(4, 3).long(), torch.ones(4, 3) + 1j, torch.ones(4), torch.ones(4, 0)])
def test_adapters_with_other_numbers_are_refused(tmp_path, values):
    refused(lambda: SoftPrompt.from_peft(adapter(tmp_path / "adapter", values)))


# ---- pickles


def archive(path, values, edit=lambda pickled: pickled):
    "What torch writes, with its pickle changed."
    torch.save(values, path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts.items():
            file.writestr(name, edit(content) if name.endswith("data.pkl") else content)
    return path


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(1).expand(100_000, 100_000),
        torch.zeros(1).expand(20_000, 20_000),
        torch.zeros(4).as_strided((30, 30), (0, 0)),
        torch.zeros(10).as_strided((9, 9), (1, 0)),
        torch.zeros(2, 3).to_sparse(),
        torch.zeros(2, 3, dtype=torch.int64),
        torch.zeros(2, 0),
        torch.zeros(3),
        [torch.zeros(2, 3)],
        torch.nn.Linear(2, 3).state_dict(),
        "text",
        2**100,
    ],
    ids=lambda values: f"{type(values).__name__} {list(getattr(values, 'shape', []))}",
)
def test_pickles_that_make_much_of_little_or_something_else_are_refused(tmp_path, values):
    torch.save(values, tmp_path / "p")
    started = time.monotonic()
    refused(lambda: SoftPrompt.from_authors(tmp_path / "p", "m", "t"))
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "edit",
    [
        lambda pickled: pickled.replace(b"torch._utils", b"torch._utils" + b"x" * 40_000),
        lambda pickled: pickled.replace(b"FloatStorage", b"x" * 40_000),
        lambda pickled: pickled.replace(b"K\x02K\x03", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f"),
        lambda pickled: pickled.replace(b"K\x02K\x03", b"\x8a\x80" + b"\x7f" * 128 + b"K\x03"),
        lambda pickled: pickled[:20],
        lambda pickled: b"",
        lambda pickled: b"\x80\x02" + b"(" * 90_000 + b".",
        lambda pickled: b"\x80\x02" + b"N0" * 200_000 + b"N.",
        lambda pickled: b"cos\nsystem\n(S'true'\ntR.",
        lambda pickled: b"I" + b"9" * 5000 + b"\n.",
        lambda pickled: b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
    ],
)
def test_damaged_pickles_are_refused_before_torch_sees_them(tmp_path, edit):
    started = time.monotonic()
    refused(
        lambda: SoftPrompt.from_authors(archive(tmp_path / "p", torch.zeros(2, 3), edit), "m", "t"), "not a pickled"
    )
    assert time.monotonic() - started < 2


def test_an_archive_that_is_changed_in_nothing_is_read(tmp_path):
    values = torch.randn(5, 7)
    assert torch.equal(SoftPrompt.from_authors(archive(tmp_path / "p", values), "m", "t").values, values)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    torch.save(torch.zeros(100, 100), tmp_path / "p")
    monkeypatch.setenv("PROMPT_TRANSFERABILITY_MAX_BYTES", "10000")
    refused(lambda: SoftPrompt.from_authors(tmp_path / "p", "m", "t"))
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", b"N.")
        file.writestr("x/data/0", bytes(10**6))
    refused(lambda: SoftPrompt.from_authors(tmp_path / "bomb", "m", "t"), "its parts are not those of one")


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), np.int32(3)])
def test_seeds_may_be_numpys(backbone, seed, tmp_path):
    for draw in (random_prompt, vocabulary_prompt):
        drawn = draw(backbone, np.int64(3), seed)
        assert torch.equal(drawn.values, draw(backbone, 3, 3).values)
        assert SoftPrompt.load(drawn.save(tmp_path / "p")).metadata == draw(backbone, 3, 3).metadata


@pytest.mark.parametrize(
    "values", [None, "abc", [[1.0, 2.0], [3.0]], torch.ones(3, 4).to_sparse(), torch.empty(3, 4, device="meta")]
)
def test_what_is_no_matrix_of_numbers_is_no_prompt(values):
    with pytest.raises(PromptError, match="a prompt is a matrix"):
        SoftPrompt(values, "micro-bert", "sst2")


def test_a_prompt_that_could_not_be_read_again_is_not_written(tmp_path):
    nested = []
    for _ in range(150):
        nested = [nested]
    for metadata in ({"deep": nested}, {"\ud800": 1}, {5: 1}):
        prompt = SoftPrompt(torch.ones(2, 4), "micro-bert", "sst2", metadata=metadata)
        with pytest.raises(PromptError):
            prompt.save(tmp_path / "p")
        assert not (tmp_path / "p").exists()


# ---- through PEFT

OF_PEFT = pytest.mark.filterwarnings("ignore")  # its own warnings
KIND = {shape: FAMILIES[shape.partition(":")[0]].kind for shape in SHAPES}
LEARNED = [shape for shape in SHAPES if FAMILIES[shape.partition(":")[0]].positions is not None]
MASKED = [shape for shape in SHAPES if KIND[shape] == "masked"]
UNMASKED = [shape for shape in SHAPES if KIND[shape] != "masked"]
START = {"decoder_input_ids": torch.zeros(len(SINGLE), 1, dtype=torch.long)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "The folder of a tiny model of this shape, built once."
    built = {}

    def folder(shape):
        if shape not in built:
            built[shape] = build(shape, tmp_path_factory.mktemp("model"))
        return built[shape]

    return folder


def load(folder, layout="paper"):
    return Backbone.from_pretrained(folder, layout, device="cpu", max_length=40)


def through_peft(model, backbone, length):
    "Logits of the label words in a model of PEFT, which is given the ids that the backbone reads."
    text, rows = backbone.encode(SINGLE).batch([0, 1, 2]), torch.arange(3)
    with torch.no_grad():
        start = START if backbone.kind == "seq2seq" else {}
        logits = model(input_ids=text.ids, attention_mask=text.real.long(), **start).logits
    at = length + text.lengths - 1 if backbone.kind == "causal" else torch.zeros_like(rows)
    return logits[rows, at][:, backbone.label_token_ids(SENTIMENT)]


def adapted(folder, adapter):
    "The model in this folder, with the adapter on it."
    return peft.PeftModel.from_pretrained(load(folder).model, adapter).eval()


def with_mask(backbone, values):
    "What stands in a masked model's slots, as vectors."
    return torch.cat([backbone.embed_tokens(torch.tensor([backbone.tokenizer.mask_token_id])), values])


@OF_PEFT
@pytest.mark.parametrize("shape", UNMASKED)
def test_a_prompt_gives_the_same_logits_in_peft(shape, tiny, tmp_path):
    backbone = load(tiny(shape))
    prompt = SoftPrompt(prompt_of(backbone), backbone.name, SENTIMENT.name)
    adapter = prompt.to_peft(tmp_path, backbone)
    assert torch.equal(SoftPrompt.from_peft(adapter).values, prompt.values)
    ours = backbone.label_logits(prompt.values, SINGLE, SENTIMENT)
    theirs = through_peft(adapted(tiny(shape), adapter), backbone, prompt.length)
    assert torch.allclose(ours, theirs, atol=1e-5) and ours.std() > 0.05


@OF_PEFT
@pytest.mark.parametrize("shape", UNMASKED)
def test_an_adapter_of_peft_gives_the_same_logits_here(shape, tiny, tmp_path):
    "Of an encoder-decoder PEFT saves twice as many vectors, and reads the first half."
    backbone, task_type = load(tiny(shape)), {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}[KIND[shape]]
    # PEFT takes hidden_size for the width of embeddings, which OPT may have narrower.
    config = peft.PromptTuningConfig(task_type=task_type, num_virtual_tokens=5, token_dim=backbone.embedding_size)
    theirs = peft.get_peft_model(load(tiny(shape)).model, config).eval()
    theirs.save_pretrained(tmp_path)
    prompt = SoftPrompt.from_peft(tmp_path, task=SENTIMENT.name)
    saved = theirs.get_prompt_embedding_to_save("default")
    assert len(saved) == (10 if KIND[shape] == "seq2seq" else 5) and torch.equal(prompt.values, saved[:5])
    ours = backbone.label_logits(prompt.values, SINGLE, SENTIMENT)
    assert torch.allclose(ours, through_peft(theirs, backbone, 5), atol=1e-5)


@OF_PEFT
def test_peft_does_not_read_the_decoders_half(tmp_path):
    "Neither in a forward pass nor to generate: other vectors there change nothing; in the encoder's half they do."
    config = peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=5)
    folder = build("t5", tmp_path, num_decoder_layers=2)  # as many as the encoder's, which `generate` takes for granted
    model, backbone = peft.get_peft_model(load(folder).model, config).eval(), load(folder)
    vectors, text = model.prompt_encoder["default"].embedding.weight, backbone.encode(SINGLE).batch([0, 1, 2])

    def answers():
        given = dict(input_ids=text.ids, attention_mask=text.real.long())
        generated = model.generate(
            **given, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        return through_peft(model, backbone, 5), torch.stack(generated.logits)

    before = answers()
    with torch.no_grad():
        vectors[5:] += 3
    assert all(torch.equal(one, other) for one, other in zip(before, answers(), strict=True))
    with torch.no_grad():
        vectors[:5] += 3
    assert not any(torch.allclose(one, other, atol=1e-3) for one, other in zip(before, answers(), strict=True))


@OF_PEFT
def test_a_model_without_learned_positions_takes_the_mask_as_a_vector(tiny, tmp_path):
    backbone = load(tiny("modernbert"))
    prompt = SoftPrompt(prompt_of(backbone), backbone.name, SENTIMENT.name)
    adapter = prompt.to_peft(tmp_path / "exact", backbone, exact=True)
    assert torch.equal(SoftPrompt.from_peft(adapter).values, prompt.values)
    ours = backbone.label_logits(prompt.values, SINGLE, SENTIMENT)
    model = adapted(tiny("modernbert"), adapter)
    assert torch.allclose(ours, through_peft(model, backbone, prompt.length), atol=1e-5)
    bare = adapted(tiny("modernbert"), prompt.to_peft(tmp_path / "bare", backbone))
    assert not torch.allclose(ours, through_peft(bare, backbone, prompt.length), atol=1e-3)
    of_authors = SoftPrompt(prompt.values, backbone.name, SENTIMENT.name, "authors")
    with pytest.raises(PromptError, match="exact adapters require layout 'paper'"):
        of_authors.to_peft(tmp_path / "authors", load(tiny("modernbert"), "authors"), exact=True)
    with pytest.raises(PromptError, match="pass the backbone"):
        prompt.to_peft(tmp_path / "none", exact=True)


@OF_PEFT
@pytest.mark.parametrize("shape", LEARNED)
def test_learned_positions_are_what_stands_in_the_way(shape, tiny, tmp_path):
    "With the mask as a vector logits still differ; without positions and token types they do not."
    backbone = load(tiny(shape))
    prompt = SoftPrompt(prompt_of(backbone), backbone.name, SENTIMENT.name)
    with pytest.raises(PromptError, match="no PEFT adapter is exact for .* learned positions"):
        prompt.to_peft(tmp_path, backbone, exact=True)
    adapter = SoftPrompt(with_mask(backbone, prompt.values), "m", "t").to_peft(tmp_path, backbone)
    model = adapted(tiny(shape), adapter)
    ours = backbone.label_logits(prompt.values, SINGLE, SENTIMENT)
    assert not torch.allclose(ours, through_peft(model, backbone, prompt.length), atol=1e-2)
    with torch.no_grad():
        for embeddings in (backbone.model.base_model.embeddings, model.base_model.base_model.embeddings):
            for name in ("position_embeddings", "token_type_embeddings"):
                if hasattr(embeddings, name):
                    getattr(embeddings, name).weight.zero_()
    ours = backbone.label_logits(prompt.values, SINGLE, SENTIMENT)
    assert torch.allclose(ours, through_peft(model, backbone, prompt.length), atol=1e-5)


@OF_PEFT
@pytest.mark.parametrize("shape", MASKED)
def test_a_masked_models_prompt_goes_to_peft_and_back(shape, tiny, tmp_path):
    backbone = load(tiny(shape))
    prompt = SoftPrompt(prompt_of(backbone), backbone.name, SENTIMENT.name, metadata={"seed": 3})
    adapted(tiny(shape), prompt.to_peft(tmp_path / "ours", backbone)).save_pretrained(tmp_path / "theirs")
    for name, metadata in {"ours": {"seed": 3}, "theirs": {}}.items():
        again = SoftPrompt.from_peft(tmp_path / name)
        assert torch.equal(again.values, prompt.values) and again.metadata == metadata


@OF_PEFT
def test_a_prompt_for_another_width_is_no_adapter_of_this_model(tiny, tmp_path):
    with pytest.raises(PromptError, match="carry it over with a projector"):
        SoftPrompt(torch.ones(2, 3), "m", "t").to_peft(tmp_path, load(tiny("gpt2")))
    assert not list(tmp_path.iterdir())


def test_prompts_whose_names_would_collide_are_rejected():
    backbone = Backbone.from_pretrained("micro-bert")
    prompts = [replace(random_prompt(backbone, 3, seed), task=task) for seed, task in enumerate(("a", "a", "a 1"))]
    with pytest.raises(PromptError, match="two prompts would be called 'a 1'"):
        named_prompts(prompts)
    assert [*named_prompts(prompts[:2])] == ["a 1", "a 2"]
