"""Files of weights: read without running code, and loaded whole into the network that they fit."""

import argparse
import io
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.densenet import DenseNet
from torchvision.models.vision_transformer import VisionTransformer

from pipelines.models.networks import build_model
from pipelines.models.state import load_into, load_state
from pipelines.models.weights import find_weights
from pipelines.settings.training_sections import ModelSettings
from pipelines.system.errors import UserError
from pipelines.system.files import file_sha256

MOBILENET = Path(__file__).parents[3] / "shared/weights/mobilenet_v2-imagenet.pth"
SMALL = "shufflenet_v2_x0_5"
EXPECTED = ("weight",)


def on_meta(name: str, classes: int = 1000) -> nn.Module:
    with torch.device("meta"):
        return build_model(ModelSettings(name=name), classes)


def thin(model: nn.Module) -> OrderedDict[str, Tensor]:
    """Return a state with the names and shapes of `model`'s; in a file, each tensor is a single number."""
    return OrderedDict(
        (name, torch.tensor(2, dtype=value.dtype, device="cpu").expand(value.shape))
        for name, value in model.state_dict().items()
    )


def saved(path: Path, content: Any, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def check_loaded(model: nn.Module) -> None:
    """Assert that nothing is on meta, and that all parameters are trainable, each in memory of its own."""
    assert not [name for name, value in model.state_dict().items() if value.is_meta or not value.is_contiguous()]
    assert not [name for name, value in model.named_buffers() if value.is_meta]
    for parameter in model.parameters():
        assert (parameter.dtype, parameter.requires_grad, parameter.is_leaf) == (torch.float32, True, True)
        assert parameter.untyped_storage().nbytes() == parameter.nbytes


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """The file and the state of a small network of 5 classes."""
    torch.manual_seed(0)
    state = build_model(ModelSettings(name=SMALL), 5).state_dict()
    return saved(tmp_path_factory.mktemp("small") / "small.pth", state), state


# --- reading


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [None, "state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module.model.", "backbone.", "encoder.net."])
def test_common_wrappings_are_taken_off(tmp_path: Path, zipped: bool, wrap: str | None, prefix: str) -> None:
    state = {f"{prefix}{name}": value for name, value in nn.Linear(2, 3).state_dict().items()}
    path = saved(tmp_path / "file.pth", {wrap: state, "epoch": 3} if wrap else state, zipped)
    loaded = load_state(path, ("weight", "bias")).state
    assert list(loaded) == ["weight", "bias"]
    assert torch.equal(loaded["weight"], state[f"{prefix}weight"])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float, zipped: bool) -> None:
    path = saved(tmp_path / "file.pth", nn.Linear(30, 30).state_dict(), zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"file\.pth cannot be read as weights: it is (empty|cut short)"):
        load_state(path, EXPECTED)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\n<!DOCTYPE html><html></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
        (b"a text", "not a file of torch"),
        (pickle.dumps({"a": 1}), "a pickle of Python with other objects than tensors"),
        (b"\x00" * 1000, "not a file of torch"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"file\.pth cannot be read as weights: it is") as caught:
        load_state(path, EXPECTED)
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
    with pytest.raises(UserError, match=r"it holds code \(posix\.system\)\. Code in a file of weights is not run"):
        load_state(path, EXPECTED)
    assert not (tmp_path / "hacked").exists()


class Options(dict[str, Any]):
    """A dict of a library's own class, as configurations are."""


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "beside",
    [argparse.Namespace(lr=0.1, folder=Path("x")), np.float64(0.9), np.zeros(3), Options(lr=0.1), {1, 2}, object],
    ids=lambda value: type(value).__name__,
)
def test_objects_beside_the_weights_are_passed_over(tmp_path: Path, beside: object, zipped: bool) -> None:
    path = saved(tmp_path / "file.pth", {"args": beside, "model": {"weight": torch.ones(2)}, "epoch": 3}, zipped)
    assert load_state(path, EXPECTED).state["weight"].tolist() == [1, 1]


class Evaluated:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("__import__('pathlib').Path('hacked').touch()",)


def test_a_function_of_python_is_not_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"args": Evaluated(), "model": {"weight": torch.ones(2)}}
    load_state(saved(tmp_path / "beside.pth", content), EXPECTED)
    with pytest.raises(UserError, match=r"it holds code \(builtins\.eval\)"):
        load_state(saved(tmp_path / "alone.pth", {"weight": Evaluated()}), EXPECTED)
    assert not Path("hacked").exists()


