"""`doctor`: what it finds and says, with nothing configured, and with the real client against the stand-in."""

import os
import re
import shlex
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines import command, predict, retrain, split, train
from pipelines.kaggle.submission_log import Row, SubmissionLog
from pipelines.settings.loading import load_settings
from pipelines.system.files import write_json
from pipelines.tools import doctor
from pipelines.tools.doctor_checks import NAME_WIDTH, VERDICT_WIDTH, Check, machine
from pipelines.tools.doctor_checks.kaggle import ASKED
from tests.support.standin import CLOSED_PROXY, Competition, Html, Lost, Stall, Standin, Status
from tests.support.tiny import Tiny

ROOT = Path(__file__).parents[2]
SECRET = "planted0secret"
TOML = """
[competition]
title = "Cats"
[data]
labels = "labels.csv"
sample_submission = "sample_submission.csv"
"""
FAIL, LATER = command.EXIT_USER_ERROR, command.EXIT_TRY_LATER


@dataclass(frozen=True)
class Report:
    """What doctor said: its status, each check's verdict and words, the steps, and all of it."""

    status: int
    checks: dict[str, tuple[str, str]]
    steps: list[str]
    text: str

    def failed(self) -> list[str]:
        return [name for name, (verdict, _) in self.checks.items() if verdict in ("missing", "fails")]


def report(status: int, out: str, err: str) -> Report:
    """Take apart what doctor printed, and see that its parts are consistent."""
    listed, _, rest = out.partition("\n\n")
    lines = [line.split(maxsplit=2) for line in listed.splitlines()]
    steps = re.findall(r"^ *\d+\. (.*)$", rest, re.MULTILINE)
    result = Report(status, {name: (verdict, found) for name, verdict, found in lines}, steps, out + err)
    assert SECRET not in result.text
    assert "Traceback" not in result.text
    verdicts = {"ok", "!", "missing", "fails", "-"}
    assert {verdict for verdict, _ in result.checks.values()} <= verdicts
    for line, (name, verdict, found) in zip(listed.splitlines(), lines, strict=True):
        assert line == f"{name:<{NAME_WIDTH}}  {verdict:<{VERDICT_WIDTH}}  {found}"
    if failed := result.failed():
        assert err == f"error: {len(failed)} of {len(lines)} checks failed; see above.\n"
        assert steps[-1].startswith("Look again: make doctor COMP=")
        assert len(steps) > 1
    else:
        assert (status, err) == (0, "")
    return result


