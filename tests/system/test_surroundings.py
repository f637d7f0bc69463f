"""What stages do on unusual machines: long TMPDIRs, few open files, no shared memory, no HOME, other locales."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits and mounts of Linux")
# A stage that does work in other processes and prints the sum of what they return.
IN_PROCESSES = """
import sys
from pipelines import command
from pipelines.system import processes
from pipelines.system.memory import check_room_for_processes
from pipelines.system.watch import unwatched
processes.cores = lambda: 2
def main(arguments):
    if arguments:
        check_room_for_processes(int(arguments[0]))
    print(sum(processes.in_processes(abs, range(-3, 0), 3, unwatched, "adding", "numbers")))
    import multiprocessing.util
    print(multiprocessing.util.get_temp_dir())
if __name__ == "__main__":
    sys.exit(command.run(main, sys.argv[1:]))
"""


def run(
    script: str, *words: str, environment: dict[str, str], before: str = "", wrapper: Sequence[str] = ()
) -> "subprocess.CompletedProcess[bytes]":
    """Run `script` in a process with further variables.  before: a shell command that precedes it."""
    line = f'{before or "true"}; exec {sys.executable} "$@"'
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    variables = kept | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    command = [*wrapper, "sh", "-c", line, "sh", "-c", script, *words]
    return subprocess.run(command, env=variables, capture_output=True, timeout=60, check=False)


@LINUX
def test_processes_start_with_a_tmpdir_of_any_length_and_leave_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "/".join(["job_of_a_batch_system"] * 10)
    folder.mkdir(parents=True)
    done = run(IN_PROCESSES, environment={"TMPDIR": str(folder)})
    total, place = done.stdout.decode().split()
    assert (done.returncode, total, done.stderr) == (0, "6", b"")
    assert len(place) < 60 and not Path(place).exists() and not list(folder.iterdir())


@pytest.mark.parametrize("name", ["missing", "file", "/dev/full/x"])
def test_a_tmpdir_that_cannot_be_written_is_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    done = run(IN_PROCESSES, environment={"TMPDIR": str(tmp_path / name)})
    assert (done.returncode, done.stderr, done.stdout.split()[0]) == (0, b"", b"6")


def test_no_folder_for_temporary_files_is_one_message_that_names_tmpdir(tmp_path: Path) -> None:
    script = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/dev/full/x']".replace("\\", "")
    done = run(script + IN_PROCESSES, environment={"TMPDIR": "/dev/full/x"})
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith(b"error: No folder for temporary files can be written: /dev/full/x (TMPDIR), /tmp")
    assert b"Set TMPDIR" in done.stderr and done.stderr.count(b"\n") == 1


@LINUX
def test_the_limit_of_open_files_is_raised_as_far_as_allowed() -> None:
    script = "import resource, sys; from pipelines import command\n"
    script += "sys.exit(command.run(lambda words: print(resource.getrlimit(resource.RLIMIT_NOFILE))))"
    done = run(script, environment={}, before="ulimit -Sn 64; ulimit -Hn 500")
    assert done.stdout.split() == [b"(500,", b"500)"]


@LINUX
def test_too_few_open_files_name_the_limit_and_the_advice_works() -> None:
    few = "ulimit -n 24"
    refused = run(IN_PROCESSES, "4", environment={}, before=few)
    assert refused.returncode == 2 and refused.stderr.count(b"\n") == 1
    assert b"4 processes need 24 more open files" in refused.stderr and b"ulimit -Hn" in refused.stderr
    assert b"hardware.workers=0" in refused.stderr
    done = run(IN_PROCESSES, environment={}, before=few)  # as with hardware.workers=0
    assert (done.returncode, done.stderr, done.stdout.split()[0]) == (0, b"", b"6")
    many = run(IN_PROCESSES, "4", environment={}, before=f"ulimit -n {resource.getrlimit(resource.RLIMIT_NOFILE)[1]}")
    assert many.returncode == 0


@LINUX
def test_open_files_that_run_out_later_are_named() -> None:
    script = "import os, sys; from pipelines import command\n"
    script += "sys.exit(command.run(lambda words: [os.open('/dev/null', 0) for _ in range(99)]))"
    done = run(script, environment={}, before="ulimit -n 50")
    assert done.returncode == 2 and done.stderr.startswith(b"error: Too many files are open at once.")


@LINUX
@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        ("mount -t tmpfs -o size=64k tmpfs /dev/shm", b"/dev/shm, where processes share locks, is full"),
        ("mount -t tmpfs -o size=8m,ro tmpfs /dev/shm", b"Processes cannot share locks on this machine"),
    ],
)
def test_without_shared_memory_workers_are_refused_and_the_work_goes_on_without(prepare: str, words: bytes) -> None:
    wrapper = ["unshare", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*wrapper, "sh", "-c", prepare], capture_output=True).returncode:
        pytest.skip("this account cannot mount")
    refused = run(IN_PROCESSES, "2", environment={}, before=prepare, wrapper=wrapper)
    assert refused.returncode == 2 and words in refused.stderr and refused.stderr.count(b"\n") == 1
    assert b"hardware.workers=0" in refused.stderr
    done = run(IN_PROCESSES, environment={}, before=prepare, wrapper=wrapper)  # as with hardware.workers=0
    assert (done.returncode, done.stderr, done.stdout.split()[0]) == (0, b"", b"6")


def test_locks_that_the_system_refuses_are_named() -> None:
    script = "import multiprocessing\ndef no(): raise OSError(38, 'Function not implemented')\n"
    script += "multiprocessing.Lock = no\n" + IN_PROCESSES
    refused = run(script, "2", environment={})
    assert refused.returncode == 2 and b"Processes cannot share locks on this machine (Function not" in refused.stderr
    done = run(script, environment={})
    assert (done.returncode, done.stdout.split()[0]) == (0, b"6")


def test_a_home_that_cannot_be_written_is_no_reason_to_warn() -> None:
    script = "import sys; from pipelines import command\n"
    script += "def main(words): import pipelines.analysis.plots, torch.hub, matplotlib.font_manager\n"
    script += "sys.exit(command.run(main))"
    variables = {"HOME": "/dev/null/nobody", "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": ""}
    done = run(script, environment=variables)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@LINUX
@pytest.mark.parametrize("closed", [">&-", "0<&- >&- 2>&-"])
def test_closed_streams_are_no_reason_to_fail(tmp_path: Path, closed: str) -> None:
    note = f"    open({str(tmp_path / 'done')!r}, 'w').close()\nif __name__"
    done = run(IN_PROCESSES.replace("if __name__", note), environment={}, before=f"exec {closed}")
    assert (done.returncode, done.stderr) == (0, b"") and (tmp_path / "done").exists()
    refused = run(IN_PROCESSES, "999999999", environment={}, before=f"exec {closed}")
    assert refused.returncode == 2 and (b"error: " in refused.stderr) == ("2>" not in closed)


# Prints names beyond ASCII, one of them no UTF-8, and whether the file of a CSV's name is found.
NAMES = """
import os, sys
from pipelines import command
def main(arguments):
    print("café 猫", os.fsdecode(b"\\xff"), os.path.exists("caf\\u00e9"), open("text").read() == "\\u00e9")
if __name__ == "__main__":
    sys.exit(command.run(main, sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"LC_ALL": "C"}, "café 猫 \\udcff".encode()),
        ({"LC_ALL": "C", "PYTHONUTF8": "0"}, rb"caf\xe9 \u732b \udcff"),
        ({"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, rb"caf\xe9 \u732b \udcff"),
        ({"PYTHONIOENCODING": "ascii"}, rb"caf\xe9 \u732b \udcff"),
        ({"PYTHONIOENCODING": "latin-1:strict"}, b"caf\xe9 \\u732b \\udcff"),
        ({"PYTHONUTF8": "1"}, "café 猫 \\udcff".encode()),
    ],
    ids=str,
)
def test_names_beyond_ascii_in_every_locale(tmp_path: Path, variables: dict[str, str], shown: bytes) -> None:
    (tmp_path / "café").write_text("")
    (tmp_path / "text").write_text("é", encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text(NAMES, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=kept | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    if "PYTHONUTF8" in variables or variables.get("LC_ALL"):
        assert done.stdout == shown + b" True True\n"
    else:
        assert done.stdout.startswith(shown + b" True")
