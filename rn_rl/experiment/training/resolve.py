"""From the options of a training to the full description of its run."""

from __future__ import annotations

from typing import Any

import torch

from rn_rl.agents.pqn import check_minibatch
from rn_rl.errors import UserError
from rn_rl.experiment.envs.checks import check_timeout
from rn_rl.experiment.envs.make import check_env_id, episode_limit
from rn_rl.experiment.runs.console import command_line
from rn_rl.experiment.runs.spec import RunSpec, check_observations, check_values
from rn_rl.experiment.runs.tracking import check_tracker
from rn_rl.experiment.settings.algorithms import ALGORITHMS, AlgorithmSpec, algorithm
from rn_rl.experiment.settings.hyperparameters import (
    check_given,
    merge_nested,
    parameters,
    parse_assignments,
    tuned,
)
from rn_rl.experiment.training.conf_file import (
    check_prefixes,
    for_algorithm,
    own_settings,
    searched_seeds,
    tuned_file,
)
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.normalization import canonical_spec, check_importable, check_recordings, origins
from rn_rl.normalization.plugins import is_importable
from rn_rl.policies.nets import net_of
from rn_rl.policies.spec_arguments import normalizer_specs


def usual_eval_freq(timesteps: int, episodes: int, longest: int | None) -> int:
    """Return the timesteps between evaluations: 20 of them, or fewer where the training is short.

    Evaluations together take no more timesteps than the training, but there is one at its end.

    Args:
        timesteps: length of the training.
        episodes: number of episodes of each evaluation.
        longest: most timesteps of an episode, if the environment says so.
    """
    most = 20 if longest is None else timesteps // max(episodes * longest, 1)
    return max(timesteps // min(max(most, 1), 20), 1)


def resolve(config: TrainConfig) -> RunSpec:
    """Check the options of a training and replace every missing one by its default.

    Nothing is written and no environment is made.

    Args:
        config: options of one seed's training; ``resume`` and ``seeds`` are not read.

    Returns:
        The description of the run, whose hyperparameters are the tuned ones with those of ``--set``
        and ``--env-kwargs`` in their place.

    Raises:
        UserError: an option has a value that cannot be used.
    """
    if config.algo is None:
        raise UserError(f"--algo is missing: one of {', '.join(ALGORITHMS)}")
    if config.env is None:
        raise UserError("--env is missing: such as CartPole-v1; 'rn-rl zoo' shows the tuned ones")
    algo = algorithm(config.algo)
    check_env_id(config.env)
    own: list[str] = []
    searched = range(0)
    source = config.conf_file
    if source is None:
        hyperparameters = tuned(algo, config.env, config.config)
    else:
        if config.config != "zoo":
            raise UserError(f"--config {config.config}: expected no --conf-file beside it")
        if source.is_dir():
            norm = canonical_spec(config.norm or algo.norm)
            source = tuned_file(source, algo, config.env, norm)
        hyperparameters = own_settings(source, algo, config.env)
        if source != config.conf_file:  # these are the normalizer's own
            own = sorted(hyperparameters.keys() - {"n_timesteps", "n_envs", "policy"})
        searched = searched_seeds(source, config.env)
    check_prefixes(config.set, [algo.name])
    given = parse_assignments(for_algorithm(config.set, algo.name), "--set")
    env_kwargs = parse_assignments(config.env_kwargs, "--env-kwargs")
    refuse_twice(config, given, env_kwargs)
    if env_kwargs:
        given = merge_nested(given, {"env_kwargs": env_kwargs})
    check_given(algo, given)
    own = [name for name in own if name not in given]
    hyperparameters = merge_nested(hyperparameters, given)
    if given.get("noise_std") is not None and hyperparameters.get("noise_type") is None:
        raise UserError(
            f"noise_std={given['noise_std']} without noise_type: add --set noise_type=normal"
        )
    policy_kwargs = hyperparameters.get("policy_kwargs") or {}
    if not isinstance(policy_kwargs, dict):
        raise UserError(f"--set policy_kwargs={policy_kwargs}: expected names and values")
    typed = given.get("policy_kwargs") or {}
    if "norm" in typed:
        raise UserError(
            f"--set policy_kwargs.norm={typed['norm']}: expected --norm {typed['norm']}"
        )
    listed = policy_kwargs.pop("norm", None)
    policy_kwargs = with_net(config, policy_kwargs, given)
    if policy_kwargs:
        hyperparameters["policy_kwargs"] = policy_kwargs
    network = net_of(policy_kwargs.get("net", "mlp"))
    default_norm = algo.norm if network.body is None else network.norm
    if source is not None and listed not in (None, algo.norm):  # the user's file says so
        default_norm = listed
    norm = canonical_spec(default_norm if config.norm is None else config.norm)
    for each in (norm, *normalizer_specs(policy_kwargs)):
        check_recordings(each)
        check_importable(each)
    default_timesteps = int(hyperparameters.pop("n_timesteps", 1e5))
    default_envs = int(hyperparameters.pop("n_envs", 1))
    timesteps = default_timesteps if config.timesteps is None else config.timesteps
    n_envs = default_envs if config.n_envs is None else config.n_envs
    eval_freq = config.eval_freq
    if eval_freq is None:
        longest = episode_limit(config.env, hyperparameters.get("env_kwargs"))
        eval_freq = usual_eval_freq(timesteps, config.eval_episodes, longest)
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {config.device}: torch sees no GPU here; use --device cpu")
    for name, value, least in (
        ("timesteps", timesteps, 1),
        ("n-envs", n_envs, 1),
        ("eval-freq", eval_freq, 0),
        ("eval-episodes", config.eval_episodes, 1),
        ("episodes", 1 if config.episodes is None else config.episodes, 1),
        ("seed", config.seed, 0),
        ("threads", config.threads, 1),
    ):
        if value < least:
            raise UserError(f"--{name} {value}: expected at least {least}")
    check_rollout(algo, hyperparameters, n_envs)
    check_timeout(config.step_timeout)
    check_tracker(config.track)
    if config.episodes is not None and not algo.replay:
        raise UserError(
            f"--episodes {config.episodes}: {algo.name} learns from rollouts; use --timesteps"
        )
    if config.episodes is not None and n_envs != 1:
        raise UserError(
            f"--episodes {config.episodes}: counts the episodes of one environment that a replay buffer "
            f"learns from, and {algo.name} has {n_envs}; use --timesteps"
        )
    spec = RunSpec(
        algo=algo.name,
        env=config.env,
        norm=norm,
        seed=config.seed,
        timesteps=timesteps,
        n_envs=n_envs,
        eval_freq=eval_freq,
        eval_episodes=config.eval_episodes,
        device=config.device,
        threads=config.threads,
        config=str(source or config.config),
        own=own,
        searched=[searched[0], searched[-1]] if searched else [],
        hyperparameters=hyperparameters,
        command=command_line(),
        started_from=str(config.from_agent) if config.from_agent else None,
        episodes=config.episodes,
        step_timeout=config.step_timeout,
        probe=config.probe,
        normalizers=origins_of(norm, policy_kwargs),
    )
    check_observations(spec)
    try:
        check_values(spec)
    except ValueError as error:
        raise UserError(str(error)) from None
    return spec


def refuse_twice(config: TrainConfig, given: dict[str, Any], env_kwargs: dict[str, Any]) -> None:
    """Raise :class:`UserError` if ``--set`` gives another value to what has an option of its own."""
    options = {
        "n_envs": ("--n-envs ", config.n_envs),
        "n_timesteps": ("--timesteps ", config.timesteps),
    }
    kwargs = given.get("env_kwargs")
    of_set = {**given}
    for name, value in kwargs.items() if isinstance(kwargs, dict) else ():
        of_set[f"env_kwargs.{name}"] = value
    for name, value in env_kwargs.items():
        options[f"env_kwargs.{name}"] = (f"--env-kwargs {name}=", value)
    for name, (option, value) in options.items():
        if name in of_set and value is not None and of_set[name] != value:
            raise UserError(
                f"{option}{value} and --set {name}={of_set[name]}: expected one of them"
            )


def check_rollout(algo: AlgorithmSpec, hyperparameters: dict[str, Any], n_envs: int) -> None:
    """Raise :class:`UserError` if a rollout of PQN has fewer rows than a minibatch.

    The agent itself refuses it when it learns, and then there is a run folder.
    """
    if algo.kind == "pqn":
        given = {**parameters(algo), **hyperparameters}
        check_minibatch(given["batch_size"], given["n_steps"], n_envs)


def with_net(
    config: TrainConfig, policy_kwargs: dict[str, Any], given: dict[str, Any]
) -> dict[str, Any]:
    """Add the network of ``--net`` to the arguments of the policy.

    Tuned sizes are those of SB3's layers, so another network gets its own, unless the user gave sizes.

    Args:
        config: options of the training.
        policy_kwargs: tuned arguments of the policy, and those of ``--set`` in their place.
        given: hyperparameters of ``--set``.
    """
    typed = given.get("policy_kwargs") or {}
    if config.net is not None:
        if typed.get("net", config.net) != config.net:
            raise UserError(
                f"--net {config.net} and --set policy_kwargs.net={typed['net']}: expected one of them"
            )
        policy_kwargs = {**policy_kwargs, "net": config.net}
    if policy_kwargs.get("net", "mlp") != "mlp" and "net_arch" not in typed:
        policy_kwargs.pop("net_arch", None)
    return policy_kwargs


def origins_of(norm: str, policy_kwargs: dict[str, Any]) -> dict[str, str]:
    """Return ``"module:Class"`` of the user's own normalizers that a run names.

    Raises:
        UserError: a class is in a script or a function, where no other process finds it.
    """
    specs = [norm, *normalizer_specs(policy_kwargs)]
    found = {name: origin for spec in specs for name, origin in origins(spec).items()}
    for name, origin in found.items():
        if not is_importable(origin):
            raise UserError(
                f"normalizer {name!r}: its class is {origin}, which no other process can import; move it "
                "to a module, and register it from there"
            )
    return found
