"""DQN and PPO of many seeds on CartPole, written in JAX: the opponent of ``python -m benchmarks peers``.

Everything is one compiled function, environments included, as in purejaxrl (Lu et al., 2022): batched
matrices of all seeds, a replay memory that is written in place, and ``lax`` loops without Python in
between. It needs ``jax`` and nothing of this project:

    python jax_peer.py '{"algo": "dqn", "seeds": 50, ...}'

reads a number of cycles from each line of its input, trains for so many, and prints the seconds it took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

jax.config.update("jax_default_prng_impl", "rbg")  # faster on a CPU than threefry

TIME_LIMIT = 500
EPS = {"dqn": 1e-8, "ppo": 1e-5}
"""Adam's epsilon in SB3."""


def reset(key: Any, shape: tuple[int, ...]) -> Any:
    """Return states of new episodes, ``(*shape, 4)``."""
    return jax.random.uniform(key, (*shape, 4), minval=-0.05, maxval=0.05)


def step(state: Any, age: Any, action: Any, key: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Take a step of gymnasium's CartPole-v1, and begin a new episode where one ends.

    Returns:
        The next states and ages, the states that the actions led to, where an episode terminated, and
        where it ended.
    """
    x, v, angle, w = jnp.moveaxis(state, -1, 0)
    force = jnp.where(action == 1, 10.0, -10.0)
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    push = (force + 0.05 * w**2 * sin) / 1.1
    turn = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    pull = push - 0.05 * turn * cos / 1.1
    following = jnp.stack([x + 0.02 * v, v + 0.02 * pull, angle + 0.02 * w, w + 0.02 * turn], -1)
    limit = 12 * 2 * jnp.pi / 360
    terminated = (jnp.abs(following[..., 0]) > 2.4) | (jnp.abs(following[..., 2]) > limit)
    done = terminated | (age + 1 >= TIME_LIMIT)
    now = jnp.where(done[..., None], reset(key, done.shape), following)
    return now, jnp.where(done, 0, age + 1), following, terminated, done


def network(key: Any, seeds: int, widths: list[int], last: float) -> list[dict[str, Any]]:
    """Return the weights of all seeds' networks, ``(seeds, inputs, outputs)`` for each layer."""
    layers = []
    for i, (n, m) in enumerate(pairwise(widths)):
        key, own = jax.random.split(key)
        scale = last if i == len(widths) - 2 else 1.0
        weight = scale * jax.random.normal(own, (seeds, n, m)) / jnp.sqrt(n)
        layers.append({"w": weight, "b": jnp.zeros((seeds, 1, m))})
    return layers


def apply(layers: list[dict[str, Any]], x: Any, activation: Callable[[Any], Any]) -> Any:
    """Return the outputs of all seeds' networks, ``(seeds, rows, outputs)``."""
    for layer in layers[:-1]:
        x = activation(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]


def adam(weights: Any, grads: Any, moments: Any, count: Any, rate: Any, eps: float) -> Any:
    """Return new weights and moments after a step of Adam; ``count`` is the number of steps so far."""
    m, v = moments
    m = jax.tree.map(lambda a, g: 0.9 * a + 0.1 * g, m, grads)
    v = jax.tree.map(lambda a, g: 0.999 * a + 0.001 * g * g, v, grads)
    first, second = 1 - 0.9 ** (count + 1), jnp.sqrt(1 - 0.999 ** (count + 1))
    moved = jax.tree.map(
        lambda p, a, b: p - rate / first * a / (jnp.sqrt(b) / second + eps), weights, m, v
    )
    return moved, (m, v)


def clipped(grads: Any, most: float) -> Any:
    """Clip the norm of each seed's gradient."""
    squares = [jnp.sum(g * g, axis=(1, 2), keepdims=True) for g in jax.tree.leaves(grads)]
    norm = jnp.sqrt(sum(squares))
    factor = jnp.minimum(most / (norm + 1e-6), 1.0)
    return jax.tree.map(lambda g: g * factor, grads)


def dqn(given: dict[str, Any]) -> tuple[Any, Callable[[Any, int], Any]]:
    """Return the first state of DQN, and a function that trains for a number of cycles."""
    seeds, size, batch = given["seeds"], given["buffer_size"], given["batch_size"]
    key, of_net, of_env = jax.random.split(jax.random.key(0), 3)
    weights = network(of_net, seeds, [4, *given["net_arch"], 2], 1.0)
    zeros = jax.tree.map(jnp.zeros_like, weights)
    memory = {
        "x": jnp.zeros((size, seeds, 4)),
        "y": jnp.zeros((size, seeds, 4)),
        "a": jnp.zeros((size, seeds), jnp.int32),
        "ended": jnp.zeros((size, seeds)),
    }
    start = {
        "key": key,
        "weights": weights,
        "target": weights,
        "moments": (zeros, zeros),
        "updates": jnp.int32(0),
        "t": jnp.int32(0),
        "state": reset(of_env, (seeds,)),
        "age": jnp.zeros(seeds, jnp.int32),
        "memory": memory,
    }

    def act(carry: dict[str, Any], _: Any) -> tuple[dict[str, Any], None]:
        key, choice, chance, again = jax.random.split(carry["key"], 4)
        q = apply(carry["weights"], carry["state"][:, None], jax.nn.relu)[:, 0]
        share = jnp.minimum(carry["t"] / given["exploration_steps"], 1.0)
        epsilon = 1 + share * (given["final_eps"] - 1)
        explores = jax.random.uniform(chance, (seeds,)) < epsilon
        action = jnp.where(explores, jax.random.randint(choice, (seeds,), 0, 2), q.argmax(-1))
        now, age, following, ended, _ = step(carry["state"], carry["age"], action, again)
        at = carry["t"] % size
        new = {"x": carry["state"], "y": following, "a": action, "ended": ended}
        memory = {k: m.at[at].set(new[k].astype(m.dtype)) for k, m in carry["memory"].items()}
        carry = {**carry, "key": key, "state": now, "age": age, "memory": memory}
        return {**carry, "t": carry["t"] + 1}, None

    def update(carry: dict[str, Any], _: Any) -> tuple[dict[str, Any], None]:
        key, own = jax.random.split(carry["key"])
        rows = jax.random.randint(own, (batch, seeds), 0, jnp.minimum(carry["t"], size))
        columns = jnp.arange(seeds)
        x, y, a, ended = (
            jnp.moveaxis(carry["memory"][k][rows, columns], 1, 0) for k in ("x", "y", "a", "ended")
        )
        future = apply(carry["target"], y, jax.nn.relu).max(-1)
        goal = 1.0 + given["gamma"] * (1 - ended) * future

        def loss(weights: Any) -> Any:
            q = jnp.take_along_axis(apply(weights, x, jax.nn.relu), a[..., None], 2)[..., 0]
            error = jnp.abs(q - goal)
            huber = jnp.where(error < 1, 0.5 * error**2, error - 0.5)
            return huber.mean(1).sum()

        grads = clipped(jax.grad(loss)(carry["weights"]), given["max_grad_norm"])
        weights, moments = adam(
            carry["weights"], grads, carry["moments"], carry["updates"], given["rate"], EPS["dqn"]
        )
        changed = {"key": key, "weights": weights, "moments": moments}
        return {**carry, **changed, "updates": carry["updates"] + 1}, None

    def cycle(_: Any, carry: dict[str, Any]) -> dict[str, Any]:
        carry, _ = lax.scan(act, carry, None, given["train_freq"])
        carry, _ = lax.scan(update, carry, None, given["gradient_steps"])
        tau = given["tau"]
        target = jax.tree.map(
            lambda a, b: (1 - tau) * a + tau * b, carry["target"], carry["weights"]
        )
        return {**carry, "target": target}

    return start, jax.jit(lambda c, cycles: lax.fori_loop(0, cycles, cycle, c), donate_argnums=0)


def ppo(given: dict[str, Any]) -> tuple[Any, Callable[[Any, int], Any]]:
    """Return the first state of PPO, and a function that trains for a number of cycles."""
    seeds, envs, steps = given["seeds"], given["n_envs"], given["n_steps"]
    rows, batch = envs * steps, given["batch_size"]
    key, of_actor, of_critic, of_env = jax.random.split(jax.random.key(0), 4)
    widths = [4, *given["net_arch"]]
    weights = {
        "actor": network(of_actor, seeds, [*widths, 2], 0.01),
        "critic": network(of_critic, seeds, [*widths, 1], 1.0),
    }
    zeros = jax.tree.map(jnp.zeros_like, weights)
    start = {
        "key": key,
        "weights": weights,
        "moments": (zeros, zeros),
        "updates": jnp.int32(0),
        "state": reset(of_env, (seeds, envs)),
        "age": jnp.zeros((seeds, envs), jnp.int32),
    }
    value = partial(apply, activation=jnp.tanh)

    def act(carry: dict[str, Any], _: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        key, choice, again = jax.random.split(carry["key"], 3)
        x, nets = carry["state"], carry["weights"]
        log_probs = jax.nn.log_softmax(value(nets["actor"], x))
        action = jax.random.categorical(choice, log_probs)
        now, age, following, ended, done = step(x, carry["age"], action, again)
        timeouts = done & ~ended
        cut = lax.cond(  # values of what time limits cut off, where there are any
            timeouts.any(),
            lambda: value(nets["critic"], following)[..., 0] * timeouts,
            lambda: jnp.zeros(done.shape),
        )
        seen = {
            "x": x,
            "a": action,
            "old": jnp.take_along_axis(log_probs, action[..., None], 2)[..., 0],
            "v": value(nets["critic"], x)[..., 0],
            "r": 1.0 + given["gamma"] * cut,
            "going": 1.0 - done,
        }
        return {**carry, "key": key, "state": now, "age": age}, seen

    def advantage(carry: tuple[Any, Any], seen: dict[str, Any]) -> tuple[tuple[Any, Any], Any]:
        later, following = carry
        delta = seen["r"] + given["gamma"] * seen["going"] * following - seen["v"]
        later = delta + given["gamma"] * given["gae_lambda"] * seen["going"] * later
        return (later, seen["v"]), later

    def update(carry: dict[str, Any], where: Any) -> tuple[dict[str, Any], None]:
        x, a, old, gains, returns = (
            jnp.take_along_axis(d, where[..., None] if d.ndim == 3 else where, 1)
            for d in carry["data"]
        )
        gains = (gains - gains.mean(1, keepdims=True)) / (
            gains.std(1, keepdims=True, ddof=1) + 1e-8
        )

        def loss(nets: Any) -> Any:
            log_probs = jax.nn.log_softmax(value(nets["actor"], x))
            ratio = jnp.exp(jnp.take_along_axis(log_probs, a[..., None], 2)[..., 0] - old)
            clip = given["clip_range"]
            policy = jnp.minimum(gains * ratio, gains * jnp.clip(ratio, 1 - clip, 1 + clip))
            error = (value(nets["critic"], x)[..., 0] - returns) ** 2
            return (given["vf_coef"] * error - policy).mean(1).sum()

        grads = clipped(jax.grad(loss)(carry["weights"]), given["max_grad_norm"])
        weights, moments = adam(
            carry["weights"], grads, carry["moments"], carry["updates"], given["rate"], EPS["ppo"]
        )
        changed = {"weights": weights, "moments": moments, "updates": carry["updates"] + 1}
        return {**carry, **changed}, None

    def cycle(_: Any, carry: dict[str, Any]) -> dict[str, Any]:
        carry, seen = lax.scan(act, carry, None, steps)
        last = value(carry["weights"]["critic"], carry["state"])[..., 0]
        _, gains = lax.scan(advantage, (jnp.zeros_like(last), last), seen, reverse=True)
        parts = (seen["x"], seen["a"], seen["old"], gains, gains + seen["v"])
        data = [jnp.moveaxis(d, 0, 1).reshape(seeds, rows, *d.shape[3:]) for d in parts]
        key, own = jax.random.split(carry["key"])
        epochs = (given["n_epochs"], seeds, rows)
        order = jnp.argsort(jax.random.uniform(own, epochs), -1)
        order = order.reshape(given["n_epochs"], seeds, rows // batch, batch)
        order = jnp.moveaxis(order, 2, 1).reshape(-1, seeds, batch)
        trained, _ = lax.scan(update, {**carry, "data": data}, order)
        del trained["data"]
        return {**trained, "key": key}

    return start, jax.jit(lambda c, cycles: lax.fori_loop(0, cycles, cycle, c), donate_argnums=0)


def main() -> None:
    """Train as the standard input says."""
    given = json.loads(sys.argv[1])
    state, train = {"dqn": dqn, "ppo": ppo}[given["algo"]](given)
    state = jax.tree.map(jnp.array, state)  # copies, since buffers are given away
    for line in sys.stdin:
        begin = time.perf_counter()
        state = jax.block_until_ready(train(state, int(line)))
        longest = float(state["age"].max())
        print(json.dumps([time.perf_counter() - begin, longest]), flush=True)


if __name__ == "__main__":
    main()
