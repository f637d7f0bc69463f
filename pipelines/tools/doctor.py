"""Check everything that the other stages need, on this machine and at Kaggle, and say what to do where it lacks.

Reads   the environment, the competition's TOML, what its other stages left; asks Kaggle where a credential is found.
Writes  nothing.

Verdicts: ok; ! works, with something to know; missing and fails have to be mended; - is not there, and not needed now.
Ends with status 0 where nothing has to be mended, 3 where only Kaggle or the way there fails, else 2.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from pipelines import command
from pipelines.system.errors import TryAgainLater, UserError
from pipelines.system.terminal import printable, printable_lines

if TYPE_CHECKING:
    from pipelines.kaggle.credentials import Credential
    from pipelines.kaggle.service import Competition, Kaggle
    from pipelines.settings.layout import Layout
    from pipelines.settings.schema import Settings

OLDEST_PYTHON = (3, 11)
OLDEST_CLIENT, NEXT_CLIENT = (2, 2, 4), (3,)
OTHERS = "numpy pandas PIL sklearn scipy matplotlib tqdm py7zr".split()
IMPORT_SECONDS = 60
STALL_SECONDS = 30.0  # at most; a check is no download
GB = 1e9
LITTLE_DISK, LITTLE_MEMORY, LITTLE_SHARED = 10 * GB, 2 * GB, 1 * GB
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container
SHARED_MEMORY = Path("/dev/shm")
RUNS_SHOWN = 3
NAME_WIDTH, VERDICT_WIDTH = len("submissions"), len("missing")

Verdict = Literal["ok", "!", "missing", "fails", "-"]


@dataclass(frozen=True)
class Check:
    """One line of the list.  steps: what to do, in order.  later: it fails now, and may not when it is tried again."""

    name: str
    verdict: Verdict
    found: str
    steps: tuple[str, ...] = ()
    later: bool = False

    @property
    def fails(self) -> bool:
        return self.verdict in ("missing", "fails")

    def __str__(self) -> str:
        return f"{self.name:<{NAME_WIDTH}}  {self.verdict:<{VERDICT_WIDTH}}  {printable(self.found)}"


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "tools.doctor").parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    checks: list[Check] = []
    for check in _all(settings, layout, words):
        print(check, flush=True)
        checks.append(check)
    steps = list(dict.fromkeys(step for check in checks for step in check.steps))
    failed = [check for check in checks if check.fails]
    if failed:
        steps.append(f"Look again: {words.repeat('doctor')}")
    if steps:
        print("\nWhat to do:")
        for number, step in enumerate(steps, 1):
            print(f"{number:3}. {printable_lines(step)}")
    if failed:
        kind = TryAgainLater if all(check.later for check in failed) else UserError
        raise kind(f"{len(failed)} of {len(checks)} checks failed; see above.")
    print(f"\nNext: {_next_stage(settings, layout, words)}")


def _all(settings: "Settings", layout: "Layout", words: command.Words) -> Iterator[Check]:
    """Yield all checks, those first whose steps have to be taken first."""
    usable = {}
    for check in (*_packages(settings), *_machine(settings)):
        usable[check.name] = not check.fails
        yield check
    yield _device(settings) if usable["torch"] else Check("device", "-", "not asked, as torch is missing")
    yield from _kaggle(settings, usable["kaggle"])
    yield from _state(settings, layout, words)


def _packages(settings: "Settings") -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] >= OLDEST_PYTHON:
        yield Check("Python", "ok", version)
    else:
        yield Check("Python", "fails", version, ("Install Python 3.11 or newer, then: make install PYTHON=python3.11",))
    # without credentials, the client's import neither logs in nor asks Kaggle; an existing folder is not made
    nowhere = {"HOME": sys.prefix, "USERPROFILE": sys.prefix, "KAGGLE_CONFIG_DIR": sys.prefix}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KAGGLE_", "VERBOSE"))}
    with subprocess.Popen(
        [sys.executable, "-P", "-c", "import kaggle; print(); print(kaggle.__version__)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=kept | nowhere,
    ) as process:
        try:
            yield _torch()  # which takes about as long
            yield _others()
            yield _client(process, needed=settings.competition.source == "kaggle")
        finally:
            process.kill()


def _torch() -> Check:
    name = "torch"
    try:
        import torch

        name = "torchvision"
        import torchvision
        import torchvision.ops

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:  # what does not fit together fails in many ways
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        found = f"{name} is not installed" if missing else f"{name} cannot be loaded: {_brief(error)}"
        step = _install("torch and torchvision, which have to match")
        return Check("torch", "missing" if missing else "fails", found, (step,))
    return Check("torch", "ok", f"{torch.__version__}, with torchvision {torchvision.__version__}")


def _others() -> Check:
    from importlib.util import find_spec

    lacking = [name for name in OTHERS if find_spec(name) is None]
    if lacking:
        return Check("packages", "missing", ", ".join(lacking), (_install("what is missing"),))
    return Check("packages", "ok", ", ".join(OTHERS))


def _client(process: "subprocess.Popen[str]", needed: bool) -> Check:
    """What came of importing Kaggle's client, which prints its version last."""
    step = _install("Kaggle's client")
    bad: Verdict = "fails" if needed else "!"
    try:
        out, err = process.communicate(timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return Check("kaggle", bad, f"the client was not loaded in {IMPORT_SECONDS} seconds", (step,))
    if process.returncode:
        reason = (err.strip().splitlines() or [f"status {process.returncode}"])[-1]
        if "No module named 'kaggle'" in reason:
            return Check("kaggle", "missing" if needed else "!", "Kaggle's client is not installed", (step,))
        return Check("kaggle", bad, f"the client cannot be loaded: {reason}", (step,))
    version = out.split()[-1]
    if not OLDEST_CLIENT <= tuple(map(int, re.findall(r"\d+", version)[:3])) < NEXT_CLIENT:
        return Check("kaggle", "!", f"client {version}; 2.2.4 up to 3 were tried", (step,))
    return Check("kaggle", "ok", f"client {version}")


def _machine(settings: "Settings") -> Iterator[Check]:
    folder = Path.cwd()
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        yield Check("disk", "fails", f"{folder} is not writable", ("Work in a folder that you can write.",))
    elif free < LITTLE_DISK:
        step = f"Free space on the disk of {folder}: large competitions take tens of GB."
        yield Check("disk", "!", f"{free / GB:.1f} GB free", (step,))
    else:
        yield Check("disk", "ok", f"{free / GB:,.0f} GB free")
    total, available = _memory()
    shown = f"{total / GB:.1f} GB, {available / GB:.1f} GB free"
    if total and available < LITTLE_MEMORY:
        yield Check("memory", "!", shown, ("End other programs: less than 2 GB of memory are free.",))
    else:
        yield Check("memory", "ok" if total else "-", shown if total else "not known")
    workers = settings.hardware.workers
    if settings.input.source == "photos" and workers and SHARED_MEMORY.is_dir():
        size = shutil.disk_usage(SHARED_MEMORY).total
        step = (
            f"{SHARED_MEMORY} is small for hardware.workers = {workers}, which hand images over in it: give the "
            'container more (docker run --shm-size=2g), or SET="hardware.workers=0".'
        )
        little = size < LITTLE_SHARED
        yield Check("shared", "!" if little else "ok", f"{size / GB:.1f} GB in {SHARED_MEMORY}", (step,) * little)


def _memory() -> tuple[float, float]:
    """Return bytes of memory, in all and available to us; zeros where neither is known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        total, available = sizes["MemTotal"], sizes["MemAvailable"]
    except (OSError, ValueError, KeyError, IndexError):
        return 0.0, 0.0
    for path in map(Path, MEMORY_LIMITS):
        try:
            limit = int(path.read_text())
        except (OSError, ValueError):  # not there, or no limit
            continue
        total, available = min(total, limit), min(available, limit)
    return total, available


def _device(settings: "Settings") -> Check:
    from pipelines.models.device import bfloat16_is_fast, choose_hardware
    from pipelines.system.processes import cores

    try:
        hardware = choose_hardware(settings.hardware)
    except UserError as error:
        return Check("device", "fails", f"hardware.device is {settings.hardware.device!r}", (str(error),))
    fast = "" if bfloat16_is_fast(hardware.device) else "; no fast bfloat16"
    return Check("device", "ok", f"{hardware}{fast}; {cores()} processor cores")


def _kaggle(settings: "Settings", client: bool) -> Iterator[Check]:
    """Where Kaggle is, who we are to it, and how we stand in the competition."""
    from pipelines.kaggle.credentials import find_credential, missing_because, steps_to_credential
    from pipelines.kaggle.service import RULES_PAGE, Kaggle, is_standin

    needed = settings.competition.source == "kaggle"
    service = _service()
    yield service
    credential: Credential | None = None
    try:
        credential = find_credential(os.environ)
        notes = credential.warnings if credential else missing_because(os.environ)
    except UserError as error:
        yield Check("credentials", "fails" if needed else "!", "not usable", (str(error),))
        yield from _unasked("no usable credentials")
        return
    if credential:
        yield Check("credentials", "!" if notes else "ok", str(credential), notes)
    elif needed:
        rules = f"Accept the rules of {settings.name}: {RULES_PAGE.format(slug=settings.competition.slug)}"
        yield Check("credentials", "missing", "none for Kaggle", (*notes, *steps_to_credential(os.environ), rules))
    else:
        yield Check("credentials", "-", f"none for Kaggle; {settings.name} needs none")
    if not credential or service.fails or not client:
        why = "no credentials" if not credential else "see service" if service.fails else "the client cannot be loaded"
        yield from _unasked(why)
        return

    slug = settings.competition.slug
    with Kaggle(slug, min(settings.kaggle.stall_seconds, STALL_SECONDS)) as kaggle:
        if credential.kind == "username and key":  # which the client takes as it is
            account = Check("account", "-", f"{credential.username}; a key is only tried with the first question")
        else:
            account = _asked("account", lambda: kaggle.username() or "the name is not known", needed, credential)
        yield account
        if account.steps:
            yield from _unasked("not logged in", ASKED[1:])
        elif not needed and not is_standin(os.environ):
            yield from _unasked(f"{settings.name} is not at Kaggle", ASKED[1:])
        else:
            yield from _standing(kaggle, slug, needed, credential)


ASKED = ("account", "competition", "rules", "deadline", "submissions")


def _unasked(why: str, names: Sequence[str] = ASKED) -> Iterator[Check]:
    return (Check(name, "-", f"not asked: {why}") for name in names)


def _asked(name: str, ask: Callable[[], str], needed: bool, credential: "Credential") -> Check:
    """The check that Kaggle answers."""
    from pipelines.kaggle.service import is_standin

    try:
        return Check(name, "ok", ask())
    except UserError as error:
        found = str(error).partition(". ")[0].removesuffix(".")
        later = isinstance(error, TryAgainLater)
        step = re.sub(r"[Mm]ake doctor (shows where they are|says more); g", "G", str(error))
        if not later and "credentials" in found:
            step += f" What was refused is the {credential}."
        if later and not is_standin(os.environ) and (proxy := _proxy("https")):
            step += f" The variable https_proxy sends all calls to {proxy}: is this right?"
    except RuntimeError as error:  # its last line may show anything
        kind = (str(error).strip().splitlines() or [""])[-1].partition(":")[0]
        found, later = f"Kaggle's client failed as nobody foresaw ({kind[:60]})", False
        step = "Ask Kaggle's client itself: kaggle competitions list. If that works, report this as a mistake of ours."
    return Check(name, "fails" if needed else "!", found, (step,), later)


def _service() -> Check:
    """Which service the client will talk to."""
    from pipelines.kaggle.service import check_environment, is_standin

    try:
        check_environment(os.environ)
    except UserError as error:
        return Check("service", "fails", "the client would not talk to what was meant", (str(error),))
    if not is_standin(os.environ):
        proxy = _proxy("https")
        return Check("service", "ok", "Kaggle" + (f", through the proxy {proxy}" if proxy else ""))
    proxy = _proxy("http")
    if not proxy:
        step = "Set http_proxy to the address that make kaggle-standin printed, unless something answers on port 80."
        return Check("service", "!", "a stand-in at localhost:80, as http_proxy is not set", (step,))
    if _bypassed("localhost"):
        step = "Unset no_proxy and NO_PROXY: with them the client passes the stand-in by, and asks localhost:80."
        return Check("service", "fails", f"no_proxy hides the stand-in at {proxy}", (step,))
    return Check("service", "ok", f"the stand-in at {proxy}, not Kaggle")


def _proxy(scheme: str) -> str:
    """Host and port of the proxy for calls by `scheme`; empty: none.  User name and password are left out."""
    proxies = getproxies_environment()
    address = proxies.get(scheme) or proxies.get("all") or ""
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        host = f"{parts.hostname or ''}:{parts.port}" if parts.port else parts.hostname or ""
    except ValueError:
        return "a malformed address" if address else ""
    # a slash in a password ends the part that is known to hold it
    return "a malformed address" if "@" in f"{parts.path}{parts.query}{parts.fragment}" else host


def _bypassed(host: str) -> bool:
    try:
        from requests.utils import should_bypass_proxies
    except ImportError:  # then the client cannot be loaded either
        return False
    return bool(should_bypass_proxies(f"http://{host}/", no_proxy=None))


def _standing(kaggle: "Kaggle", slug: str, needed: bool, credential: "Credential") -> Iterator[Check]:
    from pipelines.kaggle.service import RULES_PAGE, not_entered

    bad: Verdict = "fails" if needed else "!"
    answers: list[Competition] = []

    def title() -> str:
        answers.append(kaggle.competition())
        return answers[0].title

    yield _asked("competition", title, needed, credential)
    if not answers:
        yield from _unasked("no answer about the competition", ASKED[2:])
        return
    competition = answers[0]
    if competition.entered:
        yield Check("rules", "ok", "accepted")
    else:
        yield Check("rules", bad, f"not accepted: {RULES_PAGE.format(slug=slug)}", (str(not_entered(slug)),))
    yield Check("deadline", "ok", _deadline(competition.deadline))
    if competition.submissions_disabled:
        step = "Kaggle takes no submissions to this competition; make score may still score one here."
        yield Check("submissions", "!", "Kaggle takes none", (step,))
    elif competition.entered:
        yield _submissions_left(kaggle, competition, needed, credential)
    else:
        yield from _unasked("the rules are not accepted", ASKED[4:])


def _deadline(text: str) -> str:
    if not text:
        return "none is told"
    ends = datetime.fromisoformat(text)
    shown = f"{ends.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return f"open until {shown}" if ends > datetime.now(UTC) else f"closed since {shown}: late submissions only"


def _submissions_left(kaggle: "Kaggle", competition: "Competition", needed: bool, credential: "Credential") -> Check:
    spent: list[bool] = []

    def numbers() -> str:
        limits = kaggle.limits()
        if limits.spent:
            spent.append(limits.limited_by_total)
        if not limits.left and not spent:
            return f"none sent yet; {competition.daily_submissions} a day are allowed"
        return f"{limits.left} left now; {limits.today} sent today, {limits.total} in all"

    check = _asked("submissions", numbers, needed, credential)
    if not spent:
        return check
    if spent[0]:
        step = "All submissions that this competition allows are used up: no more can be sent."
    else:
        from pipelines.kaggle.service import seconds_to_new_day

        step = (
            f"Today's submissions are used up. Kaggle counts from midnight UTC, which is in "
            f"{command.duration(seconds_to_new_day())}; all other stages work meanwhile."
        )
    return Check("submissions", "fails" if needed else "!", check.found, (step,), later=not spent[0])


def _state(settings: "Settings", layout: "Layout", words: command.Words) -> Iterator[Check]:
    """How far the stages have come with this competition."""
    from pipelines.settings.records import split_is_made

    raw = layout.raw.is_dir()
    yield Check("data", "ok" if raw else "-", _short(layout.raw) if raw else "not downloaded yet")
    try:
        made = raw and split_is_made(layout, settings)
        yield Check("split", "ok" if made else "-", _short(layout.split_csv) if made else "not made yet")
    except (UserError, OSError) as error:
        yield Check("split", "fails", _brief(error).partition(": ")[0], (str(error),))
    yield _runs(settings, layout)
    yield _sent(layout)


def _runs(settings: "Settings", layout: "Layout") -> Check:
    from pipelines.system.files import read_json

    records = sorted(layout.run("*").folder.parent.glob("*/run.json"), key=lambda path: -path.stat().st_mtime)
    shown = []
    for path in records[:RUNS_SHOWN]:
        run = layout.run(path.parent.name)
        state = "not finished"
        if run.trained.exists():
            try:
                state = f"valid {settings.competition.metric} {read_json(run.trained)['score']:.4f}"
            except (OSError, ValueError, KeyError, TypeError):
                state = "train.json is damaged"
            state += ", retrained" if run.retrained.exists() else ""
        shown.append(f"{path.parent.name} ({state})")
    more = f" and {len(records) - len(shown)} more" if len(records) > len(shown) else ""
    return Check("runs", "ok" if shown else "-", ", ".join(shown) + more if shown else "none yet")


def _sent(layout: "Layout") -> Check:
    """The submissions here, and how many of them were sent."""
    from pipelines.kaggle.submission_log import SubmissionLog

    log = layout.submission_log
    files = [path for path in log.parent.glob("*.csv") if path != log and not path.name.startswith(".")]
    count = f"{len(files)} file{'s' * (len(files) != 1)} in {_short(log.parent)}"
    try:
        refs = SubmissionLog(log).refs
    except (UserError, OSError) as error:
        return Check("predictions", "fails", f"{_short(log)} cannot be read", (str(error),))
    if not files and not refs:
        return Check("predictions", "-", "none yet")
    return Check("predictions", "ok", f"{count}; {len(refs)} sent")


def _next_stage(settings: "Settings", layout: "Layout", words: command.Words) -> str:
    """The make command of the first stage that has not done its work."""
    from pipelines.kaggle.submission_log import SubmissionLog
    from pipelines.settings.loading import submission_name
    from pipelines.settings.records import split_is_made

    name = words.run_name()
    run, submission = layout.run(name), layout.submission(submission_name(name, words.set))
    if not layout.raw.is_dir():
        archive = " ARCHIVE=<its archive>" if settings.competition.source == "address" else ""
        return words.repeat("download") + archive
    if not split_is_made(layout, settings):
        return words.repeat("split")
    if not run.trained.exists():
        return words.repeat("train")
    if settings.predict.checkpoint == "final" and not run.retrained.exists():
        return words.repeat("retrain")
    if not submission.exists():
        return words.repeat("predict")
    if settings.competition.source != "kaggle":
        return words.repeat("score")
    sent = any(row.file == submission.name and row.ref for row in SubmissionLog(layout.submission_log).rows)
    return words.repeat("submissions" if sent else "submit")


def _install(what: str) -> str:
    return f"Install {what}: {_short(Path(sys.executable))} -m pip install -r requirements.txt"


def _short(path: Path) -> str:
    """The path as a person types it in the working folder."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _brief(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    sys.exit(command.run(main))
