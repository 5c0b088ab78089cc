"""Tiny models of every type, with random weights, and what `transformers` alone makes of a prompt and a text."""

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from prompt_transferability.families import FAMILIES
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
LONG_ROPE = dict(  # a call takes the long factors where it has more positions than the original ones
    original_max_position_embeddings=48,
    rope_parameters=dict(
        rope_type="longrope", rope_theta=10000.0, short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.0, 2.0, 4.0, 8.0]
    ),
)
T5_LIKE = dict(num_layers=2, num_decoder_layers=3, num_heads=4, d_model=32, d_kv=6, d_ff=40)
# A tiny model of each type, and odd ones: one head, one layer, untied or padded embeddings, gates, windows and caps.
SHAPES = {
    "bert": BERT_LIKE,
    "bert: one layer, one head, ReLU": dict(BERT_LIKE, num_hidden_layers=1, num_attention_heads=1, hidden_act="relu"),
    "bert: no token types": dict(BERT_LIKE, type_vocab_size=1, tie_word_embeddings=False),
    "roberta": dict(BERT_LIKE, type_vocab_size=1),
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
    "phi3: two sets of rotations": dict(LLAMA_LIKE, max_position_embeddings=128, **LONG_ROPE),
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


def sentence_piece(sentinel="<extra_id_0>"):
    "A tokenizer like T5's: it sets a space before a text itself, and ends a text."
    words = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in vocabulary()), sentinel]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(word) for word in ("<pad>", "</s>", "<unk>", sentinel)])
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
TYPES_ON_SLOTS = ("roberta", "xlm-roberta", "camembert")  # in layout "authors"


def build(shape, folder, headless=False, **changes):
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
    (model.base_model if headless else model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prompt_of(backbone, length=6, seed=0, scale=1.0):
    return torch.randn(length, backbone.embedding_size, generator=torch.Generator().manual_seed(seed)) * scale


def token_ids(backbone, row):
    "What the model reads of a row, and token types: written down from the tables of the page."
    tokenizer, a, b = backbone.tokenizer, row["text_a"], row["text_b"]
    if backbone.kind == "causal":
        newline = tokenizer.convert_tokens_to_ids("Ċ")
        ids = [i for text in (a, b) if text is not None for i in [*tokenizer(text)["input_ids"], newline]]
        return ids, [0] * len(ids)
    if backbone.kind == "seq2seq" and backbone.layout == "authors" and b is not None:
        pieces = [*tokenizer.tokenize(a), "<extra_id_0>", *tokenizer.tokenize(b), "</s>"]
        return tokenizer.convert_tokens_to_ids(pieces), [0] * len(pieces)
    encoded = tokenizer(a, b, return_token_type_ids=True, truncation="longest_first", max_length=backbone.max_length)
    return encoded["input_ids"], encoded["token_type_ids"]


def embedded(model, backbone, prompt, ids, types):
    "Slots and text as a masked model's first layer gets them, [1, positions, width]."
    embed, types = model.base_model.embeddings, torch.tensor([types])
    known = getattr(model.config, "type_vocab_size", 0) > 1 and hasattr(embed, "token_type_embeddings")
    text = embed(input_ids=torch.tensor([ids]), **({"token_type_ids": types} if known else {}))[0]
    mask = model.get_input_embeddings().weight[backbone.tokenizer.mask_token_id]
    slots = torch.cat([mask[None], prompt if backbone.layout == "paper" else prompt[1:]])
    if backbone.layout == "authors" and model.config.model_type in TYPES_ON_SLOTS:
        slots = slots + embed.token_type_embeddings.weight[0]
    norm = embed.LayerNorm if hasattr(embed, "LayerNorm") else embed.norm
    return torch.cat([norm(slots), text])[None]


def run_on(model, x):
    "What a masked model makes of what its first layer gets."
    hook = model.base_model.embeddings.register_forward_hook(lambda *_: x)
    try:
        return model(input_ids=torch.full(x.shape[:2], 5))
    finally:
        hook.remove()


@torch.no_grad()
def reference(model, backbone, prompt, row):
    "Logits of all words from `transformers` alone: one text, nothing padded, its own embeddings and its own head."
    ids, types = token_ids(backbone, row)
    if backbone.kind == "masked":
        return run_on(model, embedded(model, backbone, prompt, ids, types)).logits[0, 0]
    x = torch.cat([prompt[None], model.get_input_embeddings()(torch.tensor([ids]))], dim=1)
    start = {"decoder_input_ids": torch.tensor([[0]])} if backbone.kind == "seq2seq" else {}
    return model(inputs_embeds=x, **start).logits[0, -1]


def words_of(backbone, task):
    "The label words' tokens: in the form that stands after a space, where the tokenizer knows one."
    known = backbone.tokenizer.get_vocab()
    start = next(start for start in ("Ġ", "▁", "") if start + "good" in known)
    return [known[start + word] for word in task.label_words]
