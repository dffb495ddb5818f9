"""Keras networks and TensorFlow functions, by tf2onnx, by Keras' own export, and through TFLite.

The table needs no TensorFlow; the builders do: keras_images.py, keras_sequences.py, tensorflow_functions.py.
"""

from __future__ import annotations

import functools
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo.entry import Array, Network, Sample

Options = Mapping[str, Any]
NEEDS = ("tensorflow", "keras", "tf2onnx")
TOKENS = 20
"""Token ids lie below it; 0 is padding."""
ANY_LENGTH = 6
"""Of an axis whose length is free."""

# ---------------------------------------------------------------------------------------------- networks, seeded


def network(name: str) -> Any:
    """A Keras model with random biases and norm statistics."""
    import keras

    from zoo import keras_images, keras_sequences

    keras.utils.set_random_seed(zlib.crc32(name.encode()))
    if name in APPLICATIONS:
        class_name, size, options = APPLICATIONS[name]
        model = keras_images.application(class_name, size, **options)
    else:
        model = getattr(keras_images if hasattr(keras_images, name) else keras_sequences, name)()
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for w in model.weights:
        w.assign(drawn(w.path.rsplit("/", 1)[-1], w.shape, np.asarray(w), rng))
    return model


def drawn(role: str, shape: tuple[int, ...], initial: Array, rng: np.random.Generator) -> Array:
    """Biases, scales and statistics that are not the neutral ones; kernels as the layer draws them."""
    if role in ("gamma", "scale", "moving_variance", "alpha"):
        return rng.uniform(0.6, 1.4, shape).astype(np.float32)
    if role in ("bias", "beta", "moving_mean", "bias_ih"):
        return rng.normal(0, 0.3, shape).astype(np.float32)
    return initial


def inputs(tensors: list[Any], name: str) -> dict[str, Array]:
    """Two rows: normal floats, bytes, token ids with padding at the end of the second row."""
    rng = np.random.default_rng(zlib.crc32(name.encode()) + 1)
    feeds = {}
    for t in tensors:
        shape, dtype = (2, *(n or ANY_LENGTH for n in t.shape[1:])), np.dtype(t.dtype)
        if dtype == np.uint8:
            feeds[t.name] = rng.integers(0, 256, shape).astype(dtype)
        elif dtype.kind == "i" or t.name == "tokens":
            ids = rng.integers(1, TOKENS, shape).astype(dtype)
            if shape[-1] > 3:
                ids[1, -2:] = 0
            feeds[t.name] = ids
        else:
            x = rng.normal(size=shape).astype(dtype)
            if "masked" in name:
                x[1, -2:] = 0  # Masking takes rows of zeros as padding
            feeds[t.name] = x
    return feeds


# ---------------------------------------------------------------------------------------------- what Keras says


def score(z: Any, target: str) -> Any:
    """The sum over rows of what ``target`` asks for."""
    import tensorflow as tf

    if target.startswith("class:"):
        return tf.reduce_sum(z[..., int(target[6:])])
    if target == "last":
        return tf.reduce_sum(tf.reduce_max(z[:, -1], axis=-1))
    flat = tf.reshape(z, (tf.shape(z)[0], -1))
    return tf.reduce_sum(tf.reduce_max(flat, axis=1) if target == "argmax" else flat[:, int(target)])


def said(model: Any, feeds: dict[str, Array], target: str) -> tuple[list[Array], list[Array]]:
    """dy/dX of each explained tensor, and the outputs. A layer named "tail" stands behind the explained tensor."""
    import keras
    import tensorflow as tf

    outputs = list(model.outputs)
    z = next((layer.input for layer in model.layers if layer.name == "tail"), outputs[0])
    words = [layer.output for layer in model.layers if layer.name == "words"]
    whole = keras.Model(model.inputs, [z, *words, *outputs])
    floats = {k: tf.constant(v.astype(np.float32)) for k, v in feeds.items() if v.dtype.kind != "i"}
    with tf.GradientTape() as tape:
        tape.watch(list(floats.values()))
        fed = [floats.get(t.name, tf.constant(feeds[t.name])) for t in model.inputs]
        if model.inputs[0].dtype == "uint8":  # the functional call would round to bytes: its layers in a row
            found = [functools.reduce(lambda h, layer: layer(h), model.layers[1:], fed[0])] * 2
        else:
            found = whole(fed if len(fed) > 1 else fed[0], training=False)
        y = score(found[0], target)
    sources = [x for name, x in floats.items() if name != "tokens"] + list(found[1 : 1 + len(words)])
    gradients = [np.asarray(tf.convert_to_tensor(g)) for g in tape.gradient(y, sources)]
    return gradients, [np.asarray(o) for o in found[1 + len(words) :]]


# ---------------------------------------------------------------------------------------------- exporters


