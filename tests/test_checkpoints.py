"Checkpoints: folders that are damaged, or that would be computed as another model without a word."

import importlib.util
import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

from prompt_transferability import checkpoints
from prompt_transferability.backbones import Backbone, BackboneError
from prompt_transferability.microworld import model_folder
from prompt_transferability.prompt_tuning import tune_prompt
from prompt_transferability.prompts import PromptError, SoftPrompt, label_word_prompt, random_prompt, vocabulary_prompt
from prompt_transferability.tasks import ALL_TASKS, load_task
from prompt_transferability.zero_shot_transfer import evaluate

ROWS = [{"text_a": "the plot was boring"}, {"text_a": "critics said the film was really gripping"}]
POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2\n"
)


@pytest.fixture
def model(tmp_path, request):
    "A copy of a micro model, to be damaged by the test."
    name = getattr(request, "param", "micro-bert")
    return shutil.copytree(model_folder(name), tmp_path / name)


def change(file, **settings):
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def refused(model, match, error=BackboneError):
    started = time.monotonic()
    with pytest.raises(error, match=match) as said:
        Backbone.from_pretrained(model, device="cpu")
    assert time.monotonic() - started < 5
    assert "\n" not in str(said.value) and model.name in str(said.value) and len(str(said.value)) < 600


def logits(backbone):
    prompt = torch.randn(4, backbone.embedding_size, generator=torch.Generator().manual_seed(0))
    return backbone.label_logits(prompt, ROWS, ALL_TASKS["micro/sst2"])


# ---- config.json


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "5",
        '"bert"',
        "null",
        "true",
        "{}",
        '{"model_type": null}',
        '{"model_type": {}}',
        '{"model_type": 5}',
        '{"model_type": ["bert"]}',
        "[" * 1000,
        '{"model_type": "bert", "hidden_size": ' + "9" * 4301 + "}",
        "{",
        "",
        "\x00",
    ],
)
def test_a_config_that_is_no_table_of_settings_is_refused(model, text):
    (model / "config.json").write_text(text)
    refused(model, "config.json|is a .* model")


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_act": "swiglu"},
        {"hidden_act": None},
        {"hidden_act": {}},
        {"hidden_act": 7},
        {"hidden_act": ["gelu"]},
        {"hidden_act": "gelu; import os"},
        {"hidden_size": "128"},
        {"hidden_size": None},
        {"hidden_size": -128},
        {"hidden_size": 0},
        {"hidden_size": 130},
        {"num_attention_heads": 0},
        {"num_attention_heads": 3},
        {"num_attention_heads": []},
        {"num_hidden_layers": 65535},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": 2.5},
        {"num_hidden_layers": "two"},
        {"vocab_size": None},
        {"vocab_size": {}},
        {"vocab_size": 10},
        {"max_position_embeddings": 10**12},
        {"max_position_embeddings": "many"},
        {"layer_norm_eps": "small"},
        {"layer_norm_eps": []},
        {"intermediate_size": True},
        {"pad_token_id": 10**6},
        {"pad_token_id": "[PAD]"},
        {"type_vocab_size": -1},
        {"hidden_dropout_prob": "none"},
        {"hidden_dropout_prob": 7},
        {"quantization_config": {"quant_method": "gptq"}},
        {"quantization_config": {"load_in_8bit": True}},
        {"quantization_config": 5},
        {"quantization_config": {}},
        {"quantization_config": []},
        {"quantization_config": False},
        {"architectures": 5},
        {"id2label": 5},
        {"dtype": "float99"},
        {"dtype": {}},
    ],
    ids=str,
)
def test_settings_of_the_wrong_kind_are_refused_or_mean_nothing(model, settings):
    "What the model is computed with is refused; what it is not may stand there, and changes nothing."
    whole = logits(Backbone.from_pretrained(model, device="cpu"))
    change(model / "config.json", **settings)
    if set(settings) & {"architectures", "id2label", "dtype", "hidden_dropout_prob"}:
        try:
            assert torch.equal(logits(Backbone.from_pretrained(model, device="cpu")), whole)
            return
        except BackboneError:
            pass
    refused(model, None)


