"""Weights come from elsewhere: they are what was published or asked for, fit the network, and run nobody's code."""

import argparse
import hashlib
import os
import pickle
import socket
import threading
from collections import OrderedDict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.densenet import DenseNet
from torchvision.models.vision_transformer import VisionTransformer

from pipelines.models.networks import build_model
from pipelines.models.weights import (
    Published,
    Weights,
    _download,
    _Failure,
    _find_published,
    _with_facts,
    find_weights,
    is_published_name,
    load_into,
    load_state,
    published,
)
from pipelines.settings.schema import ModelSettings
from pipelines.system.errors import UserError
from pipelines.system.files import CHUNK_BYTES, file_sha256

MOBILENET = Path(__file__).parents[3] / "shared/weights/mobilenet_v2-imagenet.pth"
CONTENT = bytes(range(256)) * 5000  # a mebibyte and a bit: two pieces
CONTENT_SHA256 = hashlib.sha256(CONTENT).hexdigest()
IMAGENET_MEAN = (0.485, 0.456, 0.406)


def on_meta(name: str, classes: int = 1000) -> nn.Module:
    with torch.device("meta"):
        return build_model(ModelSettings(name=name), classes)


def thin(model: nn.Module) -> OrderedDict[str, Tensor]:
    """Tensors by the names and shapes of `model`'s, each one number in the file and overlapping memory when read."""
    return OrderedDict(
        (name, torch.tensor(2, dtype=value.dtype, device="cpu").expand(value.shape))
        for name, value in model.state_dict().items()
    )


def saved(path: Path, content: Any, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def check_loaded(model: nn.Module) -> None:
    """Nothing on meta; parameters that can be trained, each in memory of its own."""
    assert not [name for name, value in model.state_dict().items() if value.is_meta or not value.is_contiguous()]
    assert not [name for name, value in model.named_buffers() if value.is_meta]
    for parameter in model.parameters():
        assert (parameter.dtype, parameter.requires_grad, parameter.is_leaf) == (torch.float32, True, True)
        assert parameter.untyped_storage().nbytes() == parameter.nbytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


@pytest.fixture(autouse=True)
def nothing_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, no folder of torch.hub but an own one, and a working folder that is empty."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    torch.manual_seed(0)
    state = build_model(ModelSettings(name="resnet18"), 5).state_dict()
    return saved(tmp_path_factory.mktemp("resnet") / "resnet18.pth", state), state


# --- what is published ---


@pytest.mark.parametrize("text", ["IMAGENET1K_V1", "DEFAULT", "IMAGENET1K_SWAG_E2E_V1"])
def test_a_published_name_is_told_from_a_path(text: str) -> None:
    assert is_published_name(text)


@pytest.mark.parametrize("text", ["", "resnet18.pth", "weights/resnet18.pth", "DEFAULT.pth", "./DEFAULT", "default"])
def test_a_path_is_told_from_a_published_name(text: str) -> None:
    assert not is_published_name(text)


def test_all_that_torchvision_publishes_can_be_described() -> None:
    described = [
        (entry, published(name, entry.name))
        for name in models.list_models(module=models)
        for entry in models.get_model_weights(name)
    ]
    assert len(described) >= 100
    for entry, known in described:
        assert is_published_name(known.name)
        assert entry.url.endswith(f"/{known.filename}")
        assert len(known.prefix) >= 8 and int(known.prefix, 16)
        assert f"-{known.prefix}.pth" in known.filename
        assert len(known.mean) == len(known.std) == 3
        assert 0 < known.size <= known.resize
        assert known.categories is None or len(known.categories) == 1000


def test_a_published_entry_says_what_the_network_was_trained_on() -> None:
    known = published("resnet50", "DEFAULT")
    assert known == published("resnet50", "IMAGENET1K_V2")
    assert (known.name, known.filename, known.prefix) == ("IMAGENET1K_V2", "resnet50-11ad3fa6.pth", "11ad3fa6")
    assert (known.mean, known.std, known.size, known.resize) == (IMAGENET_MEAN, (0.229, 0.224, 0.225), 224, 232)
    assert known.categories and known.categories[:2] == ["tench", "goldfish"]
    assert published("vgg16", "IMAGENET1K_FEATURES").categories is None
    assert published("googlenet", "DEFAULT").mean == IMAGENET_MEAN  # its transform_input goes on from there


def test_an_unknown_name_or_network_is_refused_with_near_ones() -> None:
    with pytest.raises(UserError, match=r"'IMAGENET1K_V3'.*resnet18.*'IMAGENET1K_V1'.*DEFAULT.*path"):
        published("resnet18", "IMAGENET1K_V3")
    with pytest.raises(UserError, match=r"'resnet81'.*Did you mean 'resnet18'"):
        published("resnet81", "DEFAULT")


# --- finding ---


def test_a_file_is_found_from_the_working_folder_and_then_in_the_weights_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "own.pth").write_bytes(b"theirs")
    found = find_weights("resnet18", "own.pth", "", folder)
    assert found == Weights(folder / "own.pth", hashlib.sha256(b"theirs").hexdigest())
    Path("own.pth").write_bytes(b"ours")
    assert find_weights("resnet18", "own.pth", "", folder).path.read_bytes() == b"ours"
    assert find_weights("convnet", str(folder / "own.pth"), "", folder).path.read_bytes() == b"theirs"


