"Backbones: checkpoints of other shapes, compared with `transformers`, and checkpoints that are refused."

import json
import re
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import INFERENCE, PAIRS, SENTIMENT, SINGLE, build, byte_level, prompt_of, reference, words_of
from transformers import AutoModelForMaskedLM, AutoTokenizer, ElectraConfig, ElectraForPreTraining

import prompt_transferability
from prompt_transferability.backbones import LAYOUTS, Backbone
from prompt_transferability.checkpoints import BackboneError, read_checkpoint
from prompt_transferability.microworld import model_folder
from prompt_transferability.prompts import SoftPrompt

ENCODERS = ("bert", "bert: one layer, one head, ReLU", "roberta", "roberta: token types")


@pytest.fixture(scope="module", params=ENCODERS)
def checkpoint(request, tmp_path_factory):
    return build(request.param, tmp_path_factory.mktemp("models") / "other-model")


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    return build("bert", tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture
def damaged(bert_folder, tmp_path):
    "A copy of a good checkpoint, to be damaged by the test."
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in bert_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


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


def test_what_neuron_states_refuses(bert_folder):
    backbone = Backbone.from_pretrained(bert_folder, max_length=90)
    with pytest.raises(BackboneError, match="vectors are 7 wide; 'tiny-bert' takes 32"):
        backbone.neuron_states(torch.zeros(2, 5, 7))
    with pytest.raises(BackboneError, match="vectors, prompt.values"):
        backbone.neuron_states(SoftPrompt(torch.zeros(5, 32), "tiny-bert", "sst2"))


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
        ours = backbone.label_logits(prompt, [row], task)[0].cpu()
    theirs = reference(model, backbone, prompt, row)[words_of(backbone, task)]
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_max_length_can_be_all_that_the_model_has_positions_for(checkpoint):
    # RoBERTa's first position comes after that of the padding token.
    room = 100 if json.loads((checkpoint / "config.json").read_text())["model_type"] == "bert" else 98
    backbone = Backbone.from_pretrained(checkpoint, max_length=room)
    row = {"text_a": "the film was moving " * 80, "text_b": None}
    assert backbone.label_logits(prompt_of(backbone), [row], SENTIMENT).isfinite().all()
    with pytest.raises(BackboneError, match=f"give a number of tokens from 3 to {room}"):
        Backbone.from_pretrained(checkpoint, max_length=room + 1)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_half_precision_checkpoint_is_computed_in_float32(family, tmp_path):
    folder = build(family, tmp_path / "half")
    AutoModelForMaskedLM.from_pretrained(folder).half().save_pretrained(folder)
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.float16}
    backbone = Backbone.from_pretrained(folder, max_length=90)
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    model, prompt = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval(), prompt_of(backbone)
    with torch.no_grad():
        ours = backbone.label_logits(prompt, SINGLE[:1], SENTIMENT)[0]
    assert ours.dtype == torch.float32
    theirs = reference(model, backbone, prompt, SINGLE[0])[words_of(backbone, SENTIMENT)]
    assert torch.allclose(ours.cpu(), theirs, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_plain_encoder_warns_once_and_reads_out_by_its_word_embeddings(family, tmp_path):
    folder = build(family, tmp_path / "headless", headless=True)
    with pytest.warns(UserWarning, match="'headless' has no masked-LM head") as warned:
        backbone = Backbone.from_pretrained(folder, max_length=90)
    assert len(warned) == 1 and not backbone.has_head
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompt = prompt_of(backbone)
        states = backbone.read_out_states(prompt, backbone.encode(SINGLE).batch([0, 1, 2]))
        logits = backbone.label_logits(prompt, SINGLE, SENTIMENT)
    stored = load_file(folder / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert torch.allclose(logits.cpu(), states.cpu() @ stored[words_of(backbone, SENTIMENT)].T, atol=1e-5)


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
    with pytest.raises(BackboneError, match=f"'.*damaged' lacks weights of its head: .*{lost}.* …; it is incomp"):
        Backbone.from_pretrained(damaged, max_length=90)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"position_embedding_type": "relative_key_query"}, "has position_embedding_type='relative_key_query'"),
        ({"is_decoder": True}, "has is_decoder=True in its configuration; a 'bert' backbone needs False"),
        ({"quantization_config": {"quant_method": "gptq"}}, "are quantized"),
        ({"num_hidden_layers": 2}, "that its config.json does not describe: bert.encoder.layer.2"),
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
    with pytest.raises(BackboneError, match="is not a complete model: .*model.safetensors") as refused:
        Backbone.from_pretrained(damaged, max_length=90)
    assert "\n" not in str(refused.value)


