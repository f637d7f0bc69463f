"""Files and folders are written whole or not at all."""

import hashlib
import json
from pathlib import Path

import pytest

from pipelines.system.errors import UserError
from pipelines.system.files import atomic_file, atomic_folder, file_sha256, read_json, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_at_the_end_of_the_block_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    with atomic_file(path) as partial:
        partial.write_text("new")
        assert partial.parent == path.parent  # a rename from another disk would be a copy
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_keeps_the_older_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_file(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_failed_first_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), atomic_file(tmp_path / "file.txt") as partial:
        partial.write_text("half")
        raise ValueError("stop")
    assert names(tmp_path) == []


def test_the_partial_file_of_a_killed_process_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), atomic_file(tmp_path / "file.txt") as partial:
        raise ValueError("stop")
    partial.write_text("a much longer text that a killed process left")
    write_text(tmp_path / "file.txt", "new")
    assert (tmp_path / "file.txt").read_text() == "new"
    assert names(tmp_path) == ["file.txt"]


def test_a_folder_appears_at_the_end_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "a" / "folder"
    with atomic_folder(path) as partial:
        (partial / "x").write_text("x")
        assert not path.exists()
    assert names(path) == ["x"]
    assert names(path.parent) == ["folder"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "old").write_text("old")
    with atomic_folder(path) as partial:
        assert names(partial) == []
        (partial / "new").write_text("new")
        assert (path / "deep" / "old").exists()
    assert names(path) == ["new"]
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_folder_keeps_the_older_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(error), atomic_folder(path) as partial:
        (partial / "new").write_text("new")
        raise error
    assert names(path) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_a_partial_folder_of_a_killed_process_is_emptied_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), atomic_folder(tmp_path / "folder") as partial:
        raise ValueError("stop")
    partial.mkdir()
    (partial / "stale").write_text("")
    with atomic_folder(tmp_path / "folder") as partial:
        (partial / "new").write_text("")
    assert names(tmp_path / "folder") == ["new"]


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "folder") as partial:
        (partial / "first").write_text("")
        with (
            pytest.raises(UserError, match=r"Another process is writing .*folder\. Wait"),
            atomic_folder(tmp_path / "folder"),
        ):
            pass
    assert names(tmp_path / "folder") == ["first"]


def test_the_outgoing_folder_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    outgoing = tmp_path / ".folder.outgoing"  # killed between the two renames
    outgoing.mkdir()
    (outgoing / "old").write_text("old")
    with atomic_folder(tmp_path / "folder") as partial:
        (partial / "new").write_text("")
    assert names(tmp_path) == ["folder"]


def test_text_is_utf8_with_unix_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "grün\nund\n")
    assert (tmp_path / "text").read_bytes() == "grün\nund\n".encode()


def test_json_is_read_back_and_is_readable(tmp_path: Path) -> None:
    value = {"grün": [1, 2.5, None, True], "b": {"c": "ü"}}
    write_json(tmp_path / "value.json", value)
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "value.json") == json.loads(text) == value
    assert "ü" in text
    assert text.count("\n") > 5


def test_a_value_that_is_not_json_keeps_the_older_file(tmp_path: Path) -> None:
    write_json(tmp_path / "value.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "value.json", {"a": object()})
    assert read_json(tmp_path / "value.json") == 1
    assert names(tmp_path) == ["value.json"]


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1])
def test_sha256_covers_all_bytes(tmp_path: Path, size: int) -> None:
    content = b"x" * size
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
