"""No test asks the network: the suite passes on a machine that has none (diffusers#8752: a load from disk that goes online)."""

import ipaddress
import socket
import sys

HERE = {"localhost", socket.gethostname(), ""}


def _local(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name is None or not isinstance(name, str) or name in HERE:
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _audit(event: str, args: tuple) -> None:
    """Python's own sockets, by whatever they are reached; a library that meets this meets a machine without a network."""
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    if not _local(host):
        raise ConnectionRefusedError(f"no test may ask the network, and one asks {host}")


sys.addaudithook(_audit)
