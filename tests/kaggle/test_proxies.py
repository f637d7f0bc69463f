"""Proxies and TLS between this machine and Kaggle: a fault that stays ends with status 2 and names what mends it."""

import os
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from pipelines import download
from pipelines.kaggle import worker
from pipelines.kaggle.failures import ConnectionLost, Failure, explained
from pipelines.system.errors import TryAgainLater
from pipelines.system.network import lasting_fault, proxy_of, tls_context
from tests.support.clients import run_stage, surroundings
from tests.support.proxies import CERTIFICATE, Proxy
from tests.support.submitting import free_port

ADDRESS = "https://api.kaggle.com/v1/competitions.CompetitionApiService/GetCompetition"
PASSWORD = "secret0password"
ENTERED = b'{"title": "Cats", "userHasEntered": true}'


def plain_environment(**variables: str) -> dict[str, str]:
    """This process's variables without those about proxies, certificates and Kaggle, and with `variables`."""
    about = ("PROXY", "CA_BUNDLE", "SSL_CERT", "KAGGLE")
    kept = {name: value for name, value in os.environ.items() if not any(each in name.upper() for each in about)}
    return kept | variables


def failure(environment: Mapping[str, str], call: str = "competition") -> Exception:
    """The exception that the stages get if a request to Kaggle fails with these variables."""
    with surroundings(plain_environment(**environment)):
        try:
            requests.post(ADDRESS, timeout=20)
        except (OSError, ValueError) as error:
            return explained(Failure(**worker._facts(error)), call, "cats")
        raise AssertionError("it was answered")


@pytest.fixture
def refusing(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    with Proxy(request.param) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("refusing", "login", "words"),
    [
        (
            "407 Proxy Authentication Required",
            "",
            "asks for a user name and a password (407). Set https_proxy=http://u",
        ),
        ("407 Proxy Authentication Required", f"me:{PASSWORD}@", "does not accept the user name and password (407)"),
        ("403 Forbidden", "", "does not let this machine reach api.kaggle.com (403 Forbidden). Ask its administrator"),
        ("302 Found", "", "log in to the network in a browser"),
    ],
    indirect=["refusing"],
)
def test_a_proxy_that_refuses_is_named_with_what_it_wants(refusing: Proxy, login: str, words: str) -> None:
    error = failure({"https_proxy": refusing.url.replace("//", f"//{login}")})
    assert not isinstance(error, TryAgainLater)
    assert f"the proxy {refusing.place}" in str(error) and words in str(error)
    assert PASSWORD not in str(error)
    assert "ARCHIVE=" in str(error)


@pytest.mark.parametrize("refusing", ["503 Service Unavailable"], indirect=True)
def test_a_proxy_in_trouble_may_recover(refusing: Proxy) -> None:
    assert isinstance(failure({"https_proxy": refusing.url}), ConnectionLost)


@pytest.mark.parametrize("refusing", ["200 OK"], indirect=True)
def test_a_proxy_that_speaks_no_tls_itself(refusing: Proxy) -> None:
    error = failure({"https_proxy": refusing.url.replace("http:", "https:")})
    assert not isinstance(error, TryAgainLater)
    assert f"begins with https://. Set it to {refusing.url} instead." in str(error)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://proxy.nowhere.invalid:3128", "the proxy proxy.nowhere.invalid:3128 is unknown"),
        (f"http://me:{PASSWORD}@127.0.0.1:9", "the proxy 127.0.0.1:9 does not answer: nothing listens there."),
        ("socks5://127.0.0.1:1080", "names a SOCKS proxy (127.0.0.1:1080)"),
        (f"http://me:{PASSWORD}/1#x@127.0.0.1:9", "percent-encoded: @ is %40"),
        ("http://my proxy:80", "no valid address"),
        ("http://proxy:port", "no valid address"),
        ("ftp://127.0.0.1:9", "no valid address"),
        (f"http://DOMAIN\\me:{PASSWORD}@127.0.0.1:9", "\\ is %5C"),
        ("'http://127.0.0.1:9'", "It has quotes or spaces around it: remove them."),
        ("http://127.0.0.1:9\n", "It has quotes or spaces around it: remove them."),
    ],
)
@pytest.mark.parametrize("variable", ["https_proxy", "ALL_PROXY"])
def test_a_wrong_address_of_a_proxy_names_the_variable(address: str, words: str, variable: str) -> None:
    error = failure({variable: address})
    assert not isinstance(error, TryAgainLater)
    assert words in str(error) and variable in str(error)
    assert PASSWORD not in str(error)


