"""Loading and saving: every way in which a file can be wrong is one clear line, and saving is all or nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from omenn_onnx.errors import ModelFileError, OutputExists
from omenn_onnx.graph import saving
from omenn_onnx.graph.files import load_model, save_model, skeleton

SIZE = 2048
VALUES = np.arange(SIZE, dtype=np.float32)


def small(nodes=None, opset=17, ir=8, initializers=None, outputs=None, inputs=None):
    """y = x + W."""
    graph = helper.make_graph(
        nodes if nodes is not None else [helper.make_node("Add", ["x", "W"], ["y"])],
        "g",
        inputs or [helper.make_tensor_value_info("x", TensorProto.FLOAT, [SIZE])],
        outputs if outputs is not None else [helper.make_tensor_value_info("y", TensorProto.FLOAT, [SIZE])],
        initializers if initializers is not None else [numpy_helper.from_array(VALUES, "W")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def external(location="w.bin", dims=(SIZE,), **entries):
    tensor = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def write(folder: Path, model: ModelProto, name="m.onnx") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def refusal(source, **options) -> str:
    """The one line with which ``source`` is refused."""
    with pytest.raises(ModelFileError) as caught:
        load_model(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- what can be wrong with a file ---------------------------------------------------------------------------------


def test_no_such_file(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.onnx")
    assert "cannot be read" in refusal("nul\0byte.onnx")


def test_directory(tmp_path):
    assert "directory" in refusal(tmp_path)


def test_not_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"hello, this is a text file\n", "is not an ONNX file"),
        (bytes(range(256)) * 4, "is not an ONNX file"),
        (b"\0" * 100, "is not an ONNX file"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "is not an ONNX file"),
        (b"PK\x03\x04" + b"\0" * 50, "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x18\0\0\0ORTM" + b"\0" * 50, "ONNX Runtime's own format"),
    ],
)
def test_not_onnx(tmp_path, content, expected):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    message = refusal(path)
    assert expected in message
    assert str(path) in message


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_refused(seed):
    noise = np.random.default_rng(seed).integers(0, 256, 300, dtype=np.uint8).tobytes()
    assert "the given bytes" in refusal(noise)


def test_every_truncation_is_refused(tmp_path):
    whole = small().SerializeToString()
    path = tmp_path / "m.onnx"
    for end in [*range(1, 40), 100, len(whole) // 2, *range(len(whole) - 60, len(whole))]:
        path.write_bytes(whole[:end])
        message = refusal(path)
        assert "truncated" in message or "not an ONNX file" in message or "not a valid ONNX model" in message, (
            end,
            message,
        )
    path.write_bytes(whole[: len(whole) // 2])
    assert "truncated" in refusal(path)


def test_larger_than_protobuf_can(tmp_path):
    path = tmp_path / "m.onnx"
    with open(path, "wb") as f:
        f.truncate(2**31 + 10)
    assert "2 GB" in refusal(path)


def test_empty_graph():
    assert "no nodes" in refusal(small(nodes=[]))
    assert "no outputs" in refusal(small(outputs=[]))


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([helper.make_node("Add", ["x", "nope"], ["y"])], "nope"),
        ([helper.make_node("Add", ["x", "W"], ["y"], foo=1)], "foo"),
        ([helper.make_node("Add", ["x", "W"], ["z"])], "'y'"),
        ([helper.make_node("Addd", ["x", "W"], ["y"])], "Addd"),
        ([helper.make_node("Add", ["x", "a"], ["y"]), helper.make_node("Relu", ["y"], ["a"])], "cycle"),
    ],
)
def test_checker_failure(nodes, expected):
    message = refusal(small(nodes))
    assert "not a valid ONNX model" in message
    assert expected in message


def test_wrong_number_of_bytes():
    model = small()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    assert "'W' has 8188 bytes where its shape asks for 8192" in refusal(model)
    model.graph.initializer[0].dims[0] = -1
    assert "negative" in refusal(model)


def test_versions():
    assert "opset 6 is too old" in refusal(small(opset=6))
    newest = onnx.defs.onnx_opset_version()
    assert "upgrade onnx" in refusal(small(opset=newest + 1))
    assert "ir_version" in refusal(small(ir=onnx.IR_VERSION + 1))
    model = small()
    model.ClearField("ir_version")
    assert "ir_version" in refusal(model)
    model = small()
    del model.opset_import[:]
    assert "imports no operator set" in refusal(model)


# --- what ONNX Runtime accepts is accepted -------------------------------------------------------------------------


def test_custom_domains_are_accepted():
    nodes = [
        helper.make_node("Gelu", ["x"], ["a"], domain="com.microsoft"),
        helper.make_node("Mine", ["a", "W"], ["y"], domain="my.own", anything=3),
    ]
    proto = load_model(small(nodes)).proto
    assert {o.domain for o in proto.opset_import} == {"", "com.microsoft", "my.own"}


def test_runtime_operators_in_the_default_domain_are_accepted():
    nodes = [
        helper.make_node("LayerNormalization", ["x", "W", "W"], ["a"]),
        helper.make_node("SimplifiedLayerNormalization", ["a", "W"], ["y"]),
    ]
    proto = load_model(small(nodes, opset=13)).proto
    assert [n.domain for n in proto.graph.node] == ["", ""]


def test_tolerated():
    model = small([helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Add", ["x", "W"], ["a"])], opset=8, ir=3)
    model.graph.name = ""
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].ClearField("type")
    model.metadata_props.add(key="k", value="1")
    model.metadata_props.add(key="k", value="2")
    proto = load_model(model).proto
    assert [n.op_type for n in proto.graph.node] == ["Add", "Relu"]
    assert model.graph.node[0].op_type == "Relu"  # the given model is not changed
    assert proto.graph.name
    assert [p.value for p in proto.metadata_props] == ["2"]


def test_only_what_is_out_of_order_moves():
    chain = [helper.make_node("Relu", [f"t{k}"], [f"t{k + 1}"]) for k in range(3000)]
    chain[0].input[0] = "x"
    chain[-1].output[0] = "y"
    assert [n.output[0] for n in load_model(small(chain)).proto.graph.node] == [n.output[0] for n in chain]
    proto = load_model(small(chain[::-1])).proto
    assert [n.output[0] for n in proto.graph.node] == [n.output[0] for n in chain]


def test_from_memory():
    loaded = load_model(small().SerializeToString())
    assert (loaded.path, loaded.folder, loaded.weight_bytes) == (None, None, 4 * SIZE)
    assert loaded.proto == load_model(small()).proto


# --- external data -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A folder ``a`` with w.bin inside, another w.bin beside the folder, and links to both."""
    inside = tmp_path / "a"
    inside.mkdir()
    (inside / "w.bin").write_bytes(VALUES.tobytes())
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    (inside / "out.bin").symlink_to(tmp_path / "w.bin")
    (inside / "in.bin").symlink_to("w.bin")
    (inside / "up").symlink_to(tmp_path)
    return inside


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "in.bin"])
def test_external_data_is_found_and_not_loaded(folder, location):
    path = write(folder, small(initializers=[external(location)]))
    loaded = load_model(path)
    assert loaded.folder == folder
    assert loaded.path == path
    assert loaded.weight_bytes == 4 * SIZE
    assert not loaded.proto.graph.initializer[0].raw_data
    assert loaded.proto.graph.initializer[0].data_location == TensorProto.EXTERNAL


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (external("none.bin"), "is missing"),
        (external("../w.bin"), "outside of the model's folder"),
        (external("sub/../../w.bin"), "outside of the model's folder"),
        (external("/etc/passwd"), "outside of the model's folder"),
        (external("out.bin"), "symbolic link"),
        (external("up/w.bin"), "symbolic link"),
        (external("."), "not a regular file"),
        (external(""), "without a location"),
        (external(offset=8), "ends at byte 8200"),
        (external(offset=0, length=4 * SIZE + 4), "ends at byte 8196"),
        (external(dims=(SIZE + 1,)), "ends at byte 8196"),
        (external(offset=-4), "at -4"),
        (external(length=4), "has 4 bytes"),
        (external(offset="x"), "not a number"),
    ],
)
def test_external_data_refused(folder, tensor, expected):
    message = refusal(write(folder, small(initializers=[tensor])))
    assert expected in message
    assert "'W'" in message