@pytest.mark.parametrize(
    ("model", "setting"),
    [
        ("micro-llama", "num_hidden_layers"),
        ("micro-roberta", "num_hidden_layers"),
        ("micro-t5", "num_layers"),
        ("micro-t5", "num_decoder_layers"),
    ],
    indirect=["model"],
)
def test_layers_without_weights_are_refused_in_other_families_too(model, setting):
    change(model / "config.json", **{setting: 65535})
    refused(model, f"has {setting}=65535, but the weights consist of")


def test_padding_that_is_not_named(tmp_path):
    "BERT reads the same without; RoBERTa counts its positions from it."
    bert = shutil.copytree(model_folder("micro-bert"), tmp_path / "bert")
    whole = logits(Backbone.from_pretrained(bert, device="cpu"))
    change(bert / "config.json", pad_token_id=None)
    assert torch.equal(logits(Backbone.from_pretrained(bert, device="cpu")), whole)
    roberta = shutil.copytree(model_folder("micro-roberta"), tmp_path / "roberta")
    change(roberta / "config.json", pad_token_id=None)
    refused(roberta, "pad_token_id=null")
    for other in (0, 5):
        change(roberta / "config.json", pad_token_id=other)
        refused(roberta, f"pad_token_id={other} in its configuration, .* but 1 in its tokenizer; set both")


# ---- weights


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("model", ["micro-bert", "micro-llama", "micro-t5"], indirect=True)
def test_weights_that_are_no_numbers_are_refused(model, value):
    weights = load_file(model / "model.safetensors")
    name = sorted(weights)[3]
    weights[name].view(-1)[1] = value
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    refused(model, "are not all finite as float32")


def test_weights_that_a_narrow_type_cannot_hold_are_refused(model):
    weights = {name: value.float() for name, value in load_file(model / "model.safetensors").items()}
    weights["bert.embeddings.word_embeddings.weight"][5, 0] = 1e6
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert Backbone.from_pretrained(model, device="cpu").dtype == torch.float32
    with pytest.raises(BackboneError, match="are not all finite as float16 .*; .*data type of wider range"):
        Backbone.from_pretrained(model, device="cpu", dtype="float16")


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int32, torch.bool])
def test_weights_that_are_packed_are_refused(model, kind):
    weights = load_file(model / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.weight"
    weights[name] = weights[name].to(kind)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    refused(model, f"has weights of type .*{name}")


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "tokenizer.model",
        "model.safetensors.index.json",
    ],
)
def test_pointers_of_git_lfs_are_named(model, name):
    if name.endswith("index.json"):
        (model / "model.safetensors").unlink()
    (model / name).write_text(POINTER)
    refused(model, f"{name}.* is a Git LFS pointer")


@pytest.mark.parametrize(
    "index",
    [
        "[]",
        "5",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../../secret.safetensors"}}',
        '{"weight_map": {"a": 5}}',
        '{"weight_map": {"a": "missing.safetensors"}}',
        "[" * 1000,
    ],
)
def test_an_index_that_names_no_files_is_refused(model, index):
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(index)
    refused(model, None)


def test_a_model_on_the_hub_with_pickled_weights_alone(model, monkeypatch):
    "Nothing of it is downloaded; the sentence does not say that there is no such model."
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    found = lambda name, file, **_: str(model / file) if (model / file).is_file() else None  # noqa: E731
    monkeypatch.setattr(checkpoints, "cached_file", found)
    monkeypatch.setattr(checkpoints, "ask_hub", lambda *_: None)
    monkeypatch.setattr(checkpoints, "quiet_from_pretrained", lambda *_, **__: None)
    with pytest.raises(
        BackboneError, match="'someone/old' is not a complete model: .*weights in .bin files, .*are not read"
    ):
        Backbone.from_pretrained("someone/old")


# ---- adapters beside a model


def test_our_own_adapter_beside_a_model_changes_nothing(model):
    pytest.importorskip("peft")
    whole = logits(Backbone.from_pretrained(model, device="cpu"))
    SoftPrompt(torch.randn(4, 128), "micro-bert", "micro/sst2").to_peft(model, Backbone.from_pretrained("micro-bert"))
    assert torch.equal(logits(Backbone.from_pretrained(model, device="cpu")), whole)
    (model / "adapter_model.safetensors").write_bytes(b"damaged")
    assert torch.equal(logits(Backbone.from_pretrained(model, device="cpu")), whole)


