"Prompts through PEFT: the same logits in its models where its layout allows it, and what stands in the way elsewhere."

import pytest
import torch
from tiny_models import SENTIMENT, SHAPES, SINGLE, build, prompt_of

from prompt_transferability.backbones import Backbone
from prompt_transferability.families import FAMILIES
from prompt_transferability.prompts import PromptError, SoftPrompt

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own

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


@pytest.mark.parametrize("shape", UNMASKED)
def test_a_prompt_gives_the_same_logits_in_peft(shape, tiny, tmp_path):
    backbone = load(tiny(shape))
    prompt = SoftPrompt(prompt_of(backbone), backbone.name, SENTIMENT.name)
    adapter = prompt.to_peft(tmp_path, backbone)
    assert torch.equal(SoftPrompt.from_peft(adapter).values, prompt.values)
    ours = backbone.label_logits(prompt.values, SINGLE, SENTIMENT)
    theirs = through_peft(adapted(tiny(shape), adapter), backbone, prompt.length)
    assert torch.allclose(ours, theirs, atol=1e-5) and ours.std() > 0.05


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


@pytest.mark.parametrize("shape", MASKED)
def test_a_masked_models_prompt_goes_to_peft_and_back(shape, tiny, tmp_path):
    backbone = load(tiny(shape))
    prompt = SoftPrompt(prompt_of(backbone), backbone.name, SENTIMENT.name, metadata={"seed": 3})
    adapted(tiny(shape), prompt.to_peft(tmp_path / "ours", backbone)).save_pretrained(tmp_path / "theirs")
    for name, metadata in {"ours": {"seed": 3}, "theirs": {}}.items():
        again = SoftPrompt.from_peft(tmp_path / name)
        assert torch.equal(again.values, prompt.values) and again.metadata == metadata


def test_a_prompt_for_another_width_is_no_adapter_of_this_model(tiny, tmp_path):
    with pytest.raises(PromptError, match="carry it over with a projector"):
        SoftPrompt(torch.ones(2, 3), "m", "t").to_peft(tmp_path, load(tiny("gpt2")))
    assert not list(tmp_path.iterdir())
