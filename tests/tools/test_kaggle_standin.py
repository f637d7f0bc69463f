"""The stand-in for Kaggle: the real client is content with it, and it fails as it is told to."""

import dataclasses
import http.client
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import command
from pipelines.settings.loading import load_settings
from pipelines.tools import kaggle_standin
from tests.support.standin import (
    Body,
    Competition,
    Cut,
    Delay,
    Drop,
    Html,
    Kernel,
    Lost,
    Stall,
    Standin,
    Status,
    Submission,
    Truncated,
)
from tests.support.submitting import free_port

ROOT = Path(__file__).parents[2]
IDS = [str(number) for number in range(1, 41)]
TOML = """
[competition]
title = "Cats and dogs"
[data]
labels = "labels.csv"
sample_submission = "sample.csv"
"""
PRELUDE = """
import json, os, sys
import kaggle
from kaggle.api.kaggle_api_extended import KaggleApi
api = kaggle.api

def attempt(call):
    try:
        value = call()
    except Exception as error:
        response = getattr(error, "response", None)
        return [type(error).__name__, None if response is None else response.status_code, str(error)]
    return value.to_dict() if hasattr(value, "to_dict") else value

def login(**variables):
    os.environ.update(variables)
    api = KaggleApi()
    api.authenticate()
    return api
"""
LOOP = """
for line in sys.stdin:
    folder, code = json.loads(line)
    os.chdir(folder)
    result = {}
    exec(code, globals() | {"result": result})
    print("RESULT" + json.dumps(result), flush=True)
"""
Client = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def port() -> int:
    """The port of every test's stand-in: the module's client knows only this one."""
    return free_port()


@pytest.fixture
def standin(tmp_path: Path, port: int) -> Iterator[Standin]:
    with Standin(tmp_path / "kept", port) as result:
        yield result
    assert result.violations == []


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator["subprocess.Popen[str]"]:
    """The real client in a process of its own, which runs the code that it is sent."""
    folder = tmp_path_factory.mktemp("client")
    with Standin(folder / "kept", port) as standin:
        environment = standin.environment(folder / "home")
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + LOOP],
        env=environment,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        yield started
        started.kill()


@pytest.fixture
def client(process: "subprocess.Popen[str]", standin: Standin, tmp_path: Path) -> Client:
    """Run code, which fills `result`, with the real client in the folder of the test, and return `result`."""

    def run(code: str) -> dict[str, Any]:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(json.dumps([str(tmp_path), textwrap.dedent(code)]) + "\n")
        process.stdin.flush()
        for line in process.stdout:  # the client prints too
            if line.startswith("RESULT"):
                return json.loads(line.removeprefix("RESULT"))
        raise AssertionError(process.stderr.read())

    return run


@pytest.fixture
def cats(standin: Standin, tmp_path: Path) -> Competition:
    """A competition of 40 test ids, of which every fourth is a dog, and 200 kB of data."""
    (tmp_path / "cats.toml").write_text(TOML)
    solution = tmp_path / "solution.csv"
    solution.write_text("id,label\n" + "".join(f"{name},{'dog' if int(name) % 4 == 0 else 'cat'}\n" for name in IDS))
    archive = tmp_path / "given" / "archive.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("labels.csv", "id,label\n1,cat\n")
        opened.writestr("sample.csv", csv_of(["cat"] * 40))
        opened.writestr("train/0 a.jpg", bytes(200_000))
    return standin.add("cats", archive, load_settings(str(tmp_path / "cats.toml")), solution)


def csv_of(labels: list[str]) -> str:
    return "id,label\n" + "".join(f"{name},{label}\n" for name, label in zip(IDS, labels, strict=False))


