"""README.md and docs/: commands, settings, links, files, functions and tests that they name exist."""

import argparse
import importlib.util
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pipelines.settings.competitions import COMPETITIONS
from pipelines.settings.loading import load_settings
from pipelines.settings.schema import SECTIONS
from tests.support.desk import FOLDER, Call, Desk

REPOSITORY = Path(__file__).parents[2]
PAGES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
}
README = PAGES["README.md"]
EXPECTED = (
    *("architecture", "competitions", "data", "detection", "ensembles", "kaggle", "performance", "reliability"),
    *("settings", "reports", "shards", "tasks", "transfer-learning", "troubleshooting"),
)
NOT_RUN = "<!-- not run -->"
BLOCK = re.compile(rf"^({NOT_RUN}\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OWN_TOML = "my-leaves"  # the competition that the README adds
OWN_TOMLS = (OWN_TOML, "my data/my leaves.toml")


def commands(page: str) -> Iterator[str]:
    """Yield each command of the console and sh blocks that are not marked as not run, its continued lines joined."""
    for mark, language, block in BLOCK.findall(PAGES[page]):
        if language in ("console", "sh") and not mark:
            lines = block.replace("\\\n", " ").splitlines()
            yield from (line.removeprefix("$ ") for line in lines if language == "sh" or line.startswith("$ "))


# A command within a sentence or a table counts too; with an ellipsis it is not a whole one.
INLINE = {
    command
    for text in PAGES.values()
    for command in re.findall(r"`((?:make|python -m) [^`]+)`", BLOCK.sub("", text))
    if "…" not in command
}
COMMANDS = sorted(INLINE.union(*map(commands, PAGES)))
TARGETS = re.findall(r"^([a-z-]+):.*## ", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def headings(text: str) -> set[str]:
    """Return the anchors of a page, as GitHub makes them from headings."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


class Parsed(Exception):
    """Raised in place of a stage's work, with the arguments that it has parsed."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *arguments: Any, **keywords: Any) -> NoReturn:
        raise Parsed(parse(parser, *arguments, **keywords))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    found = Desk(tmp_path_factory.mktemp("documented") / FOLDER)
    found.set_up()
    (found.folder / f"{OWN_TOML}.toml").write_text(readme_toml(), encoding="utf-8")
    return found


def check_call(call: Call, folder: Path) -> None:
    """Check that the module of `python -m …` exists, takes the arguments, and that a stage's settings load."""
    assert importlib.util.find_spec(call.module), call.module
    if not call.module.startswith(("pipelines.", "benchmarks")) or not call.arguments:
        return
    main = import_module(f"{call.module}.__main__" if call.module == "benchmarks" else call.module).main
    with pytest.raises(SystemExit if call.arguments == ["--help"] else Parsed) as parsed:
        main(call.arguments)
    if call.arguments == ["--help"]:
        return
    words = parsed.value.args[0]
    if hasattr(words, "competition") and hasattr(words, "set") and call.module != "pipelines.tools.new":
        competition = str(folder / f"{OWN_TOML}.toml") if words.competition in OWN_TOMLS else words.competition
        load_settings(competition, words.recipe, words.set)


def readme_toml() -> str:
    (block,) = (block for _, language, block in BLOCK.findall(README) if language == "toml")
    return block


@pytest.mark.parametrize("command", COMMANDS)
def test_command_works(command: str, desk: Desk, parse_only: None) -> None:
    """The shell and make take every command as it is written, and every stage the words that it then gets."""
    said, calls = desk.type(re.sub(r"<\w+>", "digits", command))
    assert said.status == 0, said.text
    assert calls or command in ("make", "make help", "make install", "make clean"), said.text
    for call in calls:
        check_call(call, desk.folder)


def test_there_are_commands_and_every_block_is_read() -> None:
    assert len(COMMANDS) > 40
    for page, text in PAGES.items():
        assert text.count("```") == 2 * len(BLOCK.findall(text)), page


def test_every_page_exists_and_the_readme_is_short() -> None:
    assert {f"docs/{name}.md" for name in EXPECTED} <= set(PAGES)
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES)
def test_page_begins_with_its_purpose(page: str) -> None:
    title, empty, purpose = PAGES[page].splitlines()[:3]
    assert title.startswith("# ") and not empty and re.match(r"\w", purpose)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", PAGES[page])):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = ((REPOSITORY / page).parent / name).resolve() if name else REPOSITORY / page
        assert path.exists(), target
        if anchor:
            assert anchor in headings(path.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES)
def test_repository_files_that_a_page_names_exist(page: str) -> None:
    for name in re.findall(r"`((?:pipelines|tests|benchmarks|docs)/[\w./-]*)`", PAGES[page]):
        assert (REPOSITORY / name).exists(), name


NAMED_TESTS = sorted({name for text in PAGES.values() for name in re.findall(r"`tests/([\w/]+\.py::\w+)`", text)})


@pytest.mark.parametrize("name", NAMED_TESTS)
def test_test_that_proves_a_promise_exists(name: str) -> None:
    file, test = name.split("::")
    assert f"def {test}(" in (REPOSITORY / "tests" / file).read_text(encoding="utf-8")


def test_every_promise_has_a_test() -> None:
    rows = (
        PAGES["docs/reliability.md"].partition("| promise | test |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    )
    assert len(rows) > 10
    assert [row for row in rows if "`tests/" not in row] == []


def test_functions_and_constants_that_the_architecture_names_exist() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "pipelines").rglob("*.py"))
    defined = set(re.findall(r"^ *(?:def|class) (\w+)", code, re.MULTILINE))
    defined |= set(re.findall(r"^([A-Z_]+)(?:: [^=]+)? = ", code, re.MULTILINE))
    page = PAGES["docs/architecture.md"]
    named = set(re.findall(r"`(\w+)\(\)`", page)) | set(re.findall(r"`([A-Z_]{4,}|[A-Z]\w+(?:Settings|Layout))`", page))
    assert len(named) > 50
    assert sorted(named - defined) == []


def test_functions_of_the_architecture_are_in_the_file_before_them() -> None:
    pairs = re.findall(r"`(pipelines/[\w/]+\.py)`: ((?:`\w+\(\)`[^`;]*)+)", PAGES["docs/architecture.md"])
    assert len(pairs) > 20
    for file, functions in pairs:
        code = (REPOSITORY / file).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)\(\)`", functions):
            assert re.search(rf"^ *(?:def|class) {name}\b", code, re.MULTILINE), (file, name)


def test_messages_that_troubleshooting_explains_are_in_the_code() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "pipelines").rglob("*.py"))
    code = re.sub(r"\"\s*\n\s*f?\"", "", code)  # a message over several lines
    messages = re.findall(r"^\| `(.+?)` \|", PAGES["docs/troubleshooting.md"], re.MULTILINE)
    assert len(messages) > 10
    for message in messages:
        for fragment in filter(None, map(str.strip, message.split("…"))):
            assert fragment in code, message


def test_settings_that_a_page_names_exist() -> None:
    pattern = rf"`({'|'.join(SECTIONS)})\.(?!csv|json|log)([a-z0-9_]+)"
    named = [pair for text in PAGES.values() for pair in re.findall(pattern, text)]
    assert len(named) > 40
    for section, key in named:
        assert hasattr(SECTIONS[section](), key), f"{section}.{key}"


