"""Train bridge-mini from scratch on the CPU; writes build/tokenizer.json and build/params.npz."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from corpus import VARIATIONS, Sampler, load_intents
from model import BUILD_DIR, Params, format_message, forward, init_params, train_tokenizer
from tokenizers import Tokenizer

SEED = 20
STEPS, RATE = 2000, 2e-3  # the learning rate rises for 50 steps and then falls along a cosine
# (conversations, tokens) of the batches, in turn. Short rows hold many questions with the starts of their answers, from
# which the topics are learned; long rows hold whole answers and conversations.
SHORT_SHAPES = ((100, 40), (100, 40), (40, 96), (12, 256))
LONG_SHAPES = ((100, 40), (12, 256), (100, 40), (6, 512))
LONG_FROM = 0.5  # share of the steps after which the second list is used
HEAD_TOKENS, HEAD_WEIGHT = 8, 8.0  # the first tokens of an answer choose the topic, so they weigh more


def tokenizer_texts() -> list[str]:
    """Return many sampled questions, each answer once and the system texts: words of questions become whole tokens."""
    sampler = Sampler(SEED)
    questions = [sampler.question()[1] for _ in range(40000)]
    return questions + [intent.answer for intent in load_intents()] * 5 + list(VARIATIONS["system"])


def encode(sampler: Sampler, tokenizer: Tokenizer, length: int) -> tuple[list[int], list[float]]:
    """Return `length` token ids and their loss weights (0 outside the answers) of one conversation."""
    ids: list[int] = []
    weights: list[float] = []
    while len(ids) < length:
        for role, text, learn in sampler.conversation(1 + length // 128):
            whole = tokenizer.encode(format_message(role, text)).ids
            skip = len(tokenizer.encode(format_message(role, "").split("<|im_end|>")[0]).ids)
            ids += whole
            weights += [0.0] * skip
            answer = [HEAD_WEIGHT] * HEAD_TOKENS + [1.0] * len(whole)
            answer = [*answer[: len(whole) - skip - 1], 0.0]
            weights += answer if learn else [0.0] * (len(whole) - skip)
            if len(ids) >= length:
                break
    return ids[:length], weights[:length]


def batch(sampler: Sampler, tokenizer: Tokenizer, shape: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Return token ids and loss weights, both [conversations, tokens]."""
    rows = [encode(sampler, tokenizer, shape[1]) for _ in range(shape[0])]
    return jnp.asarray([row[0] for row in rows], jnp.int32), jnp.asarray([row[1] for row in rows], jnp.float32)


def loss_fn(params: Params, tokens: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the weighted mean cross-entropy, and (all, first) answer tokens' plain means, in nats per token."""
    logits = forward(params, tokens[:, :-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    weights = weights[:, 1:]
    means = [(losses * chosen).sum() / chosen.sum() for chosen in (weights > 0, weights > 1)]
    return (losses * weights).sum() / weights.sum(), jnp.stack(means)


def save(params: Params) -> None:
    """Write the parameters to build/params.npz."""
    flat = {name: value for name, value in params.items() if name != "layers"} | params["layers"]
    np.savez(BUILD_DIR / "params.npz", **{name: np.asarray(value) for name, value in flat.items()})


def make_step(params: Params) -> tuple[Callable[..., tuple], optax.OptState]:
    """Return the compiled update function and the first state of the optimizer."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, RATE, 50, STEPS, RATE * 0.005)
    decay_mask = jax.tree.map(lambda leaf: leaf.ndim == 3, params)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.05, mask=decay_mask)
    )

    @jax.jit
    def step(params: Params, state: optax.OptState, tokens: jax.Array, weights: jax.Array) -> tuple:
        (_, means), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, tokens, weights)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, means

    return step, optimizer.init(params)


def train() -> None:
    """Train the tokenizer and the model, and save both."""
    BUILD_DIR.mkdir(exist_ok=True)
    tokenizer = train_tokenizer(tokenizer_texts())
    tokenizer.save(str(BUILD_DIR / "tokenizer.json"))
    params = init_params(SEED)
    print("parameters:", sum(leaf.size for leaf in jax.tree.leaves(params)), flush=True)
    step, state = make_step(params)
    sampler, began, recent = Sampler(SEED + 1), time.time(), []
    for number in range(STEPS):
        shapes = SHORT_SHAPES if number < LONG_FROM * STEPS else LONG_SHAPES
        params, state, means = step(params, state, *batch(sampler, tokenizer, shapes[number % len(shapes)]))
        recent.append(np.asarray(means))
        if (number + 1) % 25 == 0:
            answer, first = np.mean(recent[-25:], axis=0)
            seconds = time.time() - began
            print(f"step {number + 1}: loss {answer:.4f}, first tokens {first:.4f}, {seconds:.0f} s", flush=True)
        if (number + 1) % 100 == 0:
            save(params)
    save(params)


if __name__ == "__main__":
    train()
