"""Images on the web, from hosts that the operator allows.

A request must not reach what only the server can reach: the host is one of a list, its address a public one, the
connection goes to the very address that was checked, and redirections are not followed.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from urllib.parse import SplitResult, urlsplit

import vertebra
from vertebra.errors import VertebraError, first_line, shown

PORTS = {"http": 80, "https": 443}
CHUNK = 1 << 16
EMBEDDING = tuple(
    ipaddress.IPv6Network(network)
    for network in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16")
)
"""IPv6 addresses that lead to the IPv4 address in them, which may be a private one: compatible, mapped, translated,
NAT64 and 6to4."""


class RefusedURL(VertebraError):
    """A URL that is not downloaded, or could not be."""


def download(url: str, allowed: Collection[str], *, max_bytes: int, timeout: float) -> bytes:
    """What a URL holds.

    Args:
        url: http or https, without a user and a password.
        allowed: names of hosts, with a port where it is not the scheme's.
        max_bytes: most bytes that are downloaded.
        timeout: longest time in seconds.

    Raises:
        RefusedURL: if the host is none of these, its address is not public, or the answer is no file or too large.
    """
    parts, host, port = _checked(url, allowed)
    end = time.monotonic() + timeout
    try:
        with closing(_connected(parts.scheme, host, port, timeout)) as connected, _until(end, connected):
            connection = http.client.HTTPConnection(host, port)
            connection.sock = connected
            target = parts._replace(scheme="", netloc="", fragment="", path=parts.path or "/").geturl()
            connection.request("GET", target, headers={"User-Agent": f"vertebra/{vertebra.__version__}"})
            response = connection.getresponse()
            if response.status != 200:
                redirected = ", a redirection, which is not followed" if 300 <= response.status < 400 else ""
                raise RefusedURL(f"{host} answers {response.status}{redirected}.")
            content = bytearray()
            while chunk := response.read1(CHUNK):
                content += chunk
                if len(content) > max_bytes:
                    raise RefusedURL(f"the file of this URL has more than {max_bytes:,} bytes, the most that is read.")
            if time.monotonic() > end:  # the connection was shut
                raise TimeoutError
            return bytes(content)
    except RefusedURL:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() > end:
            raise RefusedURL(f"the file of this URL takes more than {timeout:g} seconds to download.") from error
        raise RefusedURL(
            f"{host} cannot be reached ({getattr(error, 'strerror', None) or first_line(error)})."
        ) from error


@contextmanager
def _until(end: float, connected: socket.socket) -> Iterator[None]:
    """Shuts a connection at the time `end`: its own timeout begins anew with every byte that arrives."""

    def shut() -> None:
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, end - time.monotonic()), shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _checked(url: str, allowed: Collection[str]) -> tuple[SplitResult, str, int]:
    """The parts of a URL, its host and its port."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise RefusedURL(f"{shown(url)} is no URL.") from None
    if parts.scheme not in PORTS or not host or "@" in parts.netloc or not url.isascii() or not url.isprintable():
        raise RefusedURL(f"{shown(url)} is no http:// or https:// URL without a password.")
    standard = PORTS[parts.scheme]
    name = host if port in (None, standard) else f"{host}:{port}"
    if not {name, f"{host}:{port or standard}"} & {entry.lower() for entry in allowed}:
        raise RefusedURL(f"images of the host {shown(name)} are not downloaded: the operator has not allowed it.")
    return parts, host, port or standard


def _connected(scheme: str, host: str, port: int, timeout: float) -> socket.socket:
    """A connection to a public address of the host."""
    addresses = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not all(is_public(address) for address in addresses):
        raise RefusedURL(f"{host} has an address in a private network, from which nothing is downloaded.")
    connected = socket.create_connection((addresses[0], port), timeout)
    if scheme == "http":
        return connected
    try:
        return ssl.create_default_context().wrap_socket(connected, server_hostname=host)
    except BaseException:
        connected.close()
        raise


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, and of one machine."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and (
        parsed.is_site_local or any(parsed in network for network in EMBEDDING)
    ):
        return False
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved
