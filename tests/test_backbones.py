"Backbones: checkpoints of other shapes, compared with `transformers`, and checkpoints that are refused."

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
)

import prompt_transferability
from prompt_transferability.backbones import LAYOUTS, Backbone, BackboneError
from prompt_transferability.microworld import model_folder
from prompt_transferability.prompts import SoftPrompt
from prompt_transferability.tasks import ALL_TASKS

SENTIMENT, INFERENCE = ALL_TASKS["micro/sst2"], ALL_TASKS["micro/snli"]
SINGLE = [
    {"text_a": "the plot was boring", "text_b": None},
    {"text_a": "critics said the film was really gripping and the music was charming", "text_b": None},
    {"text_a": "a dull, silly film", "text_b": None},
]
PAIRS = [
    {"text_a": "the man bought the apple in the park", "text_b": "the man sold the fruit"},
    {"text_a": "a girl lost the red kite near the river after school", "text_b": "a child lost the toy"},
    {"text_a": "the dog pushed the ball", "text_b": "the animal pulled the ball at night before lunch"},
]
SHAPES = {
    "bert": ("bert", dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=6, intermediate_size=80)),
    "bert, one layer, relu, no token types": (
        "bert",
        dict(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            hidden_act="relu",
            type_vocab_size=1,
        ),
    ),
    "roberta": ("roberta", dict(hidden_size=40, num_hidden_layers=2, num_attention_heads=5, intermediate_size=64)),
    "roberta, relu, token types": (
        "roberta",
        dict(
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=96,
            hidden_act="relu",
            type_vocab_size=2,
        ),
    ),
}
CONFIGS = {"bert": BertConfig, "roberta": RobertaConfig}
CLASSES = {"bert": (BertForMaskedLM, BertModel), "roberta": (RobertaForMaskedLM, RobertaModel)}