@pytest.mark.parametrize("key", ["", "model"])
def test_a_whole_model_is_refused_and_the_lines_of_the_message_convert_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    model = nn.Linear(2, 3)
    content = {"args": argparse.Namespace(), "model": model} if key else model
    path = saved(tmp_path / "file.pth", content)
    with pytest.raises(UserError, match=r"holds a whole model \(torch\.nn\.modules\.linear\.Linear\)") as caught:
        load_state(path, EXPECTED)
    exec(str(caught.value).partition("run in Python: ")[2].removesuffix("."), {})
    converted = load_state(tmp_path / "weights.pth", EXPECTED).state
    assert torch.equal(converted["weight"], model.weight)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch.jit is deprecated, but its files exist
def test_a_torchscript_program_is_named_and_the_lines_of_the_message_convert_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    traced = torch.jit.trace(nn.Linear(2, 3), torch.zeros(1, 2))
    torch.jit.save(traced, "file.pt")
    with pytest.raises(UserError, match="it is a TorchScript program") as caught:
        load_state(tmp_path / "file.pt", EXPECTED)
    exec(str(caught.value).partition("Where it was made: ")[2].removesuffix("."), {})
    assert load_state(tmp_path / "weights.pth", EXPECTED).state["weight"].shape == (3, 2)


def zipped_file(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, "x")
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("model.onnx", b"\x08\x07\x12\x07pytorch", "an ONNX model"),
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(600), "an HDF5 file, as Keras writes them"),
        ("model.keras", zipped_file("model.weights.h5"), "a Keras model"),
        ("saved_model.pb", b"\x08\x01\x12", "a TensorFlow model"),
        ("weights.npz", zipped_file("a.npy"), r"a set of NumPy arrays \(\.npz\)"),
        ("weights.npy", b"\x93NUMPY\x01", r"a single NumPy array"),
        ("model.engine", b"ptrt" + bytes(99), "a TensorRT engine"),
        ("model.pt2", zipped_file("m/archive_format"), "a program of torch.export"),
        (
            "weights.zip",
            zipped_file("best/weights.pth"),
            r"a zip that holds 'best/weights\.pth'.* unzip 'weights\.zip'",
        ),
        ("photos.zip", zipped_file("a.jpg"), r"a zip of other files: 'a\.jpg'"),
        ("weights.pth.gz", b"\x1f\x8b\x08" + bytes(99), r"an archive \(gzip\)"),
        ("config.json", b'{"architectures": ["ResNet"]}', "a text in JSON"),
        (
            "model.safetensors.index.json",
            b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}',
            r"the index of weights in 2 files \('model-1\.safetensors', 'model-2\.safetensors'\)",
        ),
    ],
)
def test_files_of_other_libraries_are_named_and_not_called_damaged(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} cannot be read as weights: it is {reason}") as caught:
        load_state(tmp_path / name, EXPECTED)
    assert "damaged" not in str(caught.value)


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
        {"weight": torch.zeros(2, device="meta")},
        {"weight": torch.eye(2).to_sparse()},
    ],
    ids=lambda content: str(content).replace("\n", ""),
)
def test_what_is_not_tensors_by_names_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UserError, match=r"file\.pth does not hold the weights of a network"):
        load_state(saved(tmp_path / "file.pth", content), EXPECTED)


def linear(prefix: str, value: float = 0) -> dict[str, Tensor]:
    return {f"{prefix}weight": torch.full((3, 2), value), f"{prefix}bias": torch.full((3,), value)}


@pytest.mark.parametrize(
    ("content", "used"),
    [
        ({"model": linear(""), "model_ema": linear("", 1)}, "model_ema"),
        ({"state_dict": linear("module.", 0), "state_dict_ema": linear("module.", 1)}, "state_dict_ema.module"),
        (linear("net.") | linear("ema.", 1), "ema"),
    ],
)
def test_of_two_sets_of_weights_the_averaged_one_is_used_and_named(tmp_path: Path, content: Any, used: str) -> None:
    found = load_state(saved(tmp_path / "file.pth", content), ("weight", "bias"))
    assert found.state["weight"].unique().tolist() == [1]
    (note,) = [each for each in found.notes if "several" in each]
    assert note.endswith(f": {used}, the averaged one, is used")