def test_a_missing_file_is_named_with_the_places_and_near_names(folder: Path) -> None:
    folder.mkdir()
    (folder / "resnet18-own.pth").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        find_weights("resnet18", "resnet18_own.pth", "", folder)
    message = str(caught.value)
    assert str(Path("resnet18_own.pth").absolute()) in message
    assert str(folder / "resnet18_own.pth") in message
    assert "Did you mean 'resnet18-own.pth'?" in message
    assert message.endswith("Published weights go by the names IMAGENET1K_V1, DEFAULT.")
    with pytest.raises(UserError, match="no file of weights"):
        find_weights("convnet", "none/x.pth", "", folder)


def test_the_sha256_of_the_settings_is_that_of_the_file(folder: Path) -> None:
    Path("own.pth").write_bytes(b"ours")
    digest = hashlib.sha256(b"ours").hexdigest()
    for spelling in ("", digest, digest.upper(), f" {digest[:32]} {digest[32:]}\n"):
        assert find_weights("resnet18", "own.pth", spelling, folder).sha256 == digest
    other = "0" * 64
    with pytest.raises(UserError, match=rf"own\.pth has the sha256 {digest}.*{other}"):
        find_weights("resnet18", "own.pth", other, folder)


@pytest.mark.parametrize("sha256", ["abc", "0" * 63, "0" * 65, "g" * 64])
def test_a_malformed_sha256_is_refused(folder: Path, sha256: str) -> None:
    with pytest.raises(UserError, match=f"{sha256}.*64 hexadecimal digits"):
        find_weights("resnet18", "DEFAULT", sha256, folder)


def test_a_published_file_is_recognised_by_its_bytes(tmp_path: Path) -> None:
    known = published("resnet50", "IMAGENET1K_V2")
    found = _with_facts(tmp_path, known.prefix + "0" * 56, [published("resnet50", "IMAGENET1K_V1"), known])
    assert (found.mean, found.std, found.size, found.resize) == (known.mean, known.std, known.size, known.resize)
    assert found.categories == known.categories
    assert _with_facts(tmp_path, "0" * 64, [known]) == Weights(tmp_path, "0" * 64)


@pytest.mark.parametrize("hub", [False, True])
def test_a_damaged_file_of_a_published_name_is_refused(tmp_path: Path, folder: Path, hub: bool) -> None:
    place = tmp_path / "torch" / "hub" / "checkpoints" if hub else folder
    place.mkdir(parents=True)
    (place / "resnet18-f37072fd.pth").write_bytes(b"half")
    with pytest.raises(UserError, match=rf"{place}/resnet18-f37072fd\.pth is not .*f37072fd.*remove it"):
        find_weights("resnet18", "IMAGENET1K_V1", "", folder)


def test_a_missing_published_file_is_not_fetched_unasked(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match=r"is missing\. It is published at https") as caught:
        find_weights("resnet18", "IMAGENET1K_V1", "", folder, download=False)
    assert "downloaded" not in str(caught.value)
    assert not folder.exists()
    assert not (tmp_path / "torch").exists()