def build(family, shape, folder, headless=False):
    "A checkpoint whose weights, biases and norms are all random, beside the micro world's tokenizer."
    tokenizer = AutoTokenizer.from_pretrained(model_folder(f"micro-{family}"))
    special = dict(pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.cls_token_id)
    settings = dict(vocab_size=len(tokenizer) + 11, max_position_embeddings=100, type_vocab_size=1) | special
    if family == "bert":
        settings["type_vocab_size"] = 2
    torch.manual_seed(0)  # what `transformers` draws before we add to it
    generator = torch.Generator().manual_seed(0)
    model = CLASSES[family][headless](CONFIGS[family](**settings | shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=SHAPES)
def checkpoint(request, tmp_path_factory):
    return build(*SHAPES[request.param], tmp_path_factory.mktemp("models") / "other-model")


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    return build(*SHAPES["bert"], tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture
def damaged(bert_folder, tmp_path):
    "A copy of a good checkpoint, to be damaged by the test."
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in bert_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def prompt_of(backbone, length=6, seed=0):
    return torch.randn(length, backbone.hidden_size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def reference(model, tokenizer, prompt, row, task, layout="paper", padding=0, max_length=90):
    "Label logits from `transformers` and the rules of the layouts alone: nothing is borrowed from `Backbone`."
    family, embed = model.config.model_type, model.base_model.embeddings
    encoded = tokenizer(
        row["text_a"], row["text_b"], truncation="longest_first", max_length=max_length, return_token_type_ids=True
    )
    ids, types = (torch.tensor([encoded[name]]) for name in ("input_ids", "token_type_ids"))
    if model.config.type_vocab_size == 1:
        types = torch.zeros_like(types)
    text = embed(input_ids=ids, token_type_ids=types)[0]
    mask = embed.word_embeddings.weight[tokenizer.mask_token_id]
    vectors = torch.cat([mask[None], prompt]) if layout == "paper" else torch.cat([mask[None], prompt[1:]])
    if layout == "authors" and family == "roberta":
        vectors = vectors + embed.token_type_embeddings.weight[0]
    whole = torch.cat([embed.LayerNorm(vectors), text, torch.randn(padding, text.shape[1])])
    attention = torch.ones(1, len(whole), dtype=torch.long)
    attention[0, len(whole) - padding :] = 0
    hook = embed.register_forward_hook(lambda *_: whole[None])
    try:
        logits = model(input_ids=torch.full((1, len(whole)), 5), attention_mask=attention).logits[0, 0]
    finally:
        hook.remove()
    start = "Ġ" if family == "roberta" else ""
    return logits[tokenizer.convert_tokens_to_ids([start + word for word in task.label_words])]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("rows", "task"), [(SINGLE, SENTIMENT), (PAIRS, INFERENCE)], ids=["single", "pairs"])
def test_logits_of_other_checkpoints_are_those_of_transformers(checkpoint, layout, rows, task):
    backbone = Backbone.from_pretrained(checkpoint, layout=layout, max_length=90)
    model = AutoModelForMaskedLM.from_pretrained(checkpoint).eval()
    prompt = prompt_of(backbone)
    with torch.no_grad():
        batched = backbone.label_logits(prompt, rows, task)
        alone = torch.cat([backbone.label_logits(prompt, [row], task) for row in rows])
    assert len({len(row["text_a"].split()) for row in rows}) > 1, "no row of the batch would be padded"
    for padding in (0, 7):
        theirs = torch.stack([reference(model, backbone.tokenizer, prompt, row, task, layout, padding) for row in rows])
        assert theirs.std() > 0.1, "too alike to tell a right answer from a wrong one"
        assert torch.allclose(batched, theirs, atol=1e-4)
        assert torch.allclose(alone, theirs, atol=1e-4)


def test_the_layouts_differ(checkpoint):
    ours = [Backbone.from_pretrained(checkpoint, layout=layout, max_length=90) for layout in LAYOUTS]
    prompt = prompt_of(ours[0])
    paper, authors = (backbone.label_logits(prompt, SINGLE, SENTIMENT) for backbone in ours)
    assert not torch.allclose(paper, authors, atol=1e-3)


def test_shape_and_name_are_the_checkpoints(checkpoint):
    backbone = Backbone.from_pretrained(checkpoint, max_length=90)
    config = json.loads((checkpoint / "config.json").read_text())
    assert (backbone.hidden_size, backbone.num_layers) == (config["hidden_size"], config["num_hidden_layers"])
    assert (backbone.family, backbone.ffn_size) == (config["model_type"], config["intermediate_size"])
    assert backbone.name == "other-model" and backbone.has_head
    states = backbone.neuron_states(prompt_of(backbone))
    assert states.dtype == torch.bool and states.shape == (backbone.num_layers, backbone.ffn_size)


@torch.no_grad()
def reference_activations(model, tokenizer, prompt, layout):
    "What each neuron gets at the mask, [layers, ffn], by hooks on `transformers`; nothing is borrowed from `Backbone`."
    embed = model.base_model.embeddings
    first = embed.word_embeddings.weight[tokenizer.mask_token_id]
    vectors = torch.cat([first[None], prompt if layout == "paper" else prompt[1:]])
    if layout == "authors" and model.config.model_type == "roberta":
        vectors = vectors + embed.token_type_embeddings.weight[0]
    start = embed(input_ids=torch.tensor([[tokenizer.cls_token_id]]), token_type_ids=torch.tensor([[0]]))[0]
    whole = torch.cat([embed.LayerNorm(vectors), start])[None]
    seen = []
    hooks = [embed.register_forward_hook(lambda *_: whole)]
    for layer in model.base_model.encoder.layer:
        hooks.append(layer.intermediate.dense.register_forward_hook(lambda *call: seen.append(call[2][0, 0])))
    try:
        model(input_ids=torch.full(whole.shape[:2], 5))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(seen)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_neuron_states_are_what_hooks_on_transformers_see(checkpoint, layout):
    backbone = Backbone.from_pretrained(checkpoint, layout=layout, max_length=90)
    model = AutoModelForMaskedLM.from_pretrained(checkpoint).eval()
    prompts = torch.stack([prompt_of(backbone, seed=seed) * scale for seed, scale in enumerate((0.02, 1, 30))])
    theirs = torch.stack([reference_activations(model, backbone.tokenizer, prompt, layout) for prompt in prompts])
    assert 0.1 < (theirs > 0).float().mean() < 0.9 and (theirs.abs() > 1e-4).float().mean() > 0.99
    certain = theirs.abs() > 1e-4  # the sign of a zero is a matter of rounding
    together, each = backbone.neuron_states(prompts), [backbone.neuron_states(prompt) for prompt in prompts]
    assert together.dtype == torch.bool and together.shape == theirs.shape
    for ours in (together, torch.stack(each)):
        assert torch.equal(ours[certain], (theirs > 0)[certain])
    assert not torch.equal(together[0], together[1])


def test_what_neuron_states_refuses(bert_folder):
    backbone = Backbone.from_pretrained(bert_folder, max_length=90)
    with pytest.raises(BackboneError, match="vectors are 7 wide; 'tiny-bert' takes 48"):
        backbone.neuron_states(torch.zeros(2, 5, 7))
    with pytest.raises(BackboneError, match="pass its vectors, prompt.values"):
        backbone.neuron_states(SoftPrompt(torch.zeros(5, 48), "tiny-bert", "sst2"))


def test_a_prompt_for_each_row(checkpoint):
    backbone = Backbone.from_pretrained(checkpoint, max_length=90)
    prompts = torch.stack([prompt_of(backbone, seed=seed) for seed in range(3)])
    with torch.no_grad():
        together = backbone.label_logits(prompts, SINGLE, SENTIMENT)
        each = [backbone.label_logits(*pair, SENTIMENT) for pair in zip(prompts, [[r] for r in SINGLE], strict=True)]
    assert torch.allclose(together, torch.cat(each), atol=1e-5)


def test_predictions_do_not_depend_on_the_order_of_texts(checkpoint):
    backbone = Backbone.from_pretrained(checkpoint, max_length=90)
    prompt, rows = prompt_of(backbone), PAIRS + PAIRS[::-1]
    predicted = backbone.predict(prompt, backbone.encode(rows), INFERENCE)
    with torch.no_grad():
        expected = backbone.label_logits(prompt, rows, INFERENCE).argmax(-1)
    assert predicted.tolist() == expected.tolist() and predicted[:3].tolist() == predicted[3:][::-1].tolist()


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ({"text_a": "the film was moving " * 40, "text_b": None}, SENTIMENT),
        ({"text_a": "the man bought the apple " * 30, "text_b": "a man sold it"}, INFERENCE),
        ({"text_a": "the man bought it", "text_b": "a girl lost the kite " * 30}, INFERENCE),
    ],
    ids=["single", "long first", "long second"],
)
def test_long_texts_are_cut_at_max_length(checkpoint, row, task):
    backbone = Backbone.from_pretrained(checkpoint, max_length=16)
    encoded = backbone.encode([row])
    assert encoded.lengths.tolist() == [16]
    assert encoded.batch([0]).ids[0, -1] == backbone.tokenizer.sep_token_id
    model, prompt = AutoModelForMaskedLM.from_pretrained(checkpoint).eval(), prompt_of(backbone)
    with torch.no_grad():
        ours = backbone.label_logits(prompt, [row], task)[0]
    theirs = reference(model, backbone.tokenizer, prompt, row, task, max_length=16)
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_max_length_can_be_all_that_the_model_has_positions_for(checkpoint):
    # RoBERTa's first position comes after that of the padding token.
    room = 100 if json.loads((checkpoint / "config.json").read_text())["model_type"] == "bert" else 98
    backbone = Backbone.from_pretrained(checkpoint, max_length=room)
    row = {"text_a": "the film was moving " * 80, "text_b": None}
    assert backbone.label_logits(prompt_of(backbone), [row], SENTIMENT).isfinite().all()
    with pytest.raises(BackboneError, match=f"takes texts of 3 to {room} tokens"):
        Backbone.from_pretrained(checkpoint, max_length=room + 1)


