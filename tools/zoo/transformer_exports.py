"""Small transformers with random weights, exported the ways that ONNX Runtime's transformer optimiser knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

    from zoo.entry import Array

WIDTH, HEADS = 32, 4
KINDS = {
    "bert": "bert", "gpt2": "gpt2", "llama": "gpt2", "vit": "vit", "clip_text": "clip", "clip_vision": "clip",
    "t5": "t5", "t5_encoder": "t5", "bart": "bart", "swin": "swin", "qwen3": "qwen3",
}  # fmt: skip
"""Of each network, the optimiser's model type."""

_SIZES = {"vocab_size": 61, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS,
          "intermediate_size": 64}  # fmt: skip
_PATCHES = {"image_size": 16, "patch_size": 4, "hidden_size": WIDTH, "num_hidden_layers": 2,
            "num_attention_heads": HEADS, "intermediate_size": 64}  # fmt: skip
_DECODER = {**_SIZES, "num_key_value_heads": 2, "max_position_embeddings": 16}
_BART = {
    "vocab_size": 61, "d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 16,
    "use_cache": False,
}  # fmt: skip
_T5 = {"vocab_size": 61, "d_model": WIDTH, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": HEADS,
       "use_cache": False}  # fmt: skip
_SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}


def export(name: str, exporter: str, attention: str = "eager") -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The network by TorchScript at opset 17 with a free batch, or by dynamo at 20 with fixed sizes; its inputs."""
    import architectures
    import torch
    import transformers
    from torch import nn

    random = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 60, (2, 8), generator=random)
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    image = torch.randn(2, 3, *(2 * [32 if name == "swin" else 16]), generator=random)
    eager = {"attn_implementation": attention}
    plain = {**eager, "use_cache": False}
    text = {"input_ids": ids, "attention_mask": mask}
    both = {**text, "decoder_input_ids": ids[:, :5]}
    t = transformers
    made: dict[str, Any] = {
        "bert": lambda: (
            t.BertForSequenceClassification(t.BertConfig(**_SIZES, **eager, max_position_embeddings=16, num_labels=3)),
            {**text, "token_type_ids": (torch.arange(8)[None] > 4).long().expand(2, 8)},
        ),
        "gpt2": lambda: (
            t.GPT2LMHeadModel(
                t.GPT2Config(vocab_size=61, n_embd=WIDTH, n_layer=2, n_head=HEADS, n_positions=16, **plain)
            ),
            text,
        ),
        "llama": lambda: (t.LlamaForCausalLM(t.LlamaConfig(**_DECODER, **plain)), text),
        "qwen3": lambda: (t.Qwen3ForCausalLM(t.Qwen3Config(**_DECODER, head_dim=8, **plain)), text),
        "vit": lambda: (t.ViTForImageClassification(t.ViTConfig(**_PATCHES, **eager, num_labels=5)), image),
        "swin": lambda: (t.SwinForImageClassification(t.SwinConfig(**_SWIN, **eager, num_labels=5)), image),
        "clip_text": lambda: (
            t.CLIPTextModelWithProjection(
                t.CLIPTextConfig(**_SIZES, **eager, max_position_embeddings=16, projection_dim=8, eos_token_id=60)
            ),
            text,
        ),
        "clip_vision": lambda: (
            t.CLIPVisionModelWithProjection(t.CLIPVisionConfig(**_PATCHES, **eager, projection_dim=8)),
            image,
        ),
        "t5": lambda: (t.T5ForConditionalGeneration(t.T5Config(**_T5)), both),
        "t5_encoder": lambda: (t.T5EncoderModel(t.T5Config(**_T5)), text),
        "bart": lambda: (t.BartModel(t.BartConfig(**_BART, **eager)), both),
    }
    torch.manual_seed(0)
    model, given = made[name]()
    feeds = {"pixel_values": given} if isinstance(given, torch.Tensor) else given

    class First(nn.Module):
        """The first output of the model, by the order of its inputs."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return self.model(**dict(zip(feeds, inputs, strict=True)), return_dict=False)[0]

    module = First()
    architectures.randomise(module, torch.Generator().manual_seed(0))
    opset, axes = (17, {0: "batch"}) if exporter == "torchscript" else (20, {})
    exported = architectures.export_module(module.eval(), tuple(feeds.values()), list(feeds), exporter, opset, axes)
    return exported, {k: v.numpy() for k, v in feeds.items()}


def optimise(path: str, kind: str, *, apart: bool = False, ends: bool = False, half: bool = False) -> onnx.ModelProto:
    """What onnxruntime.transformers.optimizer makes of a file. ``apart``: MultiHeadAttention behind the projections;
    ``ends``: masks as the rows' lengths; ``half``: float16 between float32 inputs and outputs."""
    import logging

    from architectures import quiet
    from onnx import helper
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions(kind)
    options.use_multi_head_attention = apart
    options.use_raw_attention_mask(not ends)
    heads, width = (0, 0) if kind == "swin" else (HEADS, WIDTH)
    logging.disable(logging.ERROR)
    try:
        with quiet():
            made = optimizer.optimize_model(path, kind, heads, width, optimization_options=options, opt_level=0)
            if half:
                made.convert_float_to_float16(keep_io_types=True)
    finally:
        logging.disable(logging.NOTSET)
    model: onnx.ModelProto = made.model
    if all(o.domain != "com.microsoft" for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model
