"""The micro world's generator gives the same bytes everywhere, and its models can be built again."""

import hashlib
import json
import re
import stat

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

from prompt_transferability import microworld
from prompt_transferability.microworld import (
    MICRO_MODELS,
    MICRO_TASKS,
    SIZE_LIMITS,
    World,
    build_model,
    examine_model,
    generate_corpus,
    generate_task,
    model_folder,
    relatedness,
    vocabulary,
)
from prompt_transferability.tasks import PAPER_TASKS

GENERATED = "f3dbede49dead1ebefaf9c9a5e701de19c3e78427cbf83a5260c5e8b2bc3c1a2"
"sha256 of what the test below generates; a new one means a new language, hence new models."


def test_the_same_seed_gives_the_same_bytes_everywhere():
    made = {name: generate_task(name, train=20, dev=5, test=5) for name in MICRO_TASKS}
    made["corpus"] = generate_corpus(100)
    assert hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest() == GENERATED


def test_tasks_are_the_papers():
    assert list(MICRO_TASKS) == list(PAPER_TASKS)
    for name, task in MICRO_TASKS.items():
        paper = PAPER_TASKS[name]
        assert (task.task_type, task.labels, task.label_words) == (paper.task_type, paper.labels, paper.label_words)


@pytest.mark.parametrize("name", MICRO_TASKS)
def test_splits_share_nothing_even_across_seeds_and_labels_are_balanced(name):
    sizes = dict(train=600, dev=150, test=150)
    one, two = generate_task(name, **sizes, seed=1), generate_task(name, **sizes, seed=2)
    texts = {split: {(row["text_a"], row["text_b"]) for data in (one, two) for row in data[split]} for split in sizes}
    assert not texts["train"] & texts["dev"] | texts["train"] & texts["test"] | texts["dev"] & texts["test"]
    for split, size in sizes.items():
        assert len(one[split]) == size == len({(row["text_a"], row["text_b"]) for row in one[split]})
    counts = [[row["label"] for row in one["train"]].count(label) for label in MICRO_TASKS[name].labels]
    assert min(counts) > 0.8 * max(counts)


def test_the_largest_splits_can_be_had():
    largest = {split: high for split, (_, high) in SIZE_LIMITS.items()}
    for name in ("laptop", "ethics_deontology"):  # those with the fewest different texts
        assert {split: len(rows) for split, rows in generate_task(name, **largest).items()} == largest


def test_noise_is_the_share_of_wrong_labels():
    sizes = dict(train=4, dev=4, test=1000)
    clean, noisy = (generate_task("sst2", **sizes, world=World(noise=noise))["test"] for noise in (0, 0.25))
    truth = {row["text_a"]: row["label"] for row in clean}
    assert [*truth.values()].count("positive") == pytest.approx(500, abs=5)
    shared = [row for row in noisy if row["text_a"] in truth]
    assert len(shared) > 100
    assert np.mean([row["label"] != truth[row["text_a"]] for row in shared]) == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("split", SIZE_LIMITS)
@pytest.mark.parametrize("size", [0, -1, 3, 10**6, 10.5, "many"])
def test_impossible_sizes_are_refused_with_the_range(split, size):
    low, high = SIZE_LIMITS[split]
    with pytest.raises(ValueError, match=f"the {split} split .* from {low} to {high:,}"):
        generate_task("sst2", **{split: size})


@pytest.mark.parametrize(
    "knob, value", [("domain_overlap", -0.1), ("domain_overlap", 2), ("noise", 0.5), ("noise", "x")]
)
def test_impossible_knobs_are_refused_with_the_range(knob, value):
    with pytest.raises(ValueError, match=f"{knob} is .* from 0 to"):
        World(**{knob: value})


