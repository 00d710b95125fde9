"""Train bridge-mini from scratch on the CPU; writes build/tokenizer.json and build/params.npz."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from corpus import VARIATIONS, Sampler
from model import BUILD_DIR, Params, format_message, forward, init_params, train_tokenizer
from tokenizers import Tokenizer

SEED = 20


@dataclass(frozen=True)
class Stage:
    """One part of the training: steps, learning rate (cosine from `rate`) and (conversations, tokens) of batches."""

    steps: int
    decay_steps: int
    rate: float
    shapes: tuple[tuple[int, int], ...]
    muon: bool = False  # orthogonalised updates for the matrices of the layers


# First the answers are learned, then, at lower rates, mostly which answer belongs to a question: many questions with
# the starts of their answers, next to long conversations.
MIXED_SHAPES = ((64, 56), (64, 56), (12, 256), (64, 56), (6, 512))
STAGES = (
    Stage(400, 750, 2.5e-3, ((40, 96), (40, 96), (12, 256))),
    Stage(100, 500, 2.0e-3, MIXED_SHAPES),
    Stage(200, 650, 9.0e-4, MIXED_SHAPES),
    Stage(300, 400, 6.0e-4, MIXED_SHAPES),
    Stage(450, 450, 1.2e-3, ((96, 40), (96, 40), (12, 256), (96, 40), (6, 512)), muon=True),
    Stage(400, 400, 1.0e-3, ((80, 48), (80, 48), (12, 256), (80, 48), (6, 512)), muon=True),
    Stage(360, 360, 8.0e-4, ((80, 48), (12, 256), (80, 48), (6, 512)), muon=True),
)
HEAD_TOKENS, HEAD_WEIGHT = 8, 8.0  # the first tokens of an answer choose the topic, so they weigh more


def tokenizer_texts() -> list[str]:
    """Return sampled questions, answers and system texts for the tokenizer."""
    sampler, texts = Sampler(SEED), list(VARIATIONS["system"])
    for _ in range(20000):
        _, question, answer = sampler.question()
        texts += [question, answer]
    return texts


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
    flat = {"embed": params["embed"], "norm": params["norm"]} | params["layers"]
    np.savez(BUILD_DIR / "params.npz", **{name: np.asarray(value) for name, value in flat.items()})


def load() -> Params:
    """Read back what `save` wrote."""
    with np.load(BUILD_DIR / "params.npz") as stored:
        flat = {name: jnp.asarray(stored[name]) for name in stored}
    return {"embed": flat.pop("embed"), "norm": flat.pop("norm"), "layers": flat}


def orthogonalise(gradient: jax.Array) -> jax.Array:
    """Bring the singular values of [..., out, in] matrices close together (Newton-Schulz), at the scale of Adam."""
    tall = gradient.shape[-2] > gradient.shape[-1]
    x = jnp.swapaxes(gradient, -1, -2) if tall else gradient
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-7)
    for _ in range(5):
        square = x @ jnp.swapaxes(x, -1, -2)
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (jnp.swapaxes(x, -1, -2) if tall else x) * 0.2 * max(gradient.shape[-2:]) ** 0.5


def muon(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Return Muon for the stacked layer matrices and Adam, at half the rate, for everything else."""

    def update(gradients: optax.Updates, _: Params | None = None) -> optax.Updates:
        return jax.tree.map(orthogonalise, gradients)

    matrices = optax.chain(
        optax.trace(0.95, nesterov=True), optax.stateless(update), optax.scale_by_learning_rate(schedule)
    )
    rest = optax.adam(lambda count: schedule(count) * 0.5, b2=0.98)
    labels = jax.tree.map(lambda leaf: "matrix" if leaf.ndim == 3 else "rest", init_params(0))
    return optax.multi_transform({"matrix": matrices, "rest": rest}, labels)


def make_step(stage: Stage, params: Params) -> tuple[Callable[..., tuple], optax.OptState]:
    """Return the compiled update function of a stage and its first optimizer state."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, stage.rate, 50, stage.decay_steps, stage.rate * 0.01)
    decay_mask = jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.05, mask=decay_mask)
    )
    optimizer = muon(schedule) if stage.muon else optimizer

    @jax.jit
    def step(params: Params, state: optax.OptState, tokens: jax.Array, weights: jax.Array) -> tuple:
        (_, means), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, tokens, weights)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, means

    return step, optimizer.init(params)


def train(number: int, params: Params, tokenizer: Tokenizer) -> Params:
    """Run stage `number` (from 0) and return the new parameters, which are saved as well."""
    stage = STAGES[number]
    step, state = make_step(stage, params)
    sampler, began, recent = Sampler(SEED + 1 + number), time.time(), []
    for i in range(stage.steps):
        shape = stage.shapes[i % len(stage.shapes)]
        params, state, means = step(params, state, *batch(sampler, tokenizer, shape))
        recent.append(np.asarray(means))
        if (i + 1) % 25 == 0:
            answer, first = np.mean(recent[-25:], axis=0)
            seconds = time.time() - began
            print(f"step {i + 1}: loss {answer:.4f}, first tokens {first:.4f}, {seconds:.0f} s", flush=True)
        if (i + 1) % 100 == 0:
            save(params)
    save(params)
    return params


def main() -> None:
    """Train the tokenizer and every stage, or the stages from a saved one on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from-stage", type=int, default=0, help="continue from build/ with this stage")
    first = parser.parse_args().from_stage
    BUILD_DIR.mkdir(exist_ok=True)
    if first == 0:
        train_tokenizer(tokenizer_texts()).save(str(BUILD_DIR / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(str(BUILD_DIR / "tokenizer.json"))
    params = init_params(SEED) if first == 0 else load()
    print("parameters:", sum(leaf.size for leaf in jax.tree.leaves(params)), flush=True)
    for number in range(first, len(STAGES)):
        params = train(number, params, tokenizer)


if __name__ == "__main__":
    main()
