"""Try 100,000 inputs on each law of laws.py, which atheris chooses by the code they reach: ``make fuzz``.

Prints a line for each law and adds it to ``--record``; a failure prints its traceback and ends it all.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FIELDS = ("law", "inputs", "longest_s", "seconds", "seed", "date", "atheris")
SECONDS_PER_INPUT = 5


def main() -> None:
    """Try the laws one after the other, each in a process of its own, as atheris demands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("laws", nargs="*", help="names in laws.py; default: all")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="CSV file that a line for each law is added to")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        try_inputs(options.one, options)
        return
    from tests.trust.laws import LAWS

    rest = [f"--inputs={options.inputs}", f"--seed={options.seed}"]
    rest += [f"--record={options.record}"] if options.record else []
    for law in options.laws or LAWS:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "tests.trust.fuzz", f"--one={law}", *rest]
            done = subprocess.run([*command, f"--folder={folder}"], check=False)
        if done.returncode:
            sys.exit(f"{law}: failed, exit status {done.returncode}; see above")


def try_inputs(name: str, options: argparse.Namespace) -> None:
    """Try one law until it has had ``options.inputs`` inputs, and end this process.

    Bytes of which Hypothesis makes no input are not counted.
    """
    import atheris

    with atheris.instrument_imports(include=["rn_rl"]):
        from tests.trust.laws import LAWS

    from hypothesis import HealthCheck, settings

    done, longest, start = 0, 0.0, time.monotonic()
    limits = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
    law: Any = limits(LAWS[name](options.folder))

    def one_input(data: bytes) -> None:
        nonlocal done, longest
        before = time.monotonic()
        done += law.hypothesis.fuzz_one_input(data) is not None
        longest = max(longest, time.monotonic() - before)
        if done == options.inputs:
            report(name, done, longest, time.monotonic() - start, options)
            os._exit(0)  # libFuzzer takes any other end for a failure

    corpus = options.folder / "corpus"
    write_corpus(corpus, options.seed)
    flags = {
        "seed": options.seed,
        "timeout": SECONDS_PER_INPUT,
        "max_len": 4096,
        "len_control": 0,
        "reduce_inputs": 0,  # Hypothesis makes the minimal example of few bytes
        "artifact_prefix": f"{options.folder}/",
    }
    atheris.Setup([sys.argv[0], str(corpus), *(f"-{k}={v}" for k, v in flags.items())], one_input)
    atheris.Fuzz()


def write_corpus(folder: Path, seed: int) -> None:
    """Write the first inputs: bytes that are long enough for Hypothesis to make whole examples of."""
    folder.mkdir()
    generator = random.Random(seed)
    for i in range(200):
        (folder / str(i)).write_bytes(generator.randbytes(generator.randint(32, 2048)))


def report(
    name: str, done: int, longest: float, seconds: float, options: argparse.Namespace
) -> None:
    """Print what was tried, and add it to the record."""
    line = {
        "law": name,
        "inputs": done,
        "longest_s": f"{longest:.2f}",
        "seconds": round(seconds),
        "seed": options.seed,
        "date": time.strftime("%Y-%m-%d"),
        "atheris": importlib.metadata.version("atheris"),
    }
    print(", ".join(f"{key} {value}" for key, value in line.items()), flush=True)
    if options.record:
        new = not options.record.exists()
        with options.record.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            if new:
                writer.writeheader()
            writer.writerow(line)


if __name__ == "__main__":
    main()
