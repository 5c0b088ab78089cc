"""Every model type: tiny models of random weights, compared with `transformers`.

`IDENTITIES=FILE pytest tests/test_families.py` writes what was compared, and by how much it differed, for the page on
[families](../nbs/library/families.ipynb).
"""

import os

import pandas as pd
import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from prompt_transferability.backbones import Backbone, TextBatch
from prompt_transferability.checkpoints import read_checkpoint
from prompt_transferability.families import FAMILIES, part
from prompt_transferability.microworld import model_folder, vocabulary
from prompt_transferability.tasks import ALL_TASKS

SENTIMENT, INFERENCE = ALL_TASKS["micro/sst2"], ALL_TASKS["micro/snli"]
SINGLE = [
    {"text_a": "the plot was boring", "text_b": None},
    {"text_a": "critics said the film was really gripping and the music was charming", "text_b": None},
    {"text_a": "a dull silly film", "text_b": None},
]
PAIRS = [
    {"text_a": "the man bought the apple in the park", "text_b": "the man sold the fruit"},
    {"text_a": "a girl lost the red kite near the river after school", "text_b": "a child lost the toy"},
    {"text_a": "the dog pushed the ball", "text_b": "the animal pulled the ball at night before lunch"},
]
BERT_LIKE = dict(num_hidden_layers=3, num_attention_heads=4, hidden_size=32, intermediate_size=40)
LLAMA_LIKE = BERT_LIKE | dict(num_key_value_heads=2, max_position_embeddings=64)
GEMMA_LIKE = LLAMA_LIKE | dict(head_dim=12, sliding_window=9, query_pre_attn_scalar=5)
T5_LIKE = dict(num_layers=2, num_decoder_layers=3, num_heads=4, d_model=32, d_kv=6, d_ff=40)
# A tiny model of each type, and odd ones: one head, one layer, untied or padded embeddings, gates, windows and caps.
SHAPES = {
    "bert": BERT_LIKE,
    "bert: one layer, one head, ReLU": dict(BERT_LIKE, num_hidden_layers=1, num_attention_heads=1, hidden_act="relu"),
    "bert: no token types": dict(BERT_LIKE, type_vocab_size=1, tie_word_embeddings=False),
    "roberta": BERT_LIKE,
    "roberta: token types": dict(BERT_LIKE, type_vocab_size=2),
    "xlm-roberta": BERT_LIKE,
    "camembert": BERT_LIKE,
    "distilbert": dict(n_layers=3, n_heads=4, dim=32, hidden_dim=40),
    "electra": dict(BERT_LIKE, embedding_size=20),
    "electra: as wide as its layers": dict(BERT_LIKE, embedding_size=32),
    "albert": dict(BERT_LIKE, embedding_size=20, num_hidden_layers=4, num_hidden_groups=2),
    "albert: two layers a group": dict(BERT_LIKE, embedding_size=20, num_hidden_layers=2, inner_group_num=2),
    "mpnet": BERT_LIKE,
    "modernbert": dict(BERT_LIKE, local_attention=8, global_attn_every_n_layers=2),
    "gpt2": dict(n_layer=3, n_head=4, n_embd=32, n_positions=64),
    "gpt2: one head, untied": dict(n_layer=1, n_head=1, n_embd=32, n_inner=24, tie_word_embeddings=False),
    "gpt_neox": BERT_LIKE,
    "gpt_neox: not parallel": dict(BERT_LIKE, use_parallel_residual=False),
    "opt": dict(BERT_LIKE, ffn_dim=40, word_embed_proj_dim=20, max_position_embeddings=64),
    "opt: norm behind": dict(BERT_LIKE, ffn_dim=40, word_embed_proj_dim=32, do_layer_norm_before=False),
    "llama": LLAMA_LIKE,
    "llama: one head, tied": dict(LLAMA_LIKE, num_attention_heads=1, num_key_value_heads=1, tie_word_embeddings=True),
    "mistral": dict(LLAMA_LIKE, sliding_window=7),
    "qwen2": dict(LLAMA_LIKE, tie_word_embeddings=True),
    "qwen2: windows": dict(LLAMA_LIKE, use_sliding_window=True, sliding_window=7, max_window_layers=1),
    "qwen3": dict(LLAMA_LIKE, head_dim=12),
    "gemma2": GEMMA_LIKE,
    "gemma2: low caps": dict(GEMMA_LIKE, attn_logit_softcapping=2.0, final_logit_softcapping=1.5),
    "gemma3_text": GEMMA_LIKE,
    "phi3": dict(LLAMA_LIKE, sliding_window=11),
    "t5": T5_LIKE,
    "t5: v1.1": dict(T5_LIKE, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": dict(T5_LIKE, feed_forward_proj="gated-gelu"),
}


def byte_level():
    "A tokenizer like GPT-2's: words begin with a space, and a newline is a token."
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = [" ".join(["", *vocabulary()]) + "\n"]
    trainer = trainers.BpeTrainer(
        vocab_size=9000,
        min_frequency=1,
        show_progress=False,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(words, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def sentence_piece():
    "A tokenizer like T5's: it sets a space before a text itself, and ends a text."
    words = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in vocabulary()), "<extra_id_0>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(word) for word in ("<pad>", "</s>", "<unk>", "<extra_id_0>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    special = dict(pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


TOKENIZERS = {
    "masked": lambda name: AutoTokenizer.from_pretrained(model_folder(name)),
    "causal": lambda _: byte_level(),
    "seq2seq": lambda _: sentence_piece(),
}
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")


def build(shape, folder, **changes):
    "A checkpoint of this shape whose weights, biases and norms are all random, beside a tokenizer that fits."
    family = shape.partition(":")[0]
    kind = FAMILIES[family].kind
    tokenizer = TOKENIZERS[kind]("micro-roberta" if family in POSITIONS_AFTER_PADDING else "micro-bert")
    settings = dict(vocab_size=len(tokenizer) + 11, pad_token_id=tokenizer.pad_token_id)
    if kind == "masked":
        settings |= dict(max_position_embeddings=100, bos_token_id=tokenizer.cls_token_id, cls_token_id=None)
    if kind == "seq2seq":
        settings |= dict(decoder_start_token_id=0, eos_token_id=1)
    torch.manual_seed(0)  # what `transformers` draws before we add to it
    config = AutoConfig.for_model(family, **settings | SHAPES[shape] | changes)
    model = getattr(transformers, FAMILIES[family].model_class)(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=SHAPES)
def shape(request):
    return request.param


@pytest.fixture(scope="module")
def folder(shape, tmp_path_factory):
    return build(shape, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def backbone(folder):
    return Backbone.from_pretrained(folder, max_length=40, device="cpu")


@pytest.fixture(scope="module")
def differences():
    "What was compared, a row each; written to a file where one is named."
    rows = []
    yield rows
    if file := os.environ.get("IDENTITIES"):
        pd.DataFrame(rows).to_csv(file, index=False)


@pytest.fixture
def compared(differences, shape):
    "Called with what is compared and two tensors: they must be equal but for rounding, and not trivially."

    def compare(what, ours, theirs, atol=1e-4):
        assert ours.shape == theirs.shape
        difference = (ours - theirs).abs().max().item()
        differences.append({"model": shape, "identity": what, "difference": difference})
        assert theirs.float().std() > 1e-3, "too alike to tell a right answer from a wrong one"
        assert torch.allclose(ours, theirs, atol=atol, rtol=1e-4), f"{what}: {difference}"

    return compare


def prompt_of(backbone, length=6, seed=0, scale=1.0):
    return torch.randn(length, backbone.embedding_size, generator=torch.Generator().manual_seed(seed)) * scale


def token_ids(backbone, row):
    "What the model reads of a row, and token types: written down from the tables of the page."
    tokenizer, a, b = backbone.tokenizer, row["text_a"], row["text_b"]
    if backbone.kind != "causal":
        encoded = tokenizer(a, b, return_token_type_ids=True)
        return encoded["input_ids"], encoded["token_type_ids"]
    newline = tokenizer.convert_tokens_to_ids("Ċ")
    parts = [tokenizer(text)["input_ids"] + [newline] for text in (a, b) if text is not None]
    ids = [i for each in parts for i in each]
    return ids, [0] * len(ids)


@torch.no_grad()
def reference(model, backbone, prompt, row):
    "Logits of all words from `transformers` alone: one text, nothing padded, its own embeddings and its own head."
    ids, types = (torch.tensor([x]) for x in token_ids(backbone, row))
    if backbone.kind != "masked":
        x = torch.cat([prompt[None], model.get_input_embeddings()(ids)], dim=1)
        start = {"decoder_input_ids": torch.tensor([[0]])} if backbone.kind == "seq2seq" else {}
        return model(inputs_embeds=x, **start).logits[0, -1]
    embed = model.base_model.embeddings
    known = getattr(model.config, "type_vocab_size", 0) > 1 and hasattr(embed, "token_type_embeddings")
    text = embed(input_ids=ids, **({"token_type_ids": types} if known else {}))[0]
    mask = model.get_input_embeddings().weight[backbone.tokenizer.mask_token_id]
    norm = embed.LayerNorm if hasattr(embed, "LayerNorm") else embed.norm
    whole = torch.cat([norm(torch.cat([mask[None], prompt])), text])[None]
    hook = embed.register_forward_hook(lambda *_: whole)
    try:
        return model(input_ids=torch.full(whole.shape[:2], 5)).logits[0, 0]
    finally:
        hook.remove()


def words_of(backbone, task):
    "The label words' tokens: in the form that stands after a space, where the tokenizer knows one."
    known = backbone.tokenizer.get_vocab()
    start = next(start for start in ("Ġ", "▁", "") if start + "good" in known)
    return [known[start + word] for word in task.label_words]


def test_there_is_a_shape_of_every_type():
    assert {shape.partition(":")[0] for shape in SHAPES} == set(FAMILIES)


@pytest.mark.parametrize(("rows", "task"), [(SINGLE, SENTIMENT), (PAIRS, INFERENCE)], ids=["single", "pairs"])
def test_logits_are_those_of_transformers_alone_in_a_batch_and_padded(backbone, folder, compared, rows, task):
    model, prompt = read_checkpoint(folder).model, prompt_of(backbone)
    theirs = torch.stack([reference(model, backbone, prompt, row)[words_of(backbone, task)] for row in rows])
    with torch.no_grad():
        together = backbone.label_logits(prompt, rows, task)
        alone = torch.cat([backbone.label_logits(prompt, [row], task) for row in rows])
        text = backbone.encode(rows).batch([0, 1, 2])
        generic = backbone.read_out(backbone.generic_states(prompt, text), task)
    assert len(set(text.lengths.tolist())) > 1, "no row of the batch would be padded"
    compared("fast path, in a batch = transformers alone", together, theirs)
    compared("fast path, alone = transformers alone", alone, theirs)
    compared("generic path, padded on the right = transformers alone", generic, theirs)


def test_ids_and_their_embeddings_give_the_same(backbone, folder, compared):
    "A prompt made of words is a text that begins with these words, wherever the prompt has positions."
    if backbone.kind == "masked" and backbone.family != "modernbert":
        position = "no prompt: the text as `transformers` embeds it"
        model = read_checkpoint(folder).model
        ids, types = (torch.tensor([x]) for x in token_ids(backbone, PAIRS[0]))
        known = {"token_type_ids": types} if getattr(model.config, "type_vocab_size", 0) > 1 else {}
        known = known if hasattr(model.base_model.embeddings, "token_type_embeddings") else {}
        with torch.no_grad():
            theirs = model.base_model.embeddings(input_ids=ids, **known)
            compared(position, backbone.embed_text(backbone.encode(PAIRS[:1]).batch([0])), theirs, atol=1e-5)
        return
    words = torch.tensor(backbone.tokenizer("the film was good", add_special_tokens=False)["input_ids"])
    ids, mask = token_ids(backbone, SINGLE[1])[0], backbone.tokenizer.mask_token_id
    before = [mask] if backbone.kind == "masked" else []
    whole = torch.tensor([[*before, *words.tolist(), *ids]])
    start = {"decoder_input_ids": torch.tensor([[0]])} if backbone.kind == "seq2seq" else {}
    with torch.no_grad():
        ours = backbone.label_logits(backbone.embed_tokens(words), SINGLE[1:2], SENTIMENT)[0]
        logits = read_checkpoint(folder).model(input_ids=whole, **start).logits[0]
    theirs = logits[0 if backbone.kind == "masked" else -1, words_of(backbone, SENTIMENT)]
    compared("a prompt of word vectors = its words' ids", ours, theirs)


def test_several_prompts_side_by_side_are_each_alone(backbone, compared):
    prompts = torch.stack([prompt_of(backbone, seed=seed) for seed in range(3)])
    text = backbone.encode([*SINGLE, SINGLE[0], SINGLE[1]]).batch(range(5))
    with torch.no_grad():
        ours = backbone.read_out_states(prompts, text, counts=[2, 0, 3])
        theirs = torch.cat(
            [
                backbone.generic_states(prompts[0], text[torch.arange(2)]),
                backbone.generic_states(prompts[2], text[torch.arange(2, 5)]),
            ]
        )
    compared("fast path, prompts side by side = generic path, each alone", ours, theirs)


def test_a_prompt_without_vectors(backbone, compared):
    text = backbone.encode(PAIRS).batch([0, 1, 2])
    with torch.no_grad():
        ours = backbone.read_out_states(backbone.no_prompt, text)
        compared("fast path without a prompt = generic path", ours, backbone.generic_states(backbone.no_prompt, text))


def test_gradients_reach_the_prompt_alone_and_are_right(folder, backbone, compared):
    prompt, text = prompt_of(backbone).requires_grad_(), backbone.encode(SINGLE).batch([0, 1, 2])
    gradients = []
    for states in (backbone.read_out_states, backbone.generic_states):
        (gradient,) = torch.autograd.grad(states(prompt, text).square().sum(), prompt)
        gradients.append(gradient / gradient.abs().max())
    assert all(not weight.requires_grad and weight.grad is None for weight in backbone.parameters())
    compared("gradient of the fast path = of the generic path", *gradients)
    exact = Backbone.from_pretrained(folder, max_length=40, device="cpu", dtype="float64")
    task = SENTIMENT
    prompt = prompt_of(exact, length=2).double().requires_grad_()

    def loss(values):
        return exact.read_out(exact.read_out_states(values, text), task).logsumexp(-1).sum()

    # Outside the fast encoder `transformers` computes some parts in float32 whatever the type, RMS norms for one, and
    # that bounds how small a step can be.
    step = dict(eps=1e-6, atol=1e-5) if exact.encoder is not None else dict(eps=1e-3, atol=5e-3, rtol=2e-2)
    assert torch.autograd.gradcheck(loss, prompt, **step)


FFN = {  # the first map of a layer's feed-forward part, and which columns of what it gives are pre-activations
    "distilbert": "ffn.lin1",
    "albert": "ffn",
    "modernbert": "mlp.Wi",
    "gpt2": "mlp.c_fc",
    "gpt_neox": "mlp.dense_h_to_4h",
    "opt": "fc1",
    "phi3": "mlp.gate_up_proj",
}


def ffn_of(family, layer):
    if FAMILIES[family].kind == "seq2seq":
        dense = layer.layer[-1].DenseReluDense
        return dense.wi_0 if hasattr(dense, "wi_0") else dense.wi
    default = "mlp.gate_proj" if FAMILIES[family].kind == "causal" else "intermediate.dense"
    return part(layer, FFN.get(family, default))


@torch.no_grad()
def test_neurons_are_what_hooks_on_the_first_maps_see(backbone, folder, compared):
    model, prompts = read_checkpoint(folder).model, torch.stack([prompt_of(backbone, seed=s) for s in range(2)])
    layers, seen = FAMILIES[backbone.family].layers(model.base_model), []
    maps = dict.fromkeys(ffn_of(backbone.family, layer) for layer in layers)
    for linear in maps:
        linear.register_forward_hook(lambda _, inputs, output: seen.append(output.view(-1, output.shape[-1])))
    tokenizer = backbone.tokenizer
    if backbone.kind == "masked":
        row, at = [tokenizer.cls_token_id], lambda i: 0
    elif backbone.kind == "causal":
        row, at = [tokenizer.convert_tokens_to_ids("Ċ")], lambda i: -1
    else:
        row, at = [tokenizer.eos_token_id], lambda i: -1 if i < len(model.encoder.block) else 0
    theirs = []
    for prompt in prompts:
        seen.clear()
        text = backbone.embed_text(TextBatch(torch.tensor([row]), torch.tensor([[0]]), torch.tensor([1])))
        x = torch.cat([backbone.slots(prompt)[None], text], dim=1)
        start = {"decoder_input_ids": torch.tensor([[0]])} if backbone.kind == "seq2seq" else {}
        if backbone.kind == "masked":
            hook = model.base_model.embeddings.register_forward_hook(lambda *_, x=x: x)
            model(input_ids=torch.full(x.shape[:2], 5))
            hook.remove()
        else:
            model(inputs_embeds=x, **start)
        theirs.append(torch.stack([values[at(i)] for i, values in enumerate(seen)]))
    theirs = torch.stack(theirs)[..., : backbone.ffn_size]
    before, after = backbone.neuron_values(prompts)
    compared("neurons, before the activation = hooks on the first maps", before, theirs)
    assert backbone.neuron_states(prompts).shape == (2, backbone.num_layers, backbone.ffn_size)
    assert torch.equal(backbone.neuron_states(prompts[0]), backbone.neuron_values(prompts[0])[0] > 0)
    functions = FAMILIES[backbone.family].activations(model.base_model)
    after_theirs = torch.stack([function(theirs[:, i]) for i, function in enumerate(functions)], dim=1)
    compared("neurons, after the activation", after, after_theirs)


@torch.no_grad()
def test_silenced_neurons_are_those_whose_outgoing_weights_are_zero(backbone, folder):
    prompt, silenced = prompt_of(backbone), torch.zeros(backbone.num_layers, backbone.ffn_size, dtype=torch.bool)
    silenced[::2, ::3] = True
    text = backbone.encode(SINGLE).batch([0, 1, 2])
    whole = backbone.read_out_states(prompt, text)
    with backbone.without_neurons(silenced):
        fast, generic = backbone.read_out_states(prompt, text), backbone.generic_states(prompt, text)
        after = backbone.neuron_values(prompt)[1]
    assert torch.allclose(fast, generic, atol=1e-4) and not torch.allclose(fast, whole, atol=1e-3)
    with pytest.raises(ZeroDivisionError), backbone.without_neurons(silenced):
        raise ZeroDivisionError
    assert torch.equal(backbone.read_out_states(prompt, text), whole)
    assert after.shape == silenced.shape


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.1), ("float16", 0.02), ("float64", 1e-4)])
@torch.no_grad()
def test_other_number_types_compute(folder, backbone, dtype, tolerance):
    other, prompt = Backbone.from_pretrained(folder, max_length=40, device="cpu", dtype=dtype), prompt_of(backbone)
    exact, ours = (of.label_logits(prompt, SINGLE, SENTIMENT) for of in (backbone, other))
    assert other.dtype == getattr(torch, dtype) and other.fingerprint == backbone.fingerprint
    assert ours.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    assert (ours - exact).abs().max() < tolerance * max(1, exact.abs().max())
    assert other.neuron_states(prompt).float().mean() > 0


def test_a_copy_learns_and_the_original_stays(backbone):
    copied, text = backbone.trainable_copy("copy"), backbone.encode(SINGLE).batch([0, 1, 2])
    with torch.no_grad():
        before = backbone.read_out_states(backbone.no_prompt, text)
    states = copied.read_out_states(copied.no_prompt, text)
    assert torch.allclose(states, before, atol=1e-5)
    weights = list(copied.parameters())
    assert len({id(weight) for weight in weights}) == len(weights)
    gradients = torch.autograd.grad(copied.read_out(states, SENTIMENT).square().sum(), weights, allow_unused=True)
    reached = sum(weight.numel() for weight, g in zip(weights, gradients, strict=True) if g is not None)
    assert reached > 0.9 * sum(weight.numel() for weight in weights)
    with torch.no_grad():
        for weight in weights:
            weight.add_(0.1)
        assert not torch.allclose(copied.read_out_states(copied.no_prompt, text), before, atol=1e-3)
        assert torch.allclose(
            copied.generic_states(copied.no_prompt, text), copied.read_out_states(copied.no_prompt, text), atol=1e-3
        )
        assert torch.equal(backbone.read_out_states(backbone.no_prompt, text), before)


def test_shape_is_the_configurations(backbone):
    config = backbone.model.config
    assert backbone.kind == FAMILIES[backbone.family].kind and backbone.hidden_size == config.hidden_size
    assert backbone.embedding_size == backbone.model.get_input_embeddings().embedding_dim
    assert backbone.no_prompt.shape == (0, backbone.embedding_size)
    assert backbone.word_embeddings.shape == (config.vocab_size, backbone.embedding_size)
