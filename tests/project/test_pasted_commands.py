"""Every command that a stage prints works when it is pasted into a shell, whatever the names in it."""

import shutil
import zipfile
from pathlib import Path

import pytest

from tests.support.desk import FOLDER, Desk, Said
from tests.support.tiny import Tiny

COMP = "COMP='my data/my leaves (ä) $1.toml'"
RUN = """RUN="it's & mine; (two)\""""
SET = """SET='train.epochs=1 input.mean=[0.5, 0.5, 0.5] competition.title=A & B; `c` $d'"""
ARCHIVE = "my data/my leaves.zip"
STAGES = ("download", "split", "train", "retrain", "predict", "score")


@pytest.fixture
def files(tiny: Tiny) -> Path:
    """A folder with the tiny competition's TOML, archive and true labels, under difficult names."""
    folder = tiny.layout.root / "my data"
    folder.mkdir()
    text = tiny.toml.read_text() + '[competition]\nsource = "address"\naddress = "http://example.invalid/x.zip"\n'
    (folder / "my leaves (ä) $1.toml").write_text(text, encoding="utf-8")
    with zipfile.ZipFile(folder / "my leaves.zip", "w") as archive:
        for path in sorted(tiny.layout.raw.rglob("*.*")):
            archive.write(path, path.relative_to(tiny.layout.raw))
    shutil.copy(tiny.layout.raw / "sample.csv", folder / "true labels.csv")
    return folder


def desk_with(files: Path, shell: str = "sh", real: bool = False) -> Desk:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    desk = Desk(files.parent / FOLDER, shell, real)
    desk.set_up()
    shutil.move(files, desk.folder)
    return desk


def only(said: Said) -> str:
    (command,) = [each for each in said.to_type() if not each.startswith("rm")]
    return command


def go_on(desk: Desk, said: Said) -> Said:
    """Paste the command that `said` ends with; it must work."""
    after = desk.paste(only(said))
    assert after.status == 0, after.text
    return after


def whole_workflow(desk: Desk) -> None:
    """Walk from an empty folder to a score along the printed commands, and do each stage again as it says."""
    needs_split = desk.paste(f"make train {COMP} {RUN} {SET}")
    needs_data = desk.paste(only(needs_split))
    needs_archive = desk.paste(only(needs_data))
    assert [said.status for said in (needs_split, needs_data, needs_archive)] == [2, 2, 2]
    said = desk.paste(only(needs_archive).replace("<the file>", ARCHIVE))
    assert said.status == 0, said.text
    commands = []
    for stage in STAGES[1:-1]:
        commands.append(only(said))
        assert commands[-1].startswith(f"make {stage} "), said.text
        said = go_on(desk, said)
    score = only(said)
    assert desk.paste(score).status == 2  # the true labels are not known here
    scored = desk.paste(f"{score} SOLUTION='my data/true labels.csv'")
    assert scored.status == 0 and "accuracy on 12" in scored.text
    for command in reversed(commands):
        done = desk.paste(command)
        assert done.status == 0 and "lready" in done.text
        (removal,) = [each for each in done.to_type() if each.startswith("rm ")]
        again = desk.paste(removal if " && make " in removal else f"{removal} && {command}")
        assert again.status == 0 and "lready" not in again.text, again.text


def test_the_printed_commands_of_a_workflow_can_be_pasted(files: Path) -> None:
    whole_workflow(desk_with(files))


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_the_printed_commands_of_a_workflow_can_be_pasted_into_any_shell(files: Path, shell: str) -> None:
    whole_workflow(desk_with(files, shell, real=True))


def test_the_line_that_make_prints_can_be_pasted(files: Path) -> None:
    desk = desk_with(files)
    said, calls = desk.type(f"make train {COMP} {RUN} {SET} RECIPE='a b'")
    (line,) = [line for line in said.text.splitlines() if "-m pipelines.train" in line]
    _, again = desk.type(line)
    assert [call[1:] for call in again] == [call[1:] for call in calls]
    assert calls[0].arguments == [
        "my data/my leaves (ä) $1.toml",
        "--recipe=a b",
        "--run=it's & mine; (two)",
        "--set=train.epochs=1 input.mean=[0.5, 0.5, 0.5] competition.title=A & B; `c` $d",
    ]


def test_commands_name_the_folder_where_make_was_sent_to_it(files: Path) -> None:
    desk = desk_with(files)
    said = desk.paste(f"make -C '{FOLDER}' download {COMP} ARCHIVE='{ARCHIVE}'", desk.folder.parent)
    assert only(said) == f"make -C '{desk.folder}' split {COMP}"
    assert desk.paste(only(said), desk.folder.parent).status == 0
    again = desk.paste(f"make -C '{FOLDER}' split {COMP}", desk.folder.parent)
    (removal,) = again.to_type()
    command, _, then = removal.partition(" && ")
    assert desk.paste(command, desk.folder.parent) == (0, "") and not list(desk.folder.glob("data/*/split.csv"))
    assert then == f"make -C '{desk.folder}' split {COMP}"
