"""Shards: each image once per epoch in any number of processes, and one message for whatever is wrong with them."""

import io
import pickle
import re
import runpy
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipelines.core.checkpoint import weights_sha256
from pipelines.core.job import run_job
from pipelines.dataset import shard_index
from pipelines.dataset.loading import Batch, BatchSource, Loading
from pipelines.dataset.shard_index import Shards, open_shards, scan
from pipelines.dataset.shards import ShardBatches
from pipelines.models.building import build_network
from pipelines.models.device import choose_hardware
from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings
from pipelines.system.errors import UserError
from pipelines.system.group import ALONE, Group
from pipelines.system.seeds import derive_seed

CLASSES = ["blue", "green", "red"]
COUNT, SHARDS = 26, 4
Member = tuple[str, bytes]
REPOSITORY = Path(__file__).parents[2]
TOML = """
[input]
source = "photos"
size = 8
[augment]
flip = true
crop_scale = [0.5, 1.0]
mixup = 0.2
[model]
widths = [8, 8]
[train]
epochs = 2
batch_size = 9
lr = 0.1
[predict]
batch_size = 5
[hardware]
device = "cpu"
precision = "float32"
workers = 0
"""
# Run by each of three processes: what they read, into a file each.
WORKER = """
import sys
from pathlib import Path
import torch
from pipelines import command
from tests.dataset.test_shards import opened, sources, summary

def share(group, folder):
    found = {part: summary(source) for part, source in sources(opened(Path(folder)), Path(folder), group).items()}
    torch.save(found, Path(folder) / f"{group.rank}.pt")

def main(arguments, group):
    with group.sharing(share, sys.argv[1]):
        share(group, sys.argv[1])

if __name__ == "__main__":
    sys.exit(command.run(main, shared=True))
"""


def image(number: int) -> bytes:
    """Noise of 12 x 10 pixels, brightest in the colour of its class."""
    pixels = np.random.default_rng(number).integers(0, 120, (10, 12, 3), dtype=np.uint8)
    pixels[..., 2 - number % 3] += 130
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def pair(number: int) -> list[Member]:
    return [(f"part.a/{number:04}.png", image(number)), (f"part.a/{number:04}.cls", b"%d\n" % (number % 3))]


