"""Blocks of a causal transformer over rows of different lengths, and a fast dropout for CPUs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Causal attention, then two layers for every place alone; each added to what came in."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_layers = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_qkv, self.from_heads = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.layers = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), Dropout(dropout), nn.Linear(4 * dim, dim))
        self.drop = Dropout(dropout)

    def forward(self, states: Tensor, events: Tensor | None, shape: torch.Size) -> Tensor:
        """(T, D) of the events (T,) of a flattened (B, L) -> (T, D); None: of every place."""
        qkv = self.to_qkv(self.before_attention(states))  # (T, 3 D)
        states = states + self.drop(self.from_heads(attended(qkv, events, shape, self.heads)))
        return states + self.drop(self.layers(self.before_layers(states)))


class GatedBlock(nn.Module):
    """A block of LiGR: x + σ(W x) ⊙ f(norm(x)), for attention, then for a SwiGLU layer of every place alone.

    Gated residuals of "From Features to Transformers: Redefining Ranking for Scalable Impact" (arXiv 2502.03417), in
    the form of eSASRec (arXiv 2508.06450): the gate reads x before it is normalised. SwiGLU, without biases, is
    W₂ (silu(W₁ x) ⊙ W₃ x) (Shazeer, "GLU Variants Improve Transformer", 2020), with a hidden width of 4 D.
    """

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_layers = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_qkv, self.from_heads = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.to_hidden, self.from_hidden = nn.Linear(dim, 8 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)
        self.attention_gate, self.layers_gate = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.drop = Dropout(dropout)

    def forward(self, states: Tensor, events: Tensor | None, shape: torch.Size) -> Tensor:
        """(T, D) of the events (T,) of a flattened (B, L) -> (T, D); None: of every place."""
        qkv = self.to_qkv(self.before_attention(states))  # (T, 3 D)
        mixed = self.drop(self.from_heads(attended(qkv, events, shape, self.heads)))  # (T, D)
        states = states + torch.sigmoid(self.attention_gate(states)) * mixed
        switch, value = self.to_hidden(self.before_layers(states)).chunk(2, 1)  # (T, 4 D) each
        layered = self.drop(self.from_hidden(self.drop(F.silu(switch) * value)))  # (T, D)
        return states + torch.sigmoid(self.layers_gate(states)) * layered


def attended(qkv: Tensor, events: Tensor | None, shape: torch.Size, heads: int) -> Tensor:
    """Causal attention, (T, 3 D) of the events (T,) of a flattened (B, L) -> (T, D); None: of every place."""
    padded, dim = qkv, qkv.shape[1] // 3
    if events is not None:
        padded = qkv.new_zeros(shape.numel(), 3 * dim).index_copy(0, events, qkv)  # (B L, 3 D)
    query, key, value = padded.view(*shape, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)  # (B, H, L, D / H) each
    # without dropout inside, CPUs too have a fused kernel for it
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)  # (B, H, L, D / H)
    flat = mixed.transpose(1, 2).reshape(len(padded), dim)  # (B L, D)
    return flat if events is None else flat[events]


class Dropout(nn.Module):
    """As torch's; on a CPU four times as fast, its rate rounded to 1 / 65536: 64 random bits serve four numbers."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; each number 0, or divided by the chance to stay."""
        if not self.training or not self.rate or x.device.type != "cpu":
            return F.dropout(x, self.rate, self.training)
        bits = torch.empty(x.numel() // 4 + 1, dtype=torch.long).random_(-(2**63), None)  # all 64 of them
        drawn = bits.view(torch.int16)[: x.numel()].view(x.shape)
        dropped = round(self.rate * 65536)
        return x * (drawn >= dropped - 32768) * (65536 / (65536 - dropped))
