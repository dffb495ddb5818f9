"""Keras networks on images, signals and volumes, channels last. Each function returns a keras.Model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers as L

Tensor = Any
Block = Callable[[Tensor, int, int], Tensor]


def norm_act(h: Tensor, activation: str = "relu") -> Tensor:
    """BatchNormalization and an activation."""
    return L.Activation(activation)(L.BatchNormalization()(h))


def residual(x: Tensor, width: int, strides: int) -> Tensor:
    """Two 3x3 convolutions, SAME; a 1x1 shortcut where the shape changes."""
    h = norm_act(L.Conv2D(width, 3, strides, "same", use_bias=False)(x))
    h = L.BatchNormalization()(L.Conv2D(width, 3, 1, "same", use_bias=False)(h))
    if strides > 1 or x.shape[-1] != width:
        x = L.BatchNormalization()(L.Conv2D(width, 1, strides, use_bias=False)(x))
    return L.ReLU()(L.Add()([x, h]))


def preactivated(x: Tensor, width: int, strides: int) -> Tensor:
    """Norm before convolution; the shortcut is a max pool, as in ResNetV2."""
    h = norm_act(x)
    shortcut = x if x.shape[-1] == width else L.Conv2D(width, 1)(h)
    shortcut = L.MaxPooling2D(1, strides)(shortcut) if strides > 1 else shortcut
    h = L.ZeroPadding2D(1)(norm_act(L.Conv2D(width, 1, use_bias=False)(h)))
    return L.Add()([shortcut, L.Conv2D(width, 3, strides)(h)])


def inverted(x: Tensor, width: int, strides: int) -> Tensor:
    """MobileNetV2's: expand, depthwise with the half-sided padding of strides 2, project."""
    h = norm_act(L.Conv2D(3 * x.shape[-1], 1, use_bias=False)(x), "relu6")
    h = L.ZeroPadding2D(((0, 1), (0, 1)))(h) if strides > 1 else h
    h = norm_act(L.DepthwiseConv2D(3, strides, "valid" if strides > 1 else "same", use_bias=False)(h), "relu6")
    h = L.BatchNormalization()(L.Conv2D(width, 1, use_bias=False)(h))
    return L.Add()([x, h]) if strides == 1 and x.shape[-1] == width else h


def squeezed(x: Tensor, width: int, strides: int) -> Tensor:
    """EfficientNet's: swish, 5x5 depthwise, squeeze and excitation, SAME with even strides."""
    h = norm_act(L.Conv2D(2 * x.shape[-1], 1, use_bias=False)(x), "swish")
    h = norm_act(L.DepthwiseConv2D(5, strides, "same", use_bias=False)(h), "swish")
    s = L.Reshape((1, 1, h.shape[-1]))(L.GlobalAveragePooling2D()(h))
    s = L.Conv2D(h.shape[-1], 1, activation="sigmoid")(L.Conv2D(4, 1, activation="swish")(s))
    h = L.BatchNormalization()(L.Conv2D(width, 1, use_bias=False)(L.Multiply()([h, s])))
    return L.Add()([x, h]) if strides == 1 and x.shape[-1] == width else h


def separable(x: Tensor, width: int, strides: int) -> Tensor:
    """Xception's: separable convolutions, max pool of 3 with SAME, a strided shortcut."""
    h = norm_act(L.SeparableConv2D(width, 3, padding="same", depth_multiplier=2)(x))
    h = L.BatchNormalization()(L.SeparableConv2D(width, 3, padding="same", dilation_rate=2)(h))
    h = L.MaxPooling2D(3, strides, "same")(h) if strides > 1 else h
    return L.Add()([h, L.BatchNormalization()(L.Conv2D(width, 1, strides, "same")(x))])


def dense_block(x: Tensor, width: int, strides: int) -> Tensor:
    """DenseNet's concatenation, then a transition with average pooling."""
    for _ in range(2):
        x = L.Concatenate()([x, L.Conv2D(width, 3, padding="same")(norm_act(x))])
    return L.AveragePooling2D(2, strides)(L.Conv2D(width, 1)(norm_act(x))) if strides > 1 else x


def mixed(x: Tensor, width: int, strides: int) -> Tensor:
    """Inception's branches: kernels of two shapes, and average pooling with SAME (valid windows counted)."""
    a = L.Conv2D(width, 1, strides, "same", activation="relu")(x)
    b = L.Conv2D(width, (3, 1), strides, "same", activation="relu")(L.Conv2D(width, (1, 3), padding="same")(x))
    c = L.Conv2D(width, 1, activation="relu")(L.AveragePooling2D(3, strides, "same")(x))
    return L.Concatenate()([a, b, c, L.MaxPooling2D(3, strides, "same")(x)])


