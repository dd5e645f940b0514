"""Functions of one recurrent actor-critic policy, and how its minibatches are cut into sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rn_rl.engine.ops.lstm import lstm_sequences
from rn_rl.policies.normalized_lstm import NormalizedLSTM, normalized_sequences


def lstm_inputs(policy: Any, observations: Tensor) -> list[Tensor]:
    """Compute the part of an LSTM's gates that depends on the observation alone, ``(rows, ...)`` each.

    That is ``W_ih @ features + b_ih + b_hh``: it is the same whatever came before, so it can be computed
    for all steps at once, deduplicated and cached.

    Returns:
        One tensor for the actor's LSTM; a second one for the critic: the same of its LSTM, or the
        output of its linear layer if it has none. No second one if actor and critic share an LSTM.
    """
    features = policy.extract_features(observations)
    actor_features, critic_features = (
        (features, features) if policy.share_features_extractor else (features[0], features[1])
    )
    lstms = [(policy.lstm_actor, actor_features)]
    if policy.lstm_critic is not None:
        lstms.append((policy.lstm_critic, critic_features))
    inputs = [F.linear(x, m.weight_ih_l0, m.bias_ih_l0 + m.bias_hh_l0) for m, x in lstms]
    if policy.lstm_critic is None and not policy.shared_lstm:
        inputs.append(policy.critic(critic_features))
    return inputs


def latents(
    policy: Any, inputs: Sequence[Tensor], state: Tensor, keep: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply the LSTMs to sequences, and then the hidden layers of actor and critic.

    Args:
        policy: sb3-contrib's ``RecurrentActorCriticPolicy`` of one seed.
        inputs: :func:`lstm_inputs` of the rows of the sequences, one sequence after the other.
        state: LSTM state before the first step, ``(sequences, size)``: h and c of the actor's LSTM, then
            of the critic's if it has its own.
        keep: 0 where an episode begins and the state is reset, 1 elsewhere, ``(sequences, steps)``.

    Returns:
        Latents of the actor and of the critic, ``(sequences * steps, width)``; and the state after the
        last step.
    """
    lstms = [m for m in (policy.lstm_actor, policy.lstm_critic) if m is not None]
    hidden, cell = state.unflatten(1, (len(lstms), 2, -1)).permute(2, 1, 0, 3).unbind()
    by_sequence = torch.stack(list(inputs[: len(lstms)])).unflatten(1, keep.shape)
    if isinstance(lstms[0], NormalizedLSTM):
        found = [
            normalized_sequences(lstm, x, h, c, keep)
            for lstm, x, h, c in zip(lstms, by_sequence, hidden, cell, strict=True)
        ]
        states, cell = (torch.stack(parts) for parts in zip(*found, strict=True))
    else:
        states, cell = lstm_sequences(lstms, by_sequence, hidden, cell, keep)
    after = torch.stack((states[:, :, -1], cell), 1).permute(2, 0, 1, 3).flatten(1)
    latent_pi, *latent_vf = states.flatten(1, 2)
    if policy.shared_lstm:
        latent_vf = [latent_pi.detach()]
    elif not latent_vf:
        latent_vf = [inputs[1]]
    heads = policy.mlp_extractor
    return heads.forward_actor(latent_pi), heads.forward_critic(*latent_vf), after


def sequence_positions(
    begin: np.ndarray, count: int, steps: int, total: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut rows of a rollout, taken from ``begin`` on and round its end, where an environment begins.

    Args:
        begin: first row, ``(seeds, 1)``.
        count: number of rows.
        steps: number of rows of each environment; one environment follows the other.
        total: number of rows of the rollout.

    Returns:
        For each row the number of its sequence, its step within that, and its row in the rollout,
        ``(seeds, count)`` each.
    """
    offsets = np.arange(count)
    row = (begin + offsets) % total
    new = row % steps == 0
    new[:, 0] = True
    first = np.maximum.accumulate(np.where(new, offsets, 0), 1)
    return new.cumsum(1) - 1, offsets - first, row
