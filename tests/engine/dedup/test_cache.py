"""Cached outputs of networks."""

import numpy as np

from rn_rl.engine.dedup.cache import InferenceCache


def test_each_observation_is_computed_once_until_the_cache_is_cleared():
    calls = []

    def infer(observations: np.ndarray) -> tuple[np.ndarray, ...]:
        calls.append(observations)
        x = observations.astype(float)
        return factor * x.sum(2), x

    factor = 1
    cache = InferenceCache(infer, seeds=3, capacity=100)
    rng = np.random.default_rng(0)
    for _ in range(30):
        x = rng.integers(0, 3, (3, 5, 2)).astype(np.uint8)
        first, second = cache(x)
        assert np.array_equal(first, x.sum(2)) and np.array_equal(second, x)
    assert sum(map(len, cache.slots)) == 27
    assert {each.shape[1] for each in calls} <= {1, 2, 4, 8}
    before = len(calls)
    cache(x)
    assert len(calls) == before
    factor = 2
    cache.clear()
    assert np.array_equal(cache(x)[0], 2 * x.sum(2)) and len(calls) == before + 1


def test_seeds_share_no_entries():
    cache = InferenceCache(
        lambda x: (np.broadcast_to([[0], [1]], x.shape[:2]),), seeds=2, capacity=10
    )
    same = np.zeros((2, 4, 1), np.uint8)
    assert np.array_equal(cache(same)[0], [[0] * 4, [1] * 4])
    other = np.stack([same[0], same[1] + 1])  # new for one seed only
    assert np.array_equal(cache(other)[0], [[0] * 4, [1] * 4])
