"""The trained networks of models/ as PyTorch modules; needs torch and numpy, no training and no ONNX.

`load(name)` rebuilds a network in eval mode from models/NAME.state.npz. Every network has `logits(*inputs)`, the
tensor that is explained by default, and `forward(*inputs)`, what the ONNX file returns: the logits themselves, or what
a softmax or a sigmoid makes of them. The parameters of both are the graph inputs of the ONNX file, by name and order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

MODELS = Path(__file__).resolve().parent.parent / "models"


class ResidualBlock(nn.Module):
    """relu(x' + BN(conv(relu(BN(conv(x)))))), where x' is x, or its strided 1x1 projection if the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.bn2(self.conv2(y)))


class PreActivationBlock(nn.Module):
    """x + pointwise(relu(depthwise(relu(BN(x))))): its BN cannot be folded into a convolution; both have a bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pointwise(F.relu(self.depthwise(F.relu(self.bn(x)))))


class DigitsCNN(nn.Module):
    """Residual network on [N,1,16,16] images of digits, values 0..1; returns 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.block1 = ResidualBlock(16, 16)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.block2 = ResidualBlock(16, 32, stride=2)
        self.block3 = PreActivationBlock(32)
        self.head = nn.Linear(32, 10)

    def logits(self, image: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(image)))
        x = self.pool(self.block1(x))
        x = F.relu(self.block3(self.block2(x)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))

    def forward(self, image: Tensor) -> Tensor:
        return self.logits(image)


class TransformerBlock(nn.Module):
    """Pre-norm transformer block with GELU and multi-head scaled dot-product attention.

    `mask` is boolean, broadcastable to [N,heads,T,T], and true where a key may be attended to. With `explicit` the
    attention is written out as products and a softmax, for exporters that know no scaled_dot_product_attention; with
    `expand_mask` the mask has a row for each query, which the Attention operator of ONNX Runtime 1.31 asks for.
    """

    explicit = False
    expand_mask = False

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def attention(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if mask is not None and self.expand_mask:
            mask = mask.expand(-1, -1, length, -1)
        if self.explicit:
            scores = qkv[0] @ qkv[1].transpose(-2, -1) / (width // self.heads) ** 0.5
            if mask is not None:
                scores = scores.masked_fill(~mask, float("-inf"))
            y = torch.softmax(scores, dim=-1) @ qkv[2]
        else:
            y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=mask)
        return self.proj(y.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class DigitsViT(nn.Module):
    """Vision transformer on [N,1,16,16] images of digits: 16 patches of 4x4 and a class token; returns 10 logits."""

    def __init__(self, width: int = 48, heads: int = 4, blocks: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, stride=4)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, 2 * width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def logits(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])

    def forward(self, image: Tensor) -> Tensor:
        return self.logits(image)


class BreastCancerMLP(nn.Module):
    """Multi-layer perceptron on 30 raw features [N,30], standardised inside; returns 2 class probabilities."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(30))
        self.register_buffer("scale", torch.ones(30))
        self.layers = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))

    def logits(self, features: Tensor) -> Tensor:
        return self.layers((features - self.mean) / self.scale)

    def forward(self, features: Tensor) -> Tensor:
        return torch.softmax(self.logits(features), dim=-1)


class BreastCancerSklearn(nn.Module):
    """The scikit-learn Pipeline(StandardScaler, MLPClassifier) on 30 raw features [N,30]; one logit [N,1].

    The forward pass returns the probabilities [N,2] of both classes, as models/breast_cancer_sklearn.onnx does.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(30))
        self.register_buffer("scale", torch.ones(30))
        self.layers = nn.Sequential(nn.Linear(30, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 1))

    def logits(self, features: Tensor) -> Tensor:
        return self.layers((features - self.mean) / self.scale)

    def forward(self, features: Tensor) -> Tensor:
        positive = torch.sigmoid(self.logits(features))
        return torch.cat([1 - positive, positive], dim=1)


class GrammarText(nn.Module):
    """Text transformer on token ids [N,T], T <= 16, with an int64 attention mask [N,T] (1: word, 0: padding).

    Padding is no key of the attention and not in the mean over tokens; returns 3 logits.
    """

    def __init__(
        self, vocabulary: int = 52, width: int = 48, heads: int = 4, blocks: int = 2, longest: int = 16
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(1, longest, width) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, 2 * width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3)

    def logits(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.from_embeddings(self.words(token_ids), attention_mask)

    def from_embeddings(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        """The logits as a function of the word embeddings [N,T,width], for gradients with respect to them."""
        x = x + self.positions[:, : x.shape[1]]
        mask = attention_mask.to(torch.bool)[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        weight = attention_mask.to(x.dtype)[:, :, None]
        pooled = (self.norm(x) * weight).sum(dim=1) / weight.sum(dim=1)
        return self.head(pooled)

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.logits(token_ids, attention_mask)


NETWORKS: dict[str, type[nn.Module]] = {
    "digits_cnn": DigitsCNN,
    "digits_vit": DigitsViT,
    "breast_cancer_mlp": BreastCancerMLP,
    "breast_cancer_sklearn": BreastCancerSklearn,
    "grammar_text": GrammarText,
}

INPUT_NAMES: dict[str, list[str]] = {
    "digits_cnn": ["image"],
    "digits_vit": ["image"],
    "breast_cancer_mlp": ["features"],
    "breast_cancer_sklearn": ["features"],
    "grammar_text": ["token_ids", "attention_mask"],
}


def save_state(name: str, network: nn.Module) -> None:
    """Write the parameters and buffers of a network to models/NAME.state.npz, by their names in the module."""
    arrays = {key: value.detach().numpy() for key, value in network.state_dict().items()}
    np.savez(MODELS / f"{name}.state.npz", **arrays)


def load(name: str) -> nn.Module:
    """The trained network of that name, in eval mode, float32."""
    if name not in NETWORKS:
        raise ValueError(f"no network {name!r}; known: {', '.join(NETWORKS)}")
    with np.load(MODELS / f"{name}.state.npz") as state:
        tensors = {key: torch.from_numpy(state[key].copy()) for key in state.files}
    network = NETWORKS[name]()
    network.load_state_dict(tensors)
    return network.eval()


def test_inputs(name: str) -> dict[str, Tensor]:
    """The held-out inputs of models/NAME.npz as tensors, by graph input name and in the order of `forward`."""
    with np.load(MODELS / f"{name}.npz") as data:
        return {key: torch.from_numpy(data[key]) for key in INPUT_NAMES[name]}
