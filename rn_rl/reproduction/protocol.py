"""Tasks of the paper, and the arms and questions of every study, decided before the runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from rn_rl.errors import UserError
from rn_rl.normalization import canonical_spec

PUBLISHED = ("none", "ln", "rn-paper", "rln-paper", "ln+rn-paper")
"""Arms of the paper, with its own arithmetic."""

DONORS = 10
"""Number of runs whose gains a yoked arm replays.

Each serves a block of consecutive seeds, so that a result does not rest on the gains of one run: of S
planned seeds the n-th replays donor ``n * donors // S``, also where fewer seeds are trained at first.
"""

DONOR_SEED = 1_000_000
"""Seed of the first donor; the donors' seeds are none of those compared."""

RATES = ("1e-5", "3e-5", "1e-4", "3e-4", "1e-3", "3e-3", "1e-2", "3e-2", "1e-1")
"""Learning rates of the grid; that of the protocol is 1e-3."""

GRID = ("none", "ln", "rn", "ln+rn")
"""Normalizers of the grid."""

QUICK = ("none", "ln", "rn", "ln+rn", "logt")


@dataclass(frozen=True)
class Whole:
    """Evaluation of a policy on whole episodes, where those of training are cut."""

    steps: int
    """Most steps of an episode."""
    solved: float
    """Return from which an episode counts as solved."""
    episodes: int = 20
    """Number of episodes."""
    quick: int = 5
    """Number of episodes with ``--quick``."""


@dataclass(frozen=True)
class Protocol:
    """One of the paper's three tasks."""

    algo: str
    """Algorithm."""
    recurrent: str | None
    """Algorithm with memory, if the task needs memory."""
    env: str
    """Environment id."""
    timesteps: int
    """Timesteps of a run; with ``episodes`` the most that it may take."""
    quick: int
    """Timesteps of a run with --quick."""
    seeds: int
    """Default number of seeds."""
    phase: int
    """Timesteps from one commit to the next."""
    half_life: int
    """Half-life in phases of the arm that forgets; shorter than a run."""
    ramp: int
    """Number of phases over which the linear ramp rises; shorter than a run."""
    about: str
    """Further conditions, as the end of a sentence about the task."""
    episodes: int | None = None
    """Training episodes of a run; None: it ends by ``timesteps``."""
    quick_episodes: int | None = None
    """Training episodes of a run with --quick."""
    huber: tuple[int, int] | None = None
    """Timesteps of a run and of a quick run with SB3's own DQN; None: the task is not trained by DQN."""
    whole: Whole | None = None
    """Episodes in which the last policies are played without the cut of training; None: not cut."""

    @property
    def ramped(self) -> str:
        """Spec of the linear ramp after LayerNorm."""
        return f"ln+{self.plain_ramp}"

    @property
    def plain_ramp(self) -> str:
        """Spec of the linear ramp without LayerNorm."""
        return f"ramp(5, {self.ramp})"

    def with_memory(self) -> Protocol:
        """Return the same task with an LSTM.

        Raises:
            UserError: the task needs no memory.
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
        quick_episodes=250, huber=(200_000, 40_000), whole=Whole(steps=1000, solved=200),
    ),
    "redbluedoors": Protocol(
        algo="ppo", recurrent="ppo_lstm", env="MiniGrid-RedBlueDoors-6x6-v0", timesteps=1_000_000,
        quick=20_480, seeds=10, phase=2048, half_life=50, ramp=125, about=", without memory",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """Row of the table: a normalizer, and its settings that differ from the protocol."""

    name: str
    """Name in tables and questions."""
    norm: str
    """Spec of the normalizer."""
    set: tuple[str, ...] = ()
    """Hyperparameters as name=value."""
    later: tuple[str, ...] = ()
    """Further hyperparameters of every run but the first."""
    donor: str | None = None
    """Normalizer of other runs, trained first, whose gains ``norm`` replays; None: no gains are."""


@dataclass(frozen=True)
class Study:
    """Arms and the comparisons between them."""

    title: str
    """Title of the page."""
    arms: tuple[Arm, ...]
    """Arms, in the order of the table."""
    questions: tuple[tuple[str, str], ...]
    """Pairs (arm, what it is compared with); p values are corrected for all of them."""
    same: tuple[tuple[str, str], ...] = ()
    """Subset of ``questions``: equivalence is tested too, see :func:`.equivalence_margin`."""
    drawn: tuple[str, ...] = ()
    """Arms whose learning curves are plotted; empty: all arms."""
    make: Callable[[str], Arm] = lambda norm: Arm(norm, norm)
    """Function that makes an arm for a normalizer that is not among ``arms``."""
    measures: tuple[str, ...] = ("last",)
    """Measures by which arms are compared, keys of :data:`.MEASURES`; each question is asked for each."""
    seeds: range | None = None
    """Seeds of each arm; None: as many as the task's default, from 0."""
    evaluations: int = 5
    """Number of evaluations during a run."""
    eval_episodes: int = 1
    """Episodes of each."""
    final_episodes: int = 1
    """Episodes with the last policy."""


