"""Endpoint addresses: what users may write, and what the sockets get. Knows no sockets."""

from __future__ import annotations

import re

from mesh.errors import ConfigError

# The kernel's limit for a socket path, less the closing zero byte; macOS allows four bytes less.
MAX_IPC_PATH = 103

_HOST_PORT = re.compile(r"(?P<host>\[[0-9a-fA-F:.%\w]+\]|[^\s:/\[\]]+):(?P<port>[0-9]{1,5}|\*)")
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|\[::1\]")
_ADVICE = "write tcp://HOST:PORT, HOST:PORT, dns://HOST:PORT or ipc://PATH"
_BIND_ADVICE = "write tcp://HOST:PORT, HOST:PORT or ipc://PATH"


def parse_endpoint(text: str, *, bind: bool = False) -> str:
    """The endpoint in full, as `tcp://host:port`, `dns://host:port` or `ipc://path`.

    `dns` stands for a broker at each address of the host (`mesh.discovery.names`). With `bind` it
    is an address to listen at: the host may be `*` (every interface) and the port `*` or 0 (any
    free port), and `localhost` stands for 127.0.0.1.

    Raises:
        ConfigError: the text is no endpoint; the message says what to write.
    """
    scheme, mark, address = text.strip().partition("://")
    if not mark:
        scheme, address = "tcp", scheme
    if scheme == "ipc":
        return f"ipc://{_ipc_path(text, address)}"
    advice = _BIND_ADVICE if bind else _ADVICE
    if scheme != "tcp" and (scheme != "dns" or bind):
        raise ConfigError(f"endpoint {text!r}: unknown transport {scheme!r}; {advice}")
    match = _HOST_PORT.fullmatch(address)
    if match is None:
        raise ConfigError(f"endpoint {text!r} is not complete; {advice}")
    host, port = match["host"], match["port"]
    if port != "*" and int(port) > 65535:
        raise ConfigError(f"endpoint {text!r}: port {port} is out of range; use 1 to 65535")
    if bind:
        host = "127.0.0.1" if host == "localhost" else host
        port = "*" if port == "0" else port
    elif host == "*":
        raise ConfigError(f"endpoint {text!r}: * is for listening; name the host to connect to")
    elif port in ("*", "0"):
        raise ConfigError(f"endpoint {text!r}: a port is needed to connect; use 1 to 65535")
    return f"{scheme}://{host}:{port}"


def _ipc_path(text: str, path: str) -> str:
    if not path or path == "*" or "\0" in path:
        raise ConfigError(f"endpoint {text!r}: ipc:// needs the path of a socket file")
    if len(path.encode()) > MAX_IPC_PATH:
        raise ConfigError(
            f"endpoint {text!r}: the path is longer than {MAX_IPC_PATH} bytes; use a shorter folder"
        )
    return path


def is_local(endpoint: str) -> bool:
    """Whether only this machine can reach the endpoint: ipc, or tcp on a loopback address."""
    if endpoint.startswith("ipc://"):
        return True
    host = endpoint.removeprefix("tcp://").rpartition(":")[0]
    return _LOOPBACK.fullmatch(host) is not None


def is_ipv6(endpoint: str) -> bool:
    """Whether a tcp endpoint names its host as an IPv6 literal."""
    return endpoint.startswith("tcp://[")