@pytest.mark.parametrize("family", CLASSES)
def test_a_half_precision_checkpoint_is_computed_in_float32(family, tmp_path):
    folder = build(*SHAPES[family], tmp_path / "half")
    AutoModelForMaskedLM.from_pretrained(folder).half().save_pretrained(folder)
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.float16}
    backbone = Backbone.from_pretrained(folder, max_length=90)
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    model, prompt = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval(), prompt_of(backbone)
    with torch.no_grad():
        ours = backbone.label_logits(prompt, SINGLE[:1], SENTIMENT)[0]
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, reference(model, backbone.tokenizer, prompt, SINGLE[0], SENTIMENT), atol=1e-4)


@pytest.mark.parametrize("family", CLASSES)
def test_a_plain_encoder_warns_once_and_reads_out_by_its_word_embeddings(family, tmp_path):
    folder = build(*SHAPES[family], tmp_path / "headless", headless=True)
    with pytest.warns(UserWarning, match="'headless' has no masked-LM head") as warned:
        backbone = Backbone.from_pretrained(folder, max_length=90)
    assert len(warned) == 1 and not backbone.has_head
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompt = prompt_of(backbone)
        states = backbone.read_out_states(prompt, backbone.encode(SINGLE).batch([0, 1, 2]))
        logits = backbone.label_logits(prompt, SINGLE, SENTIMENT)
    stored = load_file(folder / "model.safetensors")["embeddings.word_embeddings.weight"]
    start = "Ġ" if family == "roberta" else ""
    words = backbone.tokenizer.convert_tokens_to_ids([start + word for word in SENTIMENT.label_words])
    assert torch.allclose(logits, states @ stored[words].T, atol=1e-5)