def get(standin: Standin, url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """GET `url` through the stand-in, and return status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", int(standin.url.rsplit(":", 1)[1]), timeout=10)
    try:
        connection.request("GET", url, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


def test_data_are_listed_and_downloaded(client: Client, standin: Standin, cats: Competition, tmp_path: Path) -> None:
    result = client(
        """
        for number in range(2):
            api.competition_download_files("cats", path="data", quiet=True)
        result["files"] = [[file.name, file.total_bytes] for file in api.competition_list_files("cats").files]
        result["page"] = api.competition_list_files("cats", page_size=2).next_page_token
        result["last"] = [file.name for file in api.competition_list_files("cats", page_token="2", page_size=2).files]
        """
    )
    assert (tmp_path / "data/cats.zip").read_bytes() == cats.archive.read_bytes()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cats.zip"]
    assert result["files"] == [["labels.csv", 15], ["sample.csv", 280], ["train/0 a.jpg", 200_000]]
    assert (result["page"], result["last"]) == ("2", ["train/0 a.jpg"])
    assert [request.body for request in standin.calls("DownloadDataFiles")] == [{"competitionName": "cats"}] * 2
    assert len(standin.calls("storage")) == 2
    assert standin.calls("DownloadDataFiles")[0].headers["Authorization"].startswith("Basic ")
    assert all("Authorization" not in request.headers for request in standin.calls("storage"))


def test_the_storage_answers_ranges(standin: Standin, cats: Competition) -> None:
    url = "http://storage.googleapis.com/competitions/cats/archive.zip?sig=standin"
    content = cats.archive.read_bytes()
    status, headers, body = get(standin, url)
    assert (status, body, headers["Content-Length"]) == (200, content, str(len(content)))
    assert headers["Accept-Ranges"] == "bytes"
    etag, modified = headers["ETag"], headers["Last-Modified"]
    assert get(standin, url, Range="bytes=100-")[::2] == (206, content[100:])
    assert get(standin, url, Range="bytes=100-199", If_Range=etag)[::2] == (206, content[100:200])
    assert get(standin, url, Range="bytes=100-", If_Range=modified)[::2] == (206, content[100:])
    assert get(standin, url, Range="bytes=100-", If_Range='"other"')[::2] == (200, content)
    assert get(standin, url, Range=f"bytes={len(content)}-")[0] == 416
    cats.archive.write_bytes(content + b"more")
    os.utime(cats.archive, (1e9, 1e9))
    assert get(standin, url)[1]["Last-Modified"] == "Sun, 09 Sep 2001 01:46:40 GMT"
    assert get(standin, url)[1]["ETag"] != etag
    assert get(standin, "http://storage.googleapis.com/competitions/dogs/archive.zip")[0] == 404


def test_a_submission_is_scored(client: Client, standin: Standin, cats: Competition, tmp_path: Path) -> None:
    (tmp_path / "all-cats.csv").write_text(csv_of(["cat"] * 40))
    (tmp_path / "short.csv").write_text(csv_of(["cat"] * 39))
    (tmp_path / "header.csv").write_text(csv_of(["cat"] * 40).replace("id", "Id"))
    (tmp_path / "ids.csv").write_text(csv_of(["cat"] * 40).replace("7,", "70,"))
    (tmp_path / "empty.csv").write_text("")
    result = client(
        """
        for name in ("all-cats", "short", "header", "ids", "empty"):
            result[name] = api.competition_submit(f"{name}.csv", f"the {name}", "cats", quiet=True).to_dict()
        result["limits"] = api.competition_get_submission_limits("cats").to_dict()
        result["over"] = attempt(lambda: api.competition_submit("short.csv", "", "cats", quiet=True))
        result["list"] = [each.to_dict() for each in api.competition_submissions("cats", page_size=2)]
        """
    )
    assert result["all-cats"] == {"message": "Successfully submitted to Cats and dogs", "ref": 1000}
    assert result["limits"] == {"numToday": 5, "numTotal": 5}  # what is 0 is not told
    assert result["over"][:2] == ["HTTPError", 400]
    assert [each["ref"] for each in result["list"]] == [1004, 1003]
    assert result["list"][0]["date"].endswith("Z")
    first, *refused = cats.submissions
    assert (first.file_name, first.description, first.content) == (
        "all-cats.csv",
        "the all-cats",
        (tmp_path / "all-cats.csv").read_bytes(),
    )
    assert first.status == "COMPLETE"
    assert (first.public_score, first.private_score) == ("0.83333", "")
    assert [each.status for each in refused] == ["ERROR"] * 4
    assert [each.error_description for each in refused] == [
        "Submission must have 40 rows",
        "Submission must have the columns id, label",
        "Submission contains the unexpected id 170",
        "Submission is empty. Put the complete file there.",
    ]
    upload = standin.calls("StartSubmissionUpload")[0].body
    assert upload is not None
    assert (upload["fileName"], upload["contentLength"]) == ("all-cats.csv", len(first.content))
    created = standin.calls("CreateSubmission")[0].body
    assert created == {
        "competitionName": "cats",
        "blobFileTokens": "upload-1",
        "submissionDescription": "the all-cats",
    }


def test_the_private_score_shows_when_the_competition_has_ended(
    client: Client, standin: Standin, cats: Competition, tmp_path: Path
) -> None:
    (tmp_path / "all-cats.csv").write_text(csv_of(["cat"] * 40))
    cats.deadline = "2020-01-01T00:00:00Z"
    cats.scoring_seconds = math.inf
    result = client(
        """
        api.competition_submit("all-cats.csv", "", "cats", quiet=True)
        result["scores"] = [
            [each.status.name, each.public_score, each.private_score] for each in api.competition_submissions("cats")
        ]
        """
    )
    assert result["scores"] == [["PENDING", "", ""]]
    cats.scoring_seconds = 0
    result = client(
        """
        from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionRequest
        with api.build_kaggle_client() as service:
            request = ApiGetSubmissionRequest()
            request.ref = 1000
            result["one"] = service.competitions.competition_api_client.get_submission(request).to_dict()
        """
    )
    public, private = float(result["one"]["publicScore"]), float(result["one"]["privateScore"])
    assert round(12 * public + 28 * private, 3) == 30  # of 40 answers; the two parts divide them


def test_probabilities_and_a_missing_solution(standin: Standin, tmp_path: Path) -> None:
    (tmp_path / "dogs.toml").write_text(
        '[competition]\nmetric = "log_loss"\nsubmission = "probabilities"\n[data]\nsample_submission = "sample.csv"\n'
    )
    even = "id,cat,dog\n" + "".join(f"{name},0.5,0.5\n" for name in IDS)
    archive = tmp_path / "dogs.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("dogs/sample.csv", even)
    dogs = standin.add("dogs", archive, load_settings(str(tmp_path / "dogs.toml")))
    dogs.deadline = "2020-01-01T00:00:00Z"
    for content in (even.encode(), even.replace("7,0.5", "7,x").encode()):
        dogs.submissions.append(Submission(1, "", "", "even.csv", content))
    dogs.settle()
    assert (dogs.submissions[0].public_score, dogs.submissions[0].private_score) == ("0.69315", "0.69315")
    assert dogs.submissions[1].status == "ERROR"
    said = "Submission, line 8: not every value is a probability between 0 and 1, such as 'x' in column 'cat' (4 rows"
    assert dogs.submissions[1].error_description.startswith(said)


def test_what_kaggle_refuses(client: Client, standin: Standin, cats: Competition, tmp_path: Path) -> None:
    (tmp_path / "all-cats.csv").write_text(csv_of(["cat"] * 40))
    standin.add("dogs", cats.archive, cats.settings).entered = False
    standin.add("birds", cats.archive, cats.settings).disabled = True
    standin.add("fish", cats.archive, cats.settings).limited_by_total = True
    result = client(
        """
        from kagglesdk.competitions.types.competition_api_service import ApiGetCompetitionRequest
        def competition(slug):
            with api.build_kaggle_client() as service:
                request = ApiGetCompetitionRequest()
                request.competition_name = slug
                return service.competitions.competition_api_client.get_competition(request)
        for slug in ("cats", "dogs", "birds", "fish", "horses"):
            result[slug] = {
                "competition": attempt(lambda: competition(slug)),
                "limits": attempt(lambda: api.competition_get_submission_limits(slug)),
                "download": attempt(lambda: api.competition_download_files(slug, path=slug, quiet=True)),
                "submit": attempt(lambda: api.competition_submit("all-cats.csv", "", slug, quiet=True)),
            }
        """
    )
    entered = {slug: result[slug]["competition"].get("userHasEntered", False) for slug in ("cats", "dogs", "birds")}
    assert entered == {"cats": True, "dogs": False, "birds": True}
    assert result["cats"]["competition"]["maxDailySubmissions"] == 5
    assert result["birds"]["competition"]["submissionsDisabled"]
    assert result["horses"]["competition"][:2] == ["HTTPError", 404]
    for call in ("limits", "download", "submit"):
        assert result["dogs"][call][:2] == ["HTTPError", 403]
        assert "accept this competition's rules" in result["dogs"][call][2]
        assert result["horses"][call][:2] == ["HTTPError", 403]
    assert result["birds"]["submit"] == ["HTTPError", 400, "Submissions are disabled for this competition"]
    assert result["fish"]["limits"] == {"limitedByTotal": True}  # what is 0 is not told
    assert result["fish"]["submit"][1] == 400


def test_credentials(client: Client, standin: Standin, cats: Competition) -> None:
    standin.token = "a-token"
    result = client(
        """
        def limits(**variables):
            return attempt(lambda: login(**variables).competition_get_submission_limits("cats"))
        before = dict(os.environ)
        try:
            result["wrong key"] = limits(KAGGLE_KEY="wrong")
            result["token"] = limits(KAGGLE_API_TOKEN="a-token", KAGGLE_USERNAME="", KAGGLE_KEY="")
            result["wrong token"] = limits(KAGGLE_API_TOKEN="wrong")
        finally:
            os.environ.clear()
            os.environ.update(before)
        """
    )
    assert result["wrong key"][:2] == ["HTTPError", 401]
    assert result["token"]["numAllowedNow"] == 5
    assert result["wrong token"][:2] == ["HTTPError", 401]
    tokens = [request.body for request in standin.calls("IntrospectToken")]
    assert {"token": "a-token"} in tokens and {"token": "wrong"} in tokens
    sent = [request.headers.get("Authorization", "") for request in standin.calls("GetSubmissionLimits")]
    assert [each.partition(" ")[0] for each in sent] == ["Basic", "Bearer", "Bearer"]
    assert sent[1:] == ["Bearer a-token", "Bearer wrong"]


def test_faults_of_calls(client: Client, standin: Standin, cats: Competition) -> None:
    as_json = {"Content-Type": "application/json"}
    standin.fault(
        "GetSubmissionLimits",
        Status(429, "Too many", {"Retry-After": "7"}),
        Status(503, json=False),
        Html(),
        Html(502),
        Body(b'{"code": 404, "message": "hidden"}', as_json),
        Body(b'{"numAllowedNow": 3}', as_json),
        Drop(),
        Lost(),
        Cut(5),
        Truncated(5),
        Delay(0.2),
    )
    result = client(
        """
        result["each"] = [attempt(lambda: api.competition_get_submission_limits("cats")) for _ in range(12)]
        """
    )
    assert [each[:2] if isinstance(each, list) else each["numAllowedNow"] for each in result["each"]] == [
        ["HTTPError", 429],
        ["HTTPError", 503],
        ["JSONDecodeError", None],
        ["HTTPError", 502],
        ["HTTPError", 200],
        3,
        ["ProxyError", None],
        ["ProxyError", None],
        ["ChunkedEncodingError", None],
        ["JSONDecodeError", None],
        5,
        5,
    ]
    assert result["each"][0][2] == "Too many"
    assert "503 Server Error" in result["each"][1][2]


def test_faults_come_as_often_as_told(standin: Standin, cats: Competition) -> None:
    url = "http://storage.googleapis.com/competitions/cats/archive.zip"

    def statuses(count: int) -> list[int]:
        return [get(standin, url)[0] for _ in range(count)]

    standin.fault("storage", Status(503), Status(500), times=2)
    assert statuses(5) == [503, 500, 503, 500, 200]
    standin.fault("storage", Status(503), Status(500), times=None)
    assert statuses(4) == [503, 500, 500, 500]
    standin.fault("storage", Status(404))
    assert statuses(2) == [404, 200]
    standin.fault("storage", Status(404), times=None)
    standin.fault("storage")
    assert statuses(1) == [200]
    assert [request.status for request in standin.calls("storage")][:3] == [503, 500, 503]


def test_faults_of_the_storage(client: Client, standin: Standin, cats: Competition, tmp_path: Path) -> None:
    standin.fault("storage", Truncated(1000), Html(), Status(403, json=False), Cut(150_000))
    result = client(
        """
        def download(folder):
            return attempt(lambda: api.competition_download_files("cats", path=folder, quiet=True))
        result["each"] = [download(folder) for folder in ("truncated", "html", "forbidden", "cut")]
        """
    )
    assert [each and each[:2] for each in result["each"]] == [None, None, ["HTTPError", 403], None]
    content = cats.archive.read_bytes()
    assert (tmp_path / "truncated/cats.zip").read_bytes() == content[:1000]
    assert (tmp_path / "html/cats.zip").read_bytes().startswith(b"<!DOCTYPE html>")
    assert (tmp_path / "cut/cats.zip").read_bytes() == content
    again = standin.calls("storage")[-1]
    assert again.status == 206
    assert re.fullmatch(r"bytes=\d+-", again.headers["Range"])


def test_what_is_lost_on_the_way_back_was_done(
    client: Client, standin: Standin, cats: Competition, tmp_path: Path
) -> None:
    (tmp_path / "all-cats.csv").write_text(csv_of(["cat"] * 40))
    standin.fault("CreateSubmission", Lost(), Drop())
    standin.fault("upload", Status(500), Lost())
    result = client(
        """
        submit = lambda: api.competition_submit("all-cats.csv", "", "cats", quiet=True)
        result["upload"] = attempt(submit)
        result["lost"] = attempt(submit)
        result["dropped"] = attempt(submit)
        """
    )
    assert result["upload"] == {"message": "Could not submit to competition"}  # and no ref
    assert (result["lost"][0], result["dropped"][0]) == ("ProxyError", "ProxyError")
    assert [each.ref for each in cats.submissions] == [1000]
    assert [request.status for request in standin.calls("upload")] == [500, 0, 200, 200]
    assert [request.status for request in standin.calls("CreateSubmission")] == [0, 0]


@pytest.mark.parametrize(("fault", "received"), [(Stall(), 0), (Stall(1000), 1000), (Stall(1000, 0.2), 1000)])
def test_a_stall_ends_with_the_stand_in(cats: Competition, tmp_path: Path, fault: Stall, received: int) -> None:
    with Standin(tmp_path / "stalled") as standin:
        standin.competitions["cats"] = cats
        standin.fault("storage", fault)
        connection = http.client.HTTPConnection("127.0.0.1", int(standin.url.rsplit(":", 1)[1]), timeout=10)
        connection.request("GET", "http://storage.googleapis.com/competitions/cats/archive.zip")
        if received:
            answer = connection.getresponse()
            assert len(answer.read(received)) == received
        started = time.monotonic()
        if fault.seconds < 1:
            assert answer.read1(1) == b""
    assert time.monotonic() - started < 2
    connection.close()


def kernel_folder(folder: Path, script: str, **metadata: Any) -> None:
    """Write what the client pushes."""
    folder.mkdir()
    (folder / "script.py").write_text(textwrap.dedent(script))
    values = {
        "id": "alice/cats-run",
        "title": "Cats run",
        "code_file": "script.py",
        "language": "python",
        "kernel_type": "script",
        "is_private": True,
        "enable_gpu": True,
        "enable_internet": False,
        "machine_shape": "NvidiaTeslaT4",
    }
    (folder / "kernel-metadata.json").write_text(json.dumps(values | metadata))


KERNEL = """
import os, sys
from pathlib import Path
folder = Path(os.environ["PIPELINES_KAGGLE_FOLDER"])
print("found", sorted(path.relative_to(folder).as_posix() for path in (folder / "input").rglob("*") if path.is_file()))
print(Path.cwd() == folder / "working", (folder / "temp").is_dir(), "PYTHONPATH" in os.environ)
print([name for name in os.environ if name.startswith("KAGGLE") or "proxy" in name.lower()], file=sys.stderr)
Path("results").mkdir()
for number in range(25):
    Path(f"results/{number}.txt").write_text(str(number))
"""
WAIT = """
        import time
        def push(folder):
            pushed = api.kernels_push(folder)
            seen = []
            while not seen or seen[-1] in ("QUEUED", "RUNNING"):
                time.sleep(0.05)
                status = api.kernels_status("alice/cats-run")
                seen.append(status.status.name)
            return pushed.to_dict(), seen[-1], status.failure_message
"""


def test_a_kernel_is_executed(client: Client, standin: Standin, cats: Competition, tmp_path: Path) -> None:
    kernel_folder(
        tmp_path / "push",
        KERNEL,
        competition_sources=["cats", "horses"],
        dataset_sources=["alice/weights"],
        model_sources=["google/net/PyTorch/small/2"],
    )
    kernel_folder(tmp_path / "failing", "import sys\nprint('so far')\nsys.exit(3)\n")
    result = client(
        WAIT
        + """
        result["good"] = push("push")
        api.kernels_output("alice/cats-run", path="output")
        result["bad"] = push("failing")
        api.kernels_output("alice/cats-run", path="failed")
        result["unknown"] = attempt(lambda: api.kernels_status("alice/never-pushed"))
        result["quota"] = api.quota_view().gpu_quota.total_time_allowed.total_seconds()
        """,
    )
    pushed, status, failure = result["good"]
    assert (pushed["versionNumber"], pushed["error"], status, failure) == (1, "", "COMPLETE", "")
    assert pushed["invalidCompetitionSources"] == ["horses"]
    assert pushed["invalidDatasetSources"] == ["alice/weights"]
    assert pushed["invalidModelSources"] == ["google/net/PyTorch/small/2"]
    body = standin.calls("SaveKernel")[0].body
    assert body is not None
    assert (body["slug"], body["isPrivate"], body["enableInternet"]) == ("alice/cats-run", True, False)
    assert body["machineShape"] == "NvidiaTeslaT4"
    names = sorted(path.relative_to(tmp_path / "output").as_posix() for path in (tmp_path / "output").rglob("*.txt"))
    assert names == sorted(f"results/{number}.txt" for number in range(25))
    assert (tmp_path / "output/results/7.txt").read_text() == "7"
    log = json.loads((tmp_path / "output/cats-run.log").read_text())
    assert sorted(log[0]) == ["data", "stream_name", "time"]
    text = {name: [line["data"] for line in log if line["stream_name"] == name] for name in ("stdout", "stderr")}
    mounted = [f"input/competitions/cats/{name}" for name in ("labels.csv", "sample.csv", "train/0 a.jpg")]
    assert text == {"stdout": [f"found {mounted}\n", "True True False\n"], "stderr": ["[]\n"]}
    assert len(standin.calls("output")) == 25
    pages = [(request.body or {}).get("pageToken") for request in standin.calls("ListKernelSessionOutput")]
    assert pages[:2] == ["", "20"]
    pushed, status, failure = result["bad"]
    assert (pushed["versionNumber"], status) == (2, "ERROR")
    assert "exit code 3" in failure
    assert sorted(path.name for path in (tmp_path / "failed").iterdir()) == ["cats-run.log"]
    assert result["unknown"][0] == "ValueError"
    assert "so far" in (tmp_path / "failed/cats-run.log").read_text()
    assert result["quota"] == 30 * 3600


def test_a_kernel_as_a_test_wants_it(client: Client, standin: Standin, tmp_path: Path) -> None:
    def run(kernel: Kernel) -> None:
        kernel.outputs = {"../outside.txt": b"out", "inside.txt": b"in"}
        kernel.log = "[]"
        kernel.status = "COMPLETE"

    standin.run_kernel = run
    kernel_folder(tmp_path / "push", "raise SystemExit('this is not run')")
    standin.fault("output", Status(404, json=False))
    result = client(
        WAIT
        + """
        result["status"] = push("push")[1]
        api.kernels_output("alice/cats-run", path="output/inner")
        """,
    )
    assert result["status"] == "COMPLETE"
    assert (tmp_path / "output/inner/inside.txt").read_bytes() == b"in"
    assert (tmp_path / "output/outside.txt").read_bytes() == b""  # the client takes the error's body for the file
    assert not (tmp_path / "kept/kernels").exists()


def test_a_kernel_ends_with_its_time_and_with_the_stand_in(tmp_path: Path) -> None:
    script = "import time\nprint('start', flush=True)\ntime.sleep(60)"
    with Standin(tmp_path / "kept") as standin:
        short = Kernel("alice/short", 1, script, {"sessionTimeoutSeconds": 1})
        long = Kernel("alice/long", 1, script, {})
        for kernel in (short, long):
            standin.start(kernel)
        while short.status != "ERROR" or long.status != "RUNNING":
            time.sleep(0.05)
        assert "ended after 1 seconds" in short.failure_message
        assert json.loads(short.log)[0]["data"] == "start\n"
        started = time.monotonic()
    assert time.monotonic() - started < 30
    assert long.status == "ERROR"
    assert standin.violations == []


def test_a_slip_to_the_real_service_fails_at_once(standin: Standin, cats: Competition, tmp_path: Path) -> None:
    code = """
result = {
    "limits": attempt(lambda: api.competition_get_submission_limits("cats")),
    "download": attempt(lambda: api.competition_download_files("cats", path="data", quiet=True)),
}
print(json.dumps(result))
"""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        env=standin.environment(tmp_path / "home") | {"KAGGLE_API_ENVIRONMENT": "PROD"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert time.monotonic() - started < 30
    result = json.loads(done.stdout.splitlines()[-1])
    for call in ("limits", "download"):
        assert result[call][0] == "ProxyError"
        assert "api.kaggle.com" in result[call][2]
    assert standin.requests == []


def test_what_no_client_should_send(cats: Competition, tmp_path: Path) -> None:
    with Standin(tmp_path / "strict") as standin:
        standin.competitions["cats"] = dataclasses.replace(cats, archive=tmp_path / "gone.zip")
        storage = "http://storage.googleapis.com/competitions/cats/archive.zip"
        assert get(standin, storage, Authorization="Basic secret")[0] == 500
        assert get(standin, "http://example.com/x")[0] == 404
        assert get(standin, "http://localhost/api/v1/kernels.KernelsApiService/Unknown")[0] == 404
    kinds = [re.sub(r"[(:].*| on .*", "", each) for each in standin.violations]
    assert kinds == ["storage", "answering storage", "GET http", "GET http"]
    assert "secret" not in "".join(standin.violations)


def test_by_hand(tmp_path: Path) -> None:
    """A person starts the stand-in, pastes its lines in another terminal, and ends it with Ctrl-C."""
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name and "KAGGLE" not in name}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.tools.kaggle_standin", "digits", "--port", "0", "--scoring-seconds", "0.5"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    welcome: list[str] = []
    while not welcome or not welcome[-1].startswith("Ctrl-C"):
        welcome.append(process.stdout.readline().rstrip("\n"))
    pasted = [line.strip() for line in welcome if line.startswith("  ")]
    assert [line.split()[0] for line in pasted] == ["unset", "export", "unset"]
    assert "KAGGLE_API_ENVIRONMENT=LOCALHOST" in pasted[1]
    assert "KAGGLE_USERNAME=alice KAGGLE_KEY=standin" in pasted[1]
    assert "digits" in welcome[0]
    assert "1,799 files" in welcome[0]
    code = textwrap.dedent(
        """
        import kaggle, zipfile, time
        kaggle.api.competition_download_files("digits", path="data", quiet=True)
        sample = zipfile.ZipFile("data/digits.zip").extract("sample_submission.csv", "data")
        print(kaggle.api.competition_submit(sample, "by hand", "digits", quiet=True).ref)
        while not kaggle.api.competition_submissions("digits")[0].public_score:
            time.sleep(0.1)
        print(kaggle.api.competition_submissions("digits")[0].public_score)
        """
    )
    shell = f"{pasted[0]}\n{pasted[1]}\n{shlex.quote(sys.executable)} -c {shlex.quote(code)}\n{pasted[2]}\nenv\n"
    done = subprocess.run(
        ["bash", "-c", shell],
        cwd=tmp_path,
        env=environment | {"no_proxy": "localhost", "KAGGLE_API_TOKEN": "my-own"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    ref, score, *variables = done.stdout.splitlines()
    assert ref == "1000", done.stderr
    assert 0 < float(score) < 0.3  # all zeros, for ten digits
    assert not [line for line in variables if "KAGGLE" in line or "proxy" in line]
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    names = [line.split()[1] for line in output.splitlines() if line]
    # sorted: a line is printed after its answer was sent, when the client may have sent its next request
    once = sorted(name for name in names if name != "ListSubmissions")
    assert once == ["CreateSubmission", "DownloadDataFiles", "StartSubmissionUpload", "storage", "upload"]
    assert len(names) > len(once)
    assert "standin" not in output


def test_a_persons_own_token_is_not_asked_for(
    standin: Standin, cats: Competition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle/access_token").write_text("my-own")
    monkeypatch.setenv("HOME", str(tmp_path))
    cats.solution = None
    welcome = kaggle_standin._welcome(standin, cats)
    assert standin.token == "standin"
    assert "KAGGLE_API_TOKEN=standin" in welcome
    assert "KAGGLE_KEY=" not in welcome
    assert "my-own" not in welcome
    assert "scored by the answers of the sample submission itself" in welcome


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cifar-10", "ARCHIVE="),
        ("cifar-10 --archive none.zip", "no file none.zip"),
        ("cifar-10 --archive text.zip", "text.zip is not a complete zip"),
        ("digits --solution none.csv", "no file none.csv"),
        ("cats.toml --archive given/archive.zip --port PORT", "Port PORT is in use"),
        ("cows", "no competition 'cows'"),
    ],
)
def test_mistakes_are_one_line(
    words: str,
    expected: str,
    standin: Standin,
    cats: Competition,
    port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.zip").write_text("not a zip")
    assert command.run(kaggle_standin.main, words.replace("PORT", str(port)).split()) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert expected.replace("PORT", str(port)) in errors


def test_the_environment_is_the_recipe(standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "ALL_PROXY", "VERBOSE", "KAGGLE_API_TOKEN", "KAGGLE_PATH"):
        monkeypatch.setenv(name, "x")
    environment = standin.environment(tmp_path / "home")
    assert {name: value for name, value in environment.items() if "KAGGLE" in name or "proxy" in name.lower()} == {
        "KAGGLE_CONFIG_DIR": str(tmp_path / "home/kaggle"),
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "KAGGLE_USERNAME": "alice",
        "KAGGLE_KEY": "standin",
        "http_proxy": standin.url,
        "https_proxy": "http://127.0.0.1:9",
    }
    assert (environment["HOME"], environment["PATH"]) == (str(tmp_path / "home"), os.environ["PATH"])
    assert "VERBOSE" not in environment
