"""Follow the commands that a message advises, as a person does who pastes them into a shell."""

import shlex
import subprocess

from tests.support.stages import run_stage_here

OPTIONS = {"RECIPE": "--recipe", "RUN": "--run", "SET": "--set"}
MODULE = "pipelines."


def follow(message: str, start: str = "rm ") -> None:
    """Run the last line of `message` that has `start`, from there on; stages run in this process.

    A `start` that ends in a colon and a space is not part of the commands.
    """
    line = next(line for line in reversed(message.splitlines()) if start in line)
    commands = line.partition(start)[2] if start.endswith(": ") else start + line.partition(start)[2]
    for part in commands.split(" && "):
        words = shlex.split(part)
        if words[0] == "make":
            assert run_stage_here(words[1], _arguments(words[2:])) == 0, part
        elif words[1:2] == ["-m"] and words[2].startswith(MODULE):
            assert run_stage_here(words[2].removeprefix(MODULE), words[3:]) == 0, part
        else:
            subprocess.run(part, shell=True, check=True)


def _arguments(variables: list[str]) -> list[str]:
    arguments = []
    for variable in variables:
        name, _, value = variable.partition("=")
        arguments += [value] if name == "COMP" else [OPTIONS[name], value]
    return arguments
