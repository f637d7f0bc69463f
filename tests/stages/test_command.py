"""What all stages share at the command line: exit statuses, signals, child processes, printed tables."""

import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines import command
from pipelines.system.errors import TryAgainLater, UserError
from pipelines.system.shell import as_called, removal


def fail_with(error: BaseException) -> int:
    def main(arguments: Sequence[str] | None) -> None:
        raise error

    return command.run(main)


def test_user_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail_with(UserError("labels.csv has no column 'breed'.")) == 2
    assert capsys.readouterr().err == "error: labels.csv has no column 'breed'.\n"


def test_what_mends_itself_is_one_line_and_status_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail_with(TryAgainLater("Kaggle answers 503.")) == 3
    assert capsys.readouterr().err == "error: Kaggle answers 503.\n"


def test_names_in_messages_and_tables_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(UserError("\x1b[2Jred\r\x9b1m\u202e is unknown.\nRename it."))
    assert capsys.readouterr().err == "error:  [2Jred  1m  is unknown.\nRename it.\n"
    assert command.table(("class", "n"), [("\x1b[31mred\nx", "\x07")]) == "class       n\n [31mred x"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_named(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail_with(OSError(number, "No space left on device", "data/x")) == 2
    assert "The disk is full at data/x" in capsys.readouterr().err


def test_forbidden_path_is_named_and_the_stages_work_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail_with(PermissionError(errno.EACCES, "Permission denied", "runs/x")) == 2
    said = capsys.readouterr().err
    assert "No permission at runs/x" in said
    pasted = said.partition("work in another folder: there, ")[2]
    help_text = subprocess.run(pasted, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "usage: python -m pipelines.download" in help_text


def test_a_folder_that_is_a_link_to_a_lost_disk_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to("/media/usb/data")
    assert command.run(lambda arguments: Path("data/digits").mkdir(parents=True, exist_ok=True)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: data is a link to /media/usb/data, which is not there. Mount its disk, or correct")


def test_interrupt_is_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail_with(KeyboardInterrupt()) == 130
    assert "Run the same command again" in capsys.readouterr().err


def test_termination_unwinds_and_is_status_143(tmp_path: Path) -> None:
    """What is half-written is removed; a forked worker ends by the signal, without a word."""
    program = """
import os, sys, time
from pathlib import Path
from pipelines import command
from pipelines.system.files import atomic_file
def main(_):
    with atomic_file(Path("whole")) as partial:
        partial.write_text("half")
        if not (child := os.fork()):
            print(os.getpid(), flush=True)  # from here on: a signal that comes while it is forked is lost
            time.sleep(60)
        os.waitpid(child, 0)
        Path("child-ended").touch()
        time.sleep(60)
sys.exit(command.run(main))
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, "-c", program]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment, text=True
    ) as process:
        assert process.stdout and process.stderr
        os.kill(int(process.stdout.readline()), signal.SIGTERM)
        deadline = time.monotonic() + 30
        while not (tmp_path / "child-ended").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.terminate()
        assert process.stderr.read() == "\nStopped by SIGTERM. Run the same command again to continue.\n"
    assert process.returncode == command.EXIT_TERMINATED == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["child-ended"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENAMETOOLONG])
def test_what_a_lost_disk_answers_is_no_mistake_of_ours(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail_with(OSError(number, os.strerror(number), "runs/x")) == 2
    assert f"Cannot read or write at runs/x: {os.strerror(number)}" in capsys.readouterr().err


def test_a_lost_working_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert command.run(lambda _: print(Path.cwd())) == 2
    assert "no longer there" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):  # any other missing file is a mistake of ours
        command.run(lambda _: print(Path("missing").read_text()))


def test_a_reader_that_leaves_early_is_no_success() -> None:
    program = "import sys; from pipelines import command; sys.exit(command.run(lambda _: print('x' * 1_000_000)))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == command.EXIT_BROKEN_PIPE == 128 + signal.SIGPIPE


def test_an_error_is_told_though_the_reader_of_the_output_has_left() -> None:
    program = """
import sys
from pipelines import command
from pipelines.system.errors import UserError
def main(_):
    print("some")
    raise UserError("too bad")
sys.exit(command.run(main))
"""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    words = [sys.executable, "-c", program]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b"error: too bad\n"
    assert process.returncode == command.EXIT_USER_ERROR


def test_what_is_to_be_typed_again_can_be_typed() -> None:
    words = command.Words(competition="my leaves.toml", recipe="a,b#", run="it's", set=["train.lr=1"])
    assert words.repeat("train") == "make train COMP='my leaves.toml' RECIPE='a,b#' RUN='it'\"'\"'s' SET=train.lr=1"


def test_our_own_mistake_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        fail_with(ZeroDivisionError())
    with pytest.raises(OSError, match="weird"):
        fail_with(OSError(errno.EBADF, "weird"))


def test_table_aligns_first_column_left_and_others_right() -> None:
    assert command.table(("what", "n"), [("train", 7), ("a", 1000)]) == "what      n\ntrain     7\na      1000"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_duration_is_for_people(seconds: float, text: str) -> None:
    assert command.duration(seconds) == text


def test_progress_is_quiet_when_not_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(command.progress(range(3), "counting", 3)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_parts_are_printed_with_what_they_learn_by(capsys: pytest.CaptureFixture[str]) -> None:
    frozen = {"part": "resnet34: conv1 to layer4", "epochs": "1-2", "parameters": 21284672, "lr": None}
    head = {"part": "head", "epochs": "1-2", "parameters": 61560, "lr": 0.0123, "weight_decay": 1e-4}
    command.print_parts([frozen | {"weight_decay": None}, head])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["part", "epochs", "parameters"]
    assert lines[1].split()[-4:] == ["1-2", "21,284,672", "frozen", "-"]
    assert lines[2].split() == ["head", "1-2", "61,560", "0.012", "0.0001"]


def test_a_network_without_parts_prints_none(capsys: pytest.CaptureFixture[str]) -> None:
    command.print_parts([])
    assert capsys.readouterr().out == ""


def test_repeat_gives_the_same_words_back() -> None:
    words = command.parser("", "train").parse_args(
        ["cifar-10", "--recipe", "textbook", "--set", "train.epochs=5", "train.lr=1e-3"], namespace=command.Words()
    )
    assert words.repeat("retrain") == "make retrain COMP=cifar-10 RECIPE=textbook SET='train.epochs=5 train.lr=1e-3'"


def test_messages_have_paths_and_options_as_the_user_types_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = f"{tmp_path}/a b.csv, '{tmp_path}/c' and /x{tmp_path}/d: COMP=x, ARCHIVE=folder, SET='train.lr=1'"
    monkeypatch.chdir(tmp_path)
    assert as_called(message) == f"a b.csv, 'c' and /x{tmp_path}/d: COMP=x, ARCHIVE=folder, SET='train.lr=1'"
    monkeypatch.setenv("CALLED_FROM", "/")
    assert as_called(message) == message
    monkeypatch.delenv("CALLED_FROM")
    assert as_called(message) == f"a b.csv, 'c' and /x{tmp_path}/d: x, --archive=folder, --set='train.lr=1'"


def test_without_a_makefile_the_next_step_is_a_call_of_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CALLED_FROM")
    words = command.Words(competition="my leaves.toml", recipe="default", run="a&b", set=["train.epochs=1"])
    monkeypatch.chdir(Path(command.__file__).parents[1])
    assert words.repeat("train") == "make train COMP='my leaves.toml' RUN='a&b' SET=train.epochs=1"
    monkeypatch.chdir(tmp_path)
    train, submissions = words.repeat("train submissions").split(" && ")
    module = f"{shlex.quote(sys.executable)} -m pipelines."
    assert train == f"{module}train 'my leaves.toml' '--run=a&b' --set train.epochs=1"
    assert submissions.startswith(f"{module}tools.submissions ")
    parsed = command.parser("", "train").parse_args(shlex.split(train)[3:], namespace=command.Words())
    assert (parsed.competition, parsed.run, parsed.set) == (words.competition, words.run, words.set)
    assert words.repeat("submit", AGAIN="1").endswith(" --again --set train.epochs=1")
    assert words.repeat("folds", RUN="folds").count("--run=") == 1


def test_removal_names_what_is_there_in_words_of_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("-r", "it's & mine"):
        (tmp_path / name).touch()
    (tmp_path / "a b").mkdir()
    assert removal(tmp_path / "-r", tmp_path / "gone") == "rm ./-r"
    every = removal(*sorted(tmp_path.iterdir()))
    assert subprocess.run(["sh", "-c", every]).returncode == 0 and not list(tmp_path.iterdir())
    assert removal(tmp_path / "gone", Path("/elsewhere/x y")) == "rm -r gone '/elsewhere/x y'"


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "-x", "a" * 300, "a\nb"])
def test_run_name_cannot_leave_the_runs_folder(name: str) -> None:
    with pytest.raises(SystemExit) as stop:
        command.parser("", "train").parse_args(["digits", f"--run={name}"])
    assert stop.value.code == 2


PARENT_AND_STAGE = """
import sys, time, types
from pathlib import Path
from pipelines import command

def main(arguments):
    print("started", *arguments, flush=True)
    if arguments:
        sys.exit(int(arguments[0]))
    try:
        time.sleep(60)
    finally:
        time.sleep(1)  # longer than the parent waits for
        Path("unwound").touch()

stage = types.ModuleType("pipelines.sleeper")  # in the child process too, which imports this file
stage.main = main
sys.modules["pipelines.sleeper"] = stage
if __name__ == "__main__":
    folder = Path("elsewhere") if sys.argv[1:] else None
    def run(_):
        print("starting", file=sys.stderr, flush=True)
        sys.exit(command.run_stage("sleeper", sys.argv[1:], folder))
    sys.exit(command.run(run))
"""


def parent_of_a_stage(folder: Path, *arguments: str, start_new_session: bool = False) -> subprocess.Popen[str]:
    (folder / "parent.py").write_text(PARENT_AND_STAGE)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, "parent.py", *arguments]
    pipe = subprocess.PIPE
    session = {"start_new_session": start_new_session}
    return subprocess.Popen(words, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True, **session)  # type: ignore[call-overload]


@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, 1), (signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_stage_in_a_process_ends_with_its_parent(tmp_path: Path, number: signal.Signals, times: int) -> None:
    with parent_of_a_stage(tmp_path) as process:
        assert process.stdout and process.stdout.readline() == "started\n"
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.1)
        _, error = process.communicate(timeout=60)  # the stage holds its ends of the pipes open
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in error
    assert (tmp_path / "unwound").exists() == (number != signal.SIGKILL)


def test_an_interrupt_at_any_moment_of_its_start_prints_no_traceback(tmp_path: Path) -> None:
    """The signal goes to both processes, as Ctrl-C in a terminal does; the moments cover the start of the child."""
    ended = []
    for tenths in range(8):
        (folder := tmp_path / str(tenths)).mkdir()
        with parent_of_a_stage(folder, start_new_session=True) as process:
            assert process.stdout and process.stderr and process.stderr.readline() == "starting\n"
            time.sleep(tenths / 16)
            os.killpg(process.pid, signal.SIGINT if tenths % 3 else signal.SIGTERM)
            _, error = process.communicate(timeout=60)
        assert "Traceback" not in error
        ended.append(process.returncode)
    assert set(ended) == {130, 143}


def test_a_stage_in_a_process_returns_its_status_and_prints_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with parent_of_a_stage(tmp_path, "7") as process:
        assert process.communicate(timeout=60) == ("", "starting\n")
    assert process.returncode == 7
    assert (tmp_path / "elsewhere/sleeper.log").read_text() == "started 7\n"


LOSING = """
import os, signal, sys
from pipelines import command

class Closing:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        print("closed")

def main(arguments):
    closing = Closing()
    del closing
    print("going on")

sys.exit(command.run(main))
"""


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "Interrupted"), (signal.SIGTERM, "Stopped by SIGTERM")])
def test_a_signal_in_a_destructor_is_not_lost(number: signal.Signals, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOSING, str(int(number))], capture_output=True, text=True)
    said = f"\n{said}. Run the same command again to continue.\n"
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", said)