@pytest.mark.parametrize("config", ['{"peft_type": "LORA"}', '{"peft_type": "IA3"}', "{}", "[]", '{"peft_type": 5}'])
def test_an_adapter_that_changes_the_model_is_refused(model, config):
    (model / "adapter_config.json").write_text(config)
    refused(model, "an adapter .* is in the model's folder .*; merge it into the model")


def test_an_adapter_alone_is_no_model(tmp_path):
    pytest.importorskip("peft")
    folder = SoftPrompt(torch.randn(4, 128), "micro-bert", "micro/sst2").to_peft(
        tmp_path / "adapter", Backbone.from_pretrained("micro-bert")
    )
    refused(folder, "is an adapter .PROMPT_TUNING., not a model; .*SoftPrompt.from_peft")


# ---- tokenizers


def test_a_tokenizer_without_a_padding_token_gives_the_same(model):
    whole = logits(Backbone.from_pretrained(model, device="cpu"))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["pad_token"] = None
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    for name in ("special_tokens_map.json", "added_tokens.json"):
        (model / name).unlink(missing_ok=True)
    backbone = Backbone.from_pretrained(model, device="cpu")
    assert torch.equal(logits(backbone), whole)


@pytest.mark.parametrize("which", ["mask_token", "cls_token", "sep_token"])
def test_a_tokenizer_without_what_the_model_reads_is_refused(model, which):
    change(model / "tokenizer_config.json", **{which: None})
    refused(model, f"has no {which.removesuffix('_token')} token, which a masked language model needs")


@pytest.mark.parametrize("which", ["mask_token", "cls_token", "sep_token"])
def test_a_special_token_that_the_model_never_saw_is_refused(model, which):
    change(model / "tokenizer_config.json", **{which: "<never seen>"})
    refused(model, f"{which}_id=.*the model knows only ids below|the tokenizer of .* cannot be used .*never")


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "5",
        "null",
        "{",
        "",
        '{"version": "1.0", "model": {}}',
        '{"model": {"type": "BPE", "vocab": 5}}',
        "\x00",
    ],
)
def test_a_tokenizer_that_is_none_is_refused(model, text):
    (model / "tokenizer.json").write_text(text)
    for name in ("vocab.txt", "special_tokens_map.json"):
        (model / name).unlink(missing_ok=True)
    refused(model, "tokenizer")


def is_refused_or_the_same(model, file, changes):
    whole = logits(Backbone.from_pretrained(model, device="cpu"))
    change(model / file, **changes)
    try:
        found = logits(Backbone.from_pretrained(model, device="cpu"))
    except BackboneError:
        refused(model, "tokenizer")
    else:
        assert torch.equal(found, whole)


@pytest.mark.parametrize(
    "part",
    [
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            }
        },
        {"post_processor": {"type": "TemplateProcessing"}},
        {"post_processor": 5},
        {"post_processor": {"type": "Nothing"}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}},
        {"normalizer": []},
        {"model": {"type": "WordPiece", "vocab": {"a": -1}, "unk_token": "[UNK]"}},
        {"added_tokens": [{"id": "x"}]},
    ],
    ids=lambda part: str(part)[:60],
)
def test_a_tokenizer_with_a_broken_part_is_refused_or_made_anew(model, part):
    "Some parts `transformers` makes by itself, by the model's type: then they are as they were."
    is_refused_or_the_same(model, "tokenizer.json", part)


@pytest.mark.parametrize(
    "settings",
    [
        {"unk_token": True},
        {"mask_token": 5},
        {"cls_token": {}},
        {"pad_token": []},
        {"model_max_length": "long"},
        {"tokenizer_class": 5},
        {"added_tokens_decoder": 3},
    ],
)
def test_a_tokenizer_config_of_the_wrong_kind_is_refused_or_means_nothing(model, settings):
    is_refused_or_the_same(model, "tokenizer_config.json", settings)