def convnext(x: Tensor, width: int, strides: int) -> Tensor:
    """Depthwise 7x7, LayerNormalization over channels, GELU, layer scale."""
    x = L.Conv2D(width, strides, strides)(x) if strides > 1 or x.shape[-1] != width else x
    h = L.LayerNormalization(epsilon=1e-6)(L.DepthwiseConv2D(7, padding="same")(x))
    h = L.Dense(width)(L.Activation("gelu")(L.Dense(3 * width)(h)))
    return L.Add()([x, L.Rescaling(0.5)(h)])


def classifier(block: Block, size: tuple[int, int] = (9, 8), stem: str = "relu", softmax: bool = False) -> keras.Model:
    """Stem, three blocks (the second halves), global average, Dense; odd and even sides, so that SAME pads unevenly."""
    x = keras.Input((*size, 3), name="image")
    h = norm_act(L.Conv2D(6, 3, 1, "same")(x), stem)
    for width, strides in ((6, 1), (8, 2), (8, 1)):
        h = block(h, width, strides)
    h = L.Dense(5)(L.Dropout(0.2)(L.GlobalAveragePooling2D()(h)))
    return keras.Model(x, L.Softmax(name="tail")(h) if softmax else h)


def resnet() -> keras.Model:
    return classifier(residual, softmax=True)


def resnet_v2() -> keras.Model:
    return classifier(preactivated)


def mobilenet() -> keras.Model:
    return classifier(inverted, stem="relu6")


def efficientnet() -> keras.Model:
    return classifier(squeezed, stem="swish")


def xception() -> keras.Model:
    return classifier(separable)


def densenet() -> keras.Model:
    return classifier(dense_block)


def inception() -> keras.Model:
    return classifier(mixed)


def convnext_like() -> keras.Model:
    return classifier(convnext, stem="linear")


def vgg_flatten() -> keras.Model:
    """Flatten of NHWC in front of a Dense layer; overlapping pools; LeakyReLU."""
    x = keras.Input((11, 10, 3), name="image")
    h = L.LeakyReLU(negative_slope=0.2)(L.Conv2D(6, 3)(x))
    h = L.MaxPooling2D(3, 2)(h)
    h = L.AveragePooling2D((2, 1), (1, 1), "same")(L.Conv2D(4, 2, activation="tanh")(h))
    return keras.Model(x, L.Dense(4)(L.Dense(7, "relu")(L.Flatten()(h))))


def pools() -> keras.Model:
    """Every kind of pooling, side by side."""
    x = keras.Input((7, 8, 3), name="image")
    h = L.Conv2D(4, 3, padding="same")(x)
    parts = []
    for pool in (L.MaxPooling2D, L.AveragePooling2D):
        for size, strides, padding in ((2, 2, "valid"), (3, 2, "same"), ((2, 3), 1, "same"), ((1, 2), (2, 1), "valid")):
            parts.append(L.Flatten()(pool(size, strides, padding)(h)))
    parts += [L.GlobalMaxPooling2D()(h), L.GlobalAveragePooling2D(keepdims=True)(h)]
    return keras.Model(x, L.Dense(4)(L.Concatenate()([L.Flatten()(p) for p in parts])))


def signal() -> keras.Model:
    """Conv1D, causal and dilated, separable, transposed; pools of one axis."""
    x = keras.Input((24, 2), name="signal")
    h = L.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="elu")(x)
    h = L.SeparableConv1D(6, 3, 2, "same", activation="selu")(h)
    h = L.DepthwiseConv1D(2, depth_multiplier=2, padding="same")(h)
    h = L.AveragePooling1D(3, 2, "same")(L.Conv1DTranspose(5, 3, 2, "same", activation="softplus")(h))
    h = L.Cropping1D((1, 2))(L.UpSampling1D(2)(L.ZeroPadding1D((2, 1))(L.MaxPooling1D(2)(h))))
    h = L.Concatenate()([L.GlobalMaxPooling1D()(h), L.GlobalAveragePooling1D()(h)])
    return keras.Model(x, L.Dense(3)(h))


def volume() -> keras.Model:
    """Conv3D, its transpose, pools, padding and cropping of three axes."""
    x = keras.Input((5, 6, 4, 2), name="volume")
    h = norm_act(L.Conv3D(4, 3, (2, 1, 1), "same")(x))
    h = L.MaxPooling3D((1, 2, 2), padding="same")(L.ZeroPadding3D(((1, 0), (0, 1), (1, 1)))(h))
    h = L.UpSampling3D((1, 2, 1))(L.Conv3DTranspose(3, (2, 3, 2), (2, 1, 1), "same", activation="relu")(h))
    h = L.Cropping3D(((1, 1), (0, 1), (0, 0)))(L.AveragePooling3D((2, 2, 1), 1)(h))
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling3D()(h)))


