"""One run of the pipeline on Kaggle: its files here and its state, and the push that starts it."""

import hashlib
import secrets
import shlex
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from pipelines.kaggle import kernel_bundle
from pipelines.kaggle.failures import NEW_TOKEN
from pipelines.kaggle.kernel_script import weights_of
from pipelines.kaggle.service import Kaggle
from pipelines.settings.layout import Below, Layout, RunLayout
from pipelines.settings.loading import submission_name
from pipelines.settings.schema import Settings
from pipelines.system.errors import TryAgainLater, UserError, printable
from pipelines.system.files import atomic_folder, read_json, write_json, write_text
from pipelines.system.shell import removal

PUSHING, PUSHED, FAILED, FETCHED = "pushing", "pushed", "failed", "fetched"
HOW_TO_ATTACH = {
    "competition": "accept its rules (https://www.kaggle.com/competitions/{name}/rules), or correct competition.slug",
    "dataset": "kaggle.dataset_sources takes owner/name, as in the address of a dataset that this account may see",
    "model": "kaggle.model_sources takes owner/model/framework/variation/version, of a model with an accepted licence",
    "kernel": "no setting attaches it; try again",
}


class Say(Protocol):
    """Show a line.  seconds: since the push, for a change of the run's status."""

    def __call__(self, text: str, seconds: float | None = None) -> None: ...


@dataclass(frozen=True)
class State:
    """The content of state.json.  words: recipe and overrides.  bundle_sha256: of the pipeline.

    run_id: also in the kernel's output, to identify it.  pushed_at: seconds since 1970.
    """

    run_id: str
    state: str
    kernel: str
    words: list[str]
    bundle_sha256: str
    pushed_at: float = 0.0
    version: int = 0
    url: str = ""

    @property
    def page(self) -> str:
        return self.url or self.kernel


@dataclass(frozen=True)
class KernelRun:
    """A run on Kaggle.  toml: the competition's; name: of the run; overrides: `section.key=value`."""

    toml: Path
    settings: Settings
    layout: Layout
    name: str
    overrides: list[str]

    log = Below("log.txt")
    fetched = Below("output")  # the fetched results, complete, before they are moved to their places

    @property
    def target(self) -> RunLayout:
        """The place of the fetched run."""
        return self.layout.run(self.name)

    @property
    def submission(self) -> Path:
        return self.layout.submission(submission_name(self.name, self.overrides))

    @property
    def folder(self) -> Path:
        """The files of the kernel itself."""
        return self.layout.run(f"{self.name}-kernel").folder

    @property
    def words(self) -> list[str]:
        """Recipe and overrides, without [kaggle], which does not change the results."""
        return [self.settings.recipe, *(each for each in self.overrides if not each.startswith("kaggle."))]

    def shown(self, path: Path) -> Path:
        return path.relative_to(self.layout.root)

    def save(self, state: State) -> State:
        write_json(self.folder / "state.json", asdict(state))
        return state

    def state(self) -> State | None:
        """Return the saved state or None.  Raises `UserError` if it is damaged, or of a push with other words."""
        path, folder = self.folder / "state.json", self.shown(self.folder)
        try:
            state = State(**read_json(path))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{self.shown(path)} cannot be read ({error}). Remove it and run on Kaggle again: "
                f"{removal(self.folder)}"
            ) from None
        if state.state != FAILED and state.words != self.words:
            recipe, *overrides = state.words
            changes = f"SET={shlex.quote(' '.join(overrides))}" if overrides else "no SET"
            pushed = f"RECIPE={shlex.quote(recipe)} and {changes}"
            raise UserError(
                f"{folder} was pushed with {pushed}. Choose another RUN=, or remove it: {removal(self.folder)}"
            )
        return state

    def bundle(self) -> tuple[bytes, str]:
        beside = (self.settings.data.submitted_labels, self.settings.split.group_file)
        packed = kernel_bundle.pack(kernel_bundle.needed_files(self.toml, self.settings.model.label_map, beside))
        return packed, hashlib.sha256(packed).hexdigest()


