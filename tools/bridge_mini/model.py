"""Shape, tokenizer, chat format and forward pass of bridge-mini (Llama architecture, in JAX)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

BUILD_DIR = Path(__file__).parent / "build"
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
Params = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """Sizes of the network: about 2.2 million parameters."""

    vocab: int = 2048
    dim: int = 160
    layers: int = 5
    heads: int = 5
    hidden: int = 448
    context: int = 2048
    rope_base: float = 10000.0
    eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.heads


SHAPE = Shape()


def words(text: str) -> list[str]:
    """Cut `text` where the script changes and hiragana after three letters, so that tokens do not grow to phrases."""
    return re.findall(r"[ァ-ヺー]+|[一-鿿々]{1,3}|[ぁ-ゖ]{1,3}|[^ァ-ヺー一-鿿々ぁ-ゖ]+", text)


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Train the byte-level BPE on the words of `texts`; ids 0-2 are the padding, start and end tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE.vocab,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in (PAD, START, END)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((word for text in texts for word in words(text)), trainer)
    return tokenizer


def format_message(role: str, text: str) -> str:
    """Return one message in the ChatML form that the chat template of the GGUF file also writes."""
    return f"{START}{role}\n{text.strip()}{END}\n"


def init_params(seed: int) -> Params:
    """Return random float32 parameters; matrices are stored as [out, in], layers stacked in front."""
    rng = np.random.default_rng(seed)
    dim, hidden, layers = SHAPE.dim, SHAPE.hidden, SHAPE.layers

    def matrix(out: int, inner: int, scale: float = 1.0) -> jax.Array:
        return jnp.asarray(rng.normal(0, scale * inner**-0.5, (layers, out, inner)), jnp.float32)

    residual = (2 * layers) ** -0.5
    return {
        # Large input embeddings: steps of the optimizer then change a word's features only a little at a time.
        "embed": jnp.asarray(rng.normal(0, 1.0, (SHAPE.vocab, dim)), jnp.float32),
        "output": jnp.asarray(rng.normal(0, 0.05, (SHAPE.vocab, dim)), jnp.float32),
        "norm": jnp.ones(dim),
        "layers": {
            "attn_norm": jnp.ones((layers, dim)),
            "attn_q": matrix(dim, dim),
            "attn_k": matrix(dim, dim),
            "attn_v": matrix(dim, dim),
            "attn_output": matrix(dim, dim, residual),
            "ffn_norm": jnp.ones((layers, dim)),
            "ffn_gate": matrix(hidden, dim),
            "ffn_up": matrix(hidden, dim),
            "ffn_down": matrix(dim, hidden, residual),
        },
    }


def rms_norm(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Scale the last axis of `x` to unit root mean square."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + SHAPE.eps) * weight


def rotate(x: jax.Array) -> jax.Array:
    """Apply rotary positions to [batch, time, heads, head_dim] with interleaved pairs (0,1), (2,3), ..."""
    half = SHAPE.head_dim // 2
    angle = jnp.arange(x.shape[1])[:, None] * SHAPE.rope_base ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[None, :, None], jnp.sin(angle)[None, :, None]
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack((even * cos - odd * sin, even * sin + odd * cos), -1).reshape(x.shape)


def block(x: jax.Array, layer: Params, mask: jax.Array) -> jax.Array:
    """One transformer layer on [batch, time, dim]; `mask` is [time, time], 0 or -inf-like."""
    batch, time, dim = x.shape
    y = rms_norm(x, layer["attn_norm"])
    split = (batch, time, SHAPE.heads, SHAPE.head_dim)
    q = rotate((y @ layer["attn_q"].T).reshape(split))
    k = rotate((y @ layer["attn_k"].T).reshape(split))
    v = (y @ layer["attn_v"].T).reshape(split)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * SHAPE.head_dim**-0.5 + mask
    y = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v).reshape(batch, time, dim)
    x = x + y @ layer["attn_output"].T
    y = rms_norm(x, layer["ffn_norm"])
    return x + (jax.nn.silu(y @ layer["ffn_gate"].T) * (y @ layer["ffn_up"].T)) @ layer["ffn_down"].T


def forward(params: Params, tokens: jax.Array) -> jax.Array:
    """Return logits [batch, time, vocab] for token ids [batch, time]."""
    time = tokens.shape[1]
    mask = jnp.where(jnp.tril(jnp.ones((time, time), bool)), 0.0, -1e9)
    x = params["embed"][tokens]
    for i in range(SHAPE.layers):
        x = block(x, {name: value[i] for name, value in params["layers"].items()}, mask)
    return rms_norm(x, params["norm"]) @ params["output"].T
