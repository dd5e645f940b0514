"""The paper's tasks, the arms of every study, and the questions asked of them, decided beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from rn_rl.errors import UserError
from rn_rl.normalization import canonical_spec

PUBLISHED = ("none", "ln", "rn-paper", "rln-paper", "ln+rn-paper")
"""What the paper compares, by its own arithmetic."""

YOKED = "ln+yoked"
"""Stands for the gains of another seed of ``ln+rn``, which is trained first."""

RECORDED_SEED = 1_000_000
"""Of that one: none of those compared, and the same however many there are."""

RATES = ("1e-4", "3e-4", "1e-3", "3e-3", "1e-2")
"""Learning rates of the grid; the protocol's is 1e-3."""

QUICK = ("none", "ln", "rn", "ln+rn", "logt")


@dataclass(frozen=True)
class Protocol:
    """One of the paper's three tasks."""

    algo: str
    recurrent: str | None
    """The same algorithm with memory, if the task needs some."""
    env: str
    timesteps: int
    quick: int
    """Timesteps of --quick."""
    seeds: int
    """By default."""
    phase: int
    """Timesteps from one commit to the next."""
    half_life: int
    """In phases, of the arm that forgets: well within a run."""
    ramp: int
    """Phases over which the linear ramp rises, well within a run too."""
    about: str
    """What else belongs to a line about it."""
    episodes: int | None = None
    """Training episodes of a run; None: it has ``timesteps``."""
    quick_episodes: int | None = None
    """The same of --quick."""
    huber: tuple[int, int] | None = None
    """Timesteps of a run, and of a quick one, with SB3's DQN as it is; None: the same algorithm."""

    @property
    def ramped(self) -> str:
        """The linear ramp, after LayerNorm."""
        return f"ln+{self.plain_ramp}"

    @property
    def plain_ramp(self) -> str:
        """The same by itself."""
        return f"ramp(5, {self.ramp})"

    def with_memory(self) -> Protocol:
        """The same task with an LSTM.

        Raises:
            UserError: it needs no memory.
        """
        if self.recurrent is None:
            raise UserError(f"--recurrent: {self.env} needs no memory; expected redbluedoors")
        return replace(self, algo=self.recurrent, about=", with memory (an LSTM)")

    def with_huber(self) -> Protocol:
        """Return the same task with SB3's DQN: Huber loss, clipped gradients, a number of timesteps.

        Raises:
            UserError: the task is not trained with DQN.
        """
        if self.huber is None:
            raise UserError(
                f"--huber: {self.env} is trained by {self.algo}; expected cartpole or lunarlander"
            )
        timesteps, quick = self.huber
        about = f"{self.about}, SB3's Huber loss, clipped gradients and linear epsilon"
        return replace(
            self,
            algo="dqn",
            timesteps=timesteps,
            quick=quick,
            episodes=None,
            quick_episodes=None,
            about=about,
        )


