"""Deprecated name of :mod:`rn_rl.agents.seed_batch.recurrent_ppo`."""

from rn_rl.agents._moved import forward

_POLICY = "rn_rl.agents.seed_batch.recurrent_policy"

__getattr__ = forward(
    __name__,
    "rn_rl.agents.seed_batch.recurrent_ppo",
    {
        "inputs_of": f"{_POLICY}:lstm_inputs",
        "latents": f"{_POLICY}:latents",
        "sequences": f"{_POLICY}:sequence_positions",
    },
)