def build(path: Path, name: str, exporter: str, target: str) -> Sample:
    """Write a Keras model; ``exporter``: "tf2onnx 13", "tf2onnx 15 nchw", "keras export", "tflite", "tflite int8"."""
    import onnx

    model = network(name)
    feeds = inputs(model.inputs, name)
    gradients, outputs = said(model, feeds, target)
    words = exporter.split()
    if words[0] == "tf2onnx":
        export_tf2onnx(model, path, int(words[1]), "nchw" in words)
    elif words[0] == "keras":
        model(list(feeds.values()) if len(feeds) > 1 else next(iter(feeds.values())))  # it exports what was called
        model.export(path, format="onnx", verbose=False)
    else:
        export_tflite(model, path, words[1:], feeds)
    graph = onnx.load(path).graph
    if "nchw" in words:
        feeds = {k: np.moveaxis(v, -1, 1) if v.ndim == 4 else v for k, v in feeds.items()}
        gradients = [np.moveaxis(g, -1, 1) if g.ndim == 4 else g for g in gradients]
    named = [i.name for i in graph.input]
    if words[0] == "tflite":
        gradients = gradients if len(words) == 1 else []
        feeds = dict(zip(named, feeds.values(), strict=True))
    assert set(named) == set(feeds), f"inputs {named}"
    if len(words) > 1 and words[0] == "tflite":
        return Sample(feeds)
    return Sample(feeds, gradients, {o.name: v for o, v in zip(graph.output, outputs, strict=True)})


def export_tf2onnx(model: Any, path: Path, opset: int, nchw: bool) -> None:
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec([None, *t.shape[1:]], t.dtype, name=t.name) for t in model.inputs]
    four = [t.name for t in model.inputs if len(t.shape) == 4]
    options: dict[str, Any] = {"inputs_as_nchw": four} if nchw else {}
    options |= {"custom_op_handlers": handlers()}
    proto, _ = tf2onnx.convert.from_keras(model, input_signature=signature, opset=opset, **options)
    save(proto, path)


def handlers() -> dict[str, Any]:
    """What tf2onnx does not know: erfc(x) = 1 - erf(x), in tf.nn.gelu."""

    def erfc(ctx: Any, node: Any, name: str, args: Any) -> Any:
        node.type = "Erf"
        one = ctx.make_const(f"{name}/one", np.ones((), np.float32)).output[0]
        ctx.insert_new_node_on_output("Sub", node.output[0], inputs=[one, node.output[0]])

    return {"Erfc": (erfc, [])}


def save(proto: Any, path: Path) -> None:
    """What tf2onnx cannot convert it leaves in the file: the checker finds it."""
    import onnx

    onnx.checker.check_model(proto)
    onnx.save(proto, path)


def export_tflite(model: Any, path: Path, how: list[str], feeds: dict[str, Array]) -> None:
    """Through a TFLite file: as it is, with dynamic ranges, or with integers from a representative set."""
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    fixed = tf.function(
        lambda *x: model(list(x) if len(x) > 1 else x[0], training=False),
        input_signature=[tf.TensorSpec([2, *t.shape[1:]], t.dtype, name=t.name) for t in model.inputs],
    )
    frozen = convert_variables_to_constants_v2(fixed.get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen], model)
    if how:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if "int8" in how:
        rng = np.random.default_rng(3)
        like = [(v.shape, v.dtype) for v in feeds.values()]
        converter.representative_dataset = lambda: ([rng.normal(size=s).astype(d) for s, d in like] for _ in range(16))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.tflite"
        file.write_bytes(converter.convert())
        proto, _ = tf2onnx.convert.from_tflite(str(file), opset=15)
    save(proto, path)


def build_function(path: Path, name: str, opset: int) -> Sample:
    """A tf.function by tf2onnx."""
    import onnx
    import tensorflow as tf
    import tf2onnx

    from zoo.tensorflow_functions import FUNCTIONS

    shapes, f = FUNCTIONS[name]
    names = ["x", "y"][: len(shapes)]
    signature = [tf.TensorSpec([None, *s], tf.float32, name=n) for n, s in zip(names, shapes, strict=True)]
    compiled = tf.function(f, input_signature=signature)
    proto, _ = tf2onnx.convert.from_function(compiled, input_signature=signature, opset=opset)
    save(proto, path)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    feeds = {n: rng.normal(size=(2, *s)).astype(np.float32) for n, s in zip(names, shapes, strict=True)}
    xs = [tf.constant(v) for v in feeds.values()]
    with tf.GradientTape() as tape:
        tape.watch(xs)
        z = compiled(*xs)
        y = score(z, "argmax")
    gradients = [np.asarray(g) for g in tape.gradient(y, xs)]
    graph = onnx.load(path).graph
    assert [i.name for i in graph.input] == names, f"inputs {[i.name for i in graph.input]}"
    return Sample(feeds, gradients, {graph.output[0].name: z.numpy()})


# ---------------------------------------------------------------------------------------------- the table

