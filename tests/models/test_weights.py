"""Files of weights: found or downloaded, and what was published or asked for."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines.models.published import Published
from pipelines.models.weights import _download, _Failure, _find_published, find_weights
from pipelines.system.errors import UserError
from pipelines.system.files import CHUNK_BYTES
from pipelines.system.network import CERTIFICATE_VARIABLES
from tests.support.proxies import CERTIFICATE, Proxy

CONTENT = bytes(range(256)) * 5000  # a mebibyte and a bit: two pieces
CONTENT_SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


@pytest.fixture(autouse=True)
def nothing_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove proxies, and set an empty torch.hub folder and an empty working folder."""
    for name in (*CERTIFICATE_VARIABLES, "http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


# --- finding


def test_a_folder_is_named_with_a_file_in_it(folder: Path) -> None:
    (folder / "timm").mkdir(parents=True)
    with pytest.raises(UserError, match=r"model\.weights is timm, which is a folder\. It holds no file of weights"):
        find_weights("resnet18", "timm", "", folder)
    for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
        (folder / "timm" / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"folder\. Give a file in it, such as timm/model\.safetensors\.$"):
        find_weights("resnet18", "timm", "", folder)
    find_weights("resnet18", "timm/model.safetensors", "", folder)


def test_a_file_is_found_from_the_working_folder_and_then_in_the_weights_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "own.pth").write_bytes(b"theirs")
    found = find_weights("resnet18", "own.pth", "", folder)
    assert found == (folder / "own.pth", hashlib.sha256(b"theirs").hexdigest())
    Path("own.pth").write_bytes(b"ours")
    assert find_weights("resnet18", "own.pth", "", folder)[0].read_bytes() == b"ours"
    assert find_weights("convnet", str(folder / "own.pth"), "", folder)[0].read_bytes() == b"theirs"


def test_a_missing_file_is_named_with_the_places_and_near_names(folder: Path) -> None:
    folder.mkdir()
    (folder / "resnet18-own.pth").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        find_weights("resnet18", "resnet18_own.pth", "", folder)
    message = str(caught.value)
    assert "There is no file of weights resnet18_own.pth or " in message
    assert str(folder / "resnet18_own.pth") in message
    assert "Did you mean 'resnet18-own.pth'?" in message
    assert message.endswith("Names of published weights: IMAGENET1K_V1, DEFAULT.")
    with pytest.raises(UserError, match="no file of weights"):
        find_weights("convnet", "none/x.pth", "", folder)


def test_the_sha256_of_the_settings_is_that_of_the_file(folder: Path) -> None:
    Path("own.pth").write_bytes(b"ours")
    digest = hashlib.sha256(b"ours").hexdigest()
    for spelling in ("", digest, digest.upper(), f" {digest[:32]} {digest[32:]}\n"):
        assert find_weights("resnet18", "own.pth", spelling, folder)[1] == digest
    other = "0" * 64
    with pytest.raises(UserError, match=rf"own\.pth has the sha256 {digest}.*{other}"):
        find_weights("resnet18", "own.pth", other, folder)


@pytest.mark.parametrize("sha256", ["abc", "0" * 63, "0" * 65, "g" * 64])
def test_a_malformed_sha256_is_refused(folder: Path, sha256: str) -> None:
    with pytest.raises(UserError, match=f"{sha256}.*64 hexadecimal digits"):
        find_weights("resnet18", "DEFAULT", sha256, folder)


@pytest.mark.parametrize("hub", [False, True])
def test_a_damaged_file_of_a_published_name_is_refused(tmp_path: Path, folder: Path, hub: bool) -> None:
    place = tmp_path / "torch" / "hub" / "checkpoints" if hub else folder
    place.mkdir(parents=True)
    (place / "resnet18-f37072fd.pth").write_bytes(b"half")
    with pytest.raises(
        UserError, match=rf"{place}/resnet18-f37072fd\.pth is not .*f37072fd.*which downloads it again: rm .*pth"
    ):
        find_weights("resnet18", "IMAGENET1K_V1", "", folder)


