"""The worked example in the engine's README runs and prints what the README shows."""

import contextlib
import io
import re
from pathlib import Path

import rn_rl.engine

README = Path(rn_rl.engine.__file__).with_name("README.md")
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_the_example_runs_and_prints_what_is_shown():
    blocks = BLOCK.findall(README.read_text())
    shown = [text for language, text in blocks if language == "text"]
    names = {"__name__": "readme"}
    printed = []
    for language, text in blocks:
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(text, names)
            printed += [out.getvalue()] if out.getvalue() else []
    assert printed == shown and len(shown) == 3
