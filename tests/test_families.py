"""Every model type: tiny models of random weights, compared with `transformers`.

`IDENTITIES=FILE pytest tests/test_families.py` writes what was compared, and by how much it differed, for the page on
[families](../nbs/library/families.ipynb).
"""

import ast
import os
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny_models import (
    INFERENCE,
    PAIRS,
    SENTIMENT,
    SHAPES,
    SINGLE,
    build,
    embedded,
    prompt_of,
    reference,
    run_on,
    sentence_piece,
    token_ids,
    words_of,
)

import prompt_transferability
from prompt_transferability import backbones
from prompt_transferability.backbones import LAYOUTS, Backbone
from prompt_transferability.checkpoints import BackboneError, read_checkpoint
from prompt_transferability.families import FAMILIES, part


@pytest.fixture(scope="module", params=SHAPES)
def shape(request):
    return request.param


@pytest.fixture(scope="module")
def folder(shape, tmp_path_factory):
    return build(shape, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def load(folder, device):
    "The tiny model, read in one way or another."
    return lambda **settings: Backbone.from_pretrained(folder, max_length=40, device=device, **settings)


@pytest.fixture(scope="module")
def backbone(load):
    return load()


@pytest.fixture(scope="module")
def layout(request):
    return request.param


@pytest.fixture(scope="module")
def laid_out(load, layout):
    return load(layout=layout)


@pytest.fixture(scope="module")
def differences():
    "What was compared, a row each; written to a file where one is named."
    rows = []
    yield rows
    if file := os.environ.get("IDENTITIES"):
        pd.DataFrame(rows).to_csv(file, index=False)


@pytest.fixture
def record(differences, shape):
    "Called with an identity, and with how far from it a model is."
    return lambda what, difference: differences.append({"model": shape, "identity": what, "difference": difference})


@pytest.fixture
def compared(record):
    "Called with what is compared and two tensors: they must be equal but for rounding, and not trivially."

    def compare(what, ours, theirs, atol=1e-4):
        ours, theirs = ours.detach().cpu(), theirs.detach().cpu()
        assert ours.shape == theirs.shape
        difference = (ours - theirs).abs().max().item()
        record(what, difference)
        assert theirs.float().std() > 1e-3, "too alike to tell a right answer from a wrong one"
        assert torch.allclose(ours, theirs, atol=atol, rtol=1e-4), f"{what}: {difference}"

    return compare


IN_EACH_LAYOUT = pytest.mark.parametrize(
    ("shape", "layout"),
    [
        (shape, layout)
        for shape in SHAPES
        for layout in LAYOUTS
        if layout == "paper" or FAMILIES[shape.partition(":")[0]].kind != "causal"
    ],
    indirect=True,
    scope="module",
)
FAST = [shape for shape in SHAPES if (of := FAMILIES[shape.partition(":")[0]]).kind == "causal" or of.post_norm]


def test_there_is_a_shape_of_every_type():
    assert {shape.partition(":")[0] for shape in SHAPES} == set(FAMILIES)


@IN_EACH_LAYOUT
@pytest.mark.parametrize(("rows", "task"), [(SINGLE, SENTIMENT), (PAIRS, INFERENCE)], ids=["single", "pairs"])
def test_logits_are_those_of_transformers_alone_in_a_batch_and_padded(laid_out, folder, compared, rows, task):
    model, prompt = read_checkpoint(folder).model, prompt_of(laid_out)
    theirs = torch.stack([reference(model, laid_out, prompt, row)[words_of(laid_out, task)] for row in rows])
    with torch.no_grad():
        together = laid_out.label_logits(prompt, rows, task)
        alone = torch.cat([laid_out.label_logits(prompt, [row], task) for row in rows])
        text = laid_out.encode(rows).batch([0, 1, 2])
        generic = laid_out.read_out(laid_out.generic_states(prompt, text), task)
    assert len(set(text.lengths.tolist())) > 1, "no row of the batch would be padded"
    where = "" if laid_out.layout == "paper" else ", layout authors"
    compared(f"fast path, in a batch = transformers alone{where}", together, theirs)
    compared(f"fast path, alone = transformers alone{where}", alone, theirs)
    compared(f"generic path, padded on the right = transformers alone{where}", generic, theirs)


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


def test_gradients_reach_the_prompt_alone(backbone, compared, record):
    prompt, text = prompt_of(backbone).requires_grad_(), backbone.encode(SINGLE).batch([0, 1, 2])
    gradients = []
    for states in (backbone.read_out_states, backbone.generic_states):
        (gradient,) = torch.autograd.grad(states(prompt, text).square().sum(), prompt)
        gradients.append(gradient / gradient.abs().max())
    compared("gradient of the fast path = of the generic path", *gradients)
    backbone.read_out_states(prompt, text).square().sum().backward()
    reached = [weight for weight in backbone.model.parameters() if weight.requires_grad or weight.grad is not None]
    record("weights that a gradient reaches", len(reached))
    assert not reached and prompt.grad.abs().max() > 1e-3


# Outside the fast encoder `transformers` computes some parts in float32 whatever the type, RMS norms for one, and that
# bounds how small a step can be. These have no such part:
EXACT = ("gpt2", "opt", "gpt_neox", "mpnet")


def test_gradients_are_those_of_finite_differences(load, compared):
    exact = load(dtype="float64")
    text, prompt = exact.encode(SINGLE).batch([0, 1, 2]), prompt_of(exact, length=2).double().requires_grad_()

    def loss(values):
        return exact.read_out(exact.read_out_states(values, text), SENTIMENT).logsumexp(-1).sum()

    strict = exact.encoder is not None or exact.family in EXACT
    step = dict(eps=1e-6, atol=1e-5) if strict else dict(eps=1e-3, atol=5e-3, rtol=2e-2)
    (gradient,) = torch.autograd.grad(loss(prompt), prompt)
    assert gradient.abs().max() > 10 * step["atol"], "a gradient of 0 would pass"
    assert torch.autograd.gradcheck(loss, prompt, **step)
    directions = torch.randn(4, *prompt.shape, generator=torch.Generator().manual_seed(0)).double()
    directions /= directions.flatten(1).norm(dim=1)[:, None, None]
    with torch.no_grad():
        both = [[loss(prompt + sign * step["eps"] * way) for sign in (1, -1)] for way in directions]
    numeric = torch.stack([up - down for up, down in both]) / (2 * step["eps"])
    ours = (directions * gradient).sum((1, 2))
    compared("gradient = finite differences, in float64", ours, numeric, atol=step["atol"])


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (shape, dtype)
        for shape in FAST
        for dtype in ("float32", "bfloat16")
        if dtype == "bfloat16" or FAMILIES[shape.partition(":")[0]].kind == "causal"  # encoders have them in half alone
    ],
    indirect=["shape"],
    scope="module",
)
def test_products_for_short_texts_and_the_kernel_for_long_ones_agree(load, dtype, compared, monkeypatch):
    backbone, calls, kernel = load(dtype=dtype), [], backbones.F.scaled_dot_product_attention

    def counted(*given, **named):
        calls.append(backbones.LONG)
        return kernel(*given, **named)

    monkeypatch.setattr(backbones.F, "scaled_dot_product_attention", counted)
    prompt, text = prompt_of(backbone, length=10), backbone.encode(PAIRS).batch([0, 1, 2])
    short = backbone.read_out_states(prompt, text).detach()
    monkeypatch.setattr(backbones, "LONG", 8)
    long = backbone.read_out_states(prompt, text).detach()
    capped = getattr(backbone.model.config, "attn_logit_softcapping", None)  # which the kernel cannot do
    last_layer_alone = backbone.encoder is not None and backbone.num_layers == 1
    on_cpu = backbone.device.type == "cpu"
    assert (8 in calls) != bool(capped or last_layer_alone)
    assert backbones.LONG == 8 and not (on_cpu and 256 in calls), "short texts took the kernel"
    if dtype == "float32":
        compared("fast path, kernel for long texts = products", long, short)
    else:
        assert (long - short).abs().max() < 0.05 * short.abs().max()


