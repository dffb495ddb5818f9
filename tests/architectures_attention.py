"""Small faithful attention and mixer networks as torch modules: vision by hand, text from transformers' own configs."""

from __future__ import annotations

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Multi-head attention by torch's scaled_dot_product_attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))


class ViT(nn.Module):
    """Vision transformer: 4x4 patches, class token, two pre-norm blocks."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 17, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.attentions = nn.ModuleList(SelfAttention(width, 4) for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width)) for _ in range(2)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for i in range(2):
            x = x + self.attentions[i](self.norms[2 * i](x))
            x = x + self.mlps[i](self.norms[2 * i + 1](x))
        return self.head(self.norms[4](x)[:, 0])


class WindowAttention(nn.Module):
    """Swin's attention inside (shifted) windows: cyclic roll, partition, relative position bias, mask, reverse."""

    index: Tensor
    mask: Tensor

    def __init__(self, width: int, heads: int, side: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.side, self.window, self.shift = heads, side, window, shift
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        grid = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        apart = (grid[:, :, None] - grid[:, None, :]).permute(1, 2, 0) + window - 1
        self.register_buffer("index", apart[..., 0] * (2 * window - 1) + apart[..., 1])
        regions = torch.zeros(1, side, side, 1)
        parts = (slice(0, -window), slice(-window, -shift), slice(-shift, None)) if shift else ()
        for i, h in enumerate(parts):
            for j, w in enumerate(parts):
                regions[:, h, w] = 3 * i + j
        ids = self.partition(regions).squeeze(-1)
        self.register_buffer("mask", (ids[:, None, :] != ids[:, :, None]).float() * -100.0)

    def partition(self, x: Tensor) -> Tensor:
        n, s, w, c = x.shape[0], self.side // self.window, self.window, x.shape[-1]
        return x.view(n, s, w, s, w, c).transpose(2, 3).reshape(n * s * s, w * w, c)

    def forward(self, x: Tensor) -> Tensor:
        n, c, s, w = x.shape[0], x.shape[-1], self.side // self.window, self.window
        x = self.partition(torch.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x)
        q, k, v = self.qkv(x).reshape(-1, w * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.bias_table[self.index.view(-1)].view(w * w, w * w, -1).permute(2, 0, 1)
        a = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1) + bias
        if self.shift:
            a = a.view(n, s * s, self.heads, w * w, w * w) + self.mask[None, :, None]
            a = a.view(-1, self.heads, w * w, w * w)
        x = self.proj((a.softmax(-1) @ v).transpose(1, 2).reshape(-1, w * w, c))
        x = x.view(n, s, s, w, w, c).transpose(2, 3).reshape(n, self.side, self.side, c)
        return torch.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x


class SwinBlock(nn.Module):
    """x + attention(norm x), then x + mlp(norm x), channels last."""

    def __init__(self, width: int, side: int, shift: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = WindowAttention(width, 2, side, 4, shift)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Every 2x2 patches become one of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        quarters = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return self.reduce(self.norm(torch.cat(quarters, -1)))


class Swin(nn.Module):
    """Swin transformer: 8x8 patches of 32x32 images, plain and shifted windows, patch merging."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16)
        self.body = nn.Sequential(SwinBlock(16, 8, 0), SwinBlock(16, 8, 2), PatchMerging(16), SwinBlock(32, 4, 0))
        self.last, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patches(x).permute(0, 2, 3, 1))
        return self.head(self.last(self.body(x)).permute(0, 3, 1, 2).mean((2, 3)))


class Mixer(nn.Module):
    """MLP-Mixer: token mixing and channel mixing."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()

        def mlp(a: int) -> nn.Module:
            return nn.Sequential(nn.Linear(a, 2 * a), nn.GELU(approximate="tanh"), nn.Linear(2 * a, a))

        self.patches = nn.Conv2d(3, width, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.tokens, self.channels = (
            nn.ModuleList(mlp(16) for _ in range(2)),
            nn.ModuleList(mlp(width) for _ in range(2)),
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for i in range(2):
            x = x + self.tokens[i](self.norms[2 * i](x).transpose(1, 2)).transpose(1, 2)
            x = x + self.channels[i](self.norms[2 * i + 1](x))
        return self.head(self.norms[4](x).mean(1))


class Text(nn.Module):
    """A transformers model as logits(token_ids, attention_mask); `from_embeddings` takes word embeddings instead."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=token_ids, attention_mask=attention_mask, **self.options()).logits

    def embeddings(self, token_ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(token_ids)

    def from_embeddings(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(inputs_embeds=x, attention_mask=attention_mask, **self.options()).logits

    def options(self) -> dict[str, bool]:
        return {"use_cache": False} if self.model.config.model_type != "bert" else {}


def bert(attention: str) -> Text:
    """BERT with a classification head (pooler: Linear and Tanh on the first token)."""
    config = transformers.BertConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=32, num_labels=3, attn_implementation=attention,
    )  # fmt: skip
    return Text(transformers.BertForSequenceClassification(config))


def gpt2(attention: str) -> Text:
    """GPT-2 with its language-model head (tied to the word embedding)."""
    config = transformers.GPT2Config(
        vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=0,
        attn_implementation=attention,
    )  # fmt: skip
    return Text(transformers.GPT2LMHeadModel(config))


def llama(attention: str) -> Text:
    """Llama: rotary positions, RMSNorm, grouped-query attention, SwiGLU."""
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=32, attn_implementation=attention, attention_bias=True,
        mlp_bias=True,
    )  # fmt: skip
    return Text(transformers.LlamaForCausalLM(config))