# --- fetching ---


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a server that gives `CONTENT`, whole at /whole, or as the path says."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path
            if path.startswith("/moved/"):
                self.send_response(302)
                self.send_header("Location", "/whole")
                self.end_headers()
                return
            self.send_response(404 if path.startswith("/none") else 200)
            if not path.startswith("/unsized"):
                self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            if path.startswith("/stalled"):
                stop.wait(10)
            self.wfile.write(CONTENT[:-7] if path.startswith("/cut") else CONTENT)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.handle_error = lambda *arguments: None  # type: ignore[method-assign]  # clients that give up
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        stop.set()
        running.shutdown()
        thread.join()


def at(url: str, prefix: str = CONTENT_SHA256[:8]) -> Published:
    return Published("resnet18", "TEST", url, f"test-{prefix}.pth", prefix, (), (), 1, 1, None)


class Watched:
    """Remembers what it was shown."""

    def __call__(self, items: Any, what: str, total: int | None = None, unit: str = "files") -> Any:
        self.shown = (what, total, unit)
        self.sizes = []
        for item in items:
            self.sizes.append(len(item))
            yield item


@pytest.mark.parametrize("path", ["whole", "moved/file", "unsized"])
def test_a_published_file_is_fetched_once(server: str, folder: Path, path: str) -> None:
    watch = Watched()
    known = at(f"{server}/{path}")
    file, digest = _find_published(known, folder, watch)
    assert (file, digest) == (folder / known.filename, CONTENT_SHA256)
    assert file.read_bytes() == CONTENT
    assert watch.shown == (known.filename, None if path == "unsized" else 2, "MiB")
    assert watch.sizes == [CHUNK_BYTES, len(CONTENT) - CHUNK_BYTES]
    assert [entry.name for entry in folder.iterdir()] == [known.filename]
    assert _find_published(at("http://nowhere.invalid"), folder) == (file, CONTENT_SHA256)


def test_what_torch_hub_has_is_not_fetched_again(tmp_path: Path, folder: Path) -> None:
    known = at("http://nowhere.invalid")
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / known.filename).write_bytes(CONTENT)
    assert _find_published(known, folder) == (hub / known.filename, CONTENT_SHA256)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("path", "prefix", "reason"),
    [
        ("whole", "01234567", f"what came has the sha256 {CONTENT_SHA256}, so it is another file"),
        ("cut", CONTENT_SHA256[:8], "the connection was cut after 1,279,993 of 1,280,000 bytes"),
        ("none", CONTENT_SHA256[:8], "the server answered 404 Not Found"),
    ],
)
def test_a_download_that_fails_leaves_nothing_and_says_all(
    server: str, folder: Path, path: str, prefix: str, reason: str
) -> None:
    known = at(f"{server}/{path}", prefix)
    with pytest.raises(UserError) as caught:
        _find_published(known, folder)
    message = str(caught.value)
    assert f"could not be downloaded: {reason}" in message
    for part in (known.filename, known.url, f"begins with {prefix}", f"put it at {folder / known.filename}"):
        assert part in message
    assert not folder.exists() or not list(folder.iterdir())


def test_a_server_that_falls_silent_is_given_up(server: str, folder: Path) -> None:
    with pytest.raises(_Failure, match="timed out"):
        _download(f"{server}/stalled", folder / "file", "", timeout=0.1)
    assert not list(folder.iterdir())


def test_a_refused_connection_is_one_message(closed_port: int, folder: Path) -> None:
    with pytest.raises(UserError, match=r"could not be downloaded: .*refused"):
        _find_published(at(f"http://127.0.0.1:{closed_port}/file"), folder)
    assert not folder.exists()


