"""The device and the precision of a run, and their record."""

import contextlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from pipelines.models.depthwise import DepthwiseGradients
from pipelines.settings.running_sections import HardwareSettings
from pipelines.system.errors import UserError
from pipelines.system.group import ALONE, Group


@dataclass(frozen=True)
class Hardware:
    """A device and the type of its matrix products; parameters and sums stay float32.

    side_by_side: the widest maps, in pixels, that convolutions in training lay side by side; see `side_by_side.py`.
    processes: how many share the work, each with a device and threads of its own.
    """

    device: torch.device
    dtype: torch.dtype
    side_by_side: int = 0
    processes: int = 1

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute in the block with this precision; what learns on a processor in bfloat16 as in `depthwise.py`."""
        if self.dtype != torch.bfloat16:
            yield
            return
        learns = self.device.type == "cpu" and torch.is_grad_enabled()
        with (
            torch.autocast(self.device.type, dtype=torch.bfloat16),
            DepthwiseGradients() if learns else contextlib.nullcontext(),
        ):
            yield

    def of(self, group: Group) -> "Hardware":
        """Return this hardware for the process of `group` that this is: with its own GPU."""
        if group.world == 1 or self.device.type != "cuda":
            return self
        return replace(self, device=torch.device("cuda", group.local_rank))

    def record(self) -> dict[str, str | int]:
        """Return what a run's numbers depend on, as JSON values."""
        on_gpu = self.device.type == "cuda"
        processor = _cpuinfo("model name") or platform.processor() or platform.machine()
        return {
            "device": torch.cuda.get_device_name(self.device) if on_gpu else processor,
            "precision": str(self.dtype).removeprefix("torch."),
            "side_by_side": self.side_by_side,
            "threads": torch.get_num_threads(),
            **({"processes": self.processes} if self.processes > 1 else {}),
            "torch": torch.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torchvision", "numpy", "pillow")},
            "system": platform.platform(),
        }

    def __str__(self) -> str:
        record = self.record()
        threads = f"{record['threads']} thread{'s' if record['threads'] != 1 else ''}"
        where = record["device"] if self.device.type == "cuda" else f"{record['device']}, {threads}"
        shared = f"{self.processes} processes, each: " if self.processes > 1 else ""
        return f"{shared}{where}, {record['precision']}"


def choose_hardware(settings: HardwareSettings, group: Group = ALONE) -> Hardware:
    """Return the device and precision of `settings`, after setting torch's threads and deterministic kernels.

    Each process of `group` has a GPU of its own.  Raises `UserError` for a device that cannot be used here.
    """
    name = settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        problem = f"hardware.device is {name!r}, which cannot be used here: {_reason(name, error)}"
        raise UserError(f"{problem}. Try auto or one of: {', '.join(_available())}.") from None
    if group.world > 1:
        _check_devices(name, device, group)
    settle(settings)
    widest = max(settings.side_by_side, 0) if device.type == "cpu" else 0
    dtype = torch.bfloat16 if bfloat16_is_fast(device) else torch.float32
    if settings.precision != "auto":
        dtype = getattr(torch, settings.precision)
    return Hardware(device, dtype, widest, group.world).of(group)


def settle(settings: HardwareSettings) -> None:
    """Set this process's threads and deterministic kernels; in each process that shares work."""
    make_deterministic()
    if settings.threads:
        torch.set_num_threads(settings.threads)


def _check_devices(name: str, device: torch.device, group: Group) -> None:
    """Raise `UserError` where the processes of `group` cannot each have a device like `device`."""
    if device.type not in ("cpu", "cuda") or device.index is not None:
        raise UserError(f"hardware.device is {name!r}; several processes (NPROC) need auto, cpu or cuda.")
    if device.type == "cuda" and (count := torch.cuda.device_count()) < group.local:
        raise UserError(
            f"{group.local} processes need a GPU each, and torch finds {count} here. Use NPROC=gpu, or "
            "SET=hardware.device=cpu."
        )


def _available() -> list[str]:
    """Return the names of the devices that this machine and this torch have."""
    graphics = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *graphics, *(["mps"] if torch.backends.mps.is_available() else [])]


def _reason(name: str, error: Exception) -> str:
    """Return why the device `name` cannot be used, where torch failed with `error`, as the end of a sentence."""
    if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
        return "torch's names are cpu, cuda (or cuda:0, cuda:1, …) and mps"
    if name.startswith("mps"):
        return "this machine has no GPU of Apple"
    if name.startswith("cpu"):
        return "a number does not choose a processor"
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this torch, {torch.__version__}, is built without CUDA (README.md, installation)"
    if not torch.cuda.is_available():
        return "torch finds no GPU with a working driver (see nvidia-smi, and the variable CUDA_VISIBLE_DEVICES)"
    return str(error).partition("\n")[0].rstrip(".")


def bfloat16_is_fast(device: torch.device) -> bool:
    """Return whether `device` has instructions that multiply bfloat16; emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool({"amx_bf16", "avx512_bf16"} & set(_cpuinfo("flags").split()))


def make_deterministic() -> None:
    """Choose deterministic kernels where they exist, and float32 without rounding to TF32, which has 10 of 23 bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this setting
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False


def _cpuinfo(key: str) -> str:
    """Return the first value of `key` in Linux's /proc/cpuinfo, or an empty string."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")
