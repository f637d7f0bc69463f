"""The house has floors: imports run one way, and core neither reads the command line nor prints."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pipelines"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}
CORE = sorted(name for name in MODULES if name.startswith("pipelines.core."))
STAGES = sorted(set(MODULES) - set(CORE) - {"pipelines.command"})
# What a module of the ground floor may import of ours; everything else stands above.
GROUND: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "layout": set(),
    "seeds": set(),
    "terminal": set(),
    "watch": set(),
    "settings": {"errors"},
    "memory": {"errors"},
    "processes": {"errors", "memory", "watch"},
}
# These read and write files, but where a project keeps its own is for others to say, and so is who trains.
KEEPERS: dict[str, set[str]] = {
    "images": {"errors"},
    "packed": {"errors", "files", "fingerprints", "images", "processes", "watch"},
    "fingerprints": {"errors", "files", "images", "watch"},
    "decodable": {"files", "fingerprints", "images", "processes", "watch"},
    "feature_store": {"errors", "files"},
    "weights": {"errors", "files", "watch"},
    "label_map": {"errors", "tables"},
    "kaggle_worker": set(),  # runs by itself, away from all of ours
    "kaggle_service": {"errors", "terminal"},
    "kaggle_download": {"errors", "files", "kaggle_service", "watch"},
    "credentials": {"errors"},
    "submission_log": {"errors", "files", "kaggle_service", "terminal"},
}
# The training core knows no files, layouts, flags or competitions: what it gets, it gets as arguments.
ABSTRACT: dict[str, set[str]] = {
    "metrics": set(),
    "muon": set(),
    "optim": {"muon", "settings"},
    "augment": {"settings"},
    "models": {"errors", "settings"},
    "device": {"errors", "settings"},
    "calibration": {"metrics"},
    "engine": {"batches", "device", "errors", "memory", "metrics", "optim", "seeds"},
}
# Pretrained networks and what is kept of them: they are what is trained, and know nobody who trains.
PRETRAINED: dict[str, set[str]] = {
    "backbones": {"errors", "weights"},
    "transfer": {"backbones", "errors", "label_map", "models", "seeds", "settings", "watch", "weights"},
    "features": {
        *("augment", "backbones", "batches", "device", "errors", "feature_store", "fingerprints", "images", "memory"),
        *("seeds", "settings", "transfer", "watch"),
    },
}
FLOORS = GROUND | KEEPERS | ABSTRACT | PRETRAINED


def imported(tree: ast.AST) -> set[str]:
    """Return the full names of all modules that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


GRAPH = {name: imported(tree) for name, tree in MODULES.items()}


def ours(name: str) -> set[str]:
    """The modules of ours that the module `name` imports."""
    return GRAPH[name] & set(MODULES)


def test_there_is_something_to_test() -> None:
    assert {"pipelines.core.engine", "pipelines.core.training"} <= set(CORE)
    assert {"pipelines.train", "pipelines.predict", "pipelines.split"} <= set(STAGES)
    assert ours("pipelines.core.engine") == {f"pipelines.core.{name}" for name in ABSTRACT["engine"]}


@pytest.mark.parametrize("name", CORE)
def test_core_imports_no_stage_and_no_frame_of_stages(name: str) -> None:
    assert ours(name) <= set(CORE)


@pytest.mark.parametrize("name", STAGES)
def test_no_stage_imports_another(name: str) -> None:
    assert not ours(name) & set(STAGES)


def test_the_frame_of_stages_imports_no_stage() -> None:
    assert ours("pipelines.command") <= set(CORE)


@pytest.mark.parametrize("name", FLOORS)
def test_the_lower_floors_import_nothing_from_above(name: str) -> None:
    assert ours(f"pipelines.core.{name}") <= {f"pipelines.core.{module}" for module in FLOORS[name]}


@pytest.mark.parametrize("name", CORE)
def test_only_training_runs_the_engine(name: str) -> None:
    if name != "pipelines.core.training":
        assert not ours(name) & {"pipelines.core.engine", "pipelines.core.training"}


def test_no_module_imports_itself_by_a_detour() -> None:
    def reached(name: str, seen: set[str]) -> set[str]:
        for other in ours(name) - seen:
            reached(other, seen | {other})
            seen.add(other)
            seen |= reached(other, seen)
        return seen

    for name in MODULES:
        assert name not in reached(name, set()), name


@pytest.mark.parametrize("name", CORE)
def test_core_reads_no_command_line_and_prints_nothing(name: str) -> None:
    outside = {module.partition(".")[0] for module in GRAPH[name]}
    assert not outside & {"argparse", "tqdm"}
    calls = {ast.unparse(node.func) for node in ast.walk(MODULES[name]) if isinstance(node, ast.Call)}
    assert not calls & {"print", "input", "exit", "sys.exit", "breakpoint"}


@pytest.mark.parametrize("name", [*GROUND, "images", "packed", "fingerprints", "decodable", "feature_store"])
def test_what_decoding_processes_and_every_stage_start_with_needs_no_torch(name: str) -> None:
    pending, seen = [f"pipelines.core.{name}"], set()
    while pending:
        module = pending.pop()
        seen.add(module)
        assert not any(each.partition(".")[0] in ("torch", "torchvision") for each in GRAPH[module]), module
        pending += ours(module) - seen


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name: str) -> None:
    assert (ast.get_docstring(MODULES[name]) or "").strip()