PROTOCOLS = {
    "cartpole": Protocol(
        algo="rndqn", recurrent=None, env="CartPole-v1", timesteps=1_000_000, quick=20_000, seeds=50,
        phase=4, half_life=2000, ramp=5000, about="", episodes=2000, quick_episodes=300,
        huber=(60_000, 20_000),
    ),
    "lunarlander": Protocol(
        algo="rndqn", recurrent=None, env="LunarLander-v3", timesteps=200_000, quick=40_000, seeds=50,
        phase=4, half_life=2000, ramp=5000, about=", episodes cut at 100 steps", episodes=2000,
        quick_episodes=400, huber=(200_000, 40_000),
    ),
    "redbluedoors": Protocol(
        algo="ppo", recurrent="ppo_lstm", env="MiniGrid-RedBlueDoors-6x6-v0", timesteps=1_000_000,
        quick=20_480, seeds=10, phase=2048, half_life=50, ramp=125, about=", without memory",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """A row of the table: a normalizer and what else differs from the protocol."""

    name: str
    norm: str
    set: tuple[str, ...] = ()
    """Hyperparameters as name=value."""
    later: tuple[str, ...] = ()
    """More of them, for every run but the first."""


@dataclass(frozen=True)
class Study:
    """Arms, and pairs (arm, what it is compared with); p values are corrected for all pairs."""

    title: str
    arms: tuple[Arm, ...]
    questions: tuple[tuple[str, str], ...]
    drawn: tuple[str, ...] = ()
    """Arms whose learning curves are drawn; all of them without."""
    make: Callable[[str], Arm] = lambda norm: Arm(norm, norm)
    """An arm of a normalizer that is not among them."""


def find_arm(study: Study, text: str) -> Arm:
    """One of a study's arms by its name, however that is spelled, or another normalizer.

    Raises:
        UserError: it is neither.
    """
    for arm in study.arms:
        if arm.name == text:
            return arm
    wanted = canonical_spec(text)
    for arm in study.arms:
        if arm.name == arm.norm != YOKED and canonical_spec(arm.norm) == wanted:
            return arm
    return study.make(text)


def plain(*norms: str) -> tuple[Arm, ...]:
    """Normalizers under the protocol as it is."""
    return tuple(Arm(norm, norm) for norm in norms)


def paper_and_controls(protocol: Protocol) -> Study:
    """The paper's arms, ours, and the controls that the paper lacks."""
    ours = ("rn", "rln", "rsn", "ln+rn", f"ln+rn(half_life={protocol.half_life})")
    controls = ("logt", "ln+logt", protocol.ramped, "ln+gain(5)", YOKED)
    # without LayerNorm too: decided on after the others had been seen on LunarLander
    later: tuple[str, ...] = ("gain(5)", protocol.plain_ramp)
    equal_scale: tuple[tuple[str, str], ...] = ()
    if protocol.episodes is not None:
        equal_scale = (("gain(2.236)", "ln+gain(5)"), ("gain(5)", "ln+gain(25)"))
        # equal output scale of two layers: gain(5) has 25 = ln+gain(25), gain(2.236) has 5 = ln+gain(5)
        later += ("gain(2.236)", "ln+gain(25)", f"ln+ramp(25, {protocol.ramp})")
    # only RNDQN has the paper's loss, clipping and length of runs
    names = {"dqn": "SB3's DQN", "rndqn": "the paper's protocol"}
    protocol_name = names.get(protocol.algo, "PPO in the paper's configuration")
    return Study(
        f"{protocol_name}, with controls",
        plain(*PUBLISHED, *ours, *controls, *later),
        (
            *((arm, "none") for arm in (*PUBLISHED[1:], *ours, *controls, *later)),
            ("rn", "logt"),
            ("ln+rn", "ln"),
            ("ln+rn", "ln+logt"),
            ("ln+rn", YOKED),
            (protocol.ramped, "ln+rn"),
            ("rn", "gain(5)"),
            (protocol.plain_ramp, "rn"),
            *equal_scale,
        ),
        drawn=("none", "ln", "rn", "logt", "ln+rn", "ln+logt", protocol.ramped, *later),
    )


def learning_rates(protocol: Protocol) -> Study:
    """A learning-rate grid: is what a rising gain does what another learning rate does?"""
    gains = ("ln+rn", protocol.ramped)
    grid = [(norm, rate) for norm in ("none", "ln") for rate in RATES]
    # decided on after the others had been seen on both tasks
    later = [("rn", rate) for rate in RATES]
    return Study(
        "a grid of learning rates",
        tuple(
            Arm(f"{norm} at {rate}", norm, (f"learning_rate={rate}",))
            for norm, rate in (*grid, *later)
        )
        + plain(*gains),
        (
            *((gain, f"{norm} at {rate}") for gain in gains for norm, rate in grid),
            *((f"{norm} at {rate}", f"none at {rate}") for norm, rate in later),
        ),
        drawn=(*(f"{norm} at {rate}" for norm, rate in grid if rate in RATES[2:]), *gains),
    )


def warm_up(protocol: Protocol) -> Study:
    """A learning rate that rises as the ramp's gain does, from 0.1 to 5 times the protocol's."""
    share = protocol.ramp * protocol.phase / protocol.timesteps
    reached = 1e-4 + 4.9e-3 / max(share, 1.0)  # a short run ends before the ramp does
    share = min(share, 1.0)
    rising = (f"learning_rate=lin_1e-4_{reached:.4g}_{share:.4g}",)
    arms = (
        *plain("none", "ln", "ln+rn", protocol.ramped),
        *(Arm(f"{norm} with warm-up", norm, rising) for norm in ("none", "ln")),
    )
    return Study(
        f"a learning rate that rises from 1e-4 to {reached:.2g} over {100 * share:.3g}% of the run",
        arms,
        (
            ("none with warm-up", "none"),
            ("ln with warm-up", "ln"),
            (protocol.ramped, "ln with warm-up"),
            ("ln+rn", "ln with warm-up"),
        ),
    )


def as_published(protocol: Protocol) -> Study:
    """The paper's arms with what is known to confound them.

    Epsilon is never reset after the first run, so that all others explore at 0.01 from their start;
    acting moves the state of RN, and at another gain than learning, since that depends on the batch.
    """
    if protocol.algo not in ("dqn", "rndqn"):
        raise UserError(
            f"--as-published on {protocol.env}: the paper gives no number for it; expected cartpole or "
            "lunarlander"
        )

    def arm(norm: str) -> Arm:
        acting = ("policy_kwargs.acting_observes=true",) if "paper" in norm else ()
        return Arm(norm, norm, acting, later=("exploration_initial_eps=0.01",))

    return Study(
        "as published, with the known confounds",
        tuple(arm(norm) for norm in PUBLISHED),
        (
            *((norm, "none") for norm in PUBLISHED[1:]),
            ("ln+rn-paper", "ln"),
        ),
        make=arm,
    )


STUDIES: dict[str, Callable[[Protocol], Study]] = {
    "learning-rates": learning_rates,
    "warm-up": warm_up,
    "as-published": as_published,
}
"""Beside the protocol, each by a flag."""
