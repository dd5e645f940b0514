"""Check what environments return, and stop a run in one line where one fails, hangs or diverges."""

from __future__ import annotations

import contextlib
import math
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from rn_rl.errors import UserError, first_line

Shape = tuple[int, ...] | dict[str, Any] | None
"""Shape of an observation, by key for a Dict; None if it has none, as a Tuple."""


class BrokenInterface(Exception):
    """An environment returned something that Gymnasium's interface excludes; the message says what."""


class StepTimeout(BaseException):
    """A step took too long. Not an Exception, so that an environment that catches those lets it pass."""


class CheckedEnv(gym.Wrapper):
    """Raise :class:`BrokenInterface` at the first return value that Gymnasium's interface excludes.

    NumPy would broadcast an observation of another shape, and convert a reward such as ``"1.5"``.

    Attributes:
        close_error: exception of ``close()``, kept until the other environments are closed too.
    """

    close_error: Exception | None = None

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._shape = shape_of(env.observation_space)

    def close(self) -> None:
        try:
            self.env.close()
        except Exception as error:
            self.close_error = error

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        result = self.env.reset(seed=seed, options=options)
        if not isinstance(result, tuple) or len(result) != 2:
            raise BrokenInterface(f"reset() returned {shown(result)}: expected (observation, info)")
        check_shape(result[0], self._shape, "reset() returned an observation")
        return result

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        if not isinstance(result, tuple) or len(result) != 5:
            raise BrokenInterface(
                f"step() returned {shown(result)}: expected (observation, reward, terminated, "
                "truncated, info)"
            )
        observation, reward, _, _, info = result
        if type(reward) is not float and not is_number(reward):
            raise BrokenInterface(f"step() returned reward {shown(reward)}: expected a number")
        if not isinstance(info, dict):
            raise BrokenInterface(f"step() returned info {shown(info)}: expected a dict")
        check_shape(observation, self._shape, "step() returned an observation")
        info.pop("episode", None)  # SB3 would count it as an episode of its Monitor, at every step
        return result


def is_number(value: Any) -> bool:
    """Return True for a number, also in an array or tensor without an axis."""
    if isinstance(value, int | float | np.number | np.bool_):
        return True
    kind = getattr(
        getattr(value, "dtype", None), "kind", "f"
    )  # torch's have no kind, and are numbers
    return getattr(value, "ndim", None) == 0 and kind in "biuf"


