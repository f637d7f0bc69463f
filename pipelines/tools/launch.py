"""Run a stage in several processes on this machine, by torchrun's own launcher: one per GPU, or on a processor's cores.

The stage is one of train, retrain and predict; its own arguments follow.  Several machines are started by torchrun
itself (docs/processes.md).  The status is that of the stage; if it is killed, the same command continues.
"""

import argparse
import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pipelines import command
from pipelines.system.errors import UserError
from pipelines.system.group import EXIT_AFTER_ANOTHER, SHARED
from pipelines.system.processes import cores
from pipelines.system.stopping import Terminated


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.tools.launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "processes", type=command.number_of_processes, help="number of processes, or gpu: one for each GPU"
    )
    parser.add_argument("stage", choices=SHARED)
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="…", help="the arguments of the stage")
    words = parser.parse_args(arguments)
    count = words.processes or _gpus()
    call = ["-m", f"pipelines.{words.stage}", *words.words]
    if count == 1:
        os.execv(sys.executable, [sys.executable, *call])
    if status := _launch(count, call):
        sys.exit(status)


def _gpus() -> int:
    import torch

    if not torch.cuda.is_available():
        raise UserError(f"NPROC={command.PER_GPU} starts a process for each GPU, and torch finds none. Write a number.")
    return torch.cuda.device_count()


def _launch(count: int, call: Sequence[str]) -> int:
    """Run this Python with `call` in `count` processes; return the exit status of the one that decided it."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Otherwise each process computes with one thread, on any number of cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // count)))
    if sys.platform == "linux":  # gloo takes the address of the host's name, which containers often cannot resolve
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # Messages are printed below.  Some loggers of torch have their own level, so lowering one level is not enough.
    logging.disable(logging.ERROR)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)(*call)
    except SignalException as stopped:
        raise (KeyboardInterrupt if stopped.sigval == signal.SIGINT else Terminated) from None
    except ChildFailedError as error:
        return _status([Exit(each.timestamp, rank, each.exitcode) for rank, each in error.failures.items()], count)
    return 0


class Exit(NamedTuple):
    """How a process ended: at which second, its number, its status, or minus the signal that ended it."""

    second: int
    rank: int
    code: int


def _status(exits: Iterable[Exit], count: int) -> int:
    """Return the status of the stage, by the first process that failed by itself; say if it was killed.

    The launcher ends the others by SIGTERM, and by SIGKILL after half a minute.
    """
    own = [each for each in exits if each.code not in (-signal.SIGTERM, EXIT_AFTER_ANOTHER)]
    if not own:
        return command.EXIT_USER_ERROR
    first = min(own, key=lambda each: (each.second, each.code > 0, each.rank))
    if first.code > 0:
        return first.code
    name = signal.Signals(-first.code).name
    why = ", most likely because memory ran out" if name == "SIGKILL" else ""
    killed = f"error: Process {first.rank + 1} of {count} was killed ({name}){why}, so all have ended."
    print(f"{killed} Run the same command again to continue.", file=sys.stderr)
    return 128 - first.code


if __name__ == "__main__":
    sys.exit(command.run(main))