def test_external_data_in_constants_and_subgraphs_is_checked(folder):
    constant = helper.make_node("Constant", [], ["W"], value=external("none.bin"))
    assert "is missing" in refusal(
        write(folder, small([constant, helper.make_node("Add", ["x", "W"], ["y"])], initializers=[]))
    )
    assert "is missing" in refusal(write(folder, branching(external("none.bin"))))


def test_external_data_in_memory_needs_a_folder(folder):
    model = small(initializers=[external()])
    assert "folder" in refusal(model)
    assert load_model(model, folder=folder).folder == folder


# --- saving --------------------------------------------------------------------------------------------------------


def test_round_trip_and_same_bytes(tmp_path):
    model = load_model(small()).proto
    model.metadata_props.add(key="omenn.a", value="1")
    for name in ("1.onnx", "2.onnx"):
        save_model(model, tmp_path / name, None)
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()
    assert load_model(tmp_path / "1.onnx").proto == model
    assert sorted(os.listdir(tmp_path)) == ["1.onnx", "2.onnx"]


def test_existing_output(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"precious")
    with pytest.raises(OutputExists, match="--force"):
        save_model(small(), path, None)
    assert path.read_bytes() == b"precious"
    save_model(small(), path, None, force=True)
    assert load_model(path).weight_bytes == 4 * SIZE


