"""Dense outputs, detectors, images to images, preprocessing in the graph: modules_dense.py by the PyTorch exporters."""

from __future__ import annotations

import functools

from zoo.entry import Network
from zoo.torch_build import BOTH, Input, ids, networks_of, normal

entry = functools.partial(networks_of, "dense")
IMAGE = normal(3, 16, 16)
GRID = {"tangent": "grid depends on the explained input"}
DENSE, BOXES, SEED = {"target": "class:2"}, {"target": "0,37-5"}, {"target": "seed"}

NETWORKS: list[Network] = [
    *entry("fcn", "segmentation", IMAGE, BOTH, options=DENSE),
    *entry(
        "unet-aligned", "segmentation", normal(3, 8, 8), ("torchscript 13",), module="unet", options=DENSE, quick=True
    ),
    *entry("deeplab", "segmentation", IMAGE, BOTH, options=DENSE),
    *entry("pspnet", "segmentation", IMAGE, ("torchscript 17",), options=DENSE, batch=False),
    *entry("hourglass", "keypoints", normal(3, 12, 12), BOTH, options={"target": "3"}),
    *entry("yolo", "detection", IMAGE, BOTH, options=BOXES, quick=True),
    *entry("yolo-raw", "detection", IMAGE, module="yolo", args=(False,), options={"target": "class:4"}),
    *entry("retinanet", "detection", IMAGE, BOTH, options={"target": "class:1"}),
    *entry("nms", "detection", IMAGE, ("dynamo 18", "torchscript 11"), gradient=False),
    *entry("detr", "detection", IMAGE, BOTH, options={"target": "7"}),
    *entry("yolact", "segmentation", normal(3, 10, 10), BOTH, options={"target": "class:1"}),
    *entry("super-resolution", "image to image", normal(3, 8, 8), BOTH, options={"target": "100-90"}),
    *entry("residual-denoiser", "image to image", normal(3, 8, 8), BOTH, options=SEED),
    *entry("style", "image to image", normal(3, 12, 12), BOTH, options={"target": "200"}),
    *entry("generator", "image to image", normal(10), BOTH, options=SEED),
    *entry("vae-encoder", "embedding", normal(1, 16, 16), BOTH, options={"target": "2"}),
    *entry("vae", "autoencoder", (normal(12), normal(4)), BOTH, options={"target": "3", "inputs": ["x"]}),
    *entry("vq-autoencoder", "autoencoder", normal(1, 8, 8), options=SEED),
    *entry("diffusion", "image to image", (normal(3, 8, 8), Input((1,), "positive")), BOTH, options=SEED),
    *entry("spatial-transformer", "image", normal(1, 12, 12), refused=GRID),
    *entry(
        "optical-flow",
        "several inputs",
        (normal(2, 8, 8), normal(2, 8, 8)),
        BOTH,
        options={"target": "20"},
        refused=GRID,
    ),
    *entry("cost-volume", "several inputs", (normal(1, 6, 10), normal(1, 6, 10)), BOTH, options={"target": "25"}),
    *entry("uint8-image", "bytes", Input((16, 16, 3), "bytes"), BOTH, gradient=False, quick=True),
    *entry("bgr-image", "bytes", Input((3, 10, 10), "bytes"), ("dynamo 20", "torchscript 12"), gradient=False),
    *entry("greyscale", "image", normal(3, 8, 8), BOTH),
    *entry("crnn", "sequence of labels", normal(1, 8, 10), BOTH, options={"target": "last"}, gradient=False),
    *entry(
        "captioner",
        "multimodal",
        (normal(1, 8, 8), ids(20, 5)),
        BOTH,
        options={"target": "last"},
        embeddings=("words",),
    ),
]