@pytest.mark.parametrize(
    "content",
    [
        {"student": linear("backbone.", 1), "teacher": linear("backbone.", 2)},
        linear("encoder_q.", 1) | linear("encoder_k.", 2) | {"queue": torch.zeros(4)},
    ],
)
def test_where_two_sets_of_weights_fit_the_message_names_both_and_converts_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "file.pth", content)
    with pytest.raises(
        UserError, match=r"holds 2 sets of weights that fit: (student|encoder_q).*, (teacher|encoder_k)"
    ) as caught:
        load_state(path, ("weight", "bias"))
    exec(re.sub(r".*? For \S+: ", "", str(caught.value)), {})
    assert load_state(tmp_path / "weights.pth", ("weight", "bias")).state["weight"].unique().tolist() == [1]


def test_tensors_beside_a_prefix_are_counted(tmp_path: Path) -> None:
    content = {"state_dict": linear("model.") | {"loss.weight": torch.zeros(2)}}
    found = load_state(saved(tmp_path / "file.pth", content), ("weight", "bias"))
    assert list(found.state) == ["weight", "bias"]
    assert found.notes == ["its tensors outside 'model.' are not used: 1, 'loss.weight'"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file of weights .*none\.pth"):
        load_state(tmp_path / "none.pth", EXPECTED)


# --- loading into a network


@pytest.mark.parametrize("meta", [True, False])
def test_every_number_arrives(small: tuple[Path, dict[str, Tensor]], meta: bool) -> None:
    path, state = small
    model = on_meta(SMALL, 5) if meta else build_model(ModelSettings(name=SMALL), 5)
    load_into(model, path, SMALL)
    check_loaded(model)
    loaded = model.state_dict()
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_a_file_that_the_settings_name_is_found_and_loaded(
    small: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    (tmp_path / "own.pth").hardlink_to(small[0])
    path, _ = find_weights(SMALL, "own.pth", file_sha256(small[0]), tmp_path)
    with torch.device("meta"):  # every new tensor in this block is on meta
        model = build_model(ModelSettings(name=SMALL), 5)
        load_into(model, path, SMALL)
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
    if versioned:  # the version of BatchNorm says that the count is in the file
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
def test_another_number_of_outputs_is_one_message(small: tuple[Path, dict[str, Tensor]], meta: bool) -> None:
    with torch.device("meta" if meta else "cpu"):
        model = build_model(ModelSettings(name=SMALL), 7)
    with pytest.raises(
        UserError,
        match=rf"small\.pth does not fit {SMALL}: 2 of {len(small[1])} tensors are of another shape, such as "
        r"'fc\.weight': \(5, 1024\) instead of \(7, 1024\)\. Give weights of ",
    ):
        load_into(model, small[0], SMALL)


def test_another_network_is_told_by_its_size(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", thin(on_meta("squeezenet1_1")))
    with pytest.raises(
        UserError,
        match=r"does not fit resnet18: \d+ of 122 tensors are missing, such as 'conv1\.weight'; \d+ of 52 tensors are "
        r"unexpected, such as 'features\.0\.weight'\. It seems to be for squeezenet1_1: write squeezenet1_1 for ",
    ):
        load_into(on_meta("resnet18"), path, "resnet18")


def without_head(name: str) -> dict[str, Tensor]:
    return {key: value for key, value in thin(on_meta(name)).items() if not key.startswith("fc.")}


HEADS = [
    ({}, "no last layer"),
    ({"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}, "a last layer of 10 outputs"),
    ({"fc.0.weight": torch.zeros(9, 512), "fc.2.weight": torch.zeros(7, 9)}, "a last layer of 7 outputs"),
    ({"head.weight": torch.zeros(5, 512)}, "a last layer of 5 outputs"),
]


@pytest.mark.parametrize(("head", "words"), HEADS, ids=[words for _, words in HEADS])
def test_another_last_layer_is_passed_over_unless_a_setting_uses_it(
    tmp_path: Path, head: dict[str, Tensor], words: str
) -> None:
    path = saved(tmp_path / "file.pth", without_head("resnet18") | head)
    model = on_meta("resnet18")
    (note,) = load_into(model, path, "resnet18", "fc")
    assert note in (f"it has {words}, which is not used", f"it has {words}, and none is needed")
    check_loaded(model)
    with pytest.raises(UserError, match=rf"file\.pth has {words}, but model\.features=both uses the last layer"):
        load_into(on_meta("resnet18"), path, "resnet18", "fc", "model.features=both")


def test_an_average_without_counts_of_batches_is_used_too(tmp_path: Path) -> None:
    state = thin(on_meta("resnet18"))
    averaged = {name: value for name, value in state.items() if not name.endswith("tracked")}
    found = load_state(saved(tmp_path / "file.pth", {"model": state, "ema": averaged}), state)
    assert len(found.state) == len(averaged) < len(state)
    assert found.notes == ["it holds several sets of weights (model, ema): ema, the averaged one, is used"]


@pytest.mark.parametrize("prefix", ["", "features."])
def test_children_in_a_sequence_are_told_by_their_numbers(tmp_path: Path, prefix: str) -> None:
    """As in nn.Sequential(*list(model.children())[:-1]), the usual way to drop the last layer."""
    whole = build_model(ModelSettings(name=SMALL), 5)
    numbers = nn.Sequential(*list(whole.children())[:-1]).state_dict()
    path = saved(tmp_path / "file.pth", {f"{prefix}{name}": value for name, value in numbers.items()})
    model = on_meta(SMALL, 5)
    load_into(model, path, SMALL, "fc")
    check_loaded(model)
    assert torch.equal(model.state_dict()["conv5.0.weight"], whole.state_dict()["conv5.0.weight"])


def test_a_part_of_a_network_is_refused_with_the_count(tmp_path: Path) -> None:
    part = {name: value for name, value in without_head("resnet18").items() if not name.startswith("layer4.")}
    with pytest.raises(
        UserError,
        match=r"30 of 122 tensors are missing, such as 'layer4\.0\.conv1\.weight'\. Give weights of resnet18, or",
    ):
        load_into(on_meta("resnet18"), saved(tmp_path / "file.pth", part), "resnet18", "fc")


@pytest.mark.parametrize("classes", [0, 10, 1000])
def test_a_larger_network_with_any_last_layer_is_told_by_its_size(tmp_path: Path, classes: int) -> None:
    state = thin(on_meta("resnet34", classes)) if classes else without_head("resnet34")
    path = saved(tmp_path / "file.pth", state)
    with pytest.raises(UserError, match=r"96 of 21[68] tensors are unexpected.* write resnet34 for resnet18 in model"):
        load_into(on_meta("resnet18"), path, "resnet18", "fc")


@pytest.mark.parametrize("channels", [1, 4])
def test_weights_for_images_of_other_channels_are_named(tmp_path: Path, channels: int) -> None:
    state = thin(on_meta("resnet18")) | {"conv1.weight": torch.zeros(64, channels, 7, 7)}
    path = saved(tmp_path / "file.pth", state)
    with pytest.raises(UserError, match=rf"'conv1\.weight', takes images with {channels} channels instead of 3"):
        load_into(on_meta("resnet18"), path, "resnet18", "fc")


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("resnet.encoder.stages.0.layers.0.layer.0.convolution.weight", "Hugging Face's transformers"),
        ("blocks.0.attn.qkv.weight", "timm"),
        ("visual.layer1.0.conv1.weight", "CLIP"),
    ],
)
def test_names_of_another_library_are_told(tmp_path: Path, name: str, library: str) -> None:
    path = saved(tmp_path / "file.pth", {name: torch.zeros(2)})
    with pytest.raises(UserError, match=f"Its names are those of {library}"):
        load_into(on_meta("resnet18"), path, "resnet18", "fc")


def test_a_buffer_that_no_file_can_hold_is_missing(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 2)
        model.register_buffer("scale", torch.ones(2), persistent=False)
    path = saved(tmp_path / "file.pth", thin(model))
    with pytest.raises(UserError, match="1 of 1 tensors are missing, such as 'scale'"):
        load_into(model, path, "own")


@pytest.mark.skipif(not MOBILENET.exists(), reason="no trained weights of mobilenet_v2 here")
def test_trained_weights_fit_their_own_network_only(tmp_path: Path) -> None:
    path, _ = find_weights("mobilenet_v2", str(MOBILENET), "", tmp_path)
    model = on_meta("mobilenet_v2")
    load_into(model, path, "mobilenet_v2")
    check_loaded(model)
    with torch.inference_mode():
        assert model.eval()(torch.zeros(1, 3, 64, 64)).isfinite().all()
    with pytest.raises(UserError, match=r"does not fit resnet18.*missing.*unexpected.*seems to be for mobilenet_v2"):
        load_into(on_meta("resnet18"), path, "resnet18")