def test_not_writable(tmp_path, monkeypatch):
    with pytest.raises(ModelFileError, match="there is no folder"):
        save_model(small(), tmp_path / "none" / "m.onnx", None)
    with pytest.raises(ModelFileError, match="is a directory"):
        save_model(small(), tmp_path, None)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):
        save_model(small(), tmp_path / "pipe", None, force=True)
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, whom no mode stops
    with pytest.raises(ModelFileError, match="no permission"):
        save_model(small(), tmp_path / "m.onnx", None)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_disk_leaves_nothing(folder, tmp_path, monkeypatch, step):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    old = tmp_path / "out" / "m.onnx"
    old.parent.mkdir()
    old.write_bytes(b"the old file")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(ModelFileError, match="No space left on device"):
        save_model(small(initializers=[external()]), old, folder, force=True)
    assert os.listdir(old.parent) == ["m.onnx"]
    assert old.read_bytes() == b"the old file"


def test_a_failure_after_the_data_was_copied_removes_it(folder, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "w.bin").write_bytes(VALUES.tobytes())
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(saving, "_write_atomically", fail)
    with pytest.raises(KeyboardInterrupt):
        save_model(small(initializers=[external("deep/er/w.bin")]), out / "m.onnx", folder)
    assert os.listdir(out) == []


def test_too_large_for_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "PROTOBUF_LIMIT", 5000)
    with pytest.raises(ModelFileError, match="external data"):
        save_model(small(), tmp_path / "m.onnx", None)
    assert os.listdir(tmp_path) == []


def test_external_data_stays_in_the_same_folder(folder):
    loaded = load_model(write(folder, small(initializers=[external()])))
    before = sorted(os.listdir(folder))
    save_model(loaded.proto, folder / "n.onnx", loaded.folder)
    assert sorted(os.listdir(folder)) == sorted([*before, "n.onnx"])
    assert load_model(folder / "n.onnx").proto == loaded.proto