def test_competition_in_the_readme_is_valid(tmp_path: Path) -> None:
    (tmp_path / "leaves.toml").write_text(readme_toml(), encoding="utf-8")
    assert load_settings(str(tmp_path / "leaves.toml")).data.test_table == "test.csv"


def test_the_docs_show_a_toml_of_each_task(tmp_path: Path) -> None:
    page = PAGES["docs/competitions.md"] + PAGES["docs/detection.md"]
    shown = []
    for number, text in enumerate(block for _, language, block in BLOCK.findall(page) if language == "toml"):
        path = tmp_path / f"example{number}.toml"
        path.write_text(text, encoding="utf-8")
        shown.append(load_settings(str(path)).competition.task)
    assert shown == ["one_class", "several_labels", "numbers", "boxes"]


def test_every_target_and_every_competition_is_described() -> None:
    assert [name for name in TARGETS if f"`make {name}`" not in PAGES["docs/architecture.md"]] == []
    page = PAGES["docs/competitions.md"]
    for toml in COMPETITIONS.glob("*.toml"):
        recipes = re.findall(r"^\[recipes\.([\w-]+)\]$", toml.read_text(encoding="utf-8"), re.MULTILINE)
        assert [name for name in (toml.stem, *recipes) if f"`{name}`" not in page] == []
