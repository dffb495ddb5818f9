"""What is explained when the user does not say: which tensor, along which channel axis, over which class axis."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
from explaining import assert_complete, compiled, explain

F32 = np.float32


def model(signature: str, nodes: str, **constants: Any) -> onnx.ModelProto:
    """A model of opset 20 from ONNX text: ``signature`` as "float[N,3] x) => (float[N,2] z"."""
    parsed = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20]> g ({signature}) {{ {nodes} }}')
    for name, value in constants.items():
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return parsed


def explained(program: onnx.ModelProto) -> dict[str, int]:
    """The explained tensors with their channel axes."""
    meta = {p.key: p.value for p in program.metadata_props}
    return {i["name"]: i["channel_axis"] for i in json.loads(meta["omenn.inputs"])}


def weights(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(shape).normal(size=shape).astype(F32)


@pytest.mark.parametrize(
    "moved",
    [
        "i = Transpose (ids)",
        "i = Slice (ids, one, three, one)",
        "a, b = Split <axis=1, num_outputs=2> (ids); i = Identity (b)",
        "a = Slice (ids, zero, one, one); c = Mul (a, zero); i = Concat <axis=1> (c, ids)",
    ],
)
def test_moved_token_ids(moved: str) -> None:
    """Token ids that are cut, turned or shifted behind a start token before they are looked up."""
    nodes = f"{moved} e = Gather (table, i) m = ReduceMean <keepdims=0> (e, one) z = MatMul (m, w)".replace(";", " ")
    numbers = {"zero": np.array([0]), "one": np.array([1]), "three": np.array([3])}
    made = model("int64[N,4] ids) => (float[R,3] z", nodes, table=weights(9, 5), w=weights(5, 3), **numbers)
    program = compiled(made)
    assert explained(program) == {"e": 2}
    ids = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert_complete(explain(program, {"ids": ids}))


def test_a_cropped_image_of_bytes() -> None:
    """Bytes are explained after their first Cast, also where they were cropped and turned round before it."""
    nodes = """a = Slice (x, one, five, axes) b = Gather <axis=1> (a, order) c = Cast <to=1> (b) f = Flatten (c)
               z = MatMul (f, w)"""
    numbers = {
        "one": np.array([1, 1]),
        "five": np.array([5, 5]),
        "axes": np.array([2, 3]),
        "order": np.array([2, 1, 0]),
    }
    program = compiled(model("uint8[N,3,6,6] x) => (float[N,2] z", nodes, w=weights(48, 2), **numbers))
    assert explained(program) == {"c": 1}
    assert_complete(explain(program, {"x": np.random.default_rng(1).integers(0, 256, (2, 3, 6, 6), np.uint8)}))


def test_an_adjacency_is_no_channel_matrix() -> None:
    """Node features are summed over nodes by a computed matrix, over channels by a constant one: the latter counts."""
    made = model(
        "float[N,4,3] x, float[N,4,4] a) => (float[N,4,2] z",
        "s = MatMul (a, x) t = Add (s, x) z = MatMul (t, w)",
        w=weights(3, 2),
    )
    assert explained(compiled(made, inputs=["x"])) == {"x": 2}


def test_the_rows_of_a_waveform_are_no_channels() -> None:
    """The frequencies of an STFT are contracted, not the rows of the batch."""
    nodes = """s = STFT (x, step, window) q = Mul (s, s) p = ReduceSum <keepdims=0> (q, last) z = MatMul (p, w)"""
    made = model(
        "float[N,24] x) => (float[N,3,4] z",
        nodes,
        step=np.array(8),
        window=np.ones(8, F32),
        last=np.array([-1]),
        w=weights(5, 4),
    )
    assert explained(compiled(made)) == {"x": 1}


def test_the_classes_of_masks_by_einsum() -> None:
    """class:1 of a dense output [N,K,H,W] that an Einsum made is K's entry 1."""
    nodes = 'h = Mul (x, half) z = Einsum <equation="kc,nchw->nkhw"> (w, h)'
    made = model("float[N,3,2,2] x) => (float[N,4,2,2] z", nodes, w=weights(4, 3), half=F32(0.5))
    x = weights(2, 3, 2, 2)
    found = explain(compiled(made, target="class:1"), {"x": x})
    np.testing.assert_allclose(found.score, found.outputs["z"][:, 1].sum(axis=(1, 2)), rtol=1e-5)
    assert_complete(found)