def autoencoder() -> keras.Model:
    """Strided down, transposed up."""
    x = keras.Input((8, 8, 2), name="image")
    h = L.Conv2D(4, 3, 2, "same", activation="relu")(x)
    h = L.Conv2D(6, 3, 2, "same", activation="relu")(h)
    code = L.Dense(6, name="code")(L.Flatten()(h))
    h = L.Reshape((2, 2, 6))(L.Dense(24, "relu")(code))
    h = L.Conv2DTranspose(4, 3, 2, "same", activation="relu")(h)
    h = L.Conv2DTranspose(3, 4, 2, "valid", activation="relu")(h)
    return keras.Model(x, L.Cropping2D(1)(L.Conv2DTranspose(2, 3, 1, "same")(h)))


def unet() -> keras.Model:
    """Skips, bilinear and nearest upsampling, a class for each pixel."""
    x = keras.Input((8, 8, 3), name="image")
    a = norm_act(L.Conv2D(4, 3, padding="same")(x))
    b = norm_act(L.Conv2D(6, 3, padding="same")(L.MaxPooling2D(2)(a)))
    c = norm_act(L.Conv2D(8, 3, padding="same", dilation_rate=2)(L.AveragePooling2D(2)(b)))
    h = L.Concatenate()([L.UpSampling2D(2, interpolation="bilinear")(c), b])
    h = norm_act(L.Conv2D(6, 3, padding="same")(h))
    h = L.Concatenate()([L.UpSampling2D(2, interpolation="nearest")(h), a])
    h = L.Conv2D(3, 1)(norm_act(L.Conv2D(4, 3, padding="same")(h)))
    return keras.Model(x, L.Softmax(name="tail")(h))


def deeplab() -> keras.Model:
    """Segmentation: dilated branches, image pooling, Resizing."""
    x = keras.Input((9, 9, 3), name="image")
    h = norm_act(L.Conv2D(6, 3, 2, "same")(x), "swish")
    branches = [L.Conv2D(4, 3, padding="same", dilation_rate=r)(h) for r in (1, 2, 3)]
    pooled = L.Conv2D(4, 1, activation="relu")(L.GlobalAveragePooling2D(keepdims=True)(h))
    branches.append(L.UpSampling2D(5, interpolation="bilinear")(pooled))
    h = L.Conv2D(3, 1)(L.Concatenate()(branches))
    return keras.Model(x, L.Resizing(10, 10, interpolation="bilinear")(h))


def super_resolution() -> keras.Model:
    """Sub-pixel convolution: depth to space."""
    x = keras.Input((5, 5, 2), name="image")
    h = L.PReLU(shared_axes=[1, 2])(L.Conv2D(6, 3, padding="same")(x))
    h = L.Conv2D(8, 3, padding="same")(h)
    h = L.Reshape((5, 5, 2, 2, 2))(h)
    h = L.Reshape((10, 10, 2))(L.Permute((1, 3, 2, 4, 5))(h))
    return keras.Model(x, L.Add()([h, L.UpSampling2D(2, interpolation="bilinear")(x)]))


def uint8_image() -> keras.Model:
    """Preprocessing in the graph: Rescaling, Normalization, CenterCrop, Resizing."""
    x = keras.Input((10, 10, 3), dtype="uint8", name="image")
    h = L.Rescaling(1 / 127.5, offset=-1.0)(x)
    h = L.Normalization(mean=[0.1, -0.1, 0.2], variance=[0.5, 0.7, 0.3])(h)
    h = L.Resizing(6, 6)(L.CenterCrop(8, 8)(h))
    h = L.Conv2D(4, 3, 2, "same", activation="relu")(h)
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(h)))


def norms() -> keras.Model:
    """Layer, group, instance, unit and RMS normalisation in one network."""
    x = keras.Input((6, 6, 4), name="image")
    h = L.GroupNormalization(2)(L.Conv2D(6, 3, padding="same")(x))
    h = L.GroupNormalization(-1)(L.Conv2D(6, 3, padding="same", activation="gelu")(h))
    h = L.LayerNormalization(axis=[1, 2])(L.Conv2D(4, 3, activation="silu")(h))
    h = L.Dense(6, "tanh")(L.LayerNormalization(axis=[1, 2, 3])(h))
    h = L.RMSNormalization()(L.Conv2D(5, 3, activation="mish")(h))
    return keras.Model(x, L.Dense(4)(L.UnitNormalization()(L.Flatten()(h))))


def application(name: str, size: int, **options: Any) -> keras.Model:
    """One of keras.applications without its weights, with 5 classes."""
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(size, size, 3), classes=5, classifier_activation=None, **options)