def shown(value: Any) -> str:
    """Return a value as one short line; of a tuple only its length."""
    if isinstance(value, tuple):
        return f"{len(value)} values"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def shape_of(space: spaces.Space[Any]) -> Shape:
    """Return the shape of the observations of a space."""
    if isinstance(space, spaces.Dict):
        return {key: shape_of(part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return space.shape
    return None


def check_shape(value: Any, expected: Shape, what: str) -> None:
    """Raise :class:`BrokenInterface` unless a value has a shape, but for leading axes of size 1."""
    if isinstance(expected, dict):
        for key, part in expected.items():
            if not isinstance(value, dict) or key not in value:
                raise BrokenInterface(f"{what} {shown(value)}: expected a dict with key {key!r}")
            check_shape(value[key], part, f"{what}[{key!r}]")
        return
    if expected is None:
        return
    shape = value.shape if isinstance(value, np.ndarray) else np.shape(value)
    while len(shape) > len(expected) and shape[0] == 1:
        shape = shape[1:]
    if shape != expected or value is None:
        found = shown(value) if shape == () else f"of shape {shape}"
        raise BrokenInterface(f"{what} {found}: expected shape {expected}")


class CheckedVecEnv(VecEnvWrapper):
    """Raise :class:`UserError`, with the timestep, where an environment fails.

    It fails where it raises an exception, breaks Gymnasium's interface, takes too long, or gives an
    observation or a reward that is not finite. SB3's ``VecCheckNan`` finds the last alone, and does not
    say the timestep.

    Args:
        venv: the environments.
        env_id: their name.
        step_timeout: seconds that a step or a reset of all of them may take; None: any time. Only
            Python code is interrupted: a call into a library returns first.

    Attributes:
        steps: timesteps of the environments so far; a resumed run counts on from its checkpoint.

    Raises:
        UserError: ``step_timeout`` cannot be used.
    """

    def __init__(
        self, venv: VecEnv, env_id: str = "environment", step_timeout: float | None = None
    ) -> None:
        super().__init__(venv)
        self.env_id, self.step_timeout = env_id, step_timeout
        self.steps = 0
        self._failed = False
        check_timeout(step_timeout)

    def reset(self) -> Any:
        try:
            with time_limit(self.step_timeout):
                observations = self.venv.reset()
        except (Exception, StepTimeout) as error:
            raise self._failure("reset()", error) from error
        self._check("observation", observations)
        return observations

    def step_wait(self) -> VecEnvStepReturn:
        self.steps += self.num_envs
        try:
            if self.step_timeout is None:
                result = self.venv.step_wait()
            else:
                with time_limit(self.step_timeout):
                    result = self.venv.step_wait()
        except (Exception, StepTimeout) as error:
            raise self._failure("step()", error) from error
        observations, rewards, _, _ = result
        self._check("observation", observations)
        self._check("reward", rewards)
        return result

    def close(self) -> None:
        """Close the environments.

        An error is ignored if they were never stepped, since nothing is lost, and after another error,
        whose message would be replaced.
        """
        try:
            with time_limit(self.step_timeout):
                self.venv.close()
            for error in self.venv.get_attr("close_error"):
                if error is not None:
                    raise error
        except (Exception, StepTimeout) as error:
            if self.steps and not self._failed:
                raise self._failure("close()", error) from error

    def _failure(self, call: str, error: BaseException) -> UserError:
        self._failed = True
        if isinstance(error, UserError):
            return error
        if isinstance(error, BrokenInterface):
            reason = str(error)
        elif isinstance(error, StepTimeout):
            reason = f"{call} did not return within {self.step_timeout:g} s (--step-timeout)"
        else:
            assert isinstance(error, Exception)
            place = traceback.extract_tb(error.__traceback__)[-1]
            line = f"{Path(place.filename).name}:{place.lineno}"
            name, message = type(error).__name__, first_line(error)
            said = name if message == name else f"{name}: {message}"
            reason = f"{call} raised {said} ({line})"
        return UserError(
            f"environment {self.env_id}, timestep {self.steps}: {reason}; fix the environment"
        )

    def _check(self, what: str, values: Any) -> None:
        if isinstance(values, dict):
            for key, value in values.items():
                self._check(f"{what}[{key!r}]", value)
            return
        if values.dtype.kind != "f" or math.isfinite(np.vdot(values, values)):
            return  # the sum of squares: a third of the time of isfinite(values).all()
        if np.isfinite(values).all():
            return  # only the sum was too large
        index = [int(i) for i in np.argwhere(~np.isfinite(values))[0]]
        where = f", component {index[1:]}" if index[1:] else ""
        value = np.asarray(values)[tuple(index)]
        raise UserError(
            f"the environment gave {what} {value} at timestep {self.steps} "
            f"(environment {index[0]}{where}): expected finite numbers; fix the environment"
        )


def check_timeout(seconds: float | None) -> None:
    """Raise :class:`UserError` unless ``--step-timeout`` has a value that can be used here."""
    if seconds is not None and not 0 < seconds < math.inf:
        raise UserError(f"--step-timeout {seconds:g}: expected seconds above 0")
    if seconds is not None and not hasattr(signal, "setitimer"):
        raise UserError(f"--step-timeout {seconds:g}: this system has no timer signals")


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise :class:`StepTimeout` in the block once it has taken this long; None: never.

    The signal is repeated each second, in case that something in the block catches the exception.

    Raises:
        UserError: this is not the main thread, the only one that Python gives signals to.
    """
    if seconds is None:
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise StepTimeout

    try:
        before = signal.signal(signal.SIGALRM, late)
    except ValueError:
        raise UserError("--step-timeout: only the main thread can limit time") from None
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def count_timesteps_from(env: VecEnv, timesteps: int) -> None:
    """Let the checks of a resumed run's environments count on from its checkpoint."""
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, CheckedVecEnv):
            env.steps = timesteps
        env = env.venv
