"""The small real models and real tasks, where they are at hand."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from prompt_transferability.backbones import Backbone
from prompt_transferability.prompt_tuning import tune_prompt
from prompt_transferability.tasks import load_task
from prompt_transferability.zero_shot_transfer import evaluate


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