Doctor = Callable[..., Report]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a competition `cats.toml`, an empty home, and no way to the internet."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cats.toml").write_text(TOML)
    (tmp_path / "home").mkdir()
    for name in list(os.environ):
        if "KAGGLE" in name or "proxy" in name.lower() or name.startswith("VERBOSE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("https_proxy", CLOSED_PROXY)
    return tmp_path


@pytest.fixture
def examine(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Run doctor in this process, which has torch loaded, with further variables.

    The process that imports Kaggle's client is left out; `run_alone` and the tests of packages cover it.
    """
    monkeypatch.setattr(machine, "_importing_client", lambda: subprocess.Popen(["true"]))
    monkeypatch.setattr(machine, "_client", lambda process, bad: Check("kaggle", "ok", "client 2.2.4"))

    def run(*words: str, environment: Mapping[str, str] | None = None) -> Report:
        for name, value in (environment or {}).items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        status = command.run(doctor.main, words or ["cats.toml"])
        return report(status, *capsys.readouterr())

    return run


@pytest.fixture
def standin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    """A stand-in that this process's environment leads to, with the right key."""
    with Standin(folder / "standin") as service:
        service.key = SECRET
        for name, value in service.environment(folder / "home").items():
            monkeypatch.setenv(name, value)
        yield service
    assert service.violations == []


@pytest.fixture
def cats(standin: Standin, folder: Path) -> Competition:
    archive = folder / "cats.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("labels.csv", "id,label\n1,cat\n")
    return standin.add("cats", archive, load_settings("cats.toml"))


def run_alone(*words: str, environment: Mapping[str, str]) -> Report:
    """Run doctor as a person does, in a process of its own, with these variables only."""
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.tools.doctor", *words],
        env={"PATH": os.environ["PATH"], "CALLED_FROM": "", "OMP_NUM_THREADS": "1", "https_proxy": CLOSED_PROXY}
        | dict(environment),
        capture_output=True,
        text=True,
        timeout=60,
    )
    return report(done.returncode, done.stdout, done.stderr)


def test_nothing_configured_and_no_home(folder: Path) -> None:
    said = run_alone("cats.toml", environment={"PYTHONPATH": str(ROOT), "KAGGLE_CONFIG_DIR": str(folder / "none")})
    assert said.status == FAIL
    assert said.failed() == ["credentials"]
    assert said.checks["Python"] == ("ok", ".".join(map(str, sys.version_info[:3])))
    assert re.fullmatch(r"2\.\d+\.\d+\S*, with torchvision 0\.\d+\.\d+\S*", said.checks["torch"][1])
    assert re.fullmatch(r"client 2\.\d+\.\d+", said.checks["kaggle"][1])
    assert said.checks["service"] == ("ok", "Kaggle, through the proxy 127.0.0.1:9")
    assert said.checks["credentials"] == ("missing", "none for Kaggle")
    assert re.search(r"(float32|bfloat16).*; \d+ processor cores", said.checks["device"][1])
    assert said.checks["data"] == ("-", "not downloaded yet")
    steps = "\n".join(said.steps)
    for words in ("kaggle.com/account", "kaggle.com/settings/api", "chmod 600", "competitions/cats/rules"):
        assert words in steps
    assert not (folder / "none").exists()


def test_what_is_not_at_kaggle_needs_no_credentials(examine: Doctor, folder: Path) -> None:
    said = examine("digits")
    assert said.status == 0
    assert said.checks["credentials"] == ("-", "none for Kaggle; digits needs none")
    assert not set(ASKED) & said.checks.keys()  # nothing to read about what is not needed
    assert said.text.endswith("\nNext: make download COMP=digits\n")
    assert not list((folder / "home").iterdir())


def test_username_and_key(examine: Doctor, standin: Standin, cats: Competition) -> None:
    cats.used_today, cats.used_total = 2, 7
    said = examine()
    assert said.status == 0
    assert {name: said.checks[name] for name in ("service", "credentials", *ASKED)} == {
        "service": ("ok", f"the stand-in at {standin.url.removeprefix('http://')}, not Kaggle"),
        "credentials": ("ok", "username and key of alice from KAGGLE_USERNAME and KAGGLE_KEY"),
        "account": ("-", "alice; Kaggle checks the key with the next question"),
        "competition": ("ok", "Cats"),
        "rules": ("ok", "accepted"),
        "deadline": ("ok", "open until 2099-12-31 23:59 UTC"),
        "submissions": ("ok", "3 left now; 2 sent today, 7 in all"),
    }
    assert said.text.endswith("\nNext: make download COMP=cats.toml\n")
    assert [request.method for request in standin.requests] == ["GetCompetition", "GetSubmissionLimits"]


def test_a_token_in_a_file_that_others_can_read(
    examine: Doctor, standin: Standin, cats: Competition, folder: Path
) -> None:
    standin.token = SECRET
    (folder / "home/.kaggle").mkdir()
    path = folder / "home/.kaggle/access_token"
    path.write_text(SECRET)
    path.chmod(0o644)
    said = examine()
    assert said.status == 0  # to be mended, but it works
    assert said.checks["credentials"] == ("!", "access token from ~/.kaggle/access_token")
    assert said.checks["account"] == ("ok", "alice")
    assert said.steps[0] == "~/.kaggle/access_token is open to other users (mode 644): chmod 600 ~/.kaggle/access_token"
    assert "KAGGLE_USERNAME and KAGGLE_KEY are there too" in said.steps[1]


def test_a_wrong_key(examine: Doctor, standin: Standin, cats: Competition) -> None:
    said = examine(environment={"KAGGLE_KEY": SECRET + "wrong"})
    assert (said.status, said.failed()) == (FAIL, ["competition"])
    assert "401" in said.checks["competition"][1]
    assert "get a new token at https://www.kaggle.com/settings/api" in said.steps[0].lower()
    assert "username and key of alice from KAGGLE_USERNAME and KAGGLE_KEY" in said.steps[0]
    assert "make doctor" not in said.steps[0]
    assert said.checks["rules"] == ("-", "not asked: no answer about the competition; nor are deadline, submissions")


def test_a_wrong_token(examine: Doctor, standin: Standin, cats: Competition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_KEY")
    token = {"KAGGLE_API_TOKEN": SECRET + "wrong"}
    said = examine("cats.toml", "--set", "kaggle.stall_seconds=5", environment=token)
    assert (said.status, said.failed()) == (FAIL, ["account"])
    assert "access token from KAGGLE_API_TOKEN" in said.text
    assert {request.method for request in standin.requests} == {"IntrospectToken"}


def test_rules_not_accepted(examine: Doctor, standin: Standin, cats: Competition) -> None:
    cats.entered = False
    cats.deadline = "2020-02-20T20:20:00Z"
    said = examine()
    assert (said.status, said.failed()) == (FAIL, ["rules"])
    assert said.checks["rules"] == ("fails", "not accepted: https://www.kaggle.com/competitions/cats/rules")
    assert said.checks["deadline"] == ("ok", "closed since 2020-02-20 20:20 UTC: late submissions only")
    assert said.checks["submissions"] == ("-", "not asked: the rules are not accepted")
    assert "competitions/cats/rules" in said.steps[0]


@pytest.mark.parametrize("status", [403, 404])
def test_a_misspelt_slug(examine: Doctor, standin: Standin, cats: Competition, status: int) -> None:
    standin.fault("GetCompetition", Status(status, "Permission was denied"))
    said = examine()
    assert (said.status, said.failed()) == (FAIL, ["competition"])
    assert str(status) in said.checks["competition"][1]
    assert "competition.slug" in said.steps[0]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Status(503, "Service Unavailable"), "Kaggle has trouble (503"),
        (Status(429, "Too many", {"Retry-After": "7"}), "try again in 7 seconds"),
        (Html(), "not Kaggle's service but perhaps a web page"),
        (Lost(), "The connection to Kaggle failed"),
        (Stall(), "Kaggle was silent for 3 seconds"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kaggle_or_the_way_there_fails(
    examine: Doctor, standin: Standin, cats: Competition, fault: Status | Html | Lost | Stall, words: str
) -> None:
    standin.fault("GetCompetition", fault)
    said = examine("cats.toml", "--set", "kaggle.stall_seconds=3")
    assert (said.status, said.failed()) == (LATER, ["competition"])
    assert words in said.checks["competition"][1]


def test_nobody_answers(examine: Doctor, standin: Standin) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # and never listens
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        said = examine(environment={"http_proxy": f"http://user:{SECRET}@{address}"})
    assert (said.status, said.failed()) == (FAIL, ["competition"])
    assert f"the proxy {address} does not answer" in said.checks["competition"][1]
    assert said.checks["service"] == ("ok", f"the stand-in at {address}, not Kaggle")


def test_a_slip_to_the_real_kaggle_fails_at_once(
    examine: Doctor, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_API_ENVIRONMENT")
    said = examine()
    assert (said.status, said.failed()) == (FAIL, ["competition"])
    assert "the proxy 127.0.0.1:9 does not answer" in said.steps[0] and "Correct https_proxy" in said.steps[0]
    assert standin.requests == []


def test_a_tmpdir_that_cannot_be_written_and_workers_that_cannot_start(folder: Path) -> None:
    (folder / "cats.toml").write_text(TOML + '[input]\nsource = "photos"\n[hardware]\nworkers = 1\n')
    here = {"PYTHONPATH": str(ROOT), "KAGGLE_CONFIG_DIR": str(folder / "none"), "TMPDIR": "/dev/null/x"}
    said = run_alone("cats.toml", environment=here)
    verdict, found = said.checks["temporary"]
    assert verdict == "!" and "as TMPDIR=/dev/null/x cannot be written" in found
    assert said.checks["workers"] == ("ok", "1")


def test_a_competition_that_takes_code(examine: Doctor, cats: Competition) -> None:
    cats.code_only = True
    said = examine()
    assert said.failed() == [] and said.checks["submissions"] == ("!", "code only, no files")
    assert any("run make kernel" in step for step in said.steps)
    assert examine("cats.toml", "--set", "competition.takes=code").checks["submissions"][0] == "ok"


@pytest.mark.parametrize(("by_total", "status"), [(False, LATER), (True, FAIL)])
def test_quota_spent(examine: Doctor, standin: Standin, cats: Competition, by_total: bool, status: int) -> None:
    cats.used_today, cats.used_total, cats.limited_by_total = 5, 9, by_total
    said = examine()
    assert (said.status, said.failed()) == (status, ["submissions"])
    assert said.checks["submissions"] == ("fails", "0 left now; 5 sent today, 9 in all")
    assert ("no more can be sent" if by_total else "midnight UTC") in said.steps[0]


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        ("http://bob:SECRET@127.0.0.1:9", "127.0.0.1:9"),
        ("http://bob:SECRET/x@127.0.0.1:9", "a malformed address"),
        ("http://bob:SECRET@[::1", "a malformed address"),
    ],
)
def test_nothing_of_a_proxy_but_its_place_is_shown(examine: Doctor, cats: Competition, proxy: str, shown: str) -> None:
    said = examine(environment={"KAGGLE_API_ENVIRONMENT": "PROD", "https_proxy": proxy, "http_proxy": proxy})
    assert said.checks["service"] == ("ok", f"Kaggle, through the proxy {shown}")
    assert "SECRET" not in repr(said)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("KAGGLE_API_ENVIRONMENT", "TEST", "'TEST'"), ("no_proxy", "localhost,example.com", "Unset no_proxy")],
)
def test_variables_that_lead_past_the_standin(
    examine: Doctor, standin: Standin, cats: Competition, name: str, value: str, words: str
) -> None:
    said = examine(environment={name: value})
    assert (said.status, said.failed()) == (FAIL, ["service"])
    assert words in said.steps[0]
    assert said.checks["account"][1].startswith("not asked: see service; nor are competition, rules, ")
    assert standin.requests == []


