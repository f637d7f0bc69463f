"""A stand-in for tests that push kernels, and the output of a kernel there."""

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.kaggle import kernel_bundle
from tests.support.clients import kept_client
from tests.support.standin import Kernel, Standin

NOTE = {"metric": "accuracy", "score": 0.9312, "best_epoch": 3}
FILES = {
    "submission.csv": b"id,label\n1,cat\n",
    "submissions/cats/default.csv": b"id,label\n1,cat\n",
    "runs/cats/default/train.json": json.dumps(NOTE).encode(),
    "runs/cats/default/final.pt": bytes(range(256)) * 40,
}


@contextmanager
def standin_for_kernels(folder: Path) -> Iterator[Standin]:
    """Run a stand-in with one process of Kaggle's client; the modules that a kernel holds are searched for once."""
    find = functools.cache(kernel_bundle.imported_modules)
    with Standin(folder) as standin, kept_client(standin), pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_bundle, "imported_modules", lambda *names: dict(find(*names)))
        yield standin


def run_id(kernel: Kernel) -> str:
    return re.search('^RUN_ID = "(.*)"$', kernel.text, re.MULTILINE)[1]  # type: ignore[index]


def leave(kernel: Kernel, files: dict[str, bytes] = FILES, finished: bool = True, **manifest: Any) -> None:
    """Set the state of `kernel` to a run by the script that left `files`."""
    described = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()
    }
    content = {"run_id": run_id(kernel), "finished": finished, "files": described} | manifest
    kernel.outputs = {**files, "manifest.json": json.dumps(content).encode()}
    said = [f"cats, recipe default, run default; run id {content['run_id']}\n", "the ", "end\n"]
    kernel.log = json.dumps([{"stream_name": "stdout", "time": 0.1, "data": data} for data in said])
    kernel.status = "COMPLETE"
