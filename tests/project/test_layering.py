"""Imports between rooms go down only, no stage imports another, and only stages and tools print."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pipelines"
# A room may import the rooms before it.
ROOMS = ("system", "settings", "dataset", "models", "core", "kaggle", "analysis", "report", "command", "stages")
STAGES = ("download", "split", "train", "retrain", "predict", "submit", "tools")
ON_SCREEN = ("command", "stages")  # these rooms may read the command line and print
ALONE = "pipelines.kaggle.worker"  # it runs in a process of its own and imports no other module of the project
WITHOUT_TORCH = ("system", "settings")
IMPORTS = (ast.Import, ast.ImportFrom)
LAZY = "pipelines.system.group"  # it imports torch in functions, for processes that torchrun has started
DECODING = ("images", "packed", "fingerprints")  # decoding processes import these modules of dataset


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
del MODULES["pipelines"]


def imported(tree: ast.AST) -> set[str]:
    """Return the full names of all modules that `tree` imports, in functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


GRAPH = {name: imported(tree) for name, tree in MODULES.items()}


def room(name: str) -> str:
    second = name.split(".")[1]
    return "stages" if second in STAGES else second


def ours(name: str) -> set[str]:
    """Return the modules of this project that the module `name` imports."""
    return GRAPH[name] & set(MODULES)


def test_every_module_is_in_a_room() -> None:
    assert {room(name) for name in MODULES} == set(ROOMS)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name: str) -> None:
    below = ROOMS[: ROOMS.index(room(name))]
    for other in ours(name):
        if room(name) != room(other):
            assert room(other) in below, other
        elif room(name) == "stages":  # no module imports a stage or a tool that runs by itself
            assert "__main__" not in ast.unparse(MODULES[other]), other
    assert name != ALONE or not ours(name)


def test_there_is_no_import_cycle() -> None:
    pending = {name: ours(name) for name in MODULES}
    while free := {name for name, others in pending.items() if not others & pending.keys()}:
        pending = {name: others for name, others in pending.items() if name not in free}
    assert not pending


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) not in ON_SCREEN])
def test_only_stages_and_tools_print(name: str) -> None:
    if name == ALONE:
        return
    assert "argparse" not in GRAPH[name]
    calls = {ast.unparse(node.func) for node in ast.walk(MODULES[name]) if isinstance(node, ast.Call)}
    assert not calls & {"print", "input", "exit", "sys.exit", "breakpoint"}


def test_settings_and_decoding_need_no_torch() -> None:
    pending = [name for name in MODULES if room(name) in WITHOUT_TORCH]
    pending += [f"pipelines.dataset.{name}" for name in DECODING]
    seen = set()
    while pending:
        module = pending.pop()
        seen.add(module)
        names = GRAPH[module]
        if module == LAZY:
            names = imported(ast.Module([node for node in MODULES[module].body if isinstance(node, IMPORTS)], []))
        assert not any(each.partition(".")[0] in ("torch", "torchvision") for each in names), module
        pending += ours(module) - seen


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_docstring(name: str) -> None:
    assert (ast.get_docstring(MODULES[name]) or "").strip()