@pytest.mark.parametrize(
    "model", ["micro-bert", "micro-roberta", "micro-roberta-large", "micro-llama", "micro-t5"], indirect=True
)
def test_a_folder_without_tokenizer_config_reads_the_same_ids_or_is_refused(model):
    backbone = Backbone.from_pretrained(model, device="cpu")
    texts = ["critics said the film was really gripping", "The man bought: an apple!"]
    whole = backbone.encode([{"text_a": text} for text in texts]).fingerprint
    (model / "tokenizer_config.json").unlink()
    try:
        again = Backbone.from_pretrained(model, device="cpu")
    except BackboneError:
        refused(model, "tokenizer")
    else:
        assert again.encode([{"text_a": text} for text in texts]).fingerprint == whole


# ---- what else is asked for


@pytest.mark.parametrize(
    "dtype", ["float8_e4m3fn", torch.float8_e4m3fn, "int8", torch.int64, "half", [], None, 32, "torch.float32"]
)
def test_number_types_that_nothing_computes_in_are_refused(dtype):
    with pytest.raises(BackboneError, match="is not supported; use auto, float32"):
        Backbone.from_pretrained("micro-bert", dtype=dtype)


@pytest.mark.parametrize("seed", [2**64, 2**70, -1, 1.5, "1", None, True, float("nan")])
def test_seeds_that_no_generator_takes_are_refused(seed):
    backbone = Backbone.from_pretrained("micro-bert", device="cpu")
    for draw in (random_prompt, vocabulary_prompt):
        with pytest.raises(PromptError, match="^seed is .*; give 0 or a positive whole number below"):
            draw(backbone, 3, seed=seed)
    with pytest.raises(PromptError, match="^seed is"):
        label_word_prompt(backbone, ALL_TASKS["micro/sst2"], 3, seed=seed)


def test_the_largest_seed_is_taken():
    backbone = Backbone.from_pretrained("micro-bert", device="cpu")
    assert random_prompt(backbone, 3, seed=2**64 - 1).metadata["seed"] == 2**64 - 1


@pytest.mark.parametrize("size", [3e36, 1e38, 3.4e38])
def test_answers_that_are_no_numbers_are_no_accuracy(size):
    backbone = Backbone.from_pretrained("micro-bert", device="cpu")
    data = load_task("micro/sst2", splits=["dev"], max_eval=20)
    prompt = SoftPrompt(torch.full((4, 128), size) * torch.tensor([1.0, -1.0]).repeat(64), "micro-bert", "x")
    try:
        values = backbone.label_logits(prompt.values, list(data.dev), data.task)
    except BackboneError:
        values = torch.tensor(float("nan"))
    if values.isfinite().all():
        assert evaluate(backbone, prompt, data).n == 20
    else:
        with pytest.raises(
            BackboneError, match="'micro-bert' answers task 'micro/sst2' with logits that are not finite"
        ):
            evaluate(backbone, prompt, data)


@pytest.mark.parametrize("name", ["micro-bert", "micro-llama", "micro-t5"])
def test_a_weight_that_is_no_number_gives_no_accuracy(name):
    backbone = Backbone.from_pretrained(name, device="cpu")
    data = load_task("micro/sst2", splits=["dev"], max_eval=20)
    with torch.no_grad():
        next(backbone.model.parameters()).view(-1)[:] = float("nan")
    with pytest.raises(BackboneError, match="logits that are not finite"):
        evaluate(backbone, random_prompt(backbone, 4, 0), data)


def test_a_model_stays_the_same_in_other_pieces(tmp_path):
    whole = shutil.copytree(model_folder("micro-bert"), tmp_path / "whole")
    pieces = shutil.copytree(model_folder("micro-bert"), tmp_path / "pieces")
    tensors = load_file(pieces / "model.safetensors")
    (pieces / "model.safetensors").unlink()
    names, places = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, pieces / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    (pieces / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert checkpoints.read_checkpoint(pieces).fingerprint == checkpoints.read_checkpoint(whole).fingerprint


@pytest.mark.parametrize("extra", [2**64, -1, 10**9, float("inf")])
def test_a_tokenizer_that_asks_for_more_than_memory_holds_is_refused(extra, tmp_path):
    folder = shutil.copytree(model_folder("micro-t5"), tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"extra_ids": extra}))
    with pytest.raises(BackboneError, match="extra_ids"):
        checkpoints.read_checkpoint(folder)


# ---- small real models and real tasks, where they are at hand