def find_arm(study: Study, text: str) -> Arm:
    """Return an arm of a study by its name in any spelling, or a new arm for another normalizer.

    Raises:
        UserError: the text is neither.
    """
    for arm in study.arms:
        if arm.name == text:
            return arm
    wanted = canonical_spec(text)
    for arm in study.arms:
        if arm.name == arm.norm and not arm.donor and canonical_spec(arm.norm) == wanted:
            return arm
    return study.make(text)


def find_arms(study: Study, text: str) -> tuple[Arm, ...]:
    """Return the arms that a text names: :func:`find_arm`, or all of a normalizer's learning rates."""
    if all(arm.name != text for arm in study.arms):
        wanted = canonical_spec(text)
        same = [arm for arm in study.arms if not arm.donor and canonical_spec(arm.norm) == wanted]
        if same and all(arm.set for arm in same):
            return tuple(same)
    return (find_arm(study, text),)


def plain(*norms: str) -> tuple[Arm, ...]:
    """Return one arm for each normalizer, without further settings."""
    return tuple(Arm(norm, norm) for norm in norms)


def yoked(norm: str) -> Arm:
    """Return the arm that replays the gains of other runs of a normalizer, ``rn`` or ``ln+rn``.

    Its name says which options that normalizer has.
    """
    before, after = norm.split("rn", 1)
    return Arm(f"{before}yoked{after}", f"{before}yoked", donor=norm)


def paper_and_controls(protocol: Protocol) -> Study:
    """Return the protocol's study: the paper's arms, this library's, and the missing controls."""
    ours = ("rn", "rln", "rsn", "ln+rn", f"ln+rn(half_life={protocol.half_life})")
    controls = ("logt", "ln+logt", protocol.ramped, "ln+gain(5)")
    # without LayerNorm: added after the other results on LunarLander were known
    later: tuple[str, ...] = ("gain(5)", protocol.plain_ramp)
    equal_scale: tuple[tuple[str, str], ...] = ()
    values: tuple[Arm, ...] = ()
    if protocol.episodes is not None:
        equal_scale = (("gain(2.236)", "ln+gain(5)"), ("gain(5)", "ln+gain(25)"))
        # equal output scale of two layers: gain(5) has 25 = ln+gain(25), gain(2.236) has 5 = ln+gain(5)
        later += ("gain(2.236)", "ln+gain(25)", f"ln+ramp(25, {protocol.ramp})")
        # the scale of the values as such, learned: no normalizer in the hidden layers
        values = (Arm("popart", "none", ("policy_kwargs.value_norm=popart",)),)
    # only RNDQN has the paper's loss, clipping and length of runs
    names = {"dqn": "SB3's DQN", "rndqn": "the paper's protocol"}
    protocol_name = names.get(protocol.algo, "PPO in the paper's configuration")
    yokes = map(yoked, ("ln+rn", "rn"))
    arms = (*plain(*PUBLISHED, *ours, *controls), *yokes, *plain(*later), *values)
    return Study(
        f"{protocol_name}, with controls",
        arms,
        (
            *((arm.name, "none") for arm in arms[1:]),
            ("rn", "logt"),
            ("rn", "yoked"),
            ("ln+rn", "ln"),
            ("ln+rn", "ln+logt"),
            ("ln+rn", "ln+yoked"),
            (protocol.ramped, "ln+rn"),
            ("rn", "gain(5)"),
            (protocol.plain_ramp, "rn"),
            *equal_scale,
        ),
        same=(("rn", "logt"), ("ln+rn", "ln+yoked")),
        drawn=("none", "ln", "rn", "logt", "ln+rn", "ln+logt", protocol.ramped, *later),
    )


