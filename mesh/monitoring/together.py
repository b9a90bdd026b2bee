"""Several processes at one address: each is asked at its own socket, and their figures merged."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from mesh.monitoring.http import UNIX, Unresponsive

SUFFIX = ".sock"
LABEL = "process"
ANSWER_TTL = 4.0
AT_ONCE = 16
MAX_ANSWER = 32 * 1024 * 1024


def address_in(folder: Path, name: str) -> str:
    """Where the process called `name` is to tell of itself, for those who look into `folder`."""
    return f"{UNIX}{folder / (name + SUFFIX)}"


class Together:
    """All processes that have a socket in `folder`, by the names of these.

    `missing` gives reasons why the whole is not ready although every process that is there is. A
    process that has died has no socket that answers: it is left out, and its socket removed.
    """

    def __init__(self, folder: Path, missing: Callable[[], list[str]] = lambda: []) -> None:
        self._folder = folder
        self._missing = missing

    def status(self) -> dict[str, Any]:
        """`processes`: the status of each, or an `error`. Raises Unresponsive if none answers."""
        found: dict[str, Any] = {}
        silent = []
        for name, answer in self._ask("/status").items():
            try:
                found[name] = json.loads(_body(answer))
            except Unresponsive as error:
                found[name] = {"error": str(error)}
                silent.append(f"{name}: {error}")
        if silent and len(silent) == len(found):
            raise Unresponsive("; ".join(silent))
        return {"processes": found}

    def unready(self) -> list[str]:
        """What is missing, and what each process that is not ready says."""
        reasons = self._missing()
        answers = self._ask("/ready")
        for name, answer in answers.items():
            try:
                told = json.loads(_body(answer))
            except Unresponsive as error:
                told = {"reasons": [str(error)]}
            reasons += [f"{name}: {reason}" for reason in told["reasons"]]
        return reasons if answers or reasons else ["no process tells of itself"]

    def families(self) -> Iterable[Metric]:
        """The figures of all, each with a label that says which process it is of."""
        merged: dict[str, Metric] = {}
        for name, answer in self._ask("/metrics").items():
            with suppress(Unresponsive):
                for family in text_string_to_metric_families(_body(answer).decode()):
                    known = merged.setdefault(
                        family.name, Metric(family.name, family.documentation, family.type)
                    )
                    for sample in family.samples:
                        inner = sample.labels.get(LABEL)
                        process = f"{name}/{inner}" if inner else name
                        known.add_sample(
                            sample.name, {**sample.labels, LABEL: process}, sample.value
                        )
        return merged.values()

    def _ask(self, path: str) -> dict[str, bytes | Unresponsive]:
        """What each process answers at `path`, whatever the status."""
        sockets = sorted(self._folder.glob(f"*{SUFFIX}"))
        if not sockets:
            return {}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = pool.map(lambda each: _fetch(each, path), sockets)
            return {
                each.name.removesuffix(SUFFIX): answer
                for each, answer in zip(sockets, answers, strict=True)
                if answer is not None
            }


def _body(answer: bytes | Unresponsive) -> bytes:
    if isinstance(answer, Unresponsive):
        raise answer
    return answer


def _fetch(path: Path, target: str) -> bytes | Unresponsive | None:
    """What the process at the socket `path` answers; None if it is there no more.

    To be unready is an answer; to be unable to tell figures or status is none.
    """
    connection = _UnixConnection(str(path))
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        body = answer.read(MAX_ANSWER)
        if answer.status != HTTPStatus.OK and target != "/ready":
            return Unresponsive("; ".join(json.loads(body)["reasons"]))
        return body
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return None
    except FileNotFoundError:
        return None
    except (OSError, http.client.HTTPException) as error:
        return Unresponsive(f"does not answer ({error or type(error).__name__})")
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_TTL)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