def test_without_a_network_a_published_name_says_how_to_go_on(
    closed_port: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    with pytest.raises(UserError) as caught:
        find_weights("resnet18", "DEFAULT", "", folder)
    message = str(caught.value)
    assert message.startswith("resnet18-f37072fd.pth, the weights IMAGENET1K_V1 of resnet18, is missing")
    assert "refused" in message
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in message
    assert f"put it at {folder / 'resnet18-f37072fd.pth'}" in message


# --- reading ---


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_common_wrappings_are_taken_off(tmp_path: Path, zipped: bool, wrap: str | None, prefix: str) -> None:
    state = {f"{prefix}{name}": value for name, value in nn.Linear(2, 3).state_dict().items()}
    path = saved(tmp_path / "file.pth", {wrap: state, "epoch": 3} if wrap else state, zipped)
    loaded = load_state(path)
    assert list(loaded) == ["weight", "bias"]
    assert torch.equal(loaded["weight"], state[f"{prefix}weight"])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float, zipped: bool) -> None:
    path = saved(tmp_path / "file.pth", nn.Linear(30, 30).state_dict(), zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"file\.pth cannot be read as weights: it is (empty|cut short)"):
        load_state(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\n<!DOCTYPE html><html></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
        (b"a text", "not a file of torch's"),
        (pickle.dumps({"a": 1}), "not a file of torch's"),
        (b"\x00" * 1000, "not a file of torch's"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"file\.pth cannot be read as weights: it is") as caught:
        load_state(path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


class Hostile:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("kind", ["zipped", "old", "plain"])
def test_code_in_a_file_is_not_run(tmp_path: Path, kind: str) -> None:
    content = {"weight": Hostile(f"touch {tmp_path / 'hacked'}")}
    path = tmp_path / "file.pth"
    if kind == "plain":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        saved(path, content, kind == "zipped")
    with pytest.raises(UserError, match="code beside the tensors, which is not run"):
        load_state(path)
    assert not (tmp_path / "hacked").exists()


def test_what_holds_more_than_tensors_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", {"model": {"weight": torch.zeros(2)}, "args": argparse.Namespace(lr=0.1)})
    with pytest.raises(UserError, match=r"argparse\.Namespace"):
        load_state(path)


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(2)],
        torch.zeros(2),
        3,
        {},
        {"model": {}},
        {"weight": torch.zeros(2), "epoch": 3},
        {1: torch.zeros(2)},
        {"weights": {"weight": torch.zeros(2)}},
        {"weight": torch.zeros(2, device="meta")},
        {"weight": torch.eye(2).to_sparse()},
    ],
    ids=lambda content: str(content).replace("\n", ""),
)
def test_what_is_not_tensors_by_names_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UserError, match=r"file\.pth does not hold the weights of a network"):
        load_state(saved(tmp_path / "file.pth", content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file of weights .*none\.pth"):
        load_state(tmp_path / "none.pth")


# --- loading into a network ---


@pytest.mark.parametrize("meta", [True, False])
def test_every_number_arrives(resnet: tuple[Path, dict[str, Tensor]], meta: bool) -> None:
    path, state = resnet
    model = on_meta("resnet18", 5) if meta else build_model(ModelSettings(name="resnet18"), 5)
    load_into(model, path, "resnet18")
    check_loaded(model)
    loaded = model.state_dict()
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_a_file_that_the_settings_name_is_found_and_loaded(
    resnet: tuple[Path, dict[str, Tensor]], folder: Path
) -> None:
    folder.mkdir()
    (folder / "own.pth").hardlink_to(resnet[0])
    found = find_weights("resnet18", "own.pth", file_sha256(resnet[0]), folder)
    assert (found.mean, found.categories) == (None, None)
    with torch.device("meta"):  # whatever is made in there is made on meta
        model = build_model(ModelSettings(name="resnet18"), 5)
        load_into(model, found.path, "resnet18")
    check_loaded(model)
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    model = on_meta("squeezenet1_1", 3)
    state = {name: value.to(dtype) for name, value in thin(model).items()}
    load_into(model, saved(tmp_path / "file.pth", state), "squeezenet1_1")
    check_loaded(model)


def test_tensors_that_share_memory_are_parted(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    shared = nn.Parameter(torch.rand(4, 8))
    names = {"0.weight": shared[:, :4], "0.bias": shared[0, :4], "1.weight": shared[:, 4:].T, "1.bias": shared[0, :4]}
    load_into(model, saved(tmp_path / "file.pth", names), "own")
    check_loaded(model)
    assert torch.equal(model.state_dict()["1.weight"], shared[:, 4:].T)
    assert len({parameter.data_ptr() for parameter in model.parameters()}) == 4


@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize("versioned", [True, False])
def test_counts_of_batches_that_are_missing_begin_at_zero(tmp_path: Path, meta: bool, versioned: bool) -> None:
    with torch.device("meta" if meta else "cpu"):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    state: Any = thin(model)
    if versioned:  # as if BatchNorm's version promised the count
        state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    del state["1.num_batches_tracked"]
    load_into(model, saved(tmp_path / "file.pth", state), "own")
    check_loaded(model)
    count = model.state_dict()["1.num_batches_tracked"]
    assert (count.item(), count.dtype) == (0, torch.int64)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_heads_for_training_only_are_passed_over(tmp_path: Path, name: str) -> None:
    with torch.device("meta"):
        whole = models.get_model(name, aux_logits=True, init_weights=False)
    path = saved(tmp_path / "file.pth", thin(whole))
    model = on_meta(name)
    load_into(model, path, name)
    check_loaded(model)
    with pytest.raises(UserError, match="unexpected"):
        load_into(model, path, "resnet18")


def test_heads_for_training_only_are_loaded_where_the_network_has_them(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = models.googlenet(aux_logits=True, init_weights=False)
    load_into(model, saved(tmp_path / "file.pth", thin(model)), "googlenet")
    check_loaded(model)


def test_the_old_names_of_densenet_are_understood(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = DenseNet(growth_rate=4, block_config=(2, 1), num_init_features=8, num_classes=2)
    state = thin(model)
    old = OrderedDict()
    for name, value in state.items():
        for kind in ("norm1", "norm2", "conv1", "conv2"):
            name = name.replace(f".{kind}.", f".{kind[:-1]}.{kind[-1]}.") if "denselayer" in name else name
        if not name.endswith("num_batches_tracked"):
            old[name] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    load_into(model, saved(tmp_path / "file.pth", old), "densenet121")
    check_loaded(model)


@pytest.mark.parametrize("versioned", [True, False])
def test_the_old_names_of_vision_transformers_are_understood(tmp_path: Path, versioned: bool) -> None:
    with torch.device("meta"):
        model = VisionTransformer(32, 16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3)
    old: Any = OrderedDict(
        (name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."), value)
        for name, value in thin(model).items()
    )
    if versioned:
        old._metadata = {name: {"version": 1} for name in model.state_dict()._metadata}
    load_into(model, saved(tmp_path / "file.pth", old), "vit_b_16")
    check_loaded(model)


def test_a_network_that_insists_on_a_version_is_given_one(tmp_path: Path) -> None:
    model = on_meta("mnasnet0_5", 3)
    load_into(model, saved(tmp_path / "file.pth", dict(thin(model))), "mnasnet0_5")
    check_loaded(model)


@pytest.mark.parametrize("meta", [True, False])
def test_another_number_of_outputs_is_one_message(resnet: tuple[Path, dict[str, Tensor]], meta: bool) -> None:
    with torch.device("meta" if meta else "cpu"):
        model = build_model(ModelSettings(name="resnet18"), 7)
    with pytest.raises(
        UserError,
        match=r"resnet18\.pth does not fit resnet18: 2 of 122 tensors are of another shape, such as 'fc\.weight': "
        r"\(5, 512\) instead of \(7, 512\)\.$",
    ):
        load_into(model, resnet[0], "resnet18")


def test_another_network_is_told_by_its_size(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", thin(on_meta("squeezenet1_1")))
    with pytest.raises(
        UserError,
        match=r"does not fit resnet18: \d+ of 122 tensors are missing, such as 'conv1\.weight'; \d+ of 52 tensors are "
        r"unexpected, such as 'features\.0\.weight'\. It seems to be for squeezenet1_1\.",
    ):
        load_into(on_meta("resnet18"), path, "resnet18")


def test_a_buffer_that_no_file_can_hold_is_missing(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 2)
        model.register_buffer("scale", torch.ones(2), persistent=False)
    path = saved(tmp_path / "file.pth", thin(model))
    with pytest.raises(UserError, match="1 of 1 tensors are missing, such as 'scale'"):
        load_into(model, path, "own")


@pytest.mark.skipif(not MOBILENET.exists(), reason="no trained weights of mobilenet_v2 here")
def test_trained_weights_fit_their_own_network_only(folder: Path) -> None:
    found = find_weights("mobilenet_v2", str(MOBILENET), "", folder)
    model = on_meta("mobilenet_v2")
    load_into(model, found.path, "mobilenet_v2")
    check_loaded(model)
    with torch.inference_mode():
        assert model.eval()(torch.zeros(1, 3, 64, 64)).isfinite().all()
    with pytest.raises(UserError, match=r"does not fit resnet18.*missing.*unexpected.*seems to be for mobilenet_v2"):
        load_into(on_meta("resnet18"), found.path, "resnet18")
