"""Competitions with reports that are made once for all tests."""

import pytest

from tests.support.report_pages import Site, make_hostile


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