@pytest.mark.parametrize("location", ["w.bin", "deep/er/w.bin", "in.bin"])
def test_external_data_is_copied_to_another_folder(folder, tmp_path, location):
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "w.bin").write_bytes(VALUES.tobytes())
    loaded = load_model(write(folder, small(initializers=[external(location)])))
    out = tmp_path / "out"
    out.mkdir()
    for force in (False, True):  # the second time the data is there already, and is the same
        save_model(loaded.proto, out / "n.onnx", loaded.folder, force)
    again = onnx.load(out / "n.onnx")  # onnx refuses hard and symbolic links
    np.testing.assert_array_equal(numpy_helper.to_array(again.graph.initializer[0]), VALUES)
    onnx.checker.check_model(str(out / "n.onnx"))
    if location != "in.bin":
        onnx.checker.check_model(str(folder / "m.onnx"))


def test_other_data_is_never_overwritten(folder, tmp_path):
    loaded = load_model(write(folder, small(initializers=[external()])))
    out = tmp_path / "out"
    out.mkdir()
    (out / "w.bin").write_bytes(b"other weights")
    for force in (False, True):
        with pytest.raises(OutputExists, match=r"w\.bin"):
            save_model(loaded.proto, out / "n.onnx", loaded.folder, force)
    assert (out / "w.bin").read_bytes() == b"other weights"
    assert os.listdir(out) == ["w.bin"]


def test_external_data_without_a_source_folder(folder, tmp_path):
    with pytest.raises(ModelFileError, match="not known in which folder"):
        save_model(small(initializers=[external()]), tmp_path / "n.onnx", None)


# --- skeletons -----------------------------------------------------------------------------------------------------


def branching(weight):
    """y = x + W or x * W; each branch has a W of its own."""

    def branch(op):
        output = helper.make_tensor_value_info(f"{op}_y", TensorProto.FLOAT, [SIZE])
        tensor = TensorProto()
        tensor.CopyFrom(weight)
        tensor.name = f"{op}_W"
        return helper.make_graph([helper.make_node(op, ["x", f"{op}_W"], [f"{op}_y"])], op, [], [output], [tensor])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("Add"), else_branch=branch("Mul"))
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [SIZE]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    return small([node], inputs=inputs, initializers=[])


def output_dims(proto):
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    return [d.dim_value for d in inferred.graph.output[0].type.tensor_type.shape.dim]


@pytest.mark.parametrize("opset", [7, 13, 20])
def test_skeleton_is_small_valid_and_infers_the_same(opset):
    model = small(opset=opset)
    bare = skeleton(model)
    onnx.checker.check_model(bare)
    assert bare.ByteSize() < 500
    assert [v.name for v in bare.graph.input] == ["x", "W"]
    assert output_dims(bare) == [SIZE]
    assert skeleton(model, limit=SIZE) == model


def test_skeleton_keeps_everything_else():
    model = small([helper.make_node("Add", ["x", "W"], ["y"], name="n", doc_string="why")])
    model.producer_name, model.doc_string, model.domain, model.model_version = "p", "d", "dom", 3
    model.metadata_props.add(key="k", value="v")
    model.graph.doc_string = "graph"
    model.graph.value_info.add().CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [SIZE]))
    bare = skeleton(model)
    bare.graph.initializer.extend(model.graph.initializer)
    del bare.graph.input[1:]
    assert bare == model


def test_skeleton_of_constants_subgraphs_and_external_data():
    tensor = numpy_helper.from_array(VALUES, "W")
    constant = helper.make_node("Constant", [], ["W"], value=tensor)
    for model in (
        small([constant, helper.make_node("Add", ["x", "W"], ["y"])], initializers=[]),
        small(initializers=[external("none.bin")]),
        branching(tensor),
        branching(external("none.bin")),
    ):
        bare = skeleton(model)
        onnx.checker.check_model(bare)
        assert bare.ByteSize() < 1000
        assert output_dims(bare) == [SIZE]


def test_skeleton_of_an_initializer_that_is_an_input():
    model = small(opset=8, ir=3)
    model.graph.input.add().CopyFrom(helper.make_tensor_value_info("W", TensorProto.FLOAT, [SIZE]))
    bare = skeleton(model)
    onnx.checker.check_model(bare)
    assert [v.name for v in bare.graph.input] == ["x", "W"]