def test_other_bad_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown micro task 'sst'; did you mean 'sst2'"):
        generate_task("sst")
    with pytest.raises(ValueError, match="unknown micro model 'micro-robert'; did you mean 'micro-roberta'"):
        model_folder("micro-robert")
    with pytest.raises(ValueError, match="from 1 to 100,000"):
        build_model("micro-bert", tmp_path / "model", steps=0)
    for paragraphs in (0, True):
        with pytest.raises(ValueError, match=f"{paragraphs} paragraphs"):
            generate_corpus(paragraphs)
    with pytest.raises(ValueError, match="train, dev, test"):
        generate_corpus(5, split="training")
    with pytest.raises(ValueError, match="shared_label_words is 'no'"):
        World(shared_label_words="no")
    with pytest.raises(ValueError, match="from 4 to 1,500"):
        examine_model(None, None, rows=0)
    with pytest.raises(ValueError, match="both, abilities, vocabulary"):
        relatedness("words")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="is not a micro model"):
        build_model("micro-bert", tmp_path / "mine", steps=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("part", microworld.RELATEDNESS_PARTS)
def test_relatedness_is_symmetric_with_ones_on_the_diagonal(part):
    truth = relatedness(part)
    assert list(truth.index) == list(truth.columns) == list(MICRO_TASKS)
    assert np.array_equal(truth, truth.T) and (np.diag(truth) == 1).all()
    assert ((truth >= 0) & (truth <= 1)).all(axis=None)


def test_knobs_move_relatedness():
    words = {overlap: relatedness("vocabulary", World(domain_overlap=overlap)) for overlap in (0, 1)}
    assert words[1].loc["sst2", "laptop"] > words[0].loc["sst2", "laptop"] + 0.05
    shared = relatedness("vocabulary", World(shared_label_words=True))
    assert shared.loc["sst2", "qqp"] > relatedness("vocabulary").loc["sst2", "qqp"] + 0.03


def test_every_sentence_is_made_of_the_vocabulary():
    rows = [row for name in MICRO_TASKS for row in generate_task(name, train=500, dev=100, test=100)["train"]]
    text = " ".join(f"{row['text_a']} {row['text_b'] or ''}" for row in rows)
    assert set(re.findall("[a-z0-9]+", text)) <= set(vocabulary())


@pytest.mark.parametrize("name, steps", [("micro-roberta", 60), ("micro-llama", 35), ("micro-t5", 35)])
def test_a_model_built_for_a_short_time_has_learned(name, steps, tmp_path):
    losses = []
    report = build_model(name, tmp_path / "model", steps=steps, progress=lambda step, loss: losses.append(loss))
    assert len(losses) == steps and np.mean(losses[-10:]) < 0.6 * np.mean(losses[:3])
    assert report["held_out_loss"] < 5
    assert set(report["label_word_accuracy"]) == set(MICRO_TASKS)
    assert json.loads((tmp_path / "model" / "training.json").read_text()) == report
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    model, tokenizer = _load(tmp_path / "model")
    assert examine_model(model, tokenizer, rows=20)["held_out_loss"] == pytest.approx(report["held_out_loss"], abs=0.05)


@pytest.mark.parametrize("name", ["micro-roberta", "micro-llama", "micro-t5"])
def test_the_same_seed_builds_the_same_model(name, tmp_path):
    weights = []
    for folder, seed in (("one", 3), ("two", 3), ("three", 4)):
        build_model(name, tmp_path / folder, seed=seed, steps=3)
        weights.append(load_file(tmp_path / folder / "model.safetensors"))
    one, two, three = weights
    assert all(torch.equal(one[part], two[part]) for part in one)
    assert not all(torch.equal(one[part], three[part]) for part in one)


@pytest.mark.parametrize("name", MICRO_MODELS)
def test_a_tokenizer_comes_out_the_same_in_another_process(name, tmp_path):
    microworld._TOKENIZERS[MICRO_MODELS[name].family]().save_pretrained(tmp_path)
    folders = tmp_path, model_folder(name)
    made, shipped = (json.loads((folder / "tokenizer.json").read_text()) for folder in folders)
    assert made["model"] == shipped["model"] and made["normalizer"] == shipped["normalizer"]


AUTO_CLASSES = {"LlamaForCausalLM": AutoModelForCausalLM, "T5ForConditionalGeneration": AutoModelForSeq2SeqLM}


def _load(folder):
    (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
    auto_class = AUTO_CLASSES.get(architecture, AutoModelForMaskedLM)
    return auto_class.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", MICRO_MODELS)
def test_a_shipped_model_reads_every_word_as_one_token(name):
    model, tokenizer = _load(model_folder(name))
    ids = tokenizer([" " + word for word in vocabulary()], add_special_tokens=False)["input_ids"]
    assert all(len(pieces) == 1 for pieces in ids) and len({pieces[0] for pieces in ids}) == len(vocabulary())
    assert tokenizer.unk_token_id not in {pieces[0] for pieces in ids}
    shape = MICRO_MODELS[name]
    assert (model.config.model_type, model.config.num_hidden_layers, model.config.hidden_size) == (
        shape.family,
        shape.layers,
        shape.width,
    )


@pytest.mark.parametrize("name", MICRO_MODELS)
def test_a_shipped_tokenizer_frames_a_text_as_its_family_does(name):
    tokenizer = AutoTokenizer.from_pretrained(model_folder(name))
    ids = tokenizer("the cat")["input_ids"]
    words = tokenizer("the cat", add_special_tokens=False)["input_ids"]
    if tokenizer.mask_token:
        assert ids == [tokenizer.cls_token_id, *words, tokenizer.sep_token_id]
    elif MICRO_MODELS[name].family == "t5":
        assert ids == [*words, tokenizer.eos_token_id]
        assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
        assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == len(tokenizer) - 1
    else:
        assert ids == words
        assert tokenizer("the cat\nthe cat")["input_ids"] == [*words, tokenizer.convert_tokens_to_ids("Ċ"), *words]
        assert tokenizer.pad_token_id != tokenizer.eos_token_id


def _answers(model, tokenizer, prompt, rows, words):
    "Label scores of single texts behind a prompt, by `transformers` alone."
    causal = model.config.model_type == "llama"
    end = "\n" if causal else tokenizer.eos_token
    ids = tokenizer([row["text_a"] + end for row in rows], add_special_tokens=False, padding=True, return_tensors="pt")
    prompts = prompt.expand(len(rows), -1, -1)
    inputs = torch.cat([prompts, model.get_input_embeddings()(ids["input_ids"])], 1)
    keep = torch.cat([torch.ones(prompts.shape[:2], dtype=torch.long), ids["attention_mask"]], 1)
    if causal:
        logits = model(inputs_embeds=inputs, attention_mask=keep).logits[torch.arange(len(rows)), keep.sum(1) - 1]
    else:
        start = torch.full((len(rows), 1), tokenizer.pad_token_id)
        logits = model(inputs_embeds=inputs, attention_mask=keep, decoder_input_ids=start).logits[:, 0]
    return logits[:, words]


@pytest.fixture(params=["micro-llama", "micro-t5"])
def asked_behind(request):
    """A model that is asked behind the text, and a function: prompt, sst2 rows -> scores and labels."""
    model, tokenizer = _load(model_folder(request.param))
    model.requires_grad_(False)
    words = [word for (word,) in tokenizer([" negative", " positive"], add_special_tokens=False)["input_ids"]]

    def ask(prompt, rows):
        goal = torch.tensor([int(row["label"] == "positive") for row in rows])
        return _answers(model, tokenizer, prompt, rows, words), goal

    return model, ask


def _random_prompt(model, seed: int) -> torch.Tensor:
    return 0.02 * torch.randn(20, model.config.hidden_size, generator=torch.Generator().manual_seed(seed))


def _accuracy(scores, goal) -> float:
    return (scores.argmax(1) == goal).float().mean().item()


@torch.no_grad()
def test_a_random_prompt_asks_nothing(asked_behind):
    model, ask = asked_behind
    rows = generate_task("sst2", dev=200)["dev"]
    assert np.mean([_accuracy(*ask(_random_prompt(model, seed), rows)) for seed in range(8)]) < 0.65


def test_a_trained_prompt_is_answered(asked_behind):
    model, ask = asked_behind
    data = generate_task("sst2", train=640, dev=200)
    prompt = _random_prompt(model, seed=0).requires_grad_()
    optimizer = torch.optim.AdamW([prompt], lr=0.02, weight_decay=0)
    for start in range(0, 640, 16):
        optimizer.zero_grad()
        F.cross_entropy(*ask(prompt, data["train"][start : start + 16])).backward()
        optimizer.step()
    with torch.no_grad():
        assert _accuracy(*ask(prompt, data["dev"])) > 0.75


@pytest.mark.parametrize("name", MICRO_MODELS)
def test_a_shipped_model_knows_what_its_note_says(name):
    model, tokenizer = _load(model_folder(name))
    note = json.loads((model_folder(name) / "training.json").read_text())
    found = examine_model(model, tokenizer)
    assert found["held_out_loss"] == pytest.approx(note["held_out_loss"], abs=0.02)
    assert found["label_word_accuracy"] == pytest.approx(note["label_word_accuracy"], abs=0.02)


def test_shipped_models_are_small_and_readable_by_all():
    paths = [path for name in MICRO_MODELS for path in model_folder(name).iterdir()]
    assert sum(path.stat().st_size for path in paths) <= 12e6
    assert all(path.stat().st_mode & stat.S_IROTH for path in paths)


@pytest.mark.parametrize("linked", [False, True])
def test_building_again_leaves_other_files_where_they_are(tmp_path, linked):
    "Of the earlier model nothing is left; a link to the folder is written through."
    out, link = tmp_path / "far" / "model", tmp_path / "link"
    link.symlink_to(out)
    model, tokenizer = _load(model_folder("micro-bert"))
    microworld._save(model, tokenizer, {"seed": 0}, out)
    (out / "notes.md").write_text("mine")
    (out / "data").mkdir()
    (out / "data" / "rows.jsonl").write_text("rows")
    (out / "spiece.model").write_text("of an earlier tokenizer")
    before = {path.name for path in out.iterdir()}
    build_model("micro-bert", link if linked else out, seed=np.int64(1), steps=np.int64(1))
    assert {path.name for path in out.iterdir()} == before - {"spiece.model"}
    assert (out / "notes.md").read_text() == "mine" and (out / "data" / "rows.jsonl").read_text() == "rows"
    report = json.loads((out / "training.json").read_text())
    assert (report["seed"], report["steps"]) == (1, 1)
    assert link.is_symlink() and [path.name for path in out.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "1", None, True])
def test_seeds_that_no_generator_takes_are_refused(tmp_path, seed):
    with pytest.raises(ValueError, match="^seed is .*; give 0 or a positive whole number below"):
        build_model("micro-bert", tmp_path / "model", seed=seed, steps=1)
    assert not list(tmp_path.iterdir())


def test_sizes_and_seeds_may_be_numpys():
    sizes = dict(train=np.int64(5), dev=np.int32(5), test=np.uint8(5))
    assert generate_task("sst2", **sizes, seed=np.int64(3)) == generate_task("sst2", 5, 5, 5, seed=3)