def test_a_checkpoint_with_a_head_does_not_warn(bert_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Backbone.from_pretrained(bert_folder, max_length=90).has_head


def test_a_checkpoint_that_lacks_encoder_weights_is_refused(damaged):
    weights = load_file(damaged / "model.safetensors")
    missing = "bert.encoder.layer.1.attention.self.query.weight"
    save_file(
        {name: value for name, value in weights.items() if name != missing},
        damaged / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(BackboneError, match="'.*damaged' lacks weights of the model: " + missing):
        Backbone.from_pretrained(damaged, max_length=90)


@pytest.mark.parametrize("lost", ["cls.predictions.bias", "cls.predictions.transform.dense.weight"])
def test_a_checkpoint_with_a_part_of_a_head_is_refused(damaged, lost):
    weights = load_file(damaged / "model.safetensors")
    del weights[lost]
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=f"'.*damaged' lacks weights of its head: .*{lost}.* …; it is not wh"):
        Backbone.from_pretrained(damaged, max_length=90)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"position_embedding_type": "relative_key_query"}, "has position_embedding_type='relative_key_query'"),
        ({"is_decoder": True}, "has is_decoder=True in its configuration; a 'bert' backbone needs False"),
        ({"quantization_config": {"quant_method": "gptq"}}, "are quantised"),
        ({"num_hidden_layers": 2}, "that its config.json does not know: bert.encoder.layer.2"),
    ],
)
def test_a_checkpoint_that_would_be_computed_wrongly_is_refused(damaged, setting, message):
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | setting))
    with pytest.raises(BackboneError, match=message) as refused:
        Backbone.from_pretrained(damaged, max_length=90)
    assert "\n" not in str(refused.value)


def test_weights_beside_the_encoder_are_left_alone(damaged):
    others = {name: torch.zeros(2, 2) for name in ("bert.pooler.dense.weight", "cls.seq_relationship.weight")}
    others["bert.embeddings.position_ids"] = torch.arange(100)[None]
    weights = load_file(damaged / "model.safetensors") | others
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    assert Backbone.from_pretrained(damaged, max_length=90).has_head


def test_pickled_weights_are_refused(damaged):
    torch.save(load_file(damaged / "model.safetensors"), damaged / "pytorch_model.bin")
    (damaged / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match="holds no whole model: .*model.safetensors") as refused:
        Backbone.from_pretrained(damaged, max_length=90)
    assert "\n" not in str(refused.value)


def test_weights_that_are_cut_off_are_refused(damaged):
    whole = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BackboneError, match="holds no whole model") as refused:
        Backbone.from_pretrained(damaged, max_length=90)
    assert "\n" not in str(refused.value)


def test_weights_of_another_shape_than_the_configuration_are_refused(damaged):
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | {"intermediate_size": 81}))
    with pytest.raises(BackboneError, match="damaged") as refused:
        Backbone.from_pretrained(damaged, max_length=90)
    assert "\n" not in str(refused.value)


def test_a_folder_without_a_tokenizer_is_refused(damaged):
    for path in damaged.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(BackboneError, match="a tokenizer"):
        Backbone.from_pretrained(damaged, max_length=90)


def test_a_tokenizer_of_another_model_is_refused(damaged):
    "Its tokens lie beyond the model's word embeddings."
    AutoTokenizer.from_pretrained(model_folder("micro-roberta")).save_pretrained(damaged)
    with pytest.raises(BackboneError, match="tokenizer"):
        Backbone.from_pretrained(damaged, max_length=90)


