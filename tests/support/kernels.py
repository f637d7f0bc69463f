"""The output of a kernel at the stand-in."""

import hashlib
import json
import re
from typing import Any

from tests.support.standin import Kernel

NOTE = {"metric": "accuracy", "score": 0.9312, "best_epoch": 3}
FILES = {
    "submission.csv": b"id,label\n1,cat\n",
    "submissions/cats/default.csv": b"id,label\n1,cat\n",
    "runs/cats/default/train.json": json.dumps(NOTE).encode(),
    "runs/cats/default/final.pt": bytes(range(256)) * 40,
}


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