def check_possible(settings: Settings) -> None:
    """Raise `UserError` for data or weights that would be missing on Kaggle."""
    attached = bool(settings.kaggle.dataset_sources or settings.kaggle.model_sources)
    how = "SET='kaggle.dataset_sources=[\"owner/name\"]' (or kaggle.model_sources)"
    if settings.competition.source == "address" and not settings.kaggle.dataset_sources:
        raise UserError(
            f"{settings.name} is no competition of Kaggle: put its archive into a Kaggle dataset of yours and attach "
            f"it with {how}."
        )
    if settings.split.group_file:
        raise UserError(
            f"split.group_file names {settings.split.group_file}, which a kernel on Kaggle does not have: run the "
            "stages here, or empty split.group_file."
        )
    for network, weights in weights_of(settings):
        from pipelines.models.published import is_published_name, published

        by_name = is_published_name(weights)
        if not by_name and (Path(weights).is_absolute() or weights.startswith("~") or ".." in Path(weights).parts):
            raise UserError(
                f"model.weights names {weights}, a place that Kaggle does not have: use a path relative to the working "
                f"folder, such as weights/{Path(weights).name}, and attach the file with {how}."
            )
        if not attached and not (by_name and settings.kaggle.internet):
            name = published(network, weights).filename if by_name else Path(weights).name
            without = ", or let the kernel download it: SET=kaggle.internet=true" if by_name else ""
            raise UserError(
                f"The kernel needs the weights {name} of {network}, and nothing brings them to Kaggle: put the file "
                f"into a Kaggle dataset of yours and attach it with {how}{without}."
            )


def push(kaggle: Kaggle, run: KernelRun, say: Say) -> State:
    """Write script and metadata, push them, and return the new state.

    Raises `UserError` if Kaggle refuses the kernel or a source.  If the answer is lost, the saved state is PUSHING.
    """
    settings, competition = run.settings, run.layout.competition
    username = kaggle.username()
    if not username:
        raise UserError(f"Kaggle's client does not know the account of these credentials. {NEW_TOKEN}")
    if settings.kaggle.accelerator:
        used, allowed = kaggle.gpu_hours()
        say(f"GPU hours this week: {used:.1f} of {allowed:.1f} used.")
        if used >= allowed > 0:
            raise UserError("None are left: wait for the next week, or run without a GPU: SET=kaggle.accelerator=")
    slug = kernel_bundle.kernel_slug(competition, run.name)
    packed, sha256 = run.bundle()
    state = State(secrets.token_hex(8), PUSHING, f"{username}/{slug}", run.words, sha256, time.time())
    task = kernel_bundle.make_task(competition, settings, run.name, run.overrides, state.run_id)
    with atomic_folder(run.folder) as folder:
        write_text(folder / kernel_bundle.SCRIPT, kernel_bundle.make_script(task, packed))
        write_json(folder / kernel_bundle.METADATA, kernel_bundle.make_metadata(username, slug, settings))
        write_json(folder / "state.json", asdict(state))
    try:
        pushed = kaggle.push_kernel(run.folder, settings.kaggle.kernel_hours)
    except TryAgainLater:
        raise
    except UserError:
        run.save(replace(state, state=FAILED))
        raise
    if pushed.error or pushed.invalid:
        run.save(replace(state, state=FAILED))
        raise UserError(_refusal(pushed.error, pushed.invalid))
    state = run.save(replace(state, state=PUSHED, version=pushed.version, url=pushed.url, pushed_at=time.time()))
    say(f"Pushed {len(packed) / 1e3:,.0f} kB as version {state.version} of {state.url}")
    return state


def _refusal(error: str, invalid: dict[str, list[str]]) -> str:
    if not invalid:
        return f"Kaggle refuses the kernel: {printable(error)}"
    said = f' Kaggle says: "{printable(error)}"' if error else ""
    lines = "".join(
        f"\n  {kind} {name!r}: {HOW_TO_ATTACH.get(kind, 'see [kaggle] in the settings').format(name=name)}"
        for kind, names in invalid.items()
        for name in names
    )
    again = "Then run the same command again."
    return f"Kaggle could not attach the kernel's sources, so its run is useless.{said}{lines}\n{again}"
