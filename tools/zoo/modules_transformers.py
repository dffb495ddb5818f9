"""Networks of the transformers library, from configurations, as exporters take them: tensors in, Z first out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from torch import nn

from zoo.torch_module import module

TINY = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 20, "num_labels": 3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
IMAGE = {
    "image_size": 16,
    "patch_size": 8,
    "num_channels": 3,
    "num_labels": 3,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


def made(model: str, config: Mapping[str, Any]) -> nn.Module:
    """A model of the library; ``attn_implementation`` belongs to the configuration, None takes a size away."""
    kind = getattr(transformers, model)
    config = {k: v for k, v in config.items() if v is not None}
    made: nn.Module = kind(kind.config_class(**config))
    return made


def encoder(model: str, config: Mapping[str, Any], eager: bool = False) -> nn.Module:
    """Token ids and a mask of padding to logits."""
    net = made(model, {**TINY, **config, **({"attn_implementation": "eager"} if eager else {})})
    return module(lambda m, ids, mask: m.net(ids, attention_mask=mask).logits, net=net, tables=net.get_input_embeddings)


def decoder(model: str, config: Mapping[str, Any], eager: bool = False) -> nn.Module:
    """Token ids and a mask to logits of every token, without a cache."""
    net = made(model, {**TINY, "use_cache": False, **config, **({"attn_implementation": "eager"} if eager else {})})
    return module(
        lambda m, ids, mask: m.net(ids, attention_mask=mask, use_cache=False).logits,
        net=net,
        tables=net.get_input_embeddings,
    )


def stateful(model: str, config: Mapping[str, Any]) -> nn.Module:
    """The same for models that know no cache."""
    net = made(model, {**TINY, **config})
    return module(lambda m, ids: m.net(ids).logits, net=net, tables=net.get_input_embeddings)


def seq2seq(model: str, config: Mapping[str, Any], eager: bool = False) -> nn.Module:
    """Source and target tokens to logits."""
    sizes = {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
        "vocab_size": 60,
        "max_position_embeddings": 20,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
        "use_cache": False,
    }
    net = made(model, {**sizes, **config, **({"attn_implementation": "eager"} if eager else {})})
    return module(
        lambda m, ids, words: m.net(ids, decoder_input_ids=words, use_cache=False).logits,
        net=net,
        tables=net.get_input_embeddings,
    )


def vision(model: str, config: Mapping[str, Any], output: str = "logits", plain: bool = False) -> nn.Module:
    """Pixels to an output of that name. ``plain``: the configuration as given, without the sizes of a tiny ViT."""
    net = made(model, config if plain else {**IMAGE, **config})
    return module(lambda m, pixels: getattr(m.net(pixel_values=pixels), output), net=net)


def audio(model: str, config: Mapping[str, Any], output: str = "logits") -> nn.Module:
    """A waveform or features to an output of that name."""
    net = made(model, config)
    return module(lambda m, sound: getattr(m.net(sound), output), net=net)


def speech_encoder(model: str, config: Mapping[str, Any]) -> nn.Module:
    """Whisper's encoder on mel features."""
    net = made(model, config).get_encoder()
    return module(lambda m, mel: m.net(mel).last_hidden_state, net=net)


def series(model: str, config: Mapping[str, Any], output: str) -> nn.Module:
    """Past values of several channels to a forecast."""
    net = made(model, config)
    return module(lambda m, past: getattr(m.net(past_values=past), output), net=net)


def pair(model: str, text: Mapping[str, Any], vision: Mapping[str, Any]) -> nn.Module:
    """Pixels and tokens, a tower each, to the similarities of all pairs."""
    net = made(model, {"text_config": {**TINY, **text}, "vision_config": {**IMAGE, **vision}, "projection_dim": 8})
    return module(
        lambda m, pixels, ids: m.net(input_ids=ids, pixel_values=pixels).logits_per_image,
        net=net,
        tables=net.text_model.get_input_embeddings,
    )
