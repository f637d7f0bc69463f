"""Device and precision: as the settings say, or an error that says what is available."""

import json

import pytest
import torch

from pipelines.models.device import Hardware, bfloat16_is_fast, choose_hardware, make_deterministic
from pipelines.settings.running_sections import HardwareSettings
from pipelines.system.errors import UserError

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def test_auto_takes_the_gpu_if_there_is_one_and_a_precision_that_is_fast_there() -> None:
    hardware = choose_hardware(HardwareSettings())
    assert hardware.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert hardware.dtype == (torch.bfloat16 if bfloat16_is_fast(hardware.device) else torch.float32)


@pytest.mark.parametrize(
    "name", ["gpu", "", "cuda:99", "cpu and more", "mps:7", "xpu", "hpu", "meta", pytest.param("cuda", marks=NO_CUDA)]
)
def test_a_missing_device_is_named_with_alternatives(name: str) -> None:
    with pytest.raises(
        UserError, match=rf"hardware\.device is '{name}', which cannot be used here: .*Try auto or one of: cpu"
    ):
        choose_hardware(HardwareSettings(device=name))


def test_every_device_that_the_message_offers_can_be_used() -> None:
    with pytest.raises(UserError, match=r"names are cpu, cuda \(or cuda:0") as caught:
        choose_hardware(HardwareSettings(device="gpu"))
    for name in str(caught.value).rpartition("one of: ")[2].rstrip(".").split(", "):
        choose_hardware(HardwareSettings(device=name))


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_are_in_the_precision_of_the_settings(precision: str, dtype: torch.dtype) -> None:
    hardware = choose_hardware(HardwareSettings(device="cpu", precision=precision))  # type: ignore[arg-type]
    layer, images = torch.nn.Conv2d(3, 4, 3), torch.rand(2, 3, 8, 8)
    with hardware.autocast():
        assert layer(images).dtype == dtype
    assert layer(images).dtype == layer.weight.dtype == torch.float32


def test_bfloat16_is_not_fast_on_an_unknown_device() -> None:
    assert bfloat16_is_fast(torch.device("mps")) is False


def test_the_record_holds_plain_values_that_a_run_depends_on() -> None:
    record = choose_hardware(HardwareSettings(device="cpu", precision="bfloat16")).record()
    assert json.loads(json.dumps(record)) == record
    assert record["precision"] == "bfloat16"
    assert record["torch"] == torch.__version__
    assert record["threads"] == torch.get_num_threads()
    assert record["device"]


def test_as_many_threads_compute_as_the_settings_say() -> None:
    before = torch.get_num_threads()
    try:
        record = choose_hardware(HardwareSettings(device="cpu", threads=before + 1)).record()
        assert record["threads"] == torch.get_num_threads() == before + 1
        choose_hardware(HardwareSettings(device="cpu"))
        assert torch.get_num_threads() == before + 1  # 0 keeps torch's choice
    finally:
        torch.set_num_threads(before)


def test_hardware_reads_as_a_line() -> None:
    hardware = Hardware(torch.device("cpu"), torch.float32)
    assert str(hardware).endswith(", float32")
    assert " thread" in str(hardware)
    assert "\n" not in str(hardware)


def test_deterministic_kernels_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    make_deterministic()
    import os

    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32
