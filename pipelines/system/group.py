"""The processes that share the work of a stage, started by torchrun; without it a group of one, which does nothing.

The main process, of rank 0, runs the stage as if it were alone: it alone reads arguments, prints and writes.  The
others wait.  Where work can be shared, the main process lets them call a function (`Group.sharing`), and in it all
exchange values (`all_sum`, `gather`, `from_main`).  So an error of the main process ends the stage as usual; an error
of another one is raised in the main process, by whichever exchange notices it.
"""

import atexit
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pipelines.system.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store

Value = TypeVar("Value")

PARENT = os.getppid()  # before torch is imported, which takes seconds, in which it may end
SHARED = ("train", "retrain", "predict")  # the stages that several processes can share
PATIENCE = timedelta(days=2)  # the main process may decode a million images, or draw pictures, while the others wait
MEETING = timedelta(minutes=2)  # for all processes to start
NOTICE_SECONDS = 5.0  # in which the error of a process arrives after its connection is lost
PARENT_SECONDS = 0.5
EXIT_AFTER_ANOTHER = 75  # of a process that ends because another one did
FAILED = "failed"  # key in the store of the first error of a process other than the main one
LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")  # in torch's errors


class Group:
    """The processes of a run: `world` of them, `local` on this machine; this one has the number `rank`.

    local_rank: its number on this machine, which is that of its GPU.  busy: whether the processes share work now.
    """

    def __init__(self, rank: int = 0, world: int = 1, local_rank: int = 0, local: int = 1) -> None:
        self.rank, self.world, self.local_rank, self.local = rank, world, local_rank, local
        self._store: Store | None = None
        self._shared = 0  # calls that were shared
        self._notice = NOTICE_SECONDS
        self.busy = False

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def nproc(self) -> int:
        """The value of NPROC that starts this group; 1 where it is on several machines, which NPROC does not start."""
        return self.world if self.local == self.world else 1

    def all_sum(self, values: "Tensor") -> "Tensor":
        """Return the sum of the `values` of all processes, a tensor of the same shape in each."""
        if self.world == 1:
            return values
        import torch.distributed as dist

        total = values.clone()
        with self._exchanging():
            dist.all_reduce(total)
        return total

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes by rank, in the main process; an empty list in the others."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        with self._exchanging():
            dist.gather_object(value, found if self.is_main else None)
        return found if self.is_main else []

    def from_main(self, value: Value) -> Value:
        """Return the value of the main process; all processes wait for it."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        values = [value]
        with self._exchanging():
            dist.broadcast_object_list(values)
        return values[0]

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main process run the block before the others do, which then find the files that it writes."""
        if not self.is_main:
            self.from_main(None)
        yield
        if self.is_main:
            self.from_main(None)

    @contextmanager
    def sharing(self, function: Callable[..., None], *arguments: Any) -> Iterator[None]:
        """Let all other processes call `function(group, *arguments)`, while the main one does its part in the block.

        Function and arguments are pickled; they reach processes on other machines, which need the same files.
        """
        if self.world == 1:
            yield
            return
        assert self._store is not None and not self.busy, "shared work cannot share further work"
        self._store.set(f"work {self._shared}", "call")
        self._shared += 1
        self.from_main((function, arguments))
        self.busy = True
        yield
        self.busy = False

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Use the cores of all processes on this machine in the block, for work that the main process does alone."""
        if self.world == 1:
            yield
            return
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(threads * self.local)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def serve(self) -> None:
        """Call what the main process shares, until it ends."""
        assert self._store is not None
        while True:
            key = f"work {self._shared}"
            self._store.wait([key], PATIENCE)
            if self._store.get(key) == b"end":
                return
            self._shared += 1
            self.busy = True
            call: Any = None
            function, arguments = self.from_main(call)
            function(self, *arguments)
            self.busy = False

    def failure(self, wait: bool = True) -> BaseException | None:
        """Return the error of another process; for a bug, which was printed, an exit.

        wait: until it arrives, but not longer than `NOTICE_SECONDS` in all calls together.
        """
        started = time.monotonic()
        while self._store is not None:
            with suppress(RuntimeError):  # its process is gone
                if self._store.check([FAILED]):
                    message = self._store.get(FAILED).decode()
                    return UserError(message) if message else SystemExit(1)
            if not wait or time.monotonic() > started + self._notice:
                break
            time.sleep(0.05)
        self._notice -= time.monotonic() - started
        return None

    @contextmanager
    def _exchanging(self) -> Iterator[None]:
        """Raise the error of another process where the block loses the connection to it."""
        try:
            yield
        except RuntimeError as error:
            if is_loss(error) and self.is_main and (failure := self.failure()):
                raise failure from None
            raise


ALONE = Group()


def is_loss(error: BaseException) -> bool:
    """Return whether `error` is torch's about a process that has ended or cannot be reached."""
    if not isinstance(error, RuntimeError) or "torch.distributed" not in sys.modules:
        return False
    from torch.distributed import DistError

    return isinstance(error, DistError) or any(each in str(error) for each in LOST)


