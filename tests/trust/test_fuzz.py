"""Parsers of what a user types and of what a file holds: see laws.py; ``make fuzz`` tries more inputs."""

import pytest
from hypothesis import HealthCheck, settings

from tests.trust.laws import LAWS


@pytest.mark.parametrize("examples", [150, pytest.param(5_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LAWS)
def test_a_parser_gives_a_value_or_one_line(name, examples, tmp_path):
    limits = settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    limits(LAWS[name](tmp_path))()
