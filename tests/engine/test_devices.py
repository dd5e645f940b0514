"""Traces for a GPU use tensors on the GPU only. A fake device shows it, without a GPU."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from rn_rl.normalization import REGISTRY

# timesteps in which each function is traced and runs: DQN learns after 20, PPO after each 32
TIMESTEPS = {"dqn": 28, "ppo": 64, "ppo_lstm": 64}


@pytest.mark.slow
@pytest.mark.parametrize("algo", TIMESTEPS)
def test_traced_functions_create_tensors_on_the_device_of_their_inputs(algo: str, recording):
    """In a process of its own, since a device of PyTorch cannot be unregistered."""
    command = [sys.executable, __file__, algo, str(recording)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 3 * len(REGISTRY)  # traces


def main(algo: str, recording: str) -> None:
    """Train with each normalizer; run each function that is traced on a fake device first."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "agents" / "seed_batch"))
    import torch
    from test_cuda import SPECS, batch_of
    from torch._subclasses import FakeTensorMode
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    from rn_rl.engine.trace import TracedFunction, no_distribution_validation

    torch.set_num_threads(1)
    _setup_privateuseone_for_python_backend("elsewhere")
    count = 0

    def trace_on_fake_device_first(self, *tensors):
        nonlocal count
        count += 1
        with FakeTensorMode():  # no values, and no operation takes tensors of two devices
            inputs = [
                torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="elsewhere")
                for t in tensors
            ]
            run(*inputs, function=self.function)
        return lambda *tensors: run(*tensors, function=self.function)

    def run(*tensors, function):
        with torch.enable_grad(), no_distribution_validation(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            return function(*tensors)

    warnings.filterwarnings("ignore", "the gain of .* has no bound in DQN", UserWarning)
    warnings.filterwarnings("ignore", "nap: nap fixes the norm", UserWarning)

    TracedFunction._trace = trace_on_fake_device_first
    images = "MiniGrid-RedBlueDoors-6x6-v0"
    cases = [(spec, "CartPole-v1") for spec in SPECS] + [("none", images), ("ln+rn", images)]
    for spec, env_id in cases:
        if (algo, spec) == ("ppo_lstm", "yoked"):
            continue  # the recording has the gains of fewer layers
        spec = {"yoked": f"yoked({recording})", "hs": "hs(rate=0.1)"}.get(spec, spec)
        batch = batch_of(algo, spec, "cpu", env_id, double=False)
        batch.learn(TIMESTEPS[algo])
        if batch.stack.norms:
            batch.gains()
            batch.commit_kl()
        batch.predict(batch.last_observations)
    print(count)


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "builtin type .* has no __module__", DeprecationWarning)
    main(*sys.argv[1:])
