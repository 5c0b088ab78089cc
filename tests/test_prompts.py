"Prompts: the header of their files, files that break off, and the files of others."

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertForMaskedLM

from prompt_transferability import prompts
from prompt_transferability.backbones import Backbone
from prompt_transferability.microworld import model_folder
from prompt_transferability.prompt_tuning import tune_prompt
from prompt_transferability.prompts import (
    FORMAT,
    PromptError,
    SoftPrompt,
    label_word_prompt,
    random_prompt,
    vocabulary_prompt,
)
from prompt_transferability.tasks import ALL_TASKS, load_task


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
        *("format", "backbone", "backbone_revision", "task", "label_words", "layout", "seed", "steps", "accuracy")
    }
    assert all(isinstance(value, str) for value in header.values())
    assert {name: header[name] for name in ("format", "backbone", "task", "layout")} == {
        "format": "prompt_transferability/1",
        "backbone": "micro-bert",
        "task": "micro/sst2",
        "layout": "paper",
    }
    assert json.loads(header["label_words"]) == ["negative", "positive"]
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
        ({"task": "micro/imdb"}, "entry 'task' has the name of a part of the header"),
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
        with pytest.raises(PromptError, match="'prompt.safetensors' is no safetensors file"):
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
def test_peft_reads_our_adapter_and_we_read_theirs(prompt, tmp_path):
    peft = pytest.importorskip("peft")
    folder = prompt.to_peft(tmp_path / "ours")
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


def test_an_adapter_keeps_task_backbone_and_layout(prompt, tmp_path):
    pytest.importorskip("peft")
    ours = SoftPrompt(prompt.values, "roberta-base", "imdb", "authors")
    again = SoftPrompt.from_peft(ours.to_peft(tmp_path))
    assert (again.backbone, again.task, again.layout) == ("roberta-base", "imdb", "authors")


def test_an_adapter_whose_writing_breaks_off_leaves_what_was_there(prompt, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    prompt.to_peft(tmp_path)
    whole = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def break_off(tensors, target, texts):
        Path(target).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(prompts, "save_tensors", break_off)
    with pytest.raises(OSError, match="No space left"):
        SoftPrompt(prompt.values[:3], "roberta-base", "imdb").to_peft(tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == whole


def test_without_peft_the_extra_is_named(prompt, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"extra \[peft\]"):
        prompt.to_peft(tmp_path)


def test_adapters_that_hold_no_prompt_are_refused(prompt, tmp_path):
    pytest.importorskip("peft")
    folder = prompt.to_peft(tmp_path)
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
    refused("adapter_config.json in .* holds a list")
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