@pytest.mark.parametrize("shape", FAST, indirect=True, scope="module")
def test_half_precision_gradients_of_the_fast_path_are_as_good_as_those_of_the_generic_path(load, backbone):
    text, gradients = backbone.encode(SINGLE).batch([0, 1, 2]), []
    half = load(dtype="bfloat16")
    for states in (backbone.generic_states, half.generic_states, half.read_out_states):
        prompt = prompt_of(backbone).requires_grad_()
        (gradient,) = torch.autograd.grad(states(prompt, text).float().square().sum(), prompt)
        gradients.append(gradient)
    exact, generic, fast = gradients
    errors = [((gradient - exact).norm() / exact.norm()).item() for gradient in (generic, fast)]
    assert fast.dtype == torch.float32 and errors[1] < max(0.05, 2 * errors[0]), errors


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


@IN_EACH_LAYOUT
@torch.no_grad()
def test_neurons_are_what_hooks_on_the_first_maps_see(laid_out, folder, compared):
    model, tokenizer, family = read_checkpoint(folder).model, laid_out.tokenizer, FAMILIES[laid_out.family]
    layers, seen = family.layers(model.base_model), []
    for linear in dict.fromkeys(ffn_of(laid_out.family, layer) for layer in layers):
        linear.register_forward_hook(lambda _, inputs, output: seen.append(output.view(-1, output.shape[-1])))

    def hooked(prompt):
        "Pre-activations at the read-out position, [layers, ffn]."
        seen.clear()
        if laid_out.kind == "masked":
            run_on(model, embedded(model, laid_out, prompt, [tokenizer.cls_token_id], [0]))
            at = [0] * len(layers)
        else:
            end = tokenizer.convert_tokens_to_ids("Ċ" if laid_out.kind == "causal" else "</s>")
            x = torch.cat([prompt, model.get_input_embeddings()(torch.tensor([end]))])[None]
            start = {"decoder_input_ids": torch.tensor([[0]])} if laid_out.kind == "seq2seq" else {}
            model(inputs_embeds=x, **start)
            at = [-1 if laid_out.kind == "causal" or i < len(model.encoder.block) else 0 for i in range(len(layers))]
        return torch.stack([values[i] for i, values in zip(at, seen, strict=True)])[:, : laid_out.ffn_size]

    prompts = torch.stack([prompt_of(laid_out, seed=seed) * scale for seed, scale in enumerate((1, 0.02, 30))])
    theirs, (before, after) = torch.stack([hooked(prompt) for prompt in prompts]), laid_out.neuron_values(prompts)
    where = "" if laid_out.layout == "paper" else ", layout authors"
    compared(f"neurons, before the activation = hooks on the first maps{where}", before, theirs)
    states = laid_out.neuron_states(prompts)
    assert states.shape == (3, laid_out.num_layers, laid_out.ffn_size) and states.dtype == torch.bool
    assert torch.equal(laid_out.neuron_states(prompts[0]), laid_out.neuron_values(prompts[0])[0] > 0)
    functions = family.activations(model.base_model)
    after_theirs = torch.stack([function(theirs[:, i]) for i, function in enumerate(functions)], dim=1)
    compared(f"neurons, after the activation{where}", after, after_theirs)
    if laid_out.layout == "paper":  # in the other one the mask takes the place of a vector
        alone = laid_out.neuron_values(laid_out.no_prompt)[0]
        compared("neurons without a prompt = hooks on the first maps", alone, hooked(laid_out.no_prompt.cpu()))


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
def test_other_number_types_compute(load, backbone, record, dtype, tolerance):
    other, prompt = load(dtype=dtype), prompt_of(backbone)
    exact, ours = (of.label_logits(prompt, SINGLE, SENTIMENT) for of in (backbone, other))
    assert other.dtype == getattr(torch, dtype) and other.fingerprint == backbone.fingerprint
    assert ours.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    difference = ((ours - exact).abs().max() / max(1, exact.abs().max())).item()
    record(f"{dtype}, logits as a share of the largest", difference)
    assert difference < tolerance
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


