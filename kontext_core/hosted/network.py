"""HTTPS exchanges: one request, one answer, and whether a failure happened before or after the request was sent.

Name resolution and certificates are this machine's. A configured proxy is used (HTTPS_PROXY, NO_PROXY, system
settings): it carries the encrypted connection and sees the host's name, but neither key nor pictures.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Collection
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from .errors import BROKEN, CLOCK, FOREIGN, NO_NETWORK, HostedError

CERTIFICATE_DATES = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
NOT_PUBLIC = [  # this machine and its networks; not 198.18.0.0/15, which some proxies return for every name
    ipaddress.ip_network(block)
    for block in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.168.0.0/16", "224.0.0.0/3", "::/128", "::1/128", "fc00::/7", "fe80::/10", "ff00::/8"),
    )
]


class Received(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Timeouts(NamedTuple):
    """Seconds."""

    connect: float
    read: float  # without a byte of the answer


class PublicResolver(AbstractResolver):
    """This machine's name resolution, restricted to public addresses; `trusted` names (a proxy's) are unrestricted."""

    def __init__(self, names: AbstractResolver, trusted: Collection[str] = ()):
        self._names = names
        self._trusted = trusted

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[Any]:
        places = await self._names.resolve(host, port, family)
        if host not in self._trusted and not all(is_public(place["host"]) for place in places):
            raise OSError(f"{host} leads to an address that is not public")
        return places

    async def close(self) -> None:
        await self._names.close()


def is_public(address: str) -> bool:
    """Whether an IP address is outside this machine and its local networks."""
    ip = ipaddress.ip_address(address.split("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return not any(ip in block for block in NOT_PUBLIC if block.version == ip.version)


def open_session(
    resolver: AbstractResolver | None = None, trust: ssl.SSLContext | None = None
) -> aiohttp.ClientSession:
    """A session with this machine's name resolution and certificates, unless others are given. The caller closes it."""
    proxies = {urlsplit(proxy).hostname or "" for proxy in getproxies().values()}
    connector = aiohttp.TCPConnector(
        resolver=resolver or PublicResolver(aiohttp.ThreadedResolver(), proxies),
        ssl=trust or ssl.create_default_context(),
    )
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


async def exchange(
    session: aiohttp.ClientSession, method: str, url: URL, most: int, timeouts: Timeouts, **options: Any
) -> Received:
    """One exchange without following redirects; at most `most` bytes of body.

    HostedError with a case of errors.NOT_SENT if nothing was sent, BROKEN if the request may have arrived.
    """
    timeout = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=timeouts.connect, sock_read=timeouts.read)
    options |= {"allow_redirects": False, "timeout": timeout, "proxy": proxy_for(url)}
    try:
        async with session.request(method, url, **options) as answer:
            headers = {name.title(): value for name, value in answer.headers.items()}
            return Received(answer.status, headers, await _read(answer, most))
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError) as error:
        raise _no_connection(url, error) from None
    except (aiohttp.ClientError, TimeoutError) as error:
        raise HostedError(BROKEN, f"{url.host} gave no whole answer ({type(error).__name__}).") from None


def proxy_for(url: URL) -> str | None:
    """The proxy configured on this machine for an address. HostedError for a proxy of another kind than HTTP."""
    host = url.host or ""
    proxies = getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    if not proxy or proxy_bypass(host):
        return None
    if urlsplit(proxy).scheme not in ("http", "https"):
        raise HostedError(
            NO_NETWORK,
            "HTTPS_PROXY (or the system's setting) holds a proxy of another kind than HTTP. Give one that begins with "
            f"http://, or put {host} into NO_PROXY.",
        )
    return proxy


def safe_address(text: str, base: str = "") -> URL:
    """https, port 443, no user name, visible ASCII only; not re-quoted, because it may be signed. ValueError otherwise.

    `base` is the address that redirected here. An IP address must be public.
    """
    try:
        address = urljoin(base, text)
        url = URL(address, encoded=True)
        plain = url.scheme == "https" and url.port == 443 and url.user is None and bool(url.host)
    except ValueError as error:
        raise ValueError(f"no address ({error})") from None
    if not plain or not all("!" <= letter <= "~" and letter != "\\" for letter in address):
        raise ValueError("no safe address")
    if _is_ip(url.host or "") and not is_public(url.host or ""):
        raise ValueError("no public address")
    return url


def unsafe(title: str, address: str, what: str) -> HostedError:
    """The error for an unsafe address in an answer; what: its purpose."""
    shown = address if len(address) < 60 else address[:60] + "..."
    return HostedError(FOREIGN, f"{title} named an address for {what} that is not safe to use: {shown!r}.")


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    return True


async def _read(answer: aiohttp.ClientResponse, most: int) -> bytes:
    content = bytearray()
    async for chunk in answer.content.iter_chunked(1 << 16):
        content += chunk
        if len(content) > most:
            answer.close()
            raise HostedError(BROKEN, f"{answer.url.host} sent more than {most >> 20} MiB.")
    return bytes(content)


def _no_connection(url: URL, error: Exception) -> HostedError:
    host = url.host
    cause = getattr(error, "certificate_error", None)
    if getattr(cause, "verify_code", None) in CERTIFICATE_DATES:
        return HostedError(
            CLOCK, f"the certificate of {host} is not valid at this computer's time. Is the clock right?"
        )
    if isinstance(error, (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError)):
        return HostedError(
            NO_NETWORK, f"the proxy gave no connection to {host} ({error.args[-1] if error.args else ''})."
        )
    if isinstance(error, aiohttp.ClientSSLError):
        return HostedError(NO_NETWORK, f"no safe connection to {host} ({type(error).__name__}).")
    if isinstance(cause := getattr(error, "os_error", None), OSError) and "not public" in str(cause):
        return HostedError(NO_NETWORK, f"{cause}; this node connects to public addresses only.")
    return HostedError(NO_NETWORK, f"no connection to {host} ({type(error).__name__}). Is this computer online?")