def test_an_empty_variable_in_small_letters_means_no_proxy() -> None:
    assert proxy_of(ADDRESS, {"https_proxy": "", "HTTPS_PROXY": "http://a:1"}) is None
    other = proxy_of(ADDRESS, {"https_proxy": "", "HTTPS_PROXY": "http://a:1", "ALL_PROXY": "http://b:2"})
    assert other and (other.variable, other.place) == ("ALL_PROXY", "b:2")


def test_a_proxy_that_stops_answering_later_may_recover() -> None:
    error = failure({"https_proxy": f"http://127.0.0.1:{free_port()}"}, "kernel_status")
    assert isinstance(error, ConnectionLost) and "does not answer" in str(error)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"])
def test_tls_inspection_is_mended_by_the_variable_that_the_message_names(tmp_path: Path, variable: str) -> None:
    """The whole stage: the advice is taken, and then Kaggle answers."""
    (tmp_path / "cats.toml").write_text('[data]\nlabels = "labels.csv"\n')
    account = {"KAGGLE_USERNAME": "alice", "KAGGLE_KEY": "0123456789abcdef", "HOME": str(tmp_path)}
    with Proxy(content=ENTERED) as proxy:
        environment = plain_environment(https_proxy=proxy.url, **account)
        if variable == "REQUESTS_CA_BUNDLE":
            status, _, said = run_stage(download, ["cats.toml"], tmp_path, environment)
            assert status == 2
            assert "the TLS certificate of api.kaggle.com is refused: self-signed certificate" in said
            assert "export REQUESTS_CA_BUNDLE=/path/to/file.pem" in said and "again later" not in said
        _, printed, said = run_stage(download, ["cats.toml"], tmp_path, environment | {variable: str(CERTIFICATE)})
    assert "Cats: rules accepted." in printed, said


@pytest.mark.parametrize(("content", "words"), [(None, "does not exist"), ("no PEM\n", "holds no certificate")])
def test_a_wrong_file_of_certificates_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "company.pem"
    if content:
        path.write_text(content)
    with Proxy() as proxy:
        error = failure({"https_proxy": proxy.url, "REQUESTS_CA_BUNDLE": str(path)})
    assert not isinstance(error, TryAgainLater)
    assert f"REQUESTS_CA_BUNDLE names {path}, which {words}" in str(error)


def test_certificates_of_another_authority_are_named(tmp_path: Path) -> None:
    other = requests.certs.where()
    with Proxy() as proxy:
        error = failure({"https_proxy": proxy.url, "REQUESTS_CA_BUNDLE": other})
    assert f"REQUESTS_CA_BUNDLE is {other}, which does not hold that authority's certificate" in str(error)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("certificate is not yet valid", "if that is wrong, set the clock"),
        ("certificate has expired", "if that is wrong, set the clock"),
        ("Hostname mismatch, certificate is not valid for 'api.kaggle.com'.", "login page of a network"),
    ],
)
def test_a_wrong_clock_and_a_login_page_are_told_from_inspection(reason: str, words: str) -> None:
    text = f"(Caused by SSLError(SSLCertVerificationError(1, '[SSL] certificate verify failed: {reason} (_ssl.c:1)')))"
    error = explained(Failure("connection", 0, text, ""), "competition", "cats")
    assert not isinstance(error, TryAgainLater) and words in str(error)


def test_a_machine_without_internet_learns_of_the_other_way() -> None:
    with surroundings(plain_environment()):
        text = "Failed to resolve 'api.kaggle.com' ([Errno -3] Temporary failure in name resolution)"
        error = explained(Failure("connection", 0, text, ""), "competition", "cats")
    assert isinstance(error, ConnectionLost)
    assert "Is this machine online?" in str(error) and "ARCHIVE=" in str(error)


def test_a_system_without_certificates_gets_those_of_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    none = SimpleNamespace(cafile=None, capath=None)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: none)
    text = (
        "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate (_ssl.c:1)"
    )
    with surroundings(plain_environment()):
        said = lasting_fault(text, "https://download.pytorch.org/models/x.pth")  # as urllib says it
        command = said[said.index("export ") :]
        shown = subprocess.run(f'{command}; echo "$SSL_CERT_FILE"', shell=True, capture_output=True, text=True).stdout
        monkeypatch.setenv("SSL_CERT_FILE", shown.strip())
        assert tls_context().cert_store_stats()["x509_ca"] > 50


def test_missing_certificates_of_the_client_name_the_package_and_no_variable() -> None:
    with surroundings(plain_environment()):
        said = lasting_fault("Could not find a suitable TLS CA certificate bundle, invalid path: /x.pem", ADDRESS)
    assert "of the package certifi, are missing. Install it again: " in said
    assert "REQUESTS_CA_BUNDLE" not in said