def test_weights_that_are_cut_off_are_refused(damaged):
    whole = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BackboneError, match="is not a complete model") as refused:
        Backbone.from_pretrained(damaged, max_length=90)
    assert "\n" not in str(refused.value)


def test_weights_of_another_shape_than_the_configuration_are_refused(damaged):
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | {"intermediate_size": 41}))
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
    with pytest.raises(BackboneError, match=f"is a '{family}' model; .* types: bert, roberta"):
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
        assert not re.search(r"trust_remote_code\s*=", path.read_text()), path.name


@pytest.mark.parametrize("family", ["bert", "roberta"])
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


@pytest.mark.parametrize(
    ("words", "remedy"),
    [(("good", "Good"), "each label needs its own words"), ((("bad", "Bad"), "good"), "leave one of them out")],
    ids=["two labels", "one label"],
)
def test_label_words_that_share_a_token_are_refused(words, remedy):
    backbone, task = Backbone.from_pretrained("micro-bert"), replace(SENTIMENT, label_words=words)
    shared = "'good' and 'Good'" if words[0] == "good" else "'bad' and 'Bad'"
    with pytest.raises(BackboneError, match=f"words {shared} of task 'micro/sst2' share a token of .*; {remedy}"):
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
        ({"device": "gpu"}, "device 'gpu' is not available; use auto, or one of .*cpu"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not available"),
        ({"dtype": "float13"}, "data type 'float13' is not supported"),
        ({"dtype": torch.int8}, "data type 'torch.int8' is not supported"),
    ],
)
def test_devices_and_number_types_that_cannot_be_had_are_refused(given, message):
    with pytest.raises(BackboneError, match=message) as refused:
        Backbone.from_pretrained("micro-bert", **given)
    assert "\n" not in str(refused.value)


def test_a_number_type_may_be_given_by_name():
    assert Backbone.from_pretrained("micro-bert", dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["micro-bert", "micro-llama", "micro-t5"])
@pytest.mark.parametrize(
    "ask", ["label_logits", "predict", "neuron_states", "slots", "read_out_states", "generic_states"]
)
def test_a_prompt_is_a_tensor_everywhere(ask, name):
    backbone = Backbone.from_pretrained(name)
    prompt, texts = SoftPrompt(prompt_of(backbone), name, "micro/sst2"), backbone.encode(SINGLE)
    rest = {
        "label_logits": (SINGLE, SENTIMENT),
        "predict": (texts, SENTIMENT),
        "read_out_states": (texts.batch([0, 1, 2]),),
        "generic_states": (texts.batch([0, 1, 2]),),
    }.get(ask, ())
    with pytest.raises(BackboneError, match="not a SoftPrompt; .*prompt.values"):
        getattr(backbone, ask)(prompt, *rest)
    with pytest.raises(BackboneError, match="vectors are 7 wide"):
        getattr(backbone, ask)(torch.zeros(3, 7), *rest)
    assert len(getattr(backbone, ask)(prompt.values, *rest))


@pytest.mark.parametrize("rows", [{"text_a": ["a"], "text_b": [None]}, ["a", "b"], [{"text": "a"}]])
def test_texts_that_are_no_rows_are_refused(rows):
    with pytest.raises(BackboneError, match="texts must be a sequence of rows, .*split.select"):
        Backbone.from_pretrained("micro-bert").encode(rows)


# ---------------------------------------------------------------- what stands between and behind texts


def test_the_token_after_which_a_causal_model_answers_is_looked_for_at_loading():
    backbone = Backbone.from_pretrained("micro-llama", answer=":")
    colon = backbone.tokenizer.convert_tokens_to_ids("Ġ:")
    (ids,) = backbone.encode(PAIRS[:1]).batch([0]).ids.tolist()
    assert backbone.answer_id == colon and ids.count(colon) == 2 and ids[-1] == colon
    with pytest.raises(
        BackboneError, match="the answer 'in short' is not a single token of 'micro-llama'; choose another"
    ):
        Backbone.from_pretrained("micro-llama", answer="in short")