def started(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process is one of several that torchrun, or a scheduler in its way, has started."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(name in environment for name in names) and environment["WORLD_SIZE"] != "1"


@contextmanager
def joined() -> Iterator[Group]:
    """Connect this process to the others of its group, during the block; without torchrun yield `ALONE`.

    The threads of torch are the cores divided by the processes on this machine.  In the main process, an error of
    another one takes the place of the error that it causes here.
    """
    if not started():
        yield ALONE
        return
    group = _connect()
    try:
        yield group
    except BaseException as error:
        if group.is_main:
            _explain(group, error)
        raise
    finally:
        if group.is_main and group._store is not None:
            with suppress(RuntimeError):
                group._store.set(f"work {group._shared}", "end")
    import torch.distributed as dist

    dist.destroy_process_group()


@contextmanager
def leaving() -> Iterator[None]:
    """End this process, of several, where the block ends in an exception: with its status, after printing a bug.

    Python would destroy all objects first, while a thread of gloo may still hold a tensor.  It then aborts (PyTorch's
    pull request 179291), and torchrun reports a signal instead of the status.
    """
    try:
        yield
    except BaseException as error:
        status = 1
        try:
            if isinstance(error, SystemExit):
                status = int(error.code or 0)
            else:
                sys.excepthook(type(error), error, error.__traceback__)
            atexit._run_exitfuncs()  # ends child processes and removes their folders
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            except OSError:
                status = status or 1
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
                time.sleep(PARENT_SECONDS)  # this process keeps the store: others still read that the work has ended
        finally:
            os._exit(status)


def _connect() -> Group:
    import torch
    import torch.distributed as dist

    from pipelines.system.processes import cores

    numbers = {name: int(os.environ[name]) for name in ("RANK", "WORLD_SIZE")}
    local_rank, local = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    group = Group(numbers["RANK"], numbers["WORLD_SIZE"], local_rank, local)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _end_with_parent()
    # torchrun sets one thread, on any number of cores; more than one is the user's choice.
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, cores() // local))
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    store, rank, world = next(iter(dist.rendezvous("env://", group.rank, group.world, timeout=MEETING)))
    store.set_timeout(PATIENCE)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun may keep the store when it restarts all
    own = dist.PrefixStore(f"group {attempt}", store)
    dist.init_process_group(backend, store=own, rank=rank, world_size=world, timeout=PATIENCE)
    group._store = dist.PrefixStore(f"stage {attempt}", store)
    return group


def _explain(group: Group, error: BaseException) -> None:
    """Raise the error of another process, where it has caused `error`."""
    if isinstance(error, UserError):
        return
    lost = is_loss(error)
    if failure := group.failure(wait=lost):
        raise failure from None
    if lost:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"Another of the {group.world} processes has ended: it was killed, or its machine cannot be reached. Run "
            f"the same command again to continue. (torch says: {reason})"
        ) from None


def take_part(group: Group) -> None:
    """Do what the main process shares, and end with it; for every process but the main one.

    An error is left in the store for the main process, which ends all; that of a bug is printed here too.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # at once, also inside of compiled code
        signal.signal(number, signal.SIG_DFL)
    try:
        group.serve()
    except BaseException as error:
        if not is_loss(error):
            _tell(group, error)
        _leave(group, error)


def _tell(group: Group, error: BaseException) -> None:
    """Tell the main process of `error`, the first one of the group; print that of a bug."""
    with suppress(RuntimeError):
        assert group._store is not None
        if group._store.add("told", 1) == 1:
            if not isinstance(error, UserError):
                sys.excepthook(type(error), error, error.__traceback__)
            group._store.set(FAILED, str(error) if isinstance(error, UserError) else "")


def _leave(group: Group, error: BaseException) -> NoReturn:
    """Let the main process end this one: torchrun would end both if this one ended first, before any message."""
    import torch

    sys.stderr.flush()
    if torch.cuda.is_available() and not _main_has_ended(group):
        # No lost connection ends an exchange between GPUs, so the main process may never notice.
        if isinstance(error, UserError):
            sys.stderr.write(f"error: {error}\n")
        os._exit(EXIT_AFTER_ANOTHER if is_loss(error) else 2 if isinstance(error, UserError) else 1)
    # So that exchanges of the others end.  Torch closes connections later: what trains a network keeps them.
    for file in Path("/dev/fd").iterdir():
        with suppress(OSError), socket.socket(fileno=os.dup(int(file.name))) as each:
            waits = each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)  # for connections; gloo would abort
            if each.family in (socket.AF_INET, socket.AF_INET6) and not waits:
                each.shutdown(socket.SHUT_RDWR)
    time.sleep(60 * NOTICE_SECONDS)
    os._exit(EXIT_AFTER_ANOTHER)


def _main_has_ended(group: Group) -> bool:
    """Return whether the main process ends its work within twice the time in which it notices an error."""
    assert group._store is not None
    try:
        group._store.wait([f"work {group._shared}"], timedelta(seconds=2 * NOTICE_SECONDS))
        return True
    except RuntimeError:  # not in time, or its machine is gone
        return False


def _end_with_parent() -> None:
    """End this process as soon as torchrun ends, for any reason."""

    def follow() -> None:
        while os.getppid() == PARENT:
            time.sleep(PARENT_SECONDS)
        os._exit(EXIT_AFTER_ANOTHER)

    threading.Thread(target=follow, daemon=True).start()
