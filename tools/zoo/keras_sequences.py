"""Keras networks on sequences, tokens and tables. Each function returns a keras.Model."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers as L
from keras import ops

Tensor = Any
LENGTH, TOKENS = 6, 20


def recurrent(*layers: Any, features: int = 4, mask: bool = False) -> keras.Model:
    """Recurrent layers on a sequence of vectors, then Dense."""
    x = keras.Input((LENGTH, features), name="signal")
    h = L.Masking()(x) if mask else x
    for layer in layers:
        h = layer(h)
    return keras.Model(x, L.Dense(3)(h))


def lstm() -> keras.Model:
    return recurrent(L.LSTM(5, return_sequences=True), L.LSTM(4))


def lstm_activations() -> keras.Model:
    return recurrent(L.LSTM(5, activation="relu", recurrent_activation="hard_sigmoid", go_backwards=True))


def lstm_unrolled() -> keras.Model:
    return recurrent(L.LSTM(4, unroll=True))


def lstm_masked() -> keras.Model:
    return recurrent(L.LSTM(4, return_sequences=True), L.LSTM(4), mask=True)


def gru() -> keras.Model:
    return recurrent(L.GRU(5, return_sequences=True), L.GRU(4))


def gru_reset_before() -> keras.Model:
    return recurrent(L.GRU(5, reset_after=False))


def gru_any_length() -> keras.Model:
    """A length that only the run tells."""
    x = keras.Input((None, 4), name="signal")
    return keras.Model(x, L.Dense(3)(L.GRU(4)(x)))


def gru_unrolled() -> keras.Model:
    return recurrent(L.GRU(4, unroll=True))


def simple_rnn() -> keras.Model:
    return recurrent(L.SimpleRNN(5, return_sequences=True), L.SimpleRNN(4, activation="relu"))


def bidirectional() -> keras.Model:
    return recurrent(L.Bidirectional(L.LSTM(3, return_sequences=True)), L.Bidirectional(L.GRU(4), merge_mode="sum"))


def stacked_cells() -> keras.Model:
    return recurrent(L.RNN([L.LSTMCell(4), L.GRUCell(3)]))


def seq2seq() -> keras.Model:
    """Encoder states into a decoder, attention over the encoder's outputs."""
    source = keras.Input((LENGTH, 3), name="source")
    started = keras.Input((4, 2), name="started")
    encoded, h, c = L.LSTM(4, return_sequences=True, return_state=True)(source)
    decoded = L.LSTM(4, return_sequences=True)(started, initial_state=[h, c])
    context = L.Attention()([decoded, encoded])
    return keras.Model([source, started], L.TimeDistributed(L.Dense(5))(L.Concatenate()([decoded, context])))


def conv_lstm() -> keras.Model:
    x = keras.Input((3, 5, 5, 2), name="video")
    h = L.ConvLSTM2D(3, 3, padding="same", return_sequences=True)(x)
    h = L.ConvLSTM2D(2, 3, strides=2)(h)
    return keras.Model(x, L.Dense(3)(L.Flatten()(h)))


def time_distributed() -> keras.Model:
    x = keras.Input((3, 6, 6, 2), name="video")
    h = L.TimeDistributed(L.Conv2D(4, 3, activation="relu"))(x)
    h = L.TimeDistributed(L.GlobalMaxPooling2D())(L.TimeDistributed(L.BatchNormalization())(h))
    return keras.Model(x, L.Dense(3)(L.GRU(4)(h)))


def embedded(length: int = LENGTH, mask: bool = False, dtype: str = "int32") -> tuple[Tensor, Tensor]:
    tokens = keras.Input((length,), dtype=dtype, name="tokens")
    return tokens, L.Embedding(TOKENS, 8, mask_zero=mask, name="words")(tokens)


def text_lstm() -> keras.Model:
    """mask_zero: padding tokens leave the state as it is."""
    tokens, h = embedded(mask=True)
    h = L.Bidirectional(L.LSTM(4))(h)
    return keras.Model(tokens, L.Dense(3)(h))


def text_float_ids() -> keras.Model:
    """Keras' default: ids come as floats, and are cast."""
    tokens, h = embedded(mask=True, dtype="float32")
    return keras.Model(tokens, L.Dense(3)(L.GlobalAveragePooling1D()(L.Dense(6, "swish")(h))))


def text_cnn() -> keras.Model:
    tokens, h = embedded(9)
    h = L.Concatenate()([L.GlobalMaxPooling1D()(L.Conv1D(4, k, activation="relu")(h)) for k in (2, 3, 4)])
    return keras.Model(tokens, L.Dense(1, name="logit")(h))


def encoder_layer(h: Tensor, first: bool, **options: Any) -> Tensor:
    """A transformer layer, norm first or last."""
    width = h.shape[-1]
    if first:
        n = L.LayerNormalization()(h)
        h = L.Add()([h, L.MultiHeadAttention(2, 4)(n, n, **options)])
        n = L.LayerNormalization()(h)
        return L.Add()([h, L.Dense(width)(L.Dense(2 * width, "gelu")(n))])
    h = L.LayerNormalization()(h + L.MultiHeadAttention(2, 4)(h, h, **options))
    return L.LayerNormalization()(h + L.Dense(width)(L.Dense(2 * width, "relu")(h)))


def positions(h: Tensor) -> Tensor:
    places = L.Embedding(h.shape[1], h.shape[2], name="places")(ops.arange(h.shape[1]))
    return h + places


