"""Calls to Kaggle: unreadable answers, refusals, and a client process that is killed."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.kaggle import service
from pipelines.kaggle.failures import ConnectionLost, NoSuchKernel, Unanswered
from pipelines.kaggle.service import Kaggle, Limits, check_environment
from pipelines.settings.schema import Settings
from pipelines.system.errors import TryAgainLater, UserError
from tests.support.clients import KeptClient, forget, shared_environment, surroundings
from tests.support.standin import Body, Delay, Stall, Standin, Status

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    with Standin(tmp_path_factory.mktemp("standin")) as standin:
        with zipfile.ZipFile(standin.folder / "cats.zip", "w") as content:
            content.writestr("labels.csv", "id,label\n")
        yield standin


@pytest.fixture(scope="module")
def client(shared: Standin) -> Iterator[KeptClient]:
    client = KeptClient(shared_environment(shared))
    yield client
    client.end()


@pytest.fixture
def standin(shared: Standin) -> Iterator[Standin]:
    """The stand-in, and an environment that leads to it."""
    shared.add("cats", shared.folder / "cats.zip", Settings("cats"))
    with surroundings(shared_environment(shared)):
        yield shared
    forget(shared)


@pytest.fixture
def kaggle(standin: Standin, client: KeptClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kaggle]:
    monkeypatch.setattr(service, "Client", client.make)
    with Kaggle("cats", 5) as kaggle:
        yield kaggle


def worker(kaggle: Kaggle) -> "subprocess.Popen[str]":
    assert kaggle.client.process
    return kaggle.client.process


def test_one_process_answers_all_questions(standin: Standin) -> None:
    kaggle = Kaggle("cats", 20).__enter__()
    process = worker(kaggle)
    assert kaggle.username() == "alice"
    assert kaggle.competition().entered
    assert kaggle.limits() == Limits(0, 0, 5, False)
    assert kaggle.submissions() == [] and kaggle.files() == {"labels.csv": 9}
    assert worker(kaggle) is process
    kaggle.close()
    assert process.poll() is not None


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b'{"submissions":[{"ref":1,"status":"WEIRD"}]}', Unanswered, "cannot read the answer, 'WEIRD'"),
        (b'{"submissions":[{"ref":1,"date":"yesterday"}]}', Unanswered, "cannot read"),
        (b'{"submissions":7}', Unanswered, "cannot read"),
        (b"not json", Unanswered, "perhaps a web page"),
        (b'"maintenance"', Unanswered, "perhaps a web page"),  # which the client takes for an empty list
        (b"[]", Unanswered, "perhaps a web page"),
        (b'{"code":401,"message":"Unauthenticated"}', UserError, "does not accept the credentials (401"),
        (b'{"code":"403","message":"a text where a number belongs"}', Unanswered, "cannot read"),
    ],
)
def test_answers_that_make_no_sense(
    kaggle: Kaggle, standin: Standin, content: bytes, error: type[UserError], words: str
) -> None:
    standin.fault("ListSubmissions", Body(content, JSON))
    with pytest.raises(error) as raised:
        kaggle.submissions()
    assert words in str(raised.value)
    assert kaggle.submissions() == []


def test_what_the_client_itself_refuses(kaggle: Kaggle, tmp_path: Path) -> None:
    metadata = '{"id":"alice/kernel","title":"kernel","code_file":"a.py","language":"python","kernel_type":"script",'
    (tmp_path / "a.py").write_text("")
    (tmp_path / "kernel-metadata.json").write_text(metadata + '"dataset_sources":["a/b/c/d"]}')
    with pytest.raises(UserError, match=r"Kaggle's client refuses \(pushing the kernel\)"):
        kaggle.push_kernel(tmp_path, 1)


def test_a_kernel_that_is_not_there(kaggle: Kaggle) -> None:
    with pytest.raises(NoSuchKernel, match="no such kernel"):
        kaggle.kernel_status("alice/nothing")


def test_a_failed_fetch_leaves_no_doubt(kaggle: Kaggle, tmp_path: Path) -> None:
    with pytest.raises(TryAgainLater, match="could not be fetched"):
        kaggle.fetch("http://storage.googleapis.com/output/nothing", tmp_path / "file")


def test_a_killed_process_is_replaced(kaggle: Kaggle, standin: Standin) -> None:
    process = worker(kaggle)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(ConnectionLost, match="ended from outside"):
        kaggle.username()
    assert kaggle.username() == "alice"


def test_silence_is_waited_for_no_longer_than_set(kaggle: Kaggle, standin: Standin) -> None:
    kaggle.username()
    kaggle.client.stall_seconds = 1
    process = worker(kaggle)
    standin.fault("GetSubmissionLimits", Stall())
    started = time.monotonic()
    with pytest.raises(ConnectionLost, match="silent for 1 seconds"):
        kaggle.limits()
    assert time.monotonic() - started < 30
    assert process.poll() is not None
    kaggle.client.stall_seconds = 5
    standin.fault("GetSubmissionLimits", Delay(0.5))
    assert kaggle.limits().left == 5


def test_the_process_ends_with_the_one_that_asks(standin: Standin) -> None:
    """Nothing is sent for a stage that has ended."""
    program = "from pipelines.kaggle.service import Kaggle\nk = Kaggle('cats')\nk.client.start()\nprint(k.client.process.pid, flush=True)\nk.limits()"  # noqa: E501
    standin.fault("GetSubmissionLimits", Stall())
    before = len(standin.calls("GetSubmissionLimits"))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        while len(standin.calls("GetSubmissionLimits")) == before:
            time.sleep(0.02)
        process.kill()
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pid)


def alive(pid: int) -> bool:
    """Return whether a process runs; an ended one stays listed until its parent waits for it."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_limits_of_a_team_that_never_sent_anything_are_not_spent() -> None:
    assert not Limits(0, 0, 0, False).spent
    assert Limits(5, 7, 0, False).spent
    assert not Limits(4, 7, 1, False).spent