# --- downloading


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def server() -> Iterator[str]:
    """Yield the address of a server of `CONTENT`: the path says how it answers."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:  # as the hub of Hugging Face answers
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{self.path.rpartition("/")[2]}"')
            self.end_headers()

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
        running.handle_error = lambda *arguments: None  # type: ignore[method-assign]  # from clients that disconnect
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        stop.set()
        running.shutdown()
        thread.join()


def at(url: str, prefix: str = CONTENT_SHA256[:8]) -> Published:
    return Published("resnet18", "TEST", url, f"test-{prefix}.pth", prefix, (), (), 1, 1, None)


class Watched:
    """A `Watch` that records its arguments and the sizes of the items."""

    def __call__(self, items: Any, what: str, total: int | None = None, unit: str = "files") -> Any:
        self.shown = (what, total, unit)
        self.sizes = []
        for item in items:
            self.sizes.append(len(item))
            yield item


@pytest.mark.parametrize("path", ["whole", "moved/file", "unsized"])
def test_a_published_file_is_downloaded_once(server: str, folder: Path, path: str) -> None:
    watch = Watched()
    known = at(f"{server}/{path}")
    file, digest = _find_published(known, folder, watch)
    assert (file, digest) == (folder / known.filename, CONTENT_SHA256)
    assert file.read_bytes() == CONTENT
    assert watch.shown == (known.filename, None if path == "unsized" else 2, "MiB")
    assert watch.sizes == [CHUNK_BYTES, len(CONTENT) - CHUNK_BYTES]
    assert [entry.name for entry in folder.iterdir()] == [known.filename]
    assert _find_published(at("http://nowhere.invalid"), folder) == (file, CONTENT_SHA256)


def at_the_hub(url: str) -> Published:
    return Published("timm/some", "DEFAULT", url, "some.a.safetensors", "", (), (), 1, 1, None, hub="timm/some.a")


def test_a_file_of_the_hub_is_verified_by_the_hubs_sha256(server: str, folder: Path) -> None:
    known = at_the_hub(f"{server}/{CONTENT_SHA256}")
    assert _find_published(known, folder) == (folder / "some.a.safetensors", CONTENT_SHA256)
    (folder / "some.a.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"some\.a\.safetensors, the weights DEFAULT of timm/some, .* another one, with"
    ):
        _find_published(at_the_hub(f"{server}/{'0' * 64}"), folder)
    assert not list(folder.iterdir())


def test_without_a_network_a_file_of_the_hub_is_named_with_its_place(closed_port: int, folder: Path) -> None:
    known = at_the_hub(f"http://127.0.0.1:{closed_port}/model.safetensors")
    with pytest.raises(UserError, match=rf"refused.* published at {known.url}\. If .* put it at {folder}/some\.a\.saf"):
        _find_published(known, folder)


def test_a_file_that_timm_downloaded_is_used(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    kept = tmp_path / "models--timm--some.a"
    file = kept / "snapshots" / ("0" * 40) / "model.safetensors"
    for path, content in ((file, CONTENT), (kept / "refs/main", b"0" * 40)):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    assert _find_published(at_the_hub("http://nowhere.invalid"), folder) == (file, CONTENT_SHA256)


def test_a_file_of_torch_hub_is_not_downloaded_again(tmp_path: Path, folder: Path) -> None:
    known = at("http://nowhere.invalid")
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / known.filename).write_bytes(CONTENT)
    assert _find_published(known, folder) == (hub / known.filename, CONTENT_SHA256)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("path", "prefix", "reason"),
    [
        ("whole", "01234567", f"the downloaded file is another one, with the sha256 {CONTENT_SHA256}"),
        ("cut", CONTENT_SHA256[:8], "the connection ended after 1,279,993 of 1,280,000 bytes"),
        ("none", CONTENT_SHA256[:8], "the server answered 404 Not Found"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_why(
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


def test_a_silent_server_is_a_timeout(server: str, folder: Path) -> None:
    with pytest.raises(_Failure, match="timed out"):
        _download(f"{server}/stalled", folder / "file", "", timeout=0.1)
    assert not list(folder.iterdir())


def test_a_refused_connection_is_one_message(closed_port: int, folder: Path) -> None:
    with pytest.raises(UserError, match=r"could not be downloaded: .*refused"):
        _find_published(at(f"http://127.0.0.1:{closed_port}/file"), folder)
    assert not folder.exists()


def test_without_a_network_the_message_says_what_to_download(
    closed_port: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    with pytest.raises(UserError) as caught:
        find_weights("resnet18", "DEFAULT", "", folder)
    message = str(caught.value)
    assert message.startswith("resnet18-f37072fd.pth, the weights IMAGENET1K_V1 of resnet18, is missing")
    assert f"The proxy 127.0.0.1:{closed_port} does not answer" in message and "https_proxy" in message
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in message
    assert f"put it at {folder / 'resnet18-f37072fd.pth'}" in message


def test_weights_come_through_tls_inspection_with_the_variable_that_the_message_names(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(content=CONTENT[:1000]) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        with pytest.raises(UserError, match=r"REQUESTS_CA_BUNDLE=/path/to/file\.pem"):
            find_weights("resnet18", "DEFAULT", "", folder)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
        assert _download("https://download.pytorch.org/file", folder / "file", "")
    assert (folder / "file").read_bytes() == CONTENT[:1000]


def test_a_wrong_file_of_certificates_is_named_for_weights_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(folder / "none.pem"))
    with pytest.raises(UserError, match=r"REQUESTS_CA_BUNDLE names .*none\.pem, which does not exist"):
        _download("https://download.pytorch.org/file", folder / "file", "")


def test_all_proxy_counts_for_weights_and_a_socks_proxy_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy("407 Proxy Authentication Required") as proxy:
        monkeypatch.setenv("all_proxy", proxy.url)
        with pytest.raises(_Failure, match=f"all_proxy=http://user:password@{proxy.place}"):
            _download("https://download.pytorch.org/file", folder / "file", "")
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(_Failure, match="all_proxy names a SOCKS proxy"):
        _download("https://download.pytorch.org/file", folder / "file", "")
