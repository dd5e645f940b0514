"""A policy's deterministic actions as a module of tensors alone, for ``torch.export`` and ONNX."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from rn_rl.errors import UserError


class DeterministicPolicy(nn.Module):
    """Maps observations to the actions of ``model.predict(..., deterministic=True)``.

    It has no probability distribution, whose checks ``torch.export`` cannot follow, and no NumPy. The
    state of the normalizers is that of the last commit, as constants of the exported program.

    Args:
        policy: policy of an agent of SB3 or sb3-contrib, with normalizers or without. It is put in
            evaluation mode, which commits what its normalizers have pending.

    Shape:
        Observations as the policy takes them, ``(batch, ...)``, images with channels first, or a dict of
        these, to actions ``(batch, ...)``. Box actions are within their bounds.

    Raises:
        UserError: the policy is recurrent, so that its actions depend on a state.

    Example:
        >>> import stable_baselines3 as sb3
        >>> model = sb3.PPO("MlpPolicy", "CartPole-v1")
        >>> program = torch.export.export(DeterministicPolicy(model.policy), (torch.zeros(1, 4),))
        >>> program.module()(torch.zeros(1, 4)).shape
        torch.Size([1])
    """

    low: Tensor
    high: Tensor

    def __init__(self, policy: BasePolicy) -> None:
        super().__init__()
        if isinstance(policy, RecurrentActorCriticPolicy):
            raise UserError(
                f"{type(policy).__name__} has a recurrent state; expected a policy whose actions depend "
                "on the observation alone"
            )
        policy.set_training_mode(False)
        self.policy = policy
        space = policy.action_space
        if isinstance(space, spaces.Box):
            for name in ("low", "high"):
                bound = torch.as_tensor(getattr(space, name), device=policy.device)
                self.register_buffer(name, bound)
        self.eval()

    def forward(self, observation: Any) -> Tensor:
        space: Any = self.policy.action_space
        return self.within_bounds(self.outputs(observation).reshape(-1, *space.shape))

    def outputs(self, observation: Any) -> Tensor:
        """Return the actions as the policy stores them, of any shape."""
        policy: Any = self.policy
        space = policy.action_space
        if not hasattr(policy, "mlp_extractor"):
            actor: Any = getattr(policy, "actor", None)
            if hasattr(actor, "get_action_dist_params"):  # SAC and its kin
                mean, *_ = actor.get_action_dist_params(observation)
                squashed: Tensor = mean.tanh()
                return squashed
            found: Tensor = policy._predict(observation, deterministic=True)
            return found
        features: Any = policy.extract_features(observation, policy.pi_features_extractor)
        outputs: Tensor = policy.action_net(policy.mlp_extractor.forward_actor(features))
        if isinstance(space, spaces.Discrete):
            return outputs.argmax(1)
        if isinstance(space, spaces.MultiDiscrete):
            choices = outputs.split(space.nvec.flatten().tolist(), 1)
            return torch.stack([part.argmax(1) for part in choices], 1)
        if isinstance(space, spaces.MultiBinary):
            return (outputs > 0).to(torch.float32)
        return outputs.tanh() if policy.squash_output else outputs

    def within_bounds(self, actions: Tensor) -> Tensor:
        """Return Box actions in the range of the environment, and others as they are."""
        if not isinstance(self.policy.action_space, spaces.Box):
            return actions
        if self.policy.squash_output:
            return self.low + 0.5 * (actions + 1) * (self.high - self.low)
        return actions.clamp(self.low, self.high)
