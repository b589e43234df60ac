"""An encoder and a decoder that write all tokens of a target at once, as pure functions of their weights.

Attention as in Vaswani et al. (arXiv 1706.03762); the decoder asks for every token by a query of its own and sees no
token that it wrote (non-autoregressive, Gu et al., arXiv 1711.02281), so that one forward pass goes from the words to
all tokens, and one gradient back.

Shapes: B sentences, L places of a sentence and tokens of its target, d entries of a word's vector, W width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta.types import InputError, Params

WORD = 0.5  # the length from which a vector is read as a word, and not as padding


@dataclass(frozen=True)
class EncoderDecoder:
    """Embed sentences [B,L,d] as features of L target tokens each, one after another: [B*L, width].

    The encoder counts places from both ends, and lets words see one another in `depth` layers. The decoder's query of a
    token is learned for every length of a sentence; beside the words it may look at nothing, where a target ends. What
    is shorter than half of a word's vector is padding, so that nobody writes where a sentence has no word.
    """

    width: int = 64
    heads: int = 8
    depth: int = 1

    def __post_init__(self) -> None:
        for name, most in (("width", 1024), ("heads", 64), ("depth", 16)):
            if not 1 <= getattr(self, name) <= most:
                raise InputError(f"{name}: {getattr(self, name)} is not between 1 and {most}")
        if self.width % self.heads:
            raise InputError(f"heads: {self.heads} do not share a width of {self.width} equally")

    def parameters(self, shape: tuple[int, ...], rng: torch.Generator) -> Params:
        """Draw weights for inputs of `shape` (words, entries of a vector)."""
        self.features(shape)
        places, entries = shape

        def drawn(into: int, *out: int) -> Tensor:
            return torch.randn(into, *out, generator=rng) * into**-0.5

        weights = {"embed": drawn(entries, self.width)}
        weights |= {name: torch.randn(places, self.width, generator=rng) for name in ("from_start", "from_end")}
        for layer in range(self.depth):
            names = ("query", "key", "value", "out")
            weights |= {f"layer{layer}.{name}": drawn(self.width, self.width) for name in names}
            weights[f"layer{layer}.widen"] = drawn(self.width, 2 * self.width)
            weights[f"layer{layer}.narrow"] = drawn(2 * self.width, self.width)
        weights["tokens"] = torch.randn(places + 1, places, self.width, generator=rng)
        weights |= {f"decoder.{name}": drawn(self.width, self.width) for name in ("key", "value")}
        return weights | {f"nothing.{name}": torch.randn(self.width, generator=rng) for name in ("key", "value")}

    def features(self, shape: tuple[int, ...]) -> int:
        """Count the features of one token."""
        if len(shape) != 2:
            raise InputError(f"network: encoder-decoder takes word vectors (words, entries), not {shape}")
        return self.width

    def labels(self, shape: tuple[int, ...]) -> int:
        """Count the tokens that are written for one input: as many as a sentence has places."""
        return shape[0]

    def __call__(self, weights: Params, x: Tensor, norm: Any) -> Tensor:
        return self._run(weights, x)

    def freeze(self, weights: Params, norm: Params) -> Callable[[Tensor], Tensor]:
        """Return the embedding by constant weights; there are no statistics."""
        return partial(self._run, {name: value.detach() for name, value in weights.items()})

    def _run(self, weights: Params, x: Tensor) -> Tensor:
        word = x.norm(dim=-1) >= WORD  # [B,L]
        h = self._encode(weights, x * word.unsqueeze(-1), word)
        # The last key is of nothing, which is always there.
        none_key, none_value = (weights[f"nothing.{name}"].expand(len(x), 1, -1) for name in ("key", "value"))
        keys = torch.cat([h @ weights["decoder.key"], none_key], dim=1)
        values = torch.cat([h @ weights["decoder.value"], none_value], dim=1)
        seen = torch.cat([word, torch.ones_like(word[:, :1])], dim=1)
        found = self._attend(weights["tokens"][word.sum(dim=1)], keys, values, seen)
        return found.flatten(0, 1)

    def _encode(self, weights: Params, x: Tensor, word: Tensor) -> Tensor:
        """Return the states of the words of x [B,L,d]: [B,L,W]."""
        places = torch.arange(x.shape[1], device=x.device)
        behind = (word.sum(dim=1, keepdim=True) - 1 - places).clamp_min(0)
        h = x @ weights["embed"] + weights["from_start"] + weights["from_end"][behind]
        for layer in range(self.depth):
            of = {name: weights[f"layer{layer}.{name}"] for name in ("query", "key", "value", "out", "widen", "narrow")}
            scaled = _scaled(h)
            q, k, v = (scaled @ of[name] for name in ("query", "key", "value"))
            h = h + self._attend(q, k, v, word) @ of["out"]
            h = h + F.relu(_scaled(h) @ of["widen"]) @ of["narrow"]
        return _scaled(h)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        """Let queries [B,n,W] look at what is `seen` [B,m] of values [B,m,W], each head at its share: [B,n,W]."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (queries, keys, values))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        # A finite floor: where nothing is seen, as in a sentence of padding alone, -inf would give NaN.
        weight = scores.masked_fill(~seen[:, None, None, :], -1e9).softmax(dim=-1)
        return (weight @ v).transpose(1, 2).flatten(2)


def _scaled(h: Tensor) -> Tensor:
    """Scale every row of h to a mean square of 1 (Zhang and Sennrich, arXiv 1910.07467, without their gain)."""
    return h * (h.square().mean(dim=-1, keepdim=True) + 1e-6).rsqrt()