def text_transformer() -> keras.Model:
    """Masked mean over tokens; padding is masked in attention."""
    tokens, h = embedded(mask=True)
    h = encoder_layer(positions(h), first=False)
    h = encoder_layer(h, first=True)
    return keras.Model(tokens, L.Dense(3)(L.GlobalAveragePooling1D()(h)))


def language_model() -> keras.Model:
    """Causal attention; logits for every token."""
    tokens, h = embedded()
    h = encoder_layer(positions(h), first=True, use_causal_mask=True)
    return keras.Model(tokens, L.Dense(TOKENS)(L.LayerNormalization()(h)))


def vit() -> keras.Model:
    """Patches by a strided convolution, attention, mean over the tokens."""
    x = keras.Input((8, 8, 3), name="image")
    h = L.Reshape((16, 8))(L.Conv2D(8, 2, 2)(x))
    h = encoder_layer(encoder_layer(positions(h), first=True), first=True)
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling1D()(L.LayerNormalization()(h))))


def attentions() -> keras.Model:
    """Cross attention, grouped queries, additive attention, dot-product attention with scores."""
    a = keras.Input((5, 8), name="query")
    b = keras.Input((7, 8), name="memory")
    h = L.MultiHeadAttention(2, 3, value_dim=5)(a, b)
    g = L.GroupQueryAttention(4, 4, 2)(a, b)
    d = L.Attention(use_scale=True)([L.Dense(8)(a), L.Dense(8)(b)])
    e = L.AdditiveAttention()([L.Dense(8)(a), L.Dense(8)(b)])
    return keras.Model([a, b], L.Dense(4)(L.GlobalMaxPooling1D()(L.Average()([h, g, d, e]))))


def two_tower() -> keras.Model:
    """The cosine of two embeddings, scaled."""
    user, item = keras.Input((6,), name="user"), keras.Input((5, 5, 2), name="item")
    u = L.Dense(8)(L.Dense(10, "relu")(user))
    i = L.Dense(8)(L.GlobalAveragePooling2D()(L.Conv2D(6, 3, activation="relu")(item)))
    return keras.Model([user, item], L.Dense(1)(L.Dot(1, normalize=True)([u, i])))


def multi_input() -> keras.Model:
    """An image, a table and a category in one network, two outputs."""
    image, table = keras.Input((6, 6, 2), name="image"), keras.Input((5,), name="table")
    category = keras.Input((1,), dtype="int32", name="category")
    h = L.GlobalMaxPooling2D()(L.Conv2D(4, 3, activation="relu")(image))
    t = L.BatchNormalization()(L.Dense(6, "elu")(L.Normalization(mean=0.2, variance=1.5)(table)))
    c = L.Flatten()(L.Embedding(TOKENS, 4, name="words")(category))
    h = L.Dense(8, "relu")(L.Concatenate()([h, t, c]))
    return keras.Model([image, table, category], [L.Dense(3, name="kind")(h), L.Dense(1, name="price")(h)])


def wide_and_deep() -> keras.Model:
    """A table: one-hot categories beside a residual MLP with gates."""
    x, place = keras.Input((7,), name="table"), keras.Input((1,), dtype="int32", name="place")
    wide = L.CategoryEncoding(TOKENS, output_mode="one_hot")(place)
    h = L.Dense(8, "relu")(x)
    h = L.Add()([h, L.Multiply()([L.Dense(8, "sigmoid")(h), L.Dense(8, "softsign")(h)])])
    h = L.Concatenate()([L.Maximum()([h, L.Dense(8)(x)]), L.Minimum()([h, L.Dense(8)(x)]), L.Subtract()([h, h * h])])
    return keras.Model([x, place], L.Activation("sigmoid", name="tail")(L.Dense(1)(L.Concatenate()([h, wide]))))


def autoregressive_flow() -> keras.Model:
    """Reshape, Permute, RepeatVector, Dot of two matrices, EinsumDense."""
    x = keras.Input((4, 6), name="table")
    h = L.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3), bias_axes="de")(x)
    h = L.Reshape((4, 6))(L.Permute((1, 3, 2))(h))
    s = L.Dot(axes=(2, 2))([h, x])
    r = L.RepeatVector(4)(L.Dense(5, "relu")(L.Flatten()(s)))
    return keras.Model(x, L.Dense(3)(L.Flatten()(L.Concatenate()([L.Softmax()(s), r]))))


ACTIVATIONS = (
    "relu relu6 leaky_relu elu selu gelu silu mish softplus softsign tanh sigmoid hard_sigmoid hard_silu hard_tanh "
    "tanh_shrink soft_shrink hard_shrink squareplus sparse_plus sparse_sigmoid exponential log_sigmoid glu "
    "softmax log_softmax"
).split()


def activations() -> keras.Model:
    """Every activation behind a Dense layer of its own, summed; PReLU and an approximate GELU too."""
    x = keras.Input((5,), name="table")
    parts = []
    for name in ACTIVATIONS:
        function = getattr(keras.activations, name)
        h = L.Dense(6, name=f"before_{name}")(x)
        h = function(h) if name == "glu" else L.Activation(function)(h)  # GLU halves its input
        parts.append(L.Dense(4, name=f"after_{name}")(h))
    parts.append(L.Dense(4)(L.PReLU()(L.Dense(6)(x))))
    parts.append(L.Dense(4)(keras.activations.gelu(L.Dense(6)(x), approximate=True)))
    parts.append(L.Dense(4)(L.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.3)(L.Dense(6)(x))))
    return keras.Model(x, L.Add()(parts))
