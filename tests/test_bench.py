"The benchmark: what it counts is what must be computed, contestants compute the same, and its files and mistakes."

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import AlbertConfig, AlbertForMaskedLM, BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from prompt_transferability import bench as room
from prompt_transferability.backbones import Backbone, BackboneError
from prompt_transferability.bench import (
    CONTESTANTS,
    LENGTHS,
    SHAPES,
    TASK,
    BenchError,
    Settings,
    bench,
    bench_model,
    causal_operations,
    dimensions,
    draw_texts,
    fresh_step_memory,
    label_word_tokenizer,
    masked_operations,
    seconds_of,
    step_memory,
    summary,
)
from prompt_transferability.cli import main
from prompt_transferability.tasks import UnknownNameError

LENGTH, TOKENS, LABEL_WORDS = 5, [3, 7], [6, 7]
TINY = dict(vocab_size=50, hidden_size=16, num_attention_heads=4, intermediate_size=24, num_hidden_layers=2)


# ---------------------------------------------------------------- what must be computed
# Two programs that do nothing in vain: each computes a state only where something reads it, and once. `torch` counts
# their operations, and their scores are the package's.

Parts = list[tuple[Tensor, Tensor, Tensor]]  # queries, keys and values of parts of an input, [heads, positions, width]


def attend(queries: Tensor, parts: Parts) -> Tensor:  # [positions, hidden]
    "Attention of some queries to the keys and values of all parts, each part by itself."
    scores = torch.cat([queries @ keys.mT for _, keys, _ in parts], dim=-1) * queries.shape[-1] ** -0.5
    shares = scores.softmax(-1).split([keys.shape[1] for _, keys, _ in parts], dim=-1)
    return sum(share @ values for share, (*_, values) in zip(shares, parts, strict=True)).transpose(0, 1).flatten(1)


def heads(x: Tensor, count: int) -> Tensor:  # [heads, positions, width]
    return x.unflatten(-1, (count, -1)).transpose(0, 1)


