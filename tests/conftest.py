"""One fixture that shrinks everything: a whole competition of 36 images, 8 pixels wide, and the smallest network."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.starter import Starter
from tests.support.tiny import Tiny, make_tiny

# Networks this small gain nothing from threads, and the hand-over between threads costs them most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the stages that tests start as processes
os.environ["CALLED_FROM"] = ""  # the stages then name make targets, as they do when make has started them
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_configure() -> None:
    """Let the tests and the processes that they start be interrupted, also where they run in a shell's background or
    below nohup: these ignore SIGINT, and whoever is started then does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(scope="session")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts stages as processes without the seconds that their imports take."""
    found = Starter(tmp_path_factory.mktemp("starter"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of torchvision's smallest network whose last layer is linear, as if they were pretrained."""
    from torchvision.models import shufflenet_v2_x0_5

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(shufflenet_v2_x0_5(weights=None).state_dict(), path)
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return make_tiny(tmp_path)
