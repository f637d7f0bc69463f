"""What to do about faults of TLS, proxies and name lookup; the proxies and certificates that the environment names.

Nothing here returns the user name or the password of a proxy.
"""

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

from pipelines.system.errors import UserError, shown
from pipelines.system.shell import module_command, pip_command

# `requests` reads the first two; Python's ssl reads the last.
CERTIFICATE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
LOGIN_FORM = "http://user:password@host:port"
ENCODED = (
    "Write special characters in name and password percent-encoded: @ is %40, : is %3A, / is %2F, \\ is %5C, # is %23."
)
UNKNOWN_NAME = r"Name or service not known|Failed to resolve|getaddrinfo failed|nodename nor servname|No address associ"
ADDRESS = r"Failed to parse|unsupported scheme|InvalidProxyURL|malformed|address of a proxy is invalid"


@dataclass(frozen=True)
class Proxy:
    """A proxy of the environment.  variable: its name as set.  place: host and port; empty if the address is malformed.

    login: whether the address holds a user name.
    """

    variable: str
    scheme: str
    place: str
    login: bool

    @property
    def shown(self) -> str:
        return self.place or "a malformed address"


def proxy_of(address: str, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """Return the proxy that requests to `address` use, or None.  environment: by default that of this process."""
    environment = os.environ if environment is None else environment
    wanted = urlsplit(address)
    if environment is os.environ and proxy_bypass(wanted.hostname or ""):
        return None
    for lower in (f"{wanted.scheme}_proxy", "all_proxy"):
        name = lower if lower in environment else lower.upper()  # one in small letters counts even if it is empty
        if value := environment.get(name):
            return _proxy(name, value)
    return None


def _proxy(variable: str, value: str) -> Proxy:
    try:
        parts = urlsplit(value if "//" in value else f"http://{value}")
        place = f"{parts.hostname or ''}:{parts.port}" if parts.port else parts.hostname or ""
    except ValueError:
        return Proxy(variable, "", "", False)
    # after a slash or backslash in name or password, urlsplit or urllib3 take the rest of it for the path
    if "\\" in value or "@" in f"{parts.path}{parts.query}{parts.fragment}" or not re.fullmatch(r"[\w.:-]+", place):
        return Proxy(variable, parts.scheme, "", True)
    return Proxy(variable, parts.scheme, place, parts.username is not None)


def lasting_fault(text: str, address: str) -> str:
    """Return what is wrong and how to mend it, if `text` tells of a fault that does not end by itself; else empty.

    text: the message of an exception of `requests` or urllib.  address: the requested one.
    """
    asked = re.search(r"HTTPSConnectionPool\(host='([\w.-]+)'", text)  # not always that of `address`, but of a redirect
    host = asked[1] if asked else urlsplit(address).hostname or address
    proxy = proxy_of(address)
    return _certificate_fault(text, host) or (_proxy_fault(text, host, proxy) if proxy else "")


def offline_hint(text: str) -> str:
    """Return the question whether this machine is online, if `text` tells of an unknown host name; else empty."""
    if not re.search(f"{UNKNOWN_NAME}|Temporary failure in name resolution|Network is unreachable", text):
        return ""
    return " Is this machine online? Nodes of a cluster and Kaggle's kernels often have no internet."


def _certificate_fault(text: str, host: str) -> str:
    variable, path = certificates()
    if "TLS CA certificate bundle" in text or re.search(r"NO_CERTIFICATE_OR_CRL_FOUND|\[X509\] PEM lib", text):
        return _bad_certificates(variable, path)
    if not re.search("certificate verify failed|CERTIFICATE_VERIFY_FAILED", text):
        return ""
    reason = re.search(r"certificate verify failed: ([^()\"']+)", text)
    said = reason[1].strip().rstrip(".") if reason else "it cannot be verified"
    if re.search("not yet valid|expired", said):
        return (
            f"The TLS certificate of {host} is refused: {said}. This machine's clock shows "
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC: if that is wrong, set the clock and run the same command again. "
            "If it is right, ask the administrator of your network or proxy."
        )
    if re.search("Hostname mismatch|IP address mismatch", text):
        return (
            f"What answered for {host} has the TLS certificate of another site. Often it is the login page of a "
            "network: open any page in a browser on this machine, log in there, and run the same command again."
        )
    if "HTTPSConnectionPool" not in text and not _system_certificates():  # of urllib: requests brings its own
        return (
            f"The TLS certificate of {host} is refused, because this system has no certificates of authorities. "
            "Install its package ca-certificates, or use those of Python's certifi: export "
            f"SSL_CERT_FILE=$({module_command('certifi', [])})"
        )
    wrong = f"{variable} is {shown(path)}, which does not hold that authority's certificate. " if variable else ""
    return (
        f"The TLS certificate of {host} is refused: {said}. A proxy that opens TLS, as companies have, shows a "
        f"certificate that only the company's machines know. {wrong}Ask the administrator of your network for the "
        "certificate of that authority, as a PEM file, and name it: export REQUESTS_CA_BUNDLE=/path/to/file.pem; "
        "then run the same command again."
    )


def _system_certificates() -> bool:
    paths = ssl.get_default_verify_paths()
    return bool(paths.cafile or (paths.capath and any(Path(paths.capath).iterdir())))


def _bad_certificates(variable: str, path: str) -> str:
    if not variable:
        again = pip_command("--force-reinstall", "certifi")
        return f"The certificates of authorities, of the package certifi, are missing. Install it again: {again}"
    problem = "holds no certificate in PEM form" if Path(path).exists() else "does not exist"
    return f"{variable} names {shown(path)}, which {problem}. Correct it, or unset it."


def _proxy_fault(text: str, host: str, proxy: Proxy) -> str:
    variable, place = proxy.variable, proxy.place
    if not place or re.search(ADDRESS, text):
        value = os.environ.get(variable, "")
        extra = "It has quotes or spaces around it: remove them. " if value != value.strip("\"' \t\r\n") else ""
        form = f"Its form is {LOGIN_FORM} (or http://host:port). {ENCODED}"
        return f"{variable} is no valid address of a proxy. {extra}{form}"
    if "Missing dependencies for SOCKS" in text:
        return (
            f"{variable} names a SOCKS proxy ({place}), for which a package is missing. Name an HTTP proxy, in the "
            f"form http://host:port, or install the package: {pip_command('pysocks')}"
        )
    if re.search("appears to only use HTTP|WRONG_VERSION_NUMBER", text) and proxy.scheme == "https":
        return f"The proxy {place} speaks HTTP, but {variable} begins with https://. Set it to http://{place} instead."
    if tunnel := re.search(r"Tunnel connection failed: (\d+) ?([^'\")]*)", text):
        return _refused_tunnel(int(tunnel[1]), tunnel[2].strip(), host, proxy)
    if re.search(UNKNOWN_NAME, text):
        return f"The proxy {place} is unknown: there is no host of that name. Correct {variable}, or unset it."
    if re.search("Connection refused|No route to host", text):
        return f"The proxy {place} does not answer: nothing listens there. Correct {variable}, or unset it."
    return ""


def _refused_tunnel(status: int, reason: str, host: str, proxy: Proxy) -> str:
    if status == 407:
        said = "does not accept the user name and password" if proxy.login else "asks for a user name and a password"
        form = f"Set {proxy.variable}=http://user:password@{proxy.place}"
        return f"The proxy {proxy.place} {said} (407). {form}. {ENCODED}"
    if status >= 500:  # a fault of the proxy or behind it, which may end
        return ""
    return (
        f"The proxy {proxy.place}, named by {proxy.variable}, does not let this machine reach {host} ({status} "
        f"{reason}). Ask its administrator; or log in to the network in a browser, if it has a login page."
    )


def certificates() -> tuple[str, str]:
    """Return name and value of the first variable that names certificates; empty texts if none does."""
    return next(((name, path) for name in CERTIFICATE_VARIABLES if (path := os.environ.get(name))), ("", ""))


def tls_context() -> ssl.SSLContext:
    """Return Python's default context, which trusts also the certificates that `certificates` names.

    Raises `UserError` if that file is missing or holds none.
    """
    context = ssl.create_default_context()
    variable, path = certificates()
    if variable:
        try:
            context.load_verify_locations(**{"capath" if Path(path).is_dir() else "cafile": path})
        except OSError:  # ssl.SSLError too
            raise UserError(_bad_certificates(variable, path)) from None
    return context
