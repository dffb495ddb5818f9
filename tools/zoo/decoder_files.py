"""A Llama as decoders are deployed with ONNX Runtime: GroupQueryAttention with rotary positions and a cache, fused
norms, perhaps weights of 4 bits; written node by node from the weights of a transformers model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.entry import Array, Sample

if TYPE_CHECKING:
    import onnx

WIDTH, HEADS, SHARED, SIZE, WORDS, PLACES, LAYERS = 64, 4, 2, 16, 61, 16, 2
_MICROSOFT = "com.microsoft"


def module() -> Any:
    """The transformers model, seeded."""
    import architectures
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=SHARED, intermediate_size=48, max_position_embeddings=PLACES, use_cache=False,
        attn_implementation="eager",
        attention_bias=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    architectures.randomise(model, torch.Generator().manual_seed(0))
    return model.eval()


def _ids() -> Array:
    return np.random.default_rng(0).integers(1, WORDS, (2, 7))


class Writer:
    """The nodes and weights of one file."""

    def __init__(self, weights: dict[str, Array]) -> None:
        self.weights = weights
        self.stored: dict[str, Array] = {}
        self.nodes: list[onnx.NodeProto] = []

    def op(self, op: str, *inputs: str, count: int = 1, domain: str = "", **attrs: Any) -> Any:
        """One node; its first outputs, or its only one."""
        from onnx import helper

        name = f"{op}_{len(self.nodes)}"
        outputs = [f"{name}_{k}" for k in range(count)]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attrs))
        return outputs[0] if count == 1 else outputs

    def store(self, name: str, value: Any) -> str:
        self.stored[name] = np.asarray(value)
        return name

    def weight(self, name: str) -> str:
        return self.store(name, self.weights[name])

    def linear(self, x: str, name: str) -> str:
        """x W' + b."""
        y = self.op("MatMul", x, self.store(f"{name}.weight", self.weights[f"{name}.weight"].T.copy()))
        return self.op("Add", y, self.weight(f"{name}.bias")) if f"{name}.bias" in self.weights else y


def write(path: Path, past: int) -> Sample:
    """The file, with ``past`` tokens in the cache (0: no cache), and what transformers gives."""
    import onnx
    import torch
    from onnx import TensorProto, helper, numpy_helper

    model = module()
    w = Writer({k: t.detach().numpy() for k, t in model.state_dict().items()})
    angles = np.arange(PLACES)[:, None] * (1e4 ** (-np.arange(0, SIZE, 2) / SIZE))[None]
    cos, sin = (w.store(n, f(angles).astype(np.float32)) for n, f in (("cos", np.cos), ("sin", np.sin)))
    total = w.op("ReduceSum", "attention_mask", w.store("one", np.array([1])), keepdims=0)
    ends = w.op("Cast", w.op("Sub", total, "one"), to=TensorProto.INT32)
    length = w.op("Gather", w.op("Shape", "attention_mask"), w.store("axis", np.array(1)), axis=0)
    length = w.op("Cast", length, to=TensorProto.INT32)
    x = w.op("Gather", w.weight("model.embed_tokens.weight"), "input_ids")
    epsilon = float(model.config.rms_norm_eps)
    added = ""
    outputs = []
    for k in range(LAYERS):
        layer = f"model.layers.{k}"
        for part in ("input_layernorm", "post_attention_layernorm"):
            scale = w.weight(f"{layer}.{part}.weight")
            normal, x = _normal(w, x, added, scale, epsilon)
            if part == "input_layernorm":
                q, key, value = (w.linear(normal, f"{layer}.self_attn.{p}_proj") for p in "qkv")
                cache = [f"past.{k}.key", f"past.{k}.value"] if past else ["", ""]
                y, *new = w.op(
                    "GroupQueryAttention", q, key, value, *cache, ends, length, cos, sin, count=3, domain=_MICROSOFT,
                    num_heads=HEADS, kv_num_heads=SHARED, do_rotary=1,
                )  # fmt: skip
                outputs += new
                added = w.linear(y, f"{layer}.self_attn.o_proj")
            else:
                gate = w.linear(normal, f"{layer}.mlp.gate_proj")
                gate = w.op("Mul", gate, w.op("Sigmoid", gate))
                added = w.linear(w.op("Mul", gate, w.linear(normal, f"{layer}.mlp.up_proj")), f"{layer}.mlp.down_proj")
    normal, _ = _normal(w, x, added, w.weight("model.norm.weight"), epsilon)
    w.nodes.append(helper.make_node("Identity", [w.linear(normal, "lm_head")], ["logits"], name="logits"))

    ids = _ids()
    feeds = {"input_ids": ids[:, past:], "attention_mask": np.ones_like(ids)}
    infos = [
        helper.make_tensor_value_info(n, TensorProto.INT64, ["N", d])
        for n, d in (("input_ids", "T"), ("attention_mask", "S"))
    ]
    with torch.no_grad():
        if past:
            known = model.model(torch.from_numpy(ids[:, :past]), use_cache=True).past_key_values
            for k in range(LAYERS):
                for name, t in (("key", known.layers[k].keys), ("value", known.layers[k].values)):
                    feeds[f"past.{k}.{name}"] = t.numpy()
                    dims = ["N", SHARED, "P", SIZE]
                    infos.append(helper.make_tensor_value_info(f"past.{k}.{name}", TensorProto.FLOAT, dims))
        z = model(torch.from_numpy(ids)).logits.numpy()[:, past:]
    stored = [numpy_helper.from_array(v, n) for n, v in w.stored.items()]
    results = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "T", WORDS])]
    results += [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", SHARED, "S", SIZE]) for n in outputs]
    graph = helper.make_graph(w.nodes, "decoder", infos, results, stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_MICROSOFT, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return Sample(feeds, outputs={"logits": z})


def _normal(w: Writer, x: str, added: str, scale: str, epsilon: float) -> tuple[str, str]:
    """The norm of x + added, and that sum."""
    if not added:
        return w.op("SimplifiedLayerNormalization", x, scale, axis=-1, epsilon=epsilon, stash_type=1), x
    outputs = w.op("SkipSimplifiedLayerNormalization", x, added, scale, count=4, domain=_MICROSOFT, epsilon=epsilon)
    node = w.nodes[-1]
    node.output[1] = node.output[2] = ""
    return outputs[0], outputs[3]


def plain(path: Path) -> Sample:
    """The same model by PyTorch's exporter, without a cache."""
    import architectures
    import onnx
    import torch
    from torch import nn

    model = module()

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    ids = torch.from_numpy(_ids())
    args = (ids, torch.ones_like(ids))
    onnx.save(architectures.export_module(Logits(), args, ["input_ids", "attention_mask"], "dynamo", 20, {}), path)
    return Sample({"input_ids": ids.numpy(), "attention_mask": args[1].numpy()})
