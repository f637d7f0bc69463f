"""Competitions with reports that are made once for all tests."""

import pytest

from tests.support.report_pages import Site, make_classes, make_hostile


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A competition with names of the worst kind."""
    site = make_hostile(tmp_path_factory.mktemp("hostile"))
    site.look()
    site.page()
    return site


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Digits with a run that has predicted, one that is only trained, and three submissions."""
    site = Site(tmp_path_factory.mktemp("digits"), "digits")
    site.stage("download")
    site.stage("split")
    site.run("a")
    site.run("b", "train.epochs=1", "train.lr=0.0001", stages=["train"])
    site.send("b", "0.11", "0.12", "0.13")
    site.send("a", "0.32", "0.30")
    site.send("a", "0.32", "0.31", "0.29")
    site.look()
    site.page()
    return site


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Three classes, a run with two submissions in the log, and one that is only trained.  Tests copy it."""
    site = make_classes(tmp_path_factory.mktemp("small"), ["cat", "dog", "owl"], [f"n{number}" for number in range(36)])
    site.run("a")
    site.run("b", "train.epochs=1", "train.seed=5", stages=["train"])
    site.send("a", "0.5", "0.4")
    site.page()
    return site