def test_credentials_that_stop_the_client(examine: Doctor, standin: Standin, cats: Competition) -> None:
    said = examine(environment={"KAGGLE_API_TOKEN": SECRET + "\n"})
    assert (said.status, said.failed()) == (FAIL, ["credentials"])
    assert "KAGGLE_API_TOKEN holds something else than a token" in said.steps[0]
    assert standin.requests == []


def test_packages_that_cannot_be_loaded(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    def broken(*arguments: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    (folder / "broken/kaggle").mkdir(parents=True)
    (folder / "broken/kaggle/__init__.py").write_text("import a_module_that_nobody_has")
    for name, value in (("PYTHONPATH", str(folder / "broken")), ("KAGGLE_USERNAME", "alice"), ("KAGGLE_KEY", SECRET)):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torchvision.ops, "nms", broken)
    said = report(command.run(doctor.main, ["cats.toml"]), *capsys.readouterr())
    assert (said.status, said.failed()) == (FAIL, ["torch", "kaggle"])
    assert said.checks["torch"][1] == "torchvision cannot be loaded: operator torchvision::nms does not exist"
    assert "No module named 'a_module_that_nobody_has'" in said.checks["kaggle"][1]
    assert f"pip install -r {ROOT / 'requirements.txt'}" in said.steps[0]
    assert "pip install --force-reinstall kaggle==" in said.steps[1]
    assert said.checks["device"][0] == "-"
    assert said.checks["account"][1].startswith("not asked: the client cannot be loaded; nor are competition, ")


def test_packages_that_are_absent(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(machine, "OTHERS", ["numpy", "a_module_that_nobody_has"])
    said = report(command.run(doctor.main, ["digits"]), *capsys.readouterr())
    assert (said.status, said.failed()) == (FAIL, ["torch", "packages"])
    assert said.checks["torch"] == ("missing", "torch is not installed")
    assert said.checks["packages"] == ("missing", "a_module_that_nobody_has")
    assert re.fullmatch(r"client 2\.\d+\.\d+", said.checks["kaggle"][1])


def test_a_split_whose_images_no_package_reads(examine: Doctor, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(*words: object) -> bool:  # as for boxes in pixels
        raise ModuleNotFoundError("No module named 'PIL'")

    monkeypatch.setattr(doctor, "split_is_made", compare)
    said = examine("tiny.toml")
    assert said.checks["split"] == ("fails", "No module named 'PIL'")


def test_a_device_that_is_not_here(examine: Doctor) -> None:
    said = examine("digits", "--set", "hardware.device=cuda:99")
    assert (said.status, said.failed()) == (FAIL, ["device"])
    assert "Try auto or one of: cpu" in said.steps[0]


def test_which_stage_is_next(examine: Doctor, tiny: Tiny) -> None:
    tiny.toml.write_text('[competition]\nsource = "address"\naddress = "https://example.com"\n' + tiny.toml.read_text())

    def ends(stage: str) -> bool:
        return said.text.endswith(f"\nNext: make {stage} COMP=tiny.toml SET=train.epochs=1\n")

    words = ("tiny.toml", "--set", "train.epochs=1")
    for stage, module, name, shown in (
        ("split", split, "data", "data/tiny/raw"),
        ("train", train, "split", "data/tiny/split.csv"),
        ("retrain", retrain, "runs", "valid accuracy"),
        ("predict", predict, "runs", "retrained"),
    ):
        said = examine(*words)
        assert said.status == 0
        assert ends(stage)
        assert said.checks[name][0] == "ok"
        assert shown in said.checks[name][1]
        assert command.run(module.main, words) == 0
    said = examine(*words)
    assert ends("score")
    assert said.checks["predictions"] == ("ok", "1 file in submissions/tiny")
    other = examine("tiny.toml", "--set", "split.seed=1")
    assert (other.status, other.failed()) == (FAIL, ["split"])


def test_sets_that_lack_a_member_and_blends_are_named(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.layout.root)
    assert command.run(split.main, ["tiny.toml"]) == 0
    run, settings = tiny.layout.run("mine"), tiny.settings("competition.source=address", "competition.address=there")
    words = command.parser("", "doctor").parse_args(["tiny.toml", "--run", "mine"], namespace=command.Words())

    def ends() -> str:
        return doctor.next_command(settings, tiny.layout, words).removeprefix("make ")

    write_json(run.record, {"members": ["seed-0", "seed-1"]})
    for path in (run.trained, run.folds, run.member("seed-0").trained):
        write_json(path, {"score": 0.5, "metric": "accuracy"})
    assert doctor._state(run, settings) == "1 of 2 members" and ends().startswith("folds ")
    write_json(run.member("seed-1").trained, {"score": 0.5})
    assert doctor._state(run, settings) == "2 members, accuracy 0.5000" and ends().startswith("predict ")
    write_json(run.record, {"blend": ["a", "b c"]})
    assert shlex.split(ends()) == ["blend", "COMP=tiny.toml", "RUN=mine", "RUNS=a 'b c'"]


def test_where_code_is_taken_the_kernel_is_next(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.layout.root)
    words = command.parser("", "doctor").parse_args(["tiny.toml", "--run", "mine"], namespace=command.Words())
    settings = tiny.settings("competition.takes=code")

    def ends(stage: str) -> bool:
        return doctor.next_command(settings, tiny.layout, words).startswith(f"make {stage} ")

    assert ends("kernel")
    tiny.layout.submission("mine").parent.mkdir(parents=True)
    tiny.layout.submission("mine").write_text("id,label\n")
    assert ends("submit")
    log = SubmissionLog(tiny.layout.submission_log)
    log.add(Row("2026-01-01T00:00:00Z", "mine", "someone/mine version 3", "0" * 64, "a message", ref=7))
    assert ends("submissions")


def test_an_unknown_competition_is_an_error_as_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(doctor.main, ["digit"]) == FAIL
    assert "digits" in capsys.readouterr().err
