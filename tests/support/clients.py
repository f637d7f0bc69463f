"""Stages in this process, and one process of Kaggle's client for all tests of a module: each start costs a second."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipelines import command
from pipelines.kaggle import service
from pipelines.kaggle.client import Client
from tests.support.standin import Standin


class KeptClient(Client):
    """A client whose idle process stays alive when a stage closes it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(120, ())
        self._environment, self._busy = relevant(environment), False

    def make(self, stall_seconds: float, held: Sequence[int]) -> Client:
        """In place of `Client`: this client, if a new one would have the same environment."""
        if relevant(os.environ) != self._environment:
            return Client(stall_seconds, held)
        self.stall_seconds = stall_seconds
        return self

    def start(self) -> Any:
        if self.process and self.process.poll() is None:
            return self.process
        super().start()
        patience, self.stall_seconds = self.stall_seconds, 120
        self.ask("user", {}, lambda: None)  # imports the client, which a short stall_seconds may not allow
        self.stall_seconds = patience
        return self.process

    def ask(self, call: str, arguments: Mapping[str, Any], moved: Callable[[], object]) -> dict[str, Any]:
        self._busy = True
        reply = super().ask(call, arguments, moved)
        self._busy = False
        return reply

    def close(self) -> None:
        if self._busy or (self.process and self.process.poll() is not None):
            self.end()

    def end(self) -> None:
        self._busy = False
        super().close()


def relevant(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that Kaggle's client reads."""
    names = [name for name in environment if "KAGGLE" in name or "PROXY" in name.upper() or "VERBOSE" in name]
    return {name: environment[name] for name in ("HOME", *names)}


@contextmanager
def kept_client(standin: Standin) -> Iterator[KeptClient]:
    """Let all `Kaggle` objects with the stand-in's environment share one process."""
    client = KeptClient(shared_environment(standin))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "Client", client.make)
        yield client
    client.end()


def shared_environment(standin: Standin) -> dict[str, str]:
    return standin.environment(standin.folder / "home")


def forget(standin: Standin) -> None:
    """Forget what a test left in the stand-in, but for its competitions, which late requests may still name."""
    for kept in (standin._faults, standin._fault_for_ever):
        kept.clear()
    for listed in (standin.kernels, standin.requests, standin.violations):
        listed.clear()
    standin.run_kernel = None


@contextmanager
def surroundings(environment: Mapping[str, str]) -> Iterator[None]:
    """Run the block with exactly these environment variables."""
    with pytest.MonkeyPatch.context() as place:
        for name in os.environ.keys() - environment.keys():
            place.delenv(name)
        for name, value in environment.items():
            place.setenv(name, value)
        yield


def run_stage(
    stage: ModuleType, words: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> tuple[int, str, str]:
    """Run a stage in this process; return its status, what it printed, and its errors."""
    with (
        surroundings(environment),
        pytest.MonkeyPatch.context() as place,
        redirect_stdout(StringIO()) as printed,
        redirect_stderr(StringIO()) as errors,
    ):
        place.chdir(folder)
        status = command.run(stage.main, words)
    return status, printed.getvalue(), errors.getvalue()