@pytest.mark.parametrize("name", ["TEST", "localhost", "QA", ""])
def test_environments_that_would_reach_the_real_kaggle_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="real Kaggle"):
        check_environment({"KAGGLE_API_ENVIRONMENT": name})
    check_environment({})
    check_environment({"KAGGLE_API_ENVIRONMENT": "LOCALHOST"})


def test_the_gpu_quota_where_kaggle_says_nothing(kaggle: Kaggle, standin: Standin) -> None:
    assert kaggle.gpu_hours() == (1.0, pytest.approx(30.0))
    standin.fault("GetAcceleratorQuotaStatistics", Body(b"{}", JSON))
    used, allowed = kaggle.gpu_hours()
    assert math.isclose(used + allowed, 0)


def test_a_wait_that_kaggle_names(kaggle: Kaggle, standin: Standin) -> None:
    standin.fault("GetSubmissionLimits", Status(429, "Slow down", {"Retry-After": "9"}))
    with pytest.raises(TryAgainLater, match="try again in 9 seconds"):
        kaggle.limits()


def test_a_redirect_is_no_answer(kaggle: Kaggle, standin: Standin) -> None:
    standin.fault("GetCompetition", Status(304, "{}", json=True))
    with pytest.raises(Unanswered):
        kaggle.competition()


def test_an_empty_list_of_files_is_no_list(kaggle: Kaggle, standin: Standin) -> None:
    standin.fault("ListDataFiles", Body(b"{}", JSON))
    with pytest.raises(Unanswered, match="lists no files for 'cats'"):
        kaggle.files()


def test_another_submission_than_asked_for(kaggle: Kaggle, standin: Standin) -> None:
    standin.fault("GetSubmission", Body(b"{}", JSON))
    with pytest.raises(Unanswered, match="asked for submission 1000 and answered with 0"):
        kaggle.submission(1000)


@pytest.mark.parametrize("ref", ['"abc"', "true", "null", "-"])
def test_a_number_that_is_none(kaggle: Kaggle, standin: Standin, ref: str) -> None:
    content = '{"submissions":[{"description":"x"%s}]}' % ("" if ref == "-" else f',"ref":{ref}')
    standin.fault("ListSubmissions", Body(content.encode(), JSON))
    assert [each.ref for each in kaggle.submissions()] == [0]


def test_more_pages_than_one(kaggle: Kaggle, standin: Standin) -> None:
    competition = standin.competitions["cats"]
    competition.files[:] = [(f"{number}.png", number) for number in range(450)]
    assert kaggle.files() == dict(competition.files)
    assert [call.body and call.body["pageSize"] for call in standin.calls("ListDataFiles")] == [200] * 3


SECRET = "SUPERSECRET0123456789"


@pytest.mark.parametrize(
    "environment",
    [
        {"KAGGLE_TOKEN": f"{SECRET}\r\n"},
        {"http_proxy": f"http://bob:{SECRET}/x@127.0.0.1:9"},
        {"http_proxy": f"http://bob:{SECRET}@[::1"},
        {"http_proxy": f"nonsense://bob:{SECRET}@127.0.0.1:9"},
        {"http_proxy": f"http://bob:{SECRET}@127.0.0.1:9"},
        {"KAGGLE_KEY": SECRET},
    ],
    ids=str,
)
def test_no_secret_is_ever_shown(
    standin: Standin, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    try:
        with Kaggle("cats", 5) as anew:
            anew.competition()
    except UserError as error:
        assert SECRET not in str(error)
        assert "KAGGLE_TOKEN" not in environment  # which is not even used


def test_no_secret_of_a_damaged_login_is_ever_shown(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / ".kaggle").mkdir()
    ends = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    login = {
        "refresh_token": "r",
        "access_token": f"{SECRET}\r\n",
        "access_token_expiration": ends,
        "username": "alice",
    }
    (tmp_path / ".kaggle" / "credentials.json").write_text(json.dumps(login))
    with Kaggle("cats", 5) as anew, pytest.raises(UserError) as raised:
        anew.competition()
    assert SECRET not in str(raised.value)
