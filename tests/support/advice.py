"""Follow the commands that a message advises, as a person does who pastes them into a shell."""

import shlex
import subprocess

from tests.support.stages import run_stage_here

OPTIONS = {"RECIPE": "--recipe", "RUN": "--run", "SET": "--set"}


def follow(message: str, start: str = "rm ") -> None:
    """Run the last line of `message` that has commands, from `start` on: `make` here, without processes."""
    line = next(line for line in reversed(message.splitlines()) if start in line)
    for part in (start + line.partition(start)[2]).split(" && "):
        if not part.startswith("make "):
            subprocess.run(part, shell=True, check=True)
            continue
        _, stage, *words = shlex.split(part)
        arguments = []
        for word in words:
            name, _, value = word.partition("=")
            arguments += [value] if name == "COMP" else [OPTIONS[name], value]
        assert run_stage_here(stage, arguments) == 0, part
