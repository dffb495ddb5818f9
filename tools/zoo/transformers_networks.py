"""Text models of the transformers library: modules_transformers.py by the PyTorch exporters."""

from __future__ import annotations

import re
from typing import Any

from zoo.entry import Network
from zoo.torch_build import BOTH, Input, ids, networks_of

IDS, MASK = ids(60, 8), Input((8,), "mask")
DYNAMO, SCRIPT = ("dynamo 20",), ("torchscript 17",)
LLAMA = {"num_key_value_heads": 1}


def entry(
    name: str, kind: str, inputs: Input | tuple[Input, ...], exporters: tuple[str, ...], **fields: Any
) -> list[Network]:
    """A network of the library by the exporters."""
    needs = ("torch", "transformers")
    return networks_of("transformers", f"hf-{name}", kind, inputs, exporters, needs=needs, **fields)


def whole(model: str, head: str) -> str:
    """The name of the model's class, with the head that is usual unless it says one."""
    return model if re.search("For[A-Z]|LMHead|MTModel", model) else model + head


def encoder(
    name: str, model: str, exporters: tuple[str, ...] = DYNAMO, config: dict[str, Any] | None = None, **fields: Any
) -> list[Network]:
    model = whole(model, "ForSequenceClassification")
    args = (model, config or {}, "torchscript" in "".join(exporters))
    return entry(name, "text", (IDS, MASK), exporters, module="encoder", args=args, names=("ids", "mask"), **fields)


def decoder(
    name: str, model: str, exporters: tuple[str, ...] = DYNAMO, config: dict[str, Any] | None = None, **fields: Any
) -> list[Network]:
    args = (whole(model, "ForCausalLM"), config or {}, "torchscript" in "".join(exporters))
    return entry(
        name,
        "language model",
        (IDS, MASK),
        exporters,
        module="decoder",
        args=args,
        names=("ids", "mask"),
        options={"target": "last"},
        **fields,
    )


def seq2seq(
    name: str, model: str, exporters: tuple[str, ...] = DYNAMO, config: dict[str, Any] | None = None, **fields: Any
) -> list[Network]:
    args = (whole(model, "ForConditionalGeneration"), config or {}, "torchscript" in "".join(exporters))
    inputs = (IDS, ids(60, 5))
    return entry(
        name,
        "encoder-decoder",
        inputs,
        exporters,
        module="seq2seq",
        args=args,
        names=("ids", "words"),
        options={"target": "last"},
        **fields,
    )


NETWORKS: list[Network] = [
    # text
    *encoder("bert", "Bert", BOTH),
    *encoder("roberta", "Roberta", SCRIPT),
    *encoder("albert", "Albert", SCRIPT, {"embedding_size": 8}),
    *encoder("distilbert", "DistilBert", SCRIPT, {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2}),
    *encoder("electra", "Electra", BOTH, {"embedding_size": 8}),
    *encoder("mpnet", "MPNet", SCRIPT),
    *encoder(
        "deberta",
        "Deberta",
        DYNAMO,
        {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 8},
    ),
    *encoder(
        "deberta-v2",
        "DebertaV2",
        SCRIPT,
        {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 8},
    ),
    *encoder(
        "xlnet",
        "XLNet",
        SCRIPT,
        {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 24, "max_position_embeddings": None},
    ),
    *encoder(
        "funnel",
        "Funnel",
        SCRIPT,
        {"block_sizes": [1, 1], "num_hidden_layers": None, "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 24},
    ),
    *encoder("squeezebert", "SqueezeBert", SCRIPT, {"embedding_size": 16}),
    *encoder(
        "mobilebert",
        "MobileBert",
        SCRIPT,
        {"embedding_size": 8, "intra_bottleneck_size": 8, "true_hidden_size": 8, "num_feedforward_networks": 1},
    ),
    *encoder("roformer", "RoFormer", SCRIPT, {"embedding_size": 16}),
    *encoder("convbert", "ConvBert", SCRIPT, {"embedding_size": 16, "conv_kernel_size": 3}),
    *encoder("fnet", "FNet", DYNAMO),
    *encoder("ibert", "IBert", SCRIPT),
    *encoder("modernbert", "ModernBert", DYNAMO, {"global_attn_every_n_layers": 2, "local_attention": 4}),
    *encoder("bert-masked", "BertForMaskedLM", SCRIPT, options={"target": "last"}),
    *encoder("bert-tokens", "BertForTokenClassification", SCRIPT, options={"target": "class:1"}),
    *decoder("gpt2", "GPT2LMHeadModel", BOTH, {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 20}),
    *decoder(
        "gpt-neo",
        "GPTNeo",
        SCRIPT,
        {"num_layers": 1, "num_heads": 2, "attention_types": [[["local"], 1]], "window_size": 4},
    ),
    *decoder("gpt-neox", "GPTNeoX", SCRIPT),
    *decoder("gptj", "GPTJ", SCRIPT, {"n_embd": 16, "n_layer": 1, "n_head": 2, "rotary_dim": 4}),
    *decoder("opt", "OPT", SCRIPT, {"ffn_dim": 24, "word_embed_proj_dim": 16}, quick=True),
    *decoder("bloom", "Bloom", BOTH, {"n_layer": 2, "n_head": 2}),
    *decoder("falcon", "Falcon", SCRIPT, {"alibi": False, "multi_query": True}),
    *decoder("llama", "Llama", BOTH, LLAMA),
    *decoder("mistral", "Mistral", SCRIPT, {**LLAMA, "sliding_window": 4}),
    *decoder("qwen2", "Qwen2", BOTH, LLAMA),
    *decoder("qwen3", "Qwen3", SCRIPT, {**LLAMA, "head_dim": 8}),
    *decoder("gemma", "Gemma", BOTH, {**LLAMA, "head_dim": 8}),
    *decoder("gemma2", "Gemma2", DYNAMO, {**LLAMA, "head_dim": 8, "sliding_window": 4}),
    *decoder("phi", "Phi", SCRIPT, {"partial_rotary_factor": 0.5}),
    *decoder("phi3", "Phi3", SCRIPT, LLAMA),
    *decoder("stablelm", "StableLm", SCRIPT, LLAMA),
    *decoder("cohere", "Cohere", DYNAMO, LLAMA),
    *decoder("olmo2", "Olmo2", SCRIPT, LLAMA),
    *decoder("granite", "Granite", SCRIPT, {**LLAMA, "embedding_multiplier": 2.0, "logits_scaling": 4.0}),
    *decoder("glm", "Glm", DYNAMO, {**LLAMA, "head_dim": 8}),
    *decoder(
        "mixtral",
        "Mixtral",
        DYNAMO,
        {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2, "experts_implementation": "batched_mm"},
    ),
    *decoder("xglm", "XGLM", SCRIPT, {"d_model": 16, "ffn_dim": 24, "num_layers": 1, "attention_heads": 2}),
    *entry(
        "mamba",
        "language model",
        IDS,
        DYNAMO,
        module="stateful",
        args=("MambaForCausalLM", {"state_size": 4, "expand": 2, "conv_kernel": 3, "use_mambapy": False}),
        options={"target": "last"},
    ),
    *seq2seq(
        "t5", "T5", BOTH, {"d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "feed_forward_proj": "gated-gelu"}
    ),
    *seq2seq("bart", "Bart", BOTH),
    *seq2seq("marian", "MarianMTModel", SCRIPT),
    *seq2seq("pegasus", "Pegasus", SCRIPT),
    *seq2seq("m2m", "M2M100", SCRIPT),
    *seq2seq("blenderbot", "Blenderbot", SCRIPT),
]