# ---------------------------------------------------------------- what one type alone has


def test_positions_after_which_rotations_change_are_rejected(tmp_path, device):
    folder = build("phi3: two sets of rotations", tmp_path / "tiny")
    backbone = Backbone.from_pretrained(folder, max_length=40, device=device)
    text = backbone.encode(PAIRS).batch([0, 1, 2])
    fits = 48 - text.ids.shape[1]
    for states in (backbone.read_out_states, backbone.generic_states):
        assert states(prompt_of(backbone, length=fits), text).isfinite().all()
        with pytest.raises(BackboneError, match="prompt and text take 49 positions; 'tiny' has 48: use a shorter"):
            states(prompt_of(backbone, length=fits + 1), text)


def test_a_tokenizer_without_the_token_between_two_texts_is_rejected_in_the_authors_layout(tmp_path):
    folder = build("mt5", tmp_path / "tiny")
    assert Backbone.from_pretrained(folder, layout="authors").joint_id is not None
    sentence_piece("<other>").save_pretrained(folder)
    assert Backbone.from_pretrained(folder).joint_id is None
    with pytest.raises(BackboneError, match="puts '<extra_id_0>' between two texts, which the tokenizer of 'tiny' la"):
        Backbone.from_pretrained(folder, layout="authors")


# ---------------------------------------------------------------- nothing else knows a family