def test_a_plain_encoder_is_read_out_with_its_word_embeddings_and_says_so_once(real_models):
    with pytest.warns(UserWarning, match="has no masked-LM head") as warned:
        backbone = Backbone.from_pretrained(real_models / "all-MiniLM-L6-v2")
    assert len(warned) == 1 and not backbone.has_head and backbone.name == "all-MiniLM-L6-v2"
    states = torch.randn(3, backbone.hidden_size)
    task = load_task("sst2", real_models.parent / "data", splits=["dev"]).task
    expected = states @ backbone.word_embeddings[backbone.label_token_ids(task)].T
    assert torch.allclose(backbone.read_out(states, task), expected, atol=1e-5)


def test_half_precision_checkpoints_are_computed_in_float32(real_models):
    path = real_models / "bert-tiny-mlm"
    assert {tensor.dtype for tensor in load_file(path / "model.safetensors").values()} == {torch.float16}
    assert {weight.dtype for weight in Backbone.from_pretrained(path).parameters()} == {torch.float32}


def test_logits_are_those_of_transformers(real_data, real_models):
    "Through the public call of `transformers`, whose embedding layer a hook makes give the prompt and the text."
    path = real_models / "bert-tiny-mlm"
    backbone = Backbone.from_pretrained(path)
    model = AutoModelForMaskedLM.from_pretrained(path, dtype=torch.float32).eval()
    data = load_task("mnli", real_data, splits=["dev"])
    rows = [data.dev[i] for i in range(12)]
    prompt = torch.randn(7, backbone.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = backbone.label_logits(prompt, rows, data.task)
        for i, row in enumerate(rows):
            encoded = backbone.tokenizer(
                row["text_a"], row["text_b"], return_tensors="pt", truncation=True, max_length=128
            )
            embed = model.base_model.embeddings
            text = embed(input_ids=encoded["input_ids"], token_type_ids=encoded["token_type_ids"])[0]
            mask = embed.word_embeddings.weight[backbone.tokenizer.mask_token_id]
            slots = embed.LayerNorm(torch.cat([mask[None], prompt]))
            whole = torch.cat([slots, text])[None]
            hook = embed.register_forward_hook(lambda *_, whole=whole: whole)
            logits = model(input_ids=torch.zeros(1, len(slots) + len(text), dtype=torch.long)).logits
            hook.remove()
            theirs = logits[0, 0, backbone.label_token_ids(data.task)]
            assert torch.allclose(ours[i], theirs, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*no masked-LM head")
def test_a_prompt_learns_sentiment(real_data, real_models):
    backbone = Backbone.from_pretrained(real_models / "paraphrase-MiniLM-L3-v2")
    data = load_task("laptop", real_data)
    run = tune_prompt(backbone, data, length=10, steps=120, learning_rate=1e-2, eval_every=60, progress=False)
    result = evaluate(backbone, run.prompt, data, "test")
    assert result.accuracy > data.majority("test") + 0.03


ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("causal_tuning", ROOT / "benchmarks" / "causal_tuning.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.main


def test_each_run_keeps_its_own_settings(main, tmp_path, capsys):
    file = tmp_path / "found.json"

    def run(task, seed):
        main(["micro-llama", "--tasks", task, "--length", "4", "--steps", "21", "--seed", seed, "--out", str(file)])
        return json.loads(file.read_text())["runs"]

    first = run("micro/sst2", "0")["micro/sst2"]
    assert first["seed"] == 0 and first["training"]["steps"] == 21 and "--seed 0" in first["command"]
    assert run("micro/sst2", "0")["micro/sst2"] == first  # not run again
    with pytest.raises(SystemExit):
        run("micro/sst2", "1")
    assert "has a run of micro/sst2 with another seed; name another --out" in capsys.readouterr().err
    both = run("micro/snli", "1")
    assert both["micro/sst2"] == first and both["micro/snli"]["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_the_committed_runs_say_where_they_come_from():
    for file in (ROOT / "results" / "causal").glob("*.json"):
        for run in json.loads(file.read_text())["runs"].values():
            assert run["command"].startswith("python benchmarks/causal_tuning.py ")
            assert {"commit", "libraries", "processor"} <= run["provenance"].keys() and run["training"]["steps"] == 500