def learning_rates(protocol: Protocol) -> Study:
    """Return a learning-rate grid: does a rising gain do what another learning rate does?"""
    at = "{} at {}".format
    pairs = [(norm, "none") for norm in GRID[1:]] + [("ln+rn", "ln")]
    return Study(
        "a grid of learning rates",
        tuple(
            Arm(at(norm, rate), norm, (f"learning_rate={rate}",)) for norm in GRID for rate in RATES
        )
        + plain(protocol.ramped),
        (
            *((at(x, rate), at(y, rate)) for x, y in pairs for rate in RATES),
            *((protocol.ramped, at(norm, rate)) for norm in ("none", "ln") for rate in RATES),
        ),
        drawn=(
            *(at(norm, rate) for norm in ("none", "ln") for rate in RATES[4:7]),
            protocol.ramped,
        ),
    )


def warm_up(protocol: Protocol) -> Study:
    """Return a study of a learning rate that rises like the ramp, 0.1 to 5 times the protocol's."""
    rises = protocol.ramp * protocol.phase
    share = rises / protocol.timesteps
    reached = 1e-4 + 4.9e-3 / max(share, 1.0)  # a short run ends before the ramp does
    share = min(share, 1.0)
    rising = (f"learning_rate=lin_1e-4_{reached:.4g}_{share:.4g}",)
    arms = (
        *plain("none", "ln", "ln+rn", protocol.ramped),
        *(Arm(f"{norm} with warm-up", norm, rising) for norm in ("none", "ln")),
    )
    return Study(
        f"a learning rate that rises from 1e-4 to {reached:.2g} over "
        f"{min(rises, protocol.timesteps):,} timesteps",
        arms,
        (
            ("none with warm-up", "none"),
            ("ln with warm-up", "ln"),
            (protocol.ramped, "ln with warm-up"),
            ("ln+rn", "ln with warm-up"),
        ),
    )


def as_published(protocol: Protocol) -> Study:
    """Return the paper's arms with the known confounds.

    Epsilon is never reset after the first run, so that all others explore at 0.01 from their start;
    acting moves the state of RN, and at another gain than learning, since that depends on the batch;
    the target network has statistics of its own, to which nothing is copied.
    """
    if protocol.algo not in ("dqn", "rndqn"):
        raise UserError(
            f"--as-published on {protocol.env}: the paper gives no number for it; expected cartpole or "
            "lunarlander"
        )

    def arm(norm: str) -> Arm:
        observing: tuple[str, ...] = ()
        if "paper" in norm:
            observing = ("policy_kwargs.acting_observes=true",)
            if protocol.algo == "rndqn":  # SB3's DQN always copies the statistics to the target
                observing += ("target_observes=true",)
        return Arm(norm, norm, observing, later=("exploration_initial_eps=0.01",))

    return Study(
        "as published, with the known confounds",
        tuple(arm(norm) for norm in PUBLISHED),
        (
            *((norm, "none") for norm in PUBLISHED[1:]),
            ("ln+rn-paper", "ln"),
        ),
        make=arm,
    )


def preregistered(protocol: Protocol) -> Study:
    """Return the study of RedBlueDoors whose question was written down before its runs.

    See docs/results/preregistration.md. ``ln+rn(half_life=50)`` was the best of 17 arms in 10 seeds, of
    which the best is expected to be lucky; here it is asked again, of 30 new seeds.
    """
    if protocol.algo not in ("ppo", "ppo_lstm"):
        raise UserError(f"--preregistered on {protocol.env}: expected redbluedoors")
    forgets = f"ln+rn(half_life={protocol.half_life})"
    copy = yoked(forgets)
    arms = (*plain("none", "ln", "ln+gain(5)", forgets, "ln+rn"), copy)
    return Study(
        "a question decided before the runs",
        arms,
        (
            (forgets, "ln"),
            (forgets, copy.name),
            (forgets, "ln+gain(5)"),
            (forgets, "ln+rn"),
            *((arm.name, "none") for arm in arms[1:]),
        ),
        measures=("area", "learned"),
        seeds=range(1000, 1030),
        evaluations=50,
        eval_episodes=10,
        final_episodes=100,
    )


STUDIES: dict[str, Callable[[Protocol], Study]] = {
    "learning-rates": learning_rates,
    "warm-up": warm_up,
    "as-published": as_published,
    "preregistered": preregistered,
}
"""Studies other than the protocol, by flag."""