NAMED = {  # data, an example in a help text, and the micro models, which are of some type
    "bench.SHAPES",
    "checkpoints.KNOWN_MODELS",
    "cli._release_export",
    "cli._release_tables",
    "microworld._ALL_MODELS",
    "microworld._NEW",
    "microworld._TOKENIZERS",
    "microworld._byte_level_bpe",
    "microworld._corrupt",
    "microworld._new_causal",
    "microworld._new_masked",
    "microworld._new_seq2seq",
    "microworld._unigram",
    "microworld._word_piece",
    "prompt_hub.PromptTrainingArguments",
    "results.describe_models",
    "study.PRESETS",
    "study._GEMMA",
    "study._MICRO",
}
PUBLISHED = ("release", "recomputed", "explorer", "evidence")  # rooms that name the authors' models
NAMES = r"bert|electra|mpnet|gpt|neox|llama|mistral|qwen|gemma|phi3|t5|softcapping|extra_id|type_embeddings"


def names_of_families(module):
    "The definitions in which a module's code names a family; what is documentation, or imported, does not count."
    found = set()
    for statement in ast.parse(module.read_text(encoding="utf-8")).body:
        bare = (node for node in ast.walk(statement) if isinstance(node, ast.Expr))
        documentation = {id(node.value) for node in bare if isinstance(node.value, ast.Constant)}
        for node in ast.walk(statement):
            words = [getattr(node, name, None) for name in ("id", "attr", "value", "arg", "name")]
            names = any(isinstance(word, str) and re.search(NAMES, word, re.I) for word in words)
            if names and id(node) not in documentation and not isinstance(statement, ast.ImportFrom):
                targets = [getattr(statement, "target", None), *getattr(statement, "targets", [])]
                bound = [getattr(statement, "name", None), *(getattr(target, "id", None) for target in targets)]
                found.add(f"{module.stem}.{next(filter(None, bound))}")
    return found


def test_no_other_code_names_a_family():
    modules = {module.stem: module for module in Path(prompt_transferability.__file__).parent.glob("[!_]*.py")}
    assert names_of_families(modules.pop("families")) > {"families._T5", "families.FAMILIES"}
    others = [names_of_families(module) for name, module in modules.items() if name not in PUBLISHED]
    assert set().union(*others) == NAMED
