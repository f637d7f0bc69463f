"""Checks of Python, the packages, disk, memory and the device."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from pipelines.kaggle.failures import CLIENT
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.memory import problem_of_processes
from pipelines.system.processes import cores, decoding_processes
from pipelines.system.shell import pip_command
from pipelines.system.surroundings import temporary_folder, unusable_temporary_folder
from pipelines.tools.doctor_checks import Check, Verdict, first_line, install

OLDEST_PYTHON = (3, 11)
OLDEST_CLIENT, NEXT_CLIENT = (2, 2, 4), (3,)
OTHERS = "numpy pandas PIL sklearn scipy matplotlib tqdm py7zr pycocotools".split()
IMPORT_SECONDS = 60
GB = 1e9
LITTLE_DISK, LITTLE_MEMORY = 10 * GB, 2 * GB
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def check_packages(settings: Settings) -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    step = "Install Python 3.11 or newer, then: rm -r .venv; make install PYTHON=python3.11"
    yield Check("Python", "ok" if sys.version_info[:2] >= OLDEST_PYTHON else "fails", version, (step,))
    with _importing_client() as process:
        try:
            yield _torch()  # the client is imported meanwhile
            lacking = [name for name in OTHERS if find_spec(name) is None]
            found = ", ".join(lacking or OTHERS)
            yield Check("packages", "missing" if lacking else "ok", found, (install("the missing packages"),))
            yield _client(process, "fails" if settings.competition.source == "kaggle" else "!")
        finally:
            process.kill()


def _torch() -> Check:
    name = "torch"
    try:
        import torch

        name = "torchvision"
        import torchvision
        import torchvision.ops

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:  # versions that do not match fail in many ways
        step = install("torch and torchvision in matching versions")
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return Check("torch", "missing", f"{name} is not installed", (step,))
        return Check("torch", "fails", f"{name} cannot be loaded: {first_line(error)}", (step,))
    return Check("torch", "ok", f"{torch.__version__}, with torchvision {torchvision.__version__}")


def _importing_client() -> "subprocess.Popen[str]":
    """Start a process that imports Kaggle's client and prints its version last.

    It has no credentials, so that the import asks Kaggle nothing; its settings folder exists, so that none is created.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KAGGLE_", "VERBOSE"))}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", "import kaggle; print(); print(kaggle.__version__)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=kept | dict.fromkeys(("HOME", "USERPROFILE", "KAGGLE_CONFIG_DIR"), sys.prefix),
    )


def _client(process: "subprocess.Popen[str]", bad: Verdict) -> Check:
    step = install("Kaggle's client")
    try:
        out, err = process.communicate(timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return Check("kaggle", bad, f"the client did not load within {IMPORT_SECONDS} seconds", (step,))
    if process.returncode:
        reason = (err.strip().splitlines() or [f"status {process.returncode}"])[-1]
        if "No module named 'kaggle'" in reason:
            return Check("kaggle", "missing" if bad == "fails" else bad, "Kaggle's client is not installed", (step,))
        again = f"Install it again: {pip_command('--force-reinstall', *CLIENT)}"
        return Check("kaggle", bad, f"the client cannot be loaded: {reason}", (again,))
    version = out.split()[-1]
    if OLDEST_CLIENT <= tuple(map(int, re.findall(r"\d+", version)[:3])) < NEXT_CLIENT:
        return Check("kaggle", "ok", f"client {version}")
    return Check("kaggle", "!", f"client {version}; supported: 2.2.4 up to 3", (step,))


def check_machine(settings: Settings) -> Iterator[Check]:
    folder = Path.cwd()
    free = shutil.disk_usage(folder).free
    if os.access(folder, os.W_OK):
        step = f"Free space on the disk of {folder}: large competitions take tens of GB."
        yield Check("disk", _enough(free, LITTLE_DISK), f"{free / GB:,.1f} GB free", (step,))
    else:
        yield Check("disk", "fails", f"{folder} is not writable", ("Work in a folder where you may write.",))
    total, available = _memory()
    if total:
        shown = f"{total / GB:.1f} GB, {available / GB:.1f} GB free"
        step = "Close other programs: less than 2 GB of memory are free."
        yield Check("memory", _enough(available, LITTLE_MEMORY), shown, (step,))
    else:
        yield Check("memory", "-", "not known")
    yield _temporary()
    workers = decoding_processes(settings.hardware.workers, settings.hardware.threads, _on_gpu(settings))
    if settings.input.source == "photos" and workers:
        problem = problem_of_processes(workers)
        step = f"{problem} Or use no processes to decode photos: hardware.workers=0."
        found = f"{workers} cannot start" if problem else str(workers)
        yield Check("workers", "fails" if problem else "ok", found, (step,))


def _on_gpu(settings: Settings) -> bool:
    """Return whether trainings use a GPU; not where torch cannot be loaded, which is another check."""
    try:
        import torch
    except Exception:  # versions that do not match fail in many ways
        return False
    return settings.hardware.device.startswith(("auto", "cuda")) and torch.cuda.is_available()


def _temporary() -> Check:
    """Return the check of the folder for temporary files."""
    try:
        used = temporary_folder()
    except UserError as error:
        return Check("temporary", "fails", "no folder for temporary files", (str(error),))
    if other := unusable_temporary_folder():
        step = f"{other} cannot be written, so {used} is used. Correct the variable, or unset it."
        return Check("temporary", "!", f"{used}, as {other} cannot be written", (step,))
    return Check("temporary", "ok", used)


def _enough(size: float, least: float) -> Verdict:
    return "ok" if size >= least else "!"


def _memory() -> tuple[float, float]:
    """Return bytes of memory, in total and available to this process; zeros where unknown."""
    try:
        kilobytes = dict(re.findall(r"(\w+): +(\d+) kB", Path("/proc/meminfo").read_text()))
        total, available = int(kilobytes["MemTotal"]) * 1024, int(kilobytes["MemAvailable"]) * 1024
    except (OSError, KeyError):
        return 0.0, 0.0
    for path in map(Path, MEMORY_LIMITS):
        try:
            limit = int(path.read_text())
        except (OSError, ValueError):  # no such file, or no limit
            continue
        total, available = min(total, limit), min(available, limit)
    return total, available


def check_device(settings: Settings) -> Check:
    """Return the check of the device; torch has to be installed."""
    from pipelines.models.device import bfloat16_is_fast, choose_hardware

    try:
        hardware = choose_hardware(settings.hardware)
    except UserError as error:
        return Check("device", "fails", f"hardware.device is {settings.hardware.device!r}", (str(error),))
    fast = "" if bfloat16_is_fast(hardware.device) else "; no fast bfloat16"
    return Check("device", "ok", f"{hardware}{fast}; {cores()} processor cores")
