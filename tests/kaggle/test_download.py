"""Downloads by Kaggle's client from the stand-in: complete or absent, with a clear message for each failure."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines import download
from pipelines.dataset.archives import unpack
from pipelines.kaggle.download import verify
from pipelines.kaggle.failures import Damaged
from pipelines.settings.loading import load_settings
from pipelines.system.errors import UserError
from pipelines.system.files import only_one
from tests.support.clients import forget, kept_client, run_stage, shared_environment
from tests.support.standin import Body, Competition, Cut, Html, Stall, Standin, Status, Truncated

TOML = '[data]\nlabels = "labels.csv"\nsample_submission = "sample.csv"\n'
PRIOR = Path("data/cats/.cats.zip.download/cats.zip")
ARCHIVE = Path("data/cats/cats.zip")


class Trial:
    """A working folder with a competition `cats`, and a stand-in that has its archive."""

    def __init__(self, folder: Path, standin: Standin, competition: Competition) -> None:
        self.folder, self.standin, self.competition = folder, standin, competition
        self.environment = shared_environment(standin)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start the stage as a process."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.download", "cats.toml", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def download(self, *words: str) -> tuple[int, str, str]:
        """Run the stage in this process; return its status, what it printed, and its errors."""
        return run_stage(download, ["cats.toml", *words], self.folder, self.environment)

    def fails(self, status: int, *words: str) -> str:
        """Run the stage, check that it fails with `status`, one message and no data; return the message."""
        code, _, errors = self.download(*words)
        assert (code, errors.count("error: ")) == (status, 1), errors
        assert not (self.folder / ARCHIVE).exists()
        assert not (self.folder / "data/cats/raw").exists()
        return errors

    def succeeds(self) -> str:
        """Run the stage and check that the archive is identical; return what it printed."""
        code, printed, errors = self.download()
        assert (code, errors) == (0, "")
        self.is_whole()
        return printed

    def is_whole(self) -> None:
        content = self.competition.archive.read_bytes()
        assert (self.folder / ARCHIVE).read_bytes() == content
        sha256 = hashlib.sha256(content).hexdigest()
        assert (self.folder / "data/cats/cats.zip.sha256").read_text() == f"{sha256}  cats.zip\n"
        assert len(list((self.folder / "data/cats/raw/train").iterdir())) == 3
        assert not list((self.folder / "data/cats").glob(".cats.zip.download"))

    def kept(self) -> int:
        """The bytes of the partial file of a broken download."""
        return (self.folder / PRIOR).stat().st_size if (self.folder / PRIOR).exists() else 0


def make_archive(path: Path, size: int) -> Path:
    content = random.Random(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.csv", "id,label\n" + "".join(f"{n},cat\n" for n in range(3)))
        archive.writestr("sample.csv", "id,label\n7,cat\n")
        for number in range(3):
            archive.writestr(f"train/{number}.png", content.randbytes(size // 4))
        archive.writestr("test/7.png", content.randbytes(size // 4))
    return path


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    with Standin(tmp_path_factory.mktemp("standin")) as standin, kept_client(standin):
        make_archive(standin.folder / "cats.zip", 3_000_000)
        yield standin


@pytest.fixture
def trial(tmp_path: Path, standin: Standin) -> Iterator[Trial]:
    (tmp_path / "cats.toml").write_text(TOML)
    archive = Path(shutil.copyfile(standin.folder / "cats.zip", tmp_path / "there.zip"))
    yield Trial(tmp_path, standin, standin.add("cats", archive, load_settings(str(tmp_path / "cats.toml"))))
    forget(standin)


def test_from_the_slug_to_the_data_and_then_never_again(trial: Trial) -> None:
    printed = trial.succeeds()
    assert "Kaggle: username and key" in printed
    assert "rules accepted." in printed
    assert re.search(
        r"Downloaded and verified: data/cats/cats\.zip \(3\.0 MB, sha256 [0-9a-f]{12}…\), in \d+ s\.", printed
    )
    assert "6 files (3.0 MB) in data/cats/raw" in printed
    assert trial.environment["KAGGLE_KEY"] not in printed
    (call,) = trial.standin.calls("DownloadDataFiles")
    assert call.body == {"competitionName": "cats"}
    record = json.loads((trial.folder / "data/cats/raw/.download.json").read_text())
    assert record["sha256"] == hashlib.sha256(trial.competition.archive.read_bytes()).hexdigest()

    done = len(trial.standin.requests)
    assert "Already downloaded: 6 files (3.0 MB) in data/cats/raw." in trial.download()[1]
    subprocess.run(["rm", "-r", "data/cats/raw"], cwd=trial.folder, check=True)
    printed = trial.succeeds()  # unpacked again, from the archive that is here
    assert "Already downloaded: data/cats/cats.zip. To download it again: rm data/cats/cats.zip" in printed
    assert len(trial.standin.requests) == done


def test_no_credentials(trial: Trial) -> None:
    del trial.environment["KAGGLE_USERNAME"], trial.environment["KAGGLE_KEY"]
    message = trial.fails(2)
    assert "https://www.kaggle.com/settings" in message and "make doctor" in message
    assert "https://www.kaggle.com/competitions/cats/data, then: make download COMP=cats.toml ARCHIVE=" in message
    assert not trial.standin.requests


def test_wrong_credentials(trial: Trial) -> None:
    trial.environment["KAGGLE_KEY"] = "planted-and-wrong"
    message = trial.fails(2)
    assert "does not accept the credentials (401" in message
    assert "planted-and-wrong" not in message


def test_rules_not_accepted(trial: Trial) -> None:
    trial.competition.entered = False
    assert "https://www.kaggle.com/competitions/cats/rules" in trial.fails(2)
    assert not trial.standin.calls("DownloadDataFiles")


def test_a_misspelt_slug(trial: Trial) -> None:
    (trial.folder / "cats.toml").write_text(TOML + '[competition]\nslug = "cast"\n')
    message = trial.fails(2)
    assert "'cast'" in message and "competition.slug" in message


Answer = Status | Html | Body | Truncated
ANSWERS: list[tuple[str, Answer, int, str]] = [
    ("GetCompetition", Status(403, "Permission 'competitions.get' was denied"), 2, "Either you have not accepted"),
    ("GetCompetition", Status(403, json=False), 2, "https://www.kaggle.com/competitions/cats/rules; or there is no"),
    ("DownloadDataFiles", Status(403, "You must accept this competition's rules"), 2, "accepted the rules of 'cats'"),
    ("DownloadDataFiles", Status(404, "Not Found"), 2, "Kaggle knows no 'cats' (404, downloading)"),
    ("ListDataFiles", Status(429, "Slow down", {"Retry-After": "7"}), 3, "try again in 7 seconds"),
    ("DownloadDataFiles", Status(429), 3, "try again in some minutes"),
    ("DownloadDataFiles", Status(500, "Oops"), 3, '(500, downloading): try again later. Kaggle says: "Oops"'),
    ("storage", Status(503, json=False), 3, "Kaggle has trouble (503, downloading)"),
    ("GetCompetition", Html(), 3, "not Kaggle's service but perhaps a web page"),
    ("storage", Html(), 3, "is not a zip but a web page"),
    ("storage", Body(b'{"code":403,"message":"expired"}'), 3, "is not a zip but something that begins with b'{\"code"),
    ("storage", Truncated(100_000), 3, "The archive that came from Kaggle is damaged"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "answer", "status", "words"), ANSWERS, ids=lambda value: str(value)[:40])
def test_an_answer_that_is_not_the_archive(trial: Trial, call: str, answer: Answer, status: int, words: str) -> None:
    trial.standin.fault(call, answer)
    assert words in trial.fails(status)
    assert not trial.kept()


def test_after_each_failure_the_same_command_succeeds(trial: Trial) -> None:
    trial.standin.fault("storage", Html(), Truncated(1_000_000))
    trial.fails(3)
    trial.fails(3)
    trial.succeeds()


def test_a_competition_that_takes_code_is_named_before_the_download(trial: Trial) -> None:
    trial.competition.code_only = True
    status, printed, _ = trial.download()
    assert status == 0 and "Note: This competition takes code only" in printed
    trial.competition.code_only = False


def test_connection_refused(trial: Trial) -> None:
    trial.environment["http_proxy"] = "http://127.0.0.1:9"
    message = trial.fails(2)
    assert "failed (asking about the competition): the proxy 127.0.0.1:9 does not answer" in message
    assert "make kaggle-standin" in message


def test_cut_once_the_client_goes_on(trial: Trial) -> None:
    trial.standin.fault("storage", Cut(1_200_000))
    trial.succeeds()
    assert len(trial.standin.calls("storage")) == 2


@pytest.mark.slow
def test_cut_always(trial: Trial) -> None:
    make_archive(trial.competition.archive, 12_000_000)
    trial.competition.files[:] = [("labels.csv", 27)]
    trial.standin.fault("storage", Cut(1_500_000), times=None)
    message = trial.fails(3)
    assert "The connection to Kaggle failed (downloading): it was cut." in message
    assert re.search(r"[0-9.]+ MB of it are kept; the next call resumes there\.", message)
    assert trial.kept() > 5_000_000  # a mebibyte of each of six attempts
    trial.standin.fault("storage")  # no more of them
    trial.succeeds()
    assert "Range" in trial.standin.calls("storage")[-1].headers


def test_stalled_it_is_given_up_and_gone_on_with(trial: Trial) -> None:
    trial.standin.fault("storage", Stall(after=2_000_000))
    started = time.monotonic()
    message = trial.fails(3, "--set", "kaggle.stall_seconds=2")
    assert 2 < time.monotonic() - started < 20
    assert "Kaggle was silent for 2 seconds, so this was given up (downloading)." in message
    assert trial.kept() > 1_000_000
    trial.succeeds()
    assert "Range" in trial.standin.calls("storage")[-1].headers


def test_a_call_that_is_never_answered(trial: Trial) -> None:
    trial.standin.fault("ListDataFiles", Stall())
    assert "given up (listing the files)" in trial.fails(3, "--set", "kaggle.stall_seconds=2")


def test_sizes_that_are_not_those_that_kaggle_lists(trial: Trial) -> None:
    name, size = trial.competition.files[0]
    trial.competition.files[0] = (name, size + 1)
    assert f"{name!r} has {size} bytes, where Kaggle lists {size + 1}" in trial.fails(3)
    trial.competition.files[0] = ("more.csv", 7)
    assert "lacks 'more.csv', which Kaggle lists" in trial.fails(3)
    assert not trial.kept()


def test_an_archive_with_one_wrong_bit(trial: Trial) -> None:
    content = bytearray(trial.competition.archive.read_bytes())
    content[1_000_000] ^= 1
    trial.standin.fault("storage", Body(bytes(content)))
    assert "is damaged" in trial.fails(3)
    assert not trial.kept()
    trial.succeeds()


def test_the_text_of_an_error_within_a_download_is_never_gone_on_from(trial: Trial) -> None:
    """Client 2.2.4 overwrites the partial file with the answers to its later requests, and would resume from them."""
    trial.standin.fault("storage", Cut(1_000_000), Status(403, "expired"), Status(403, "expired"))
    trial.fails(3)
    trial.succeeds()


def test_what_it_went_on_from_was_wrong_so_it_begins_anew(trial: Trial) -> None:
    trial.standin.fault("storage", Stall(after=2_000_000))
    trial.fails(3, "--set", "kaggle.stall_seconds=2")
    size = trial.kept()
    (trial.folder / PRIOR).write_bytes(bytes(size))
    trial.succeeds()
    asked = ["Range" in call.headers for call in trial.standin.calls("storage")]
    assert asked == [False, False, True, False]  # the client asks once without to learn what there is


def test_killed_it_is_gone_on_with(trial: Trial) -> None:
    trial.standin.fault("storage", Stall(after=2_000_000))
    with trial.start() as process:
        while trial.kept() < 1_000_000:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    trial.succeeds()


def test_two_at_once(trial: Trial) -> None:
    (trial.folder / "data/cats").mkdir(parents=True)
    with only_one(trial.folder / "data/cats/.cats.zip.lock", "downloading cats.zip"):
        assert "Another process is downloading cats.zip." in trial.fails(2)


def test_nothing_reaches_the_real_kaggle(trial: Trial) -> None:
    trial.environment["KAGGLE_API_ENVIRONMENT"] = "TEST"
    assert "would send your credentials to the real Kaggle" in trial.fails(2)
    del trial.environment["KAGGLE_API_ENVIRONMENT"]
    started = time.monotonic()
    assert "does not answer" in trial.fails(2)  # https_proxy is a closed port
    assert time.monotonic() - started < 20
    assert not trial.standin.requests


def test_the_clients_chatter_is_not_shown(trial: Trial) -> None:
    trial.environment |= {"VERBOSE": "1", "VERBOSE_OUTPUT": "1"}
    trial.competition.entered = False
    _, printed, errors = trial.download()
    assert "Authorization" not in printed + errors


def test_a_competition_that_is_not_on_kaggle(trial: Trial) -> None:
    address = "http://example.org/cats.zip"
    (trial.folder / "cats.toml").write_text(f'{TOML}[competition]\nsource = "address"\naddress = "{address}"\n')
    message = trial.fails(2)
    assert (
        f"cats is not on Kaggle. Get its archive from {address}, then: make download COMP=cats.toml ARCHIVE=" in message
    )


@pytest.mark.slow
def test_cut_at_twenty_random_points_and_repeated(tmp_path: Path) -> None:
    """Cut at any byte, with and without further failures: 20 of 20 downloads end identical."""
    chance = random.Random(7)

    def attempt(number: int) -> bool:
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "cats.toml").write_text(TOML)
        with Standin(folder / "standin") as standin:
            archive = make_archive(folder / "there.zip", 8_000_000)
            trial = Trial(folder, standin, standin.add("cats", archive, load_settings(str(folder / "cats.toml"))))
            size = archive.stat().st_size
            point = chance.randrange(size)
            faults: list[Cut | Status | Stall] = [Cut(point)]
            if number % 4 == 1:
                faults += [Status(403, "expired"), Status(403, "expired")]
            if number % 4 == 2:
                faults = [Stall(after=point)]
            standin.fault("storage", *faults)
            for _ in range(4):
                with trial.start("--set", "kaggle.stall_seconds=6") as process:
                    _, errors = process.communicate(timeout=120)
                status = process.returncode
                assert "Traceback" not in errors, errors
                if status == 0:
                    break
                assert status == 3, errors
                assert not (folder / ARCHIVE).exists()
            trial.is_whole()
        return True

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(attempt, range(20))) == 20


def damage(change: Callable[[bytearray], None], source: Path, target: Path) -> Path:
    content = bytearray(source.read_bytes())
    change(content)
    target.write_bytes(content)
    return target


def test_every_flipped_byte_of_the_files_is_found(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "whole.zip", 40_000)
    verify(archive, {"labels.csv": 27, "0.png": 10_000})
    chance = random.Random(1)
    with zipfile.ZipFile(archive) as content:
        members = content.infolist()
    for number in range(40):
        member = members[number % len(members)]
        place = member.header_offset + 30 + len(member.filename) + chance.randrange(member.compress_size)

        def flip(content: bytearray, place: int = place) -> None:
            content[place] ^= 0x10

        with pytest.raises(Damaged):
            verify(damage(flip, archive, tmp_path / "damaged.zip"), {})


def test_a_flipped_byte_anywhere_ends_in_words_or_changes_nothing(tmp_path: Path) -> None:
    archive = tmp_path / "whole.zip"
    with zipfile.ZipFile(archive, "w") as content:
        for name in ("tr\u00e9in/\u00e4.png", "labels.csv"):
            content.writestr(name, b"content")
    size = archive.stat().st_size
    for place in range(size):
        for bit in (0x01, 0x10, 0x80):

            def flip(content: bytearray, place: int = place, bit: int = bit) -> None:
                content[place] ^= bit

            try:
                verify(damage(flip, archive, tmp_path / "damaged.zip"), {})
            except Damaged:
                continue
            try:
                unpack(tmp_path / "damaged.zip", tmp_path / "raw")
            except UserError:  # unpacking finds a wrong size, and says that an entry is encrypted
                continue
            # a date or the like: the files are whole
            assert {path.read_bytes() for path in (tmp_path / "raw").rglob("*.*")} == {b"content"}


def test_an_archive_of_another_compression_is_kept_to_be_unpacked_otherwise(trial: Trial) -> None:
    with zipfile.ZipFile(trial.competition.archive) as archive:
        entry = archive.getinfo("test/7.png")
        table = archive.start_dir
    content = bytearray(trial.competition.archive.read_bytes())
    name = b"test/7.png"
    for start, method in ((content.index(name), 22), (content.index(name, table), 36)):
        assert content[start - method : start - method + 2] == entry.compress_type.to_bytes(2, "little")
        content[start - method : start - method + 2] = (98).to_bytes(2, "little")  # PPMd, which nothing here reads
    trial.competition.archive.write_bytes(content)
    status, _, errors = trial.download()
    assert status == 2  # no later try would mend it
    assert "data/cats/cats.zip: 'test/7.png' is compressed with PPMd" in errors
    assert "give the folder: ARCHIVE=folder" in errors
    assert (trial.folder / ARCHIVE).read_bytes() == bytes(content)


def test_names_are_compared_however_they_are_spelt(tmp_path: Path) -> None:
    archive = tmp_path / "whole.zip"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("tre\u0301in.csv", "1")  # decomposed, as macOS does
        content.writestr("\u00fc.csv".encode().decode("cp437"), "22")  # UTF-8 that does not say so
    verify(archive, {"tr\u00e9in.csv": 1, "\u00fc.csv": 2})


def test_an_archive_of_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(Damaged, match="is empty"):
        verify(tmp_path / "empty.zip", {})


def test_every_truncation_is_found(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "whole.zip", 4_000)
    content = archive.read_bytes()
    for size in random.Random(2).sample(range(len(content)), 60):
        (tmp_path / "cut.zip").write_bytes(content[:size])
        with pytest.raises(Damaged):
            verify(tmp_path / "cut.zip", {})


def test_a_lock_is_free_again_when_its_holder_is_gone(tmp_path: Path) -> None:
    hold = f"from pipelines.system.files import only_one; import time\nwith only_one(__import__('pathlib').Path({str(tmp_path / 'lock')!r}), ''):\n print('held', flush=True); time.sleep(60)"  # noqa: E501
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", hold], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="Another process is waiting"), only_one(tmp_path / "lock", "waiting", 0.3):
            pass
        process.kill()
    with only_one(tmp_path / "lock", "waiting", 0.3):
        pass