def write(path: Path, members: Sequence[Member]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`COUNT` images in `SHARDS` shards for training, one shard for validation, and a TOML."""
    for number, part in enumerate(np.array_split(np.arange(COUNT), SHARDS)):
        members = [member for each in part.tolist() for member in pair(each)]
        write(tmp_path / f"train-{number}.tar", [*members, (f"extra{number}.json", b"{}"), ("._0001.png", b"junk")])
    write(tmp_path / "valid-0.tar", [member for number in range(100, 112) for member in pair(number)])
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    (tmp_path / "tiny.toml").write_text(TOML)
    return tmp_path


def opened(folder: Path, classes: Sequence[str] = tuple(CLASSES), part: str = "train") -> Shards:
    return open_shards(sorted(folder.glob(f"{part}-*.tar")), folder / "index", classes)


def sources(shards: Shards, folder: Path, group: Group = ALONE, workers: int = 0) -> dict[str, BatchSource]:
    settings, cpu = load_settings(str(folder / "tiny.toml")), torch.device("cpu")
    return {
        part: ShardBatches(shards, Loading(settings, 3, cpu, part == "train", group), workers)
        for part in ("train", "test")
    }


def summary(source: BatchSource) -> list[list[Batch]]:
    """Return the batches of two epochs, in training as the engine seeds them."""
    found = []
    for epoch in (1, 2):
        torch.manual_seed(derive_seed(source.loading.settings.train.seed, "network", epoch))
        found.append(list(source.batches(epoch)))
    return found


def images_of(batches: Sequence[Batch]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Return input and target of each image; each is there once."""
    found = {
        int(position): (pixels, label)
        for batch in batches
        for position, pixels, label in zip(batch.positions, batch.inputs, batch.labels, strict=True)
    }
    assert len(found) == sum(len(batch.positions) for batch in batches)
    return found


def check_shared(alone: list[list[Batch]], parts: Sequence[list[list[Batch]]], training: bool) -> None:
    """Check that several processes read each image once per epoch, in the batches and as a single one reads it."""
    for epoch, whole in enumerate(alone):
        mine = [part[epoch] for part in parts]
        if training:
            for step, batch in enumerate(whole):
                shared = torch.cat([own[step].positions for own in mine])
                assert shared.tolist() == batch.positions.tolist()
                assert {own[step].whole for own in mine} == {len(batch.positions)}
                assert sum(own[step].weight for own in mine) == pytest.approx(len(mine))
        expected, found = images_of(whole), images_of([batch for own in mine for batch in own])
        assert sorted(found) == sorted(expected) == list(range(COUNT))
        for position, (pixels, label) in expected.items():
            assert torch.equal(found[position][0], pixels) and torch.equal(found[position][1], label)


def test_each_image_once_with_its_own_label_and_pixels(folder: Path) -> None:
    shards = opened(folder)
    train, test = sources(shards, folder).values()
    first, second = summary(train)
    orders = [torch.cat([batch.positions for batch in batches]).tolist() for batches in (first, second)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(COUNT)) and orders[0] != orders[1]
    assert [batch.positions.tolist() for batch in test.batches(0)] == [
        list(range(start, min(start + 5, COUNT))) for start in range(0, COUNT, 5)
    ]
    for position, (pixels, label) in images_of(list(test.batches(0))).items():
        number = int(shards.ids[position].decode().removeprefix("part.a/"))
        assert label == number % 3 and int(pixels.mean((1, 2)).argmax()) == 2 - number % 3
        assert shards.read(position) == image(number)


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("part", ["train", "test"])
def test_several_processes_share_the_batches_of_one(folder: Path, world: int, part: str) -> None:
    shards = opened(folder)
    if world == 5:  # each process needs two images of a batch
        (folder / "tiny.toml").write_text(TOML.replace("batch_size = 9", "batch_size = 13"))
    alone = summary(sources(shards, folder)[part])
    parts = [summary(sources(shards, folder, Group(rank, world))[part]) for rank in range(world)]
    check_shared(alone, parts, part == "train")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_loader_workers_change_nothing_and_an_epoch_can_be_repeated(folder: Path) -> None:
    shards = opened(folder)
    alone, parallel = summary(sources(shards, folder)["train"]), sources(shards, folder, workers=2)["train"]
    torch.manual_seed(derive_seed(parallel.loading.settings.train.seed, "network", 2))
    again = list(parallel.batches(2))
    assert len(again) == len(alone[1])
    for one, other in zip(alone[1], again, strict=True):
        assert torch.equal(one.inputs, other.inputs) and torch.equal(one.positions, other.positions)


def torchrun(script: Path, *arguments: object, processes: int, folder: Path) -> str:
    call = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", script, *arguments]
    environment = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CALLED_FROM": ""}
    done = subprocess.run(
        [sys.executable, *map(str, call)], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_three_real_processes_read_each_image_once(folder: Path) -> None:
    (folder / "worker.py").write_text(WORKER)
    torchrun(folder / "worker.py", folder, processes=3, folder=folder)
    found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(3)]
    for part, source in sources(opened(folder), folder).items():
        check_shared(summary(source), [each[part] for each in found], part == "train")


def documented_script(folder: Path) -> Path:
    page = (REPOSITORY / "docs" / "shards.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    path = folder / "train_shards.py"
    path.write_text(script, encoding="utf-8")
    return path


def test_the_documented_script_trains_in_two_processes_and_continues_in_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = documented_script(folder)
    said = torchrun(path, "tiny.toml", folder, processes=2, folder=folder)
    assert f"{COUNT} training images, 12 validation images; 2 processes" in said
    run = folder / "runs" / "tiny" / "shards"
    history = pd.read_csv(run / "history.csv")
    assert history["epoch"].tolist() == [1, 2] and history["train_loss"].notna().all()
    assert (run / "best.pt").exists()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(path), "tiny.toml", str(folder)])
    for text, status in ((TOML, 0), (TOML.replace("lr = 0.1", "lr = 0.2"), 2)):
        (folder / "tiny.toml").write_text(text)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(path), run_name="__main__")
        assert ended.value.code == status
    assert pd.read_csv(run / "history.csv").equals(history)
    assert "was trained with other settings" in capsys.readouterr().err


def test_a_stopped_training_continues_with_the_same_weights(folder: Path) -> None:
    script, settings = documented_script(folder), load_settings(str(folder / "tiny.toml"))
    shard_job, hardware = runpy.run_path(str(script))["ShardJob"], choose_hardware(settings.hardware)
    weights = []
    for name in ("whole", "stopped"):
        run = Layout(folder, "tiny").run(name)
        job = shard_job(settings, opened(folder), opened(folder, part="valid"), 2, run.training, hardware)
        epochs = run_job(job, build_network(settings, CLASSES, []))
        if name == "stopped":
            next(epochs)
            epochs = run_job(job, build_network(settings, CLASSES, []))
        weights.append((len(list(epochs)), weights_sha256(run.last)))
    assert weights == [(2, weights[0][1]), (1, weights[0][1])]


def test_an_index_is_made_once_and_again_for_a_changed_shard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = opened(folder)
    monkeypatch.setattr(shard_index, "scan", lambda shard: pytest.fail("indexed again"))
    assert opened(folder).ids.tolist() == before.ids.tolist()
    monkeypatch.undo()
    write(folder / "train-0.tar", [*pair(50), *pair(51)])
    assert len(opened(folder)) == COUNT - 7 + 2