def test_the_authors_join_pairs_of_t5_with_a_sentinel():
    backbone, paper = (Backbone.from_pretrained("micro-t5", layout=layout) for layout in ("authors", "paper"))
    a, b = (backbone.tokenizer.tokenize(PAIRS[0][text]) for text in ("text_a", "text_b"))
    ids = [of.encode(PAIRS[:1]).batch([0]).ids[0] for of in (backbone, paper)]
    tokens = [*map(backbone.tokenizer.convert_ids_to_tokens, ids)]
    assert tokens == [[*a, "<extra_id_0>", *b, "</s>"], [*a, "</s>", *b, "</s>"]]
    single = [of.encode(SINGLE[:1]).batch([0]).ids.tolist() for of in (backbone, paper)]
    assert single[0] == single[1]


def test_a_causal_model_has_no_authors_layout():
    with pytest.raises(BackboneError, match="is a causal model, for which the authors' code has no layout"):
        Backbone.from_pretrained("micro-llama", layout="authors")


def test_the_fingerprint_of_a_copy_is_that_of_its_weights_as_they_are(bert_folder):
    backbone = Backbone.from_pretrained(bert_folder, max_length=90)
    copy, file = backbone.trainable_copy("copy"), backbone.fingerprint
    before = copy.fingerprint
    with torch.no_grad():
        next(copy.parameters()).add_(1)
    assert copy.fingerprint != before and backbone.fingerprint == file


# ---------------------------------------------------------------- checkpoints of other kinds


def test_a_discriminator_is_refused(tmp_path):
    "ELECTRA's discriminator is a whole encoder, but never learned to name a word."
    tokenizer = AutoTokenizer.from_pretrained(model_folder("micro-bert"))
    shape = dict(embedding_size=20, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40)
    ElectraForPreTraining(ElectraConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="lacks weights of its head: generator_.*; it is incomplete"):
        Backbone.from_pretrained(tmp_path)


def write_gguf(file, model, tokenizer):
    "A Llama as llama.cpp's converter writes it: rows of queries and keys are interleaved for its rotations."
    gguf = pytest.importorskip("gguf")
    config, writer = model.config, gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(merge) for merge in bpe["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    rotated = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        weight = weight.float()
        if heads := rotated.get(name.split(".")[-2]):
            weight = weight.view(heads, 2, -1, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gguf_file_is_the_model_that_it_was_written_from(tmp_path, dtype):
    tokenizer = byte_level()
    folder = build("llama", tmp_path / "whole", num_hidden_layers=1, vocab_size=len(tokenizer))
    whole = Backbone.from_pretrained(folder, max_length=40, dtype=dtype)
    write_gguf(tmp_path / "packed.gguf", read_checkpoint(folder).model, tokenizer)
    packed = Backbone.from_pretrained(tmp_path / "packed.gguf", max_length=40, dtype=dtype)
    assert packed.name == "packed" and packed.fingerprint != whole.fingerprint
    assert {weight.dtype for weight in packed.parameters()} == {getattr(torch, dtype)}
    assert packed.encode(PAIRS).fingerprint == whole.encode(PAIRS).fingerprint
    with torch.no_grad():
        ours, theirs = (of.label_logits(prompt_of(of), PAIRS, INFERENCE) for of in (packed, whole))
    assert theirs.std() > 0.1 and torch.allclose(ours, theirs, atol=1e-5)


# ---- several threads, as in a web server


@pytest.mark.parametrize("name", ["micro-llama", "micro-bert"])
def test_threads_that_share_a_model_do_not_change_each_others_results(name):
    backbone = Backbone.from_pretrained(name, device="cpu")
    attention = backbone.model.config._attn_implementation
    rows = [{"text_a": f"the film was {'very ' * (i % 5)}good", "text_b": None} for i in range(12)]
    prompts = [prompt_of(backbone, 5, seed) for seed in range(3)]

    def compute(turn):
        if turn % 4 == 3:
            return backbone.neuron_values(prompts[turn % 3])[0]
        return backbone.text_logits(prompts[turn % 3], rows, SENTIMENT)

    expected, interval = [compute(turn) for turn in range(12)], sys.getswitchinterval()
    try:
        sys.setswitchinterval(1e-5)
        with ThreadPoolExecutor(4) as threads:
            found = [*threads.map(compute, [*range(12)] * 5)]
    finally:
        sys.setswitchinterval(interval)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, expected * 5, strict=True))
    assert backbone.model.config._attn_implementation == attention


@pytest.mark.parametrize("length", ["64", 64.0, None, 2, 1_000])
def test_the_length_of_a_text_is_a_number_of_tokens(length):
    with pytest.raises(
        BackboneError, match="max_length is .*; for 'micro-bert', give a number of tokens from 3 to 128"
    ):
        Backbone.from_pretrained("micro-bert", device="cpu", max_length=length)