@pytest.mark.parametrize("family", ["deberta-v2", "gemma3n", "gemma4", "bart", "no-such-model"])
def test_another_family_is_refused_by_name(family, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(BackboneError, match=f"is a '{family}' model; .* families bert, roberta"):
        Backbone.from_pretrained(tmp_path)


def test_code_in_a_checkpoint_is_never_run(damaged, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # whoever is asked at a terminal may say yes
    (damaged / "evil.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        "from transformers import BertConfig as Config, BertForMaskedLM as Model\n"
    )
    config = json.loads((damaged / "config.json").read_text())
    for model_type in ("bert", "evil"):
        code = {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForMaskedLM": "evil.Model"}}
        (damaged / "config.json").write_text(json.dumps(config | code | {"model_type": model_type}))
        try:
            Backbone.from_pretrained(damaged, max_length=90)
        except BackboneError:
            assert model_type == "evil"
    assert not (tmp_path / "ran").exists()


def test_the_switch_that_lets_a_checkpoint_run_code_is_nowhere_in_the_package():
    for path in Path(prompt_transferability.__file__).parent.glob("*.py"):
        assert "trust_remote_code" not in path.read_text(), path.name


@pytest.mark.parametrize("family", CLASSES)
def test_label_words_that_cannot_be_told_apart_at_the_mask_are_refused(family):
    backbone = Backbone.from_pretrained(f"micro-{family}")
    rows, prompt = SINGLE[:1], prompt_of(backbone)

    def logits(*words):
        return backbone.label_logits(prompt, rows, replace(SENTIMENT, label_words=words))

    with pytest.raises(BackboneError, match="'very good' .label 'positive' of task 'micro/sst2'. is not one token"):
        logits("negative", "very good")
    with pytest.raises(BackboneError, match="'漢' .label 'negative' .* is not one token .*choose another word"):
        logits("漢", "positive")
    assert logits("bad", "good").shape == (1, 2)


def test_label_words_that_share_a_token_are_refused():
    backbone, task = Backbone.from_pretrained("micro-bert"), replace(SENTIMENT, label_words=("good", "Good"))
    with pytest.raises(BackboneError, match="'good', 'Good'. of task 'micro/sst2' share a token of 'micro-bert'"):
        backbone.label_logits(prompt_of(backbone), SINGLE, task)


def test_a_word_is_looked_up_with_the_space_before_it():
    backbone = Backbone.from_pretrained("micro-roberta")
    tokens = backbone.tokenizer.convert_ids_to_tokens(backbone.label_token_ids(INFERENCE).tolist())
    assert tokens == ["Ġyes", "Ġneutral", "Ġno"]


@pytest.fixture
def offline(tmp_path, monkeypatch):
    "No network, no local copies."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("robertabase", "roberta-base"),
        ("ROBERTA-BASE", "roberta-base"),
        ("all-MiniLM-L6-v3", "sentence-transformers/all-MiniLM-L6-v2"),
        ("all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
    ],
)
def test_a_name_that_nobody_has_fails_with_the_names_that_exist(offline, name, nearest):
    with pytest.raises(FileNotFoundError, match=f"did you mean '{nearest}'") as refused:
        Backbone.from_pretrained(name)
    assert "micro-bert" in str(refused.value) and "\n" not in str(refused.value)


def test_a_known_name_without_network_and_copy_says_so(offline):
    with pytest.raises(FileNotFoundError, match="no local copy of the model 'roberta-base'.* cannot be") as refused:
        Backbone.from_pretrained("roberta-base")
    assert "did you mean" not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "gpu"}, "there is no device 'gpu' here; give auto or one of .*cpu"),
        ({"device": "cuda:99"}, "there is no device 'cuda:99' here"),
        ({"dtype": "float13"}, "'float13' is no number type to compute in"),
        ({"dtype": torch.int8}, "'torch.int8' is no number type to compute in"),
    ],
)
def test_devices_and_number_types_that_cannot_be_had_are_refused(given, message):
    with pytest.raises(BackboneError, match=message) as refused:
        Backbone.from_pretrained("micro-bert", **given)
    assert "\n" not in str(refused.value)


def test_a_number_type_may_be_given_by_name():
    assert Backbone.from_pretrained("micro-bert", dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("ask", ["label_logits", "predict", "neuron_states", "slots"])
def test_a_prompt_is_a_tensor_everywhere(ask):
    backbone = Backbone.from_pretrained("micro-bert")
    prompt, rest = SoftPrompt(prompt_of(backbone), "micro-bert", "micro/sst2"), ()
    if ask in ("label_logits", "predict"):
        rest = (SINGLE if ask == "label_logits" else backbone.encode(SINGLE), SENTIMENT)
    with pytest.raises(BackboneError, match="not a SoftPrompt; .*prompt.values"):
        getattr(backbone, ask)(prompt, *rest)
    assert len(getattr(backbone, ask)(prompt.values, *rest))


@pytest.mark.parametrize("rows", [{"text_a": ["a"], "text_b": [None]}, ["a", "b"], [{"text": "a"}]])
def test_texts_that_are_no_rows_are_refused(rows):
    with pytest.raises(BackboneError, match="texts are a sequence of rows, .*split.select"):
        Backbone.from_pretrained("micro-bert").encode(rows)
