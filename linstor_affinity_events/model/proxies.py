"""Which proxy the environment sets for a server, read as Go programs read it. kubectl is one, and
the variables were most likely tested with it. The rules are those of
https://pkg.go.dev/golang.org/x/net/http/httpproxy.
"""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address


def proxy_named(env: Mapping[str, str], scheme: str) -> str:
    """The proxy for servers of this scheme, as a URL; empty if there is none."""
    proxy = variable(env, f"{scheme}_proxy").strip()
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def variable(env: Mapping[str, str], name: str) -> str:
    """A variable in upper or lower case; upper case wins."""
    return env.get(name.upper()) or env.get(name.lower()) or ""


def is_spared(no_proxy: str, host: str, port: int) -> bool:
    """Whether a server is reached without a proxy: one on this host always is, others if NO_PROXY
    names them.
    """
    host = host.lower()
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    entries = (entry.strip().lower() for entry in no_proxy.split(","))
    return any(_names(entry, host, address, port) for entry in entries if entry)


def _names(entry: str, host: str, address: Address | None, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        return address is not None and _within(entry, address)
    named, named_port = _split(entry)
    if not named.strip(".") or named_port not in {"", str(port)}:
        return False
    named_address = _address(named)
    if address is not None or named_address is not None:
        return address == named_address
    # A domain matches itself and its subdomains; with a leading dot or star only subdomains.
    domain = named.removeprefix("*")
    if domain.startswith("."):
        return host.endswith(domain)
    return host == domain or host.endswith(f".{domain}")


def _split(entry: str) -> tuple[str, str]:
    """The host and the optional port of an entry."""
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        return host, rest.removeprefix(":")
    if entry.count(":") == 1:
        host, _, port = entry.partition(":")
        return host, port
    return entry, ""


def _within(entry: str, address: Address) -> bool:
    try:
        network = ip_network(entry, strict=False)
    except ValueError:
        return False
    return address.version == network.version and address in network


def _address(text: str) -> Address | None:
    """An IP address; an IPv4-mapped IPv6 address as IPv4."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
