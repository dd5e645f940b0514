"""What networks are asked about once."""

import numpy as np

from rn_rl.engine.dedup.cache import InferenceCache


def test_each_observation_is_asked_about_once_until_the_networks_change():
    asked = []

    def ask(observations: np.ndarray) -> tuple[np.ndarray, ...]:
        asked.append(observations)
        x = observations.astype(float)
        return factor * x.sum(2), x

    factor = 1
    memo = InferenceCache(ask, seeds=3, capacity=100)
    rng = np.random.default_rng(0)
    for _ in range(30):
        x = rng.integers(0, 3, (3, 5, 2)).astype(np.uint8)
        first, second = memo(x)
        assert np.array_equal(first, x.sum(2)) and np.array_equal(second, x)
    assert sum(map(len, memo.numbers)) == 27
    assert {each.shape[1] for each in asked} <= {1, 2, 4, 8}
    many = len(asked)
    memo(x)
    assert len(asked) == many
    factor = 2
    memo.clear()
    assert np.array_equal(memo(x)[0], 2 * x.sum(2)) and len(asked) == many + 1


def test_seeds_do_not_answer_for_each_other():
    memo = InferenceCache(
        lambda x: (np.broadcast_to([[0], [1]], x.shape[:2]),), seeds=2, capacity=10
    )
    same = np.zeros((2, 4, 1), np.uint8)
    assert np.array_equal(memo(same)[0], [[0] * 4, [1] * 4])
    other = np.stack([same[0], same[1] + 1])  # new to one alone
    assert np.array_equal(memo(other)[0], [[0] * 4, [1] * 4])