def test_another_process_reads_the_index_for_itself(folder: Path) -> None:
    shards = opened(folder)
    content = pickle.dumps(shards)
    assert len(content) < 1000
    assert pickle.loads(content).offsets.tolist() == shards.offsets.tolist()


def test_an_image_takes_20_bytes_and_its_key(folder: Path) -> None:
    shards = opened(folder)
    columns = (shards.ids, shards.labels, shards.offsets, shards.sizes)
    assert sum(column.nbytes for column in columns) == COUNT * (20 + len("part.a/0000"))


def test_test_images_need_no_labels(folder: Path) -> None:
    write(folder / "train-0.tar", [("a.png", image(1))])
    shards = opened(folder, classes=())
    assert len(shards) == COUNT - 7 + 1 and len(shards.labels) == 0
    assert all(len(batch.labels) == 0 for batch in sources(shards, folder)["test"].batches(0))


CUT = "train-1.tar is cut short, damaged, or no plain tar file"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.png", image(1))], r"Images without a label, 1 in all: \S+train-1\.tar: a\. "),
        (
            [("a.png", image(1)), ("a.cls", b"cat")],
            r"train-1\.tar: wrong members, 1 in all: a\.cls: 'cat' is no number",
        ),
        ([("a.png", image(1)), ("a.cls", b"-1")], r"a\.cls: '-1' is no number"),
        ([("a.png", image(1)), ("a.cls", b"9" * 5000)], r"no number of 3 classes"),
        (
            [("a.png", image(1)), ("a.cls", b"3")],
            r"Labels that are no number of 3 classes, 1 in all: \S+train-1\.tar: a\.",
        ),
        ([("a.cls", b"1")], r"train-1\.tar: wrong members, 1 in all: a\.cls: there is no image of this key"),
        ([("a.png", image(1)), ("a.cls", b"1"), ("a.jpg", image(2))], r"train-1\.tar: wrong members.*a\.jpg: a second"),
        (pair(0), r"Keys that an image before has, 1 in all: \S+train-1\.tar: part\.a/0000\."),
    ],
)
def test_wrong_members_are_named_with_their_shard(folder: Path, members: list[Member], message: str) -> None:
    write(folder / "train-1.tar", members)
    with pytest.raises(UserError, match=message):
        opened(folder)


def _compressed(path: Path) -> None:
    import gzip

    path.write_bytes(gzip.compress(path.read_bytes()))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:3000]),  # within an image
        lambda path: path.write_bytes(path.read_bytes()[: scan(path)["offset"][2] - 512]),  # between two
        lambda path: path.write_bytes(path.read_bytes()[: scan(path)["offset"][2] - 300]),  # within a header
        lambda path: path.write_bytes(
            path.read_bytes()[:5120].replace(b"0002.png", b"9992.png") + bytes(range(256)) * 99
        ),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no tar file" * 100),
        _compressed,
    ],
)
def test_a_tar_that_is_cut_short_or_damaged_is_named(folder: Path, damage: Callable[[Path], object]) -> None:
    damage(folder / "train-1.tar")
    with pytest.raises(UserError, match=CUT):
        opened(folder)


def test_missing_shards_are_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"Shards are missing, 1 in all: \S+train-9\.tar"):
        open_shards([folder / "train-0.tar", folder / "train-9.tar"], folder / "index", CLASSES)
    with pytest.raises(UserError, match="There are no shards"):
        open_shards([], folder / "index", CLASSES)


def test_a_shard_that_vanishes_or_shrinks_later_is_named(folder: Path) -> None:
    source, shard = sources(opened(folder), folder)["test"], folder / "train-0.tar"
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(UserError, match=r"train-0\.tar: part\.a/0000 cannot be read: .* missing or cut short"):
        list(source.batches(0))
    shard.unlink()
    with pytest.raises(UserError, match=r"train-0\.tar: part\.a/0000 cannot be read: .* missing or cut short"):
        list(source.batches(0))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_with_its_shard(folder: Path, workers: int) -> None:
    write(folder / "train-1.tar", [("a.png", image(1)[:100]), ("a.cls", b"1"), ("b.jpg", b"<html>"), ("b.cls", b"1")])
    source = sources(opened(folder), folder, workers=workers)["test"]
    with pytest.raises(UserError, match=r"train-1\.tar: a cannot be decoded: .*Write this shard again"):
        list(source.batches(0))


def test_settings_for_packed_images_are_refused(folder: Path) -> None:
    shards = opened(folder)
    (folder / "tiny.toml").write_text(TOML.replace("photos", "packed"))
    with pytest.raises(UserError, match=r'input\.source is "packed"'):
        sources(shards, folder)