APPLICATIONS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "MobileNetV2": ("MobileNetV2", 32, {"alpha": 0.35}),
    "MobileNetV3Small": ("MobileNetV3Small", 32, {"alpha": 0.75, "minimalistic": False}),
    "EfficientNetB0": ("EfficientNetB0", 32, {}),
    "EfficientNetV2B0": ("EfficientNetV2B0", 32, {}),
    "DenseNet121": ("DenseNet121", 32, {}),
    "NASNetMobile": ("NASNetMobile", 32, {}),
    "Xception": ("Xception", 71, {}),
    "ResNet50V2": ("ResNet50V2", 32, {}),
}

KERAS: tuple[tuple[str, str, str, str], ...] = (
    # kind, networks, exporters (the first is the others' twin), target
    ("image", "resnet", "tf2onnx 15, tf2onnx 11, tf2onnx 18, tf2onnx 15 nchw, keras export, tflite, tflite int8", ""),
    ("image", "mobilenet", "tf2onnx 15, tf2onnx 18 nchw, tflite, tflite dynamic, tflite int8", ""),
    ("image", "efficientnet", "tf2onnx 15, tf2onnx 13, tf2onnx 18", ""),
    ("image", "xception densenet", "tf2onnx 15, tf2onnx 11, tf2onnx 18", ""),
    ("image", "resnet_v2 inception convnext_like pools norms", "tf2onnx 15, tf2onnx 18", ""),
    ("image", "vgg_flatten", "tf2onnx 13, tf2onnx 15 nchw, tflite int8", ""),
    ("image", "uint8_image vit", "tf2onnx 15, tf2onnx 18", ""),
    ("signal", "signal", "tf2onnx 15, tf2onnx 11, tf2onnx 18", ""),
    ("volume", "volume", "tf2onnx 15, tf2onnx 18", ""),
    ("autoencoder", "autoencoder", "tf2onnx 15, tf2onnx 18, tflite", "37"),
    ("dense output", "unet deeplab", "tf2onnx 15, tf2onnx 18, keras export, tflite", "class:1"),
    ("super-resolution", "super_resolution", "tf2onnx 15, tf2onnx 18", "101"),
    ("sequence", "lstm gru", "tf2onnx 15, tf2onnx 11, tf2onnx 18, keras export", ""),
    (
        "sequence",
        "lstm_activations lstm_unrolled lstm_masked gru_reset_before gru_unrolled gru_any_length",
        "tf2onnx 15",
        "",
    ),
    ("sequence", "simple_rnn bidirectional stacked_cells", "tf2onnx 15", ""),
    ("encoder-decoder", "seq2seq", "tf2onnx 15", "last"),
    ("video", "conv_lstm time_distributed", "tf2onnx 15", ""),
    ("text", "text_lstm text_float_ids text_cnn text_transformer", "tf2onnx 15, tf2onnx 18", ""),
    ("language model", "language_model", "tf2onnx 15, tf2onnx 18", "last"),
    ("attention", "attentions", "tf2onnx 15, tf2onnx 18", ""),
    ("two-tower", "two_tower", "tf2onnx 15, tf2onnx 18", ""),
    ("multimodal", "multi_input", "tf2onnx 15", ""),
    ("table", "wide_and_deep autoregressive_flow activations", "tf2onnx 15, tf2onnx 18", ""),
    ("image", " ".join(APPLICATIONS), "tf2onnx 15", ""),
)

FUNCTION_NAMES = (
    "while_loop scan_over_time map_over_rows condition einsums gathers image_resize spectrogram image_ops reductions "
    "elementwise scatters matrix_products layout_ops"
).split()

CHANNELS_SAID = {"matrix_products": {"channel_axis": {"x": 2, "y": 2}}}
"""Both axes are contracted: which one holds channels is the user's to say."""


def table() -> list[Network]:
    """A network for each name and exporter."""
    found: list[Network] = []
    for kind, names, exporters, target in KERAS:
        for name in names.split():
            first = ""
            for exporter in exporters.split(", "):
                full = f"keras-{name}-{exporter.replace('tf2onnx ', 'tf2onnx').replace(' ', '-')}"
                quantised = "int8" in exporter or "dynamic" in exporter
                found.append(
                    Network(
                        name=full,
                        kind=kind,
                        exporter=f"keras, {exporter}" if not exporter.startswith("keras") else exporter,
                        build=functools.partial(build, name=name, exporter=exporter, target=target or "argmax"),
                        needs=NEEDS,
                        options={"target": target or "argmax"},
                        twin="" if quantised else first,
                        layout=(0, 2, 3, 1) if "nchw" in exporter else (),
                        quantised=quantised,
                        oracle="too large" if name in APPLICATIONS else "",
                    )
                )
                first = first or full
    for name in FUNCTION_NAMES:
        first = ""
        for opset in (15, 18):
            full = f"tensorflow-{name}-{opset}"
            made = functools.partial(build_function, name=name, opset=opset)
            options = CHANNELS_SAID.get(name, {})
            found.append(Network(full, "function", f"tensorflow, tf2onnx {opset}", made, NEEDS, options, twin=first))
            first = full
    return found


NETWORKS = table()