def masked_program(model: BertForMaskedLM, prompt: Tensor, texts: list[Tensor]) -> Tensor:  # scores [texts, labels]
    "A BERT that reads `[MASK] prompt text` at the mask."
    embeddings, layers = model.bert.embeddings, model.bert.encoder.layer
    mask = embeddings.LayerNorm(embeddings.word_embeddings.weight[4][None])
    slots = [mask, embeddings.LayerNorm(prompt)]  # parts: only the second leads to the prompt

    def mapped(x: Tensor, layer: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        attention = layer.attention.self
        linear = (attention.query, attention.key, attention.value)
        return tuple(heads(each(x), model.config.num_attention_heads) for each in linear)

    def asked(mask: Tensor, attention: nn.Module) -> Tensor:  # [heads, 1, hidden]
        query = heads(attention.query(mask), attention.num_attention_heads)
        return query @ attention.key.weight.unflatten(0, (len(query), -1))

    shared = [mapped(x, layers[0]) for x in slots] if len(layers) > 1 else asked(mask, layers[0].attention.self)
    states = []
    for ids in texts:
        x = torch.cat(parts := [*slots, embeddings(ids[None])[0]])
        for number, layer in enumerate(layers):
            last, attention = number == len(layers) - 1, layer.attention.self
            if last:
                question = shared if number == 0 else asked(x[:1], attention)
                known = [(None, states[None], states[None]) for states in (parts if number == 0 else [x])]
                width = attention.attention_head_size
                mixed = attend(question * (question.shape[-1] / width) ** 0.5, known).unflatten(-1, (-1, x.shape[-1]))
                mixed = mixed.transpose(0, 1) @ attention.value.weight.unflatten(0, (-1, width)).mT
                mixed = mixed.transpose(0, 1).flatten(1) + attention.value.bias
            elif number == 0:
                known = [*shared, mapped(parts[2], layer)]
                mixed = torch.cat([attend(queries, known) for queries, *_ in known])
            else:
                known = mapped(x, layer)
                mixed = attend(known[0], [known])
            x = x[:1] if last else x
            x = layer.attention.output(mixed, x)
            x = layer.output(layer.intermediate(x), x)
        states.append(x[0])
    hidden = model.cls.predictions.transform(torch.stack(states))
    decoder = model.get_output_embeddings()
    return F.linear(hidden, decoder.weight[LABEL_WORDS], decoder.bias[LABEL_WORDS])


def causal_program(model: LlamaForCausalLM, prompt: Tensor, texts: list[Tensor]) -> Tensor:  # scores [texts, labels]
    "A Llama that reads `prompt text` at the text's last token."
    config, layers, kept = model.config, model.model.layers, []
    groups = config.num_attention_heads // config.num_key_value_heads

    def keys_values(x: Tensor, start: int, attention: nn.Module) -> tuple[Tensor, Tensor]:
        keys, values = (heads(each(x), config.num_key_value_heads) for each in (attention.k_proj, attention.v_proj))
        return rotated(keys, start).repeat_interleave(groups, 0), values.repeat_interleave(groups, 0)

    def rotated(x: Tensor, start: int) -> Tensor:
        cosine, sine = model.model.rotary_emb(x, torch.arange(start, start + x.shape[1])[None])
        return apply_rotary_pos_emb(x[None], x[None], cosine, sine)[0][0]

    def layer_of(number: int, x: Tensor, start: int, before: Parts) -> Tensor | None:
        "One layer of a piece of the input, behind pieces whose keys and values are known."
        layer, last = layers[number], number == len(layers) - 1
        normed = layer.input_layernorm(x)
        keys, values = keys_values(normed, start, layer.self_attn)
        if not before:
            kept.append((None, keys, values))
            if last:  # what the prompt's positions give in the last layer is read by nobody
                return None
        asking = [len(x) - 1] if last else range(len(x))
        queries = layer.self_attn.q_proj(normed[-1:] if last else normed)
        queries = rotated(heads(queries, config.num_attention_heads), start + asking[0])
        mixed = [
            attend(queries[:, i : i + 1], [*before, (None, keys[:, : at + 1], values[:, : at + 1])])
            for i, at in enumerate(asking)
        ]
        x = (x[-1:] if last else x) + layer.self_attn.o_proj(torch.cat(mixed))
        return x + layer.mlp(layer.post_attention_layernorm(x))

    x = prompt
    for number in range(len(layers)):
        x = layer_of(number, x, 0, [])
    states = []
    for ids in texts:
        x = model.get_input_embeddings()(ids)
        for number in range(len(layers)):
            x = layer_of(number, x, len(prompt), [kept[number]])
        states.append(x[0])
    return F.linear(model.model.norm(torch.stack(states)), model.get_output_embeddings().weight[LABEL_WORDS])


def tiny(kind: str, layers: int) -> nn.Module:
    torch.manual_seed(0)
    if kind == "masked":
        return BertForMaskedLM(BertConfig(**TINY | dict(num_hidden_layers=layers))).eval()
    shape = TINY | dict(num_hidden_layers=layers, num_key_value_heads=2, head_dim=6, tie_word_embeddings=True)
    return LlamaForCausalLM(LlamaConfig(**shape)).eval()


PROGRAMS = {"masked": (masked_program, masked_operations), "causal": (causal_program, causal_operations)}


def spared(kind: str, layers: int, width: int) -> int:
    """What autograd computes beyond need: in the first layer, gradients of attention weights between the text's own
    positions. The softmax's gradient takes their weighted sum only, which is the product of output and gradient."""
    own = np.array(TOKENS) + (kind == "masked")
    if layers == 1:
        return int(2 * width * own.sum() * (TINY["num_attention_heads"] if kind == "masked" else 1))
    return int(2 * width * (own**2 if kind == "masked" else own * (own + 1) // 2).sum())


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", PROGRAMS)
def test_what_is_counted_is_what_a_program_without_waste_computes(kind, layers):
    program, count = PROGRAMS[kind]
    model = tiny(kind, layers).requires_grad_(False)
    shape = dimensions(SimpleNamespace(model=model, kind=kind, has_head=True))
    texts = [torch.randint(10, 50, (n,)) for n in TOKENS]
    prompt = torch.randn(LENGTH, 16, requires_grad=True)
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        program(model, prompt, texts)
    assert count(shape, LENGTH, TOKENS) == forward.get_total_flops()
    with FlopCounterMode(display=False) as both:
        F.cross_entropy(program(model, prompt, texts), torch.tensor([0, 1])).backward()
    assert count(shape, LENGTH, TOKENS, training=True) == both.get_total_flops() - spared(kind, layers, shape.attention)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("kind", PROGRAMS)
def test_these_programs_give_the_scores_of_the_package(kind, layers):
    model = tiny(kind, layers)
    texts, prompt = draw_texts("sst2", 4, 50), torch.randn(LENGTH, 16)
    ids = [texts.batch([row]).ids[0] for row in range(4)]
    backbone = Backbone(model, label_word_tokenizer(), "tiny")
    with torch.no_grad():
        ours = backbone.read_out(backbone.read_out_states(prompt, texts.batch(range(4))), TASK)
        torch.testing.assert_close(PROGRAMS[kind][0](model, prompt, ids), ours, atol=1e-5, rtol=1e-4)


def test_every_layer_of_a_group_is_counted():
    "ALBERT may run several layers as one."
    shape = dict(TINY, embedding_size=8, inner_group_num=2)
    model = AlbertForMaskedLM(AlbertConfig(**shape)).eval()
    backbone = Backbone(model, label_word_tokenizer(), "tiny")
    assert dimensions(backbone).layers == 2 * TINY["num_hidden_layers"] == backbone.num_layers


@pytest.mark.parametrize("number", [0, 1])
def test_an_accelerators_clock_is_read_on_the_device_that_is_timed(monkeypatch, number):
    current, on = [0], []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            on.append(current[-1])

        def synchronize(self):
            on.append(current[-1])

        def elapsed_time(self, end):
            return 1500.0

    @contextmanager
    def device(which):
        current.append(which.index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", device)
    taken = seconds_of(lambda: on.append(current[-1]), torch.device("cuda", number))
    assert taken == 1.5 and on == 4 * [number] and current == [0]


# ---------------------------------------------------------------- contestants

PROMPTED = ["this package", "PEFT", "every position"]


@pytest.fixture(params=["masked", "causal"])
def backbone(request) -> Backbone:
    "A tiny model; an encoder's positions are all alike, so that it does not matter where a prompt stands in it."
    model = tiny(request.param, 2)
    if request.param == "masked":
        with torch.no_grad():
            model.bert.embeddings.position_embeddings.weight.zero_()
            model.bert.embeddings.token_type_embeddings.weight.zero_()
    return Backbone(model, label_word_tokenizer(), "tiny")


def test_contestants_give_the_same_scores(backbone):
    texts, values = draw_texts("sst2", 6, 50), torch.randn(LENGTH, 16)
    scores = {}
    for name in PROMPTED:
        contestant = CONTESTANTS[name](backbone, LENGTH)
        trained = [weight for group in contestant.optimizer.param_groups for weight in group["params"]]
        assert [weight.shape for weight in trained] == [values.shape]  # the prompt, and nothing of the model
        trained[0].data.copy_(values)
        scores[name] = contestant.evaluate(texts.batch(range(6)))
    for name in PROMPTED[1:]:
        torch.testing.assert_close(scores[name], scores["this package"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CONTESTANTS)
def test_contestants_learn(backbone, name):
    texts, labels = draw_texts("sst2", 4, 50), torch.tensor([0, 0, 0, 0])
    contestant = CONTESTANTS[name](backbone, LENGTH)
    for group in contestant.optimizer.param_groups:
        group["lr"] = 0.001 if name == "whole model" else 0.1
    before = contestant.evaluate(texts.batch(range(4)))
    losses = [contestant.step(texts.batch(range(4)), labels) for _ in range(10)]
    after = contestant.evaluate(texts.batch(range(4)))
    assert losses[-1] < losses[0]
    assert (after.log_softmax(-1) > before.log_softmax(-1))[:, 0].all()


def test_a_whole_model_learns_on_a_copy(backbone):
    texts, before = draw_texts("sst2", 4, 50), backbone.fingerprint
    contestant = CONTESTANTS["whole model"](backbone, LENGTH)
    contestant.step(texts.batch(range(4)), torch.zeros(4, dtype=int))
    assert len(contestant.prompt) == 0
    assert backbone.fingerprint == before != contestant.backbone.fingerprint


def test_shapes_are_those_of_the_models_they_are_named_after():
    sizes = {"4x256": 11e6, "6x384": 23e6, "bert-base": 110e6, "smollm2-135m": 135e6, "gemma-3-270m": 268e6}
    assert sizes.keys() == SHAPES.keys()
    with torch.device("meta"):
        for name, size in sizes.items():
            model = room.random_model(name)
            assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(size, rel=0.02), name


def test_texts_are_as_long_as_they_should_be_and_the_same_for_a_seed():
    for kind, (_, _, least, most) in LENGTHS.items():
        texts = draw_texts(kind, 500, 1000, seed=3)
        assert least <= texts.lengths.min() and texts.lengths.max() <= most
        assert texts.fingerprint == draw_texts(kind, 500, 1000, seed=3).fingerprint
        assert texts.fingerprint != draw_texts(kind, 500, 1000, seed=4).fingerprint


# ---------------------------------------------------------------- what is found


QUICK = dict(length=5, batch_size=4, repeats=2, seconds=0.0)


@pytest.fixture
def found(monkeypatch) -> dict:
    "A small benchmark. Memory is measured elsewhere: it takes processes of its own."
    monkeypatch.setattr(room, "fresh_step_memory", lambda *asked: 12.5)
    return bench(["micro-bert"], ["mnli", "sst2"], ["float32"], [*CONTESTANTS][1:], progress=False, **QUICK)


def test_threads_are_as_many_as_before_when_it_ends(monkeypatch):
    before, asked = torch.get_num_threads(), torch.get_num_threads() + 1
    during = []
    monkeypatch.setattr(room, "measure_model", lambda *_: during.append(torch.get_num_threads()) or {})
    found = bench(["micro-bert"], progress=False, threads=asked)
    assert found["provenance"]["threads"] == asked and torch.get_num_threads() == before
    monkeypatch.setattr(room, "added_memory", lambda *_: during.append(torch.get_num_threads()))
    step_memory("micro-bert", "sst2", "this package", "float32", asdict(Settings(**QUICK, threads=asked)))
    assert during == [asked, asked] and torch.get_num_threads() == before


def test_everything_is_measured_on_the_same_batches(found):
    turns = found["turns"]
    assert found == json.loads(json.dumps(found))
    for kind, contestants in {"mnli": [*CONTESTANTS], "sst2": ["this package", "PEFT", "whole model"]}.items():
        for what in ("training step", "evaluation"):
            of = [turn for turn in turns if turn["texts"] == kind and turn["what"] == what]
            assert [turn["contestant"] for turn in of] == 2 * contestants  # in turn, twice
            tokens = [turn["tokens"] for turn in of]
            assert len(set(tokens[: len(contestants)])) == 1 and tokens[0] != tokens[-1]
    assert [turn["examples"] for turn in turns if turn["what"] == "dev split"] == [128, 128]
    steps, forward = (
        [turn["operations"] for turn in turns if turn["what"] == what and turn["contestant"] != "whole model"]
        for what in ("training step", "evaluation")
    )
    assert all(1.5 * there < both < 2 * there for both, there in zip(steps, forward, strict=True))
    assert all((turn["operations"] is None) == (turn["contestant"] == "whole model") for turn in turns)
    assert [row["contestant"] for row in found["memory"]] == [*CONTESTANTS]
    assert len(found["profiles"]) == 2 and all(sum(of["shares"].values()) <= 1 for of in found["profiles"])


def test_the_summary_says_what_the_turns_do():
    turn = dict(model="m", texts="sst2", what="training step", contestant="PEFT", dtype="float32")
    turn |= dict(seconds=2.0, examples=16, tokens=320, operations=100, rate=100.0)
    own = turn | dict(contestant="this package", seconds=1.0)
    turns = [turn, own, turn | dict(seconds=6.0), own | dict(seconds=2.0), turn, own | dict(seconds=0.5)]
    memory = [{name: own[name] for name in ("model", "texts", "contestant", "dtype")} | {"mib": 7.0}]
    table = summary({"turns": turns, "memory": memory})
    row = table.loc["m", "sst2", "training step", "this package", "float32"]
    assert (row["seconds"], row["fastest"], row["slowest"]) == (1.0, 0.5, 2.0)
    assert (row["examples_per_s"], row["tokens_per_s"], row["limit"]) == (16, 320, 1.0)
    assert (row["times_peft"], row["times_low"], row["times_high"]) == (3.0, 2.0, 4.0)  # 2/1, 6/2 and 2/0.5
    assert row["mib"] == 7 and table["mib"].isna().sum() == 1


def test_the_summary_does_without_peft_and_without_memory():
    turn = dict(model="m", texts="sst2", what="training step", contestant="this package", dtype="float32")
    turn |= dict(seconds=2.0, examples=16, tokens=320, operations=100, rate=100.0)
    table = summary({"turns": [turn, turn | dict(contestant="whole model", operations=None)], "memory": []})
    assert table["limit"].tolist()[0] == 0.5 and table["limit"].isna().sum() == 1
    assert table["times_peft"].isna().all() and table["mib"].isna().all() and (table["turns"] == 1).all()


@pytest.mark.skipif("sys.platform != 'linux'")
def test_memory_of_a_step_is_that_of_a_new_process():
    asked = Settings(length=50)
    ours, peft = (fresh_step_memory("4x256", "sst2", name, "float32", asked) for name in ("this package", "PEFT"))
    logits = 16 * (50 + 38 + 1) * 30522 * 4 / 2**20  # of the whole vocabulary at every position, in MiB
    assert 0 < ours < logits < peft


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "asked, error, said",
    [
        (dict(kinds=["sst"]), UnknownNameError, "did you mean 'sst2'"),
        (dict(against=["peft"]), UnknownNameError, "did you mean 'PEFT'"),
        (dict(dtypes=["float8"]), UnknownNameError, "Known: float32"),
        (dict(batch_size=0), BenchError, "batch_size must be at least 1; got 0"),
        (dict(threads=0), BenchError, "threads must be at least 1; got 0"),
        (dict(seed=-1), BenchError, "seed must be at least 0; got -1"),
        (dict(seconds=float("nan")), BenchError, "seconds must be at least 0; got nan"),
        (dict(device="mps"), BenchError, "the device is 'mps'; times can be measured only on cpu or cuda"),
        (dict(device="cuda:99"), BackboneError, "device 'cuda:99' is not available"),
        (dict(models=["4x265"]), FileNotFoundError, "4x256"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(asked, error, said):
    with pytest.raises(error, match=said):
        bench(**{"progress": False, "models": ["4x256"], **asked})


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(BenchError, match=r"prompt_transferability\[peft\]"):
        CONTESTANTS["PEFT"](bench_model("4x256"), 5)


def test_a_step_that_is_killed_is_said(monkeypatch):
    killed = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *asked, **more: killed)
    with pytest.raises(BenchError, match=r"PEFT on '4x256' in float32 did not finish \(its process was killed\)"):
        fresh_step_memory("4x256", "sst2", "PEFT", "float32", Settings())


def test_the_command_prints_a_table_or_json_and_writes_a_file(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(room, "fresh_step_memory", lambda *asked: 12.5)
    out = tmp_path / "made" / "bench.json"
    asked = ["bench", "micro-bert", "--texts", "sst2", "--dtype", "float32", "--length", "5", "--batch-size", "4"]
    assert main([*asked, "--repeats", "1", "--seconds", "0", "--json", "--out", str(out)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text())
    assert printed["provenance"]["command"].startswith("prompt-transfer bench micro-bert --texts sst2")
    assert printed["provenance"]["command"].endswith("--out bench.json")  # no path of this machine
    assert len(summary(printed)) == 7
    assert main([*asked, "--repeats", "1", "--seconds", "0"]) == 0
    shown = capsys.readouterr().out
    assert "micro-bert" in shown and "dev split" in shown and "every position" in shown
    assert main(["bench", "micro-bert", "--repeats", "0"]) == 2
    assert "repeats must be at least 1" in capsys.readouterr().err
