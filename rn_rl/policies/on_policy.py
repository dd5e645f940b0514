"""Policy classes with normalizers for PPO, A2C, TRPO, MaskablePPO and RecurrentPPO."""

from __future__ import annotations

from typing import Any

import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import Tensor, nn

from rn_rl.normalization import make_normalizers, observation_weights, parse_spec
from rn_rl.policies.layers import Hidden, normalized
from rn_rl.policies.norm_policy import NormPolicyMixin


class NormHeadsMixin(NormPolicyMixin):
    """Put normalizers into every hidden layer of actor and critic after the trunk."""

    mlp_extractor: MlpExtractor

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()  # type: ignore[misc]
        heads = self.mlp_extractor
        depth = sum(isinstance(layer, nn.Linear) for layer in heads.policy_net)
        heads.policy_net = normalized(heads.policy_net, self.norm)
        heads.value_net = normalized(heads.value_net, self.norm, first=depth)


class NormActorCriticPolicy(NormHeadsMixin, ActorCriticPolicy):
    """SB3's ``ActorCriticPolicy`` with normalizers in every hidden layer of actor and critic.

    As in SB3, actor and critic share the trunk (``share_features_extractor``) and have separate
    hidden layers (``net_arch``). For PPO, A2C and TRPO.
    """


class NormMaskableActorCriticPolicy(NormHeadsMixin, MaskableActorCriticPolicy):
    """sb3-contrib's ``MaskableActorCriticPolicy``, normalized like :class:`NormActorCriticPolicy`."""


class NormRecurrentActorCriticPolicy(NormPolicyMixin, RecurrentActorCriticPolicy):
    """sb3-contrib's ``RecurrentActorCriticPolicy`` with normalized recurrent features.

    Normalizers are placed after the LSTM of actor and critic and in every hidden layer that follows.

    RecurrentPPO pads sequences to one length with rows of zeros. Normalizers do not observe them: rows
    at the end of a sequence whose observation, action and episode start are all zero count as padding.
    If a real sequence ends in such rows, they are missing from the statistics and from nothing else.
    """

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        heads, width = self.mlp_extractor, self.lstm_output_dim
        # weight and spectral normalization apply to linear layers, so only to those that follow
        acting = [str(term) for term in parse_spec(self.norm) if term.row.factory is not None]
        depth = 1 + sum(isinstance(layer, nn.Linear) for layer in heads.policy_net)
        for name, first in (("policy_net", 0), ("value_net", depth)):
            after_lstm = make_normalizers("+".join(acting) or "none", width, index=first)
            layers = normalized(getattr(heads, name), self.norm, first=first + 1)
            setattr(heads, name, Hidden(*after_lstm, *layers).to(self.device))

    def evaluate_actions(  # type: ignore[override]
        self, obs: Tensor, actions: Tensor, lstm_states: RNNStates, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        n_seq = lstm_states.pi[0].shape[1]
        with observation_weights(self, real_rows(obs, actions, episode_starts, n_seq)):
            return super().evaluate_actions(obs, actions, lstm_states, episode_starts)


def real_rows(obs: Any, actions: Tensor, episode_starts: Tensor, n_seq: int) -> Tensor:
    """Mask of real rows of padded sequences: 1 up to the last row that is not all zero, then 0.

    Args:
        obs: ``(rows, ...)``, or a dict of such; ``rows = n_seq * length``, sequence by sequence.
        actions: ``(rows, ...)``.
        episode_starts: ``(rows,)``.
        n_seq: number of sequences.

    Returns:
        ``(rows,)``, float64.
    """
    parts = [*(obs.values() if isinstance(obs, dict) else [obs]), actions, episode_starts]
    rows = len(episode_starts)
    nonzero = torch.stack([(part.reshape(rows, -1) != 0).any(1) for part in parts]).any(0)
    from_here_on = nonzero.reshape(n_seq, -1).flip(1).cummax(1).values.flip(1)
    from_here_on[:, 0] = True  # a sequence has at least one row
    return from_here_on.reshape(-1).to(torch.float64)
