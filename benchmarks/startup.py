"""Time of commands that do no work: the help of a stage, and a repeated finished stage; whole processes.

The stages are those of the digits, trained for one epoch, and a training of a frozen MobileNetV2 from a weights file
(with random weights). All commands alternate.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import measuring
from benchmarks.measuring import Finding, run_stage, spread

WORDS = ("digits", "--run", "run", "--set", "train.epochs=1")
STAGES = ("download", "split", "train", "retrain", "predict")
FROZEN = ("model.name=mobilenet_v2", "finetune.frozen_stages=-1", "input.mean=[0.5,0.5,0.5]", "input.std=[0.5,0.5,0.5]")
HELP_SECONDS, AGAIN_SECONDS = 0.3, 1.0


def seconds(folder: Path, words: Sequence[str], expected: str) -> float:
    """Return the seconds of `python -m <words>` in `folder`; its output must contain `expected`."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(measuring.ROOT)},
        capture_output=True,
        text=True,
    )
    took = time.perf_counter() - started
    if done.returncode or expected not in done.stdout.lower():
        raise RuntimeError(f"python -m {' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return took


def measure(folder: Path, runs: int) -> list[Finding]:
    """Return the time of the help of `train` and of each finished stage, called `runs` times in turn."""
    import torch
    from torchvision import models

    weights = folder / "mobilenet_v2.pth"
    torch.save(models.mobilenet_v2(weights=None).state_dict(), weights)
    pretrained = ("digits", "--run", "frozen", *WORDS[3:], *FROZEN, f"model.weights={weights}", "input.size=32")
    finished: dict[str, tuple[str, tuple[str, ...]]] = {f"{stage}, finished, again": (stage, WORDS) for stage in STAGES}
    finished["train on weights, finished, again"] = ("train", pretrained)
    for stage, words in finished.values():
        run_stage(folder, stage, *words)
    help_of_train = "python -m pipelines.train --help"
    took: dict[str, list[float]] = {name: [] for name in (help_of_train, *finished)}
    for _ in range(runs):
        took[help_of_train].append(seconds(folder, ("pipelines.train", "--help"), "usage:"))
        for name, (stage, words) in finished.items():
            took[name].append(seconds(folder, (f"pipelines.{stage}", *words), "already"))
    findings = []
    for name, each in took.items():
        most = HELP_SECONDS if name == help_of_train else AGAIN_SECONDS
        reached = statistics.median(each) < most
        findings.append(Finding(name, "-", spread(each, ".2f", " s"), f"under {most} s", reached))
    return findings


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "startup")
    parser.add_argument("--runs", type=int, default=9, help="calls of each command (9)")
    words = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        findings = measure(Path(name), words.runs)
    measuring.conclude("startup", __doc__, arguments, findings, f"digits, {words.runs} calls of each in turn")
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
