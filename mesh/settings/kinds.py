"""The kinds of values that a key may have: how each is read, checked, described and written.

Whatever a kind refuses, it says what it would accept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mesh.errors import ConfigError
from mesh.protocol.endpoints import parse_endpoint
from mesh.units import parse_duration, parse_size, show_duration, show_size

_SHOWN = 60
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_FLAGS = {"true": True, "yes": True, "on": True, "1": True}
_FLAGS |= {"false": False, "no": False, "off": False, "0": False}
_NOTHING = ("null", "none", "~")


def nearest(word: str, words: Iterable[str], likeness: float = 0.6) -> str:
    """Which of `words` was probably meant by `word`; empty if none."""
    import difflib  # only for who has mistyped something

    found = difflib.get_close_matches(word, words, 1, likeness)
    return found[0] if found else ""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What all kinds have in common. `optional`: null is allowed, and stands for no value."""

    optional: bool = False

    @property
    def allowed(self) -> str:
        """What is allowed, to follow "is not"."""
        return f"{self.words} or null" if self.optional else self.words

    @property
    def words(self) -> str:
        """What is allowed beside null."""
        raise NotImplementedError

    def parse(self, value: Any) -> Any:
        """`value`, from YAML or a program, in the form that the settings hold.

        Raises:
            ValueError: it is not allowed; the message says what is.
        """
        if value is None and self.optional:
            return None
        try:
            return self.check(value)
        except (ValueError, TypeError, ConfigError):
            raise ValueError(self.refusal(value)) from None

    def refusal(self, value: Any) -> str:
        """Why `value` is not allowed, and what is."""
        hint = ""
        if isinstance(value, str) and self.takes_number:
            try:
                self.check(self.plain(value))
                hint = "; write it without quotes"
            except (ValueError, TypeError, ConfigError):
                pass
        return f"{self.shown(value)} is not {self.allowed}{hint}"

    takes_number = False

    def check(self, value: Any) -> Any:
        """`value`, not null, in the form that the settings hold. Raises ValueError."""
        raise NotImplementedError

    def read(self, text: str) -> Any:
        """What a text from the environment or the command line stands for, as YAML would have it.

        Text that stands for nothing allowed comes back as it is, for `parse` to refuse.
        """
        text = text.strip()
        if self.optional and text.lower() in _NOTHING:
            return None
        return self.plain(text)

    def plain(self, text: str) -> Any:
        """As `read`, for what is not null."""
        return text

    def show(self, value: Any) -> Any:
        """`value` as plain data that YAML can hold and `parse` takes back."""
        return value

    def hide(self, value: Any) -> Any:
        """As `show`, without what is secret."""
        return self.show(value)

    def shown(self, value: Any) -> str:
        """`value` for a message: short, and without what is secret."""
        if value is None or isinstance(value, bool):
            return {None: "null", True: "true", False: "false"}[value]
        text = repr(value)
        return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."

    def schema(self) -> dict[str, Any]:
        """The kind as JSON schema."""
        found = self.form()
        if not self.optional:
            return found
        if isinstance(found.get("type"), str) and "enum" not in found:
            return {**found, "type": [found["type"], "null"]}
        return {"anyOf": [found, {"type": "null"}]}

    def form(self) -> dict[str, Any]:
        """What is allowed beside null, as JSON schema."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Switch(Kind):
    """true or false."""

    words = "true or false"

    def check(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value

    def plain(self, text: str) -> Any:
        return _FLAGS.get(text.lower(), text)

    def refusal(self, value: Any) -> str:
        hint = "; write it without quotes" if str(value).lower() in ("true", "false") else ""
        return f"{self.shown(value)} is not {self.allowed}{hint}"

    def form(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, kw_only=True)
class Count(Kind):
    """A whole number."""

    least: int
    most: int
    takes_number = True

    @property
    def words(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def check(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError
        if not self.least <= value <= self.most:
            raise ValueError
        return value

    def plain(self, text: str) -> Any:
        return int(text) if _WHOLE.fullmatch(text) else text

    def form(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, kw_only=True)
class Number(Kind):
    """A number with or without a fraction."""

    least: float
    most: float
    takes_number = True

    @property
    def words(self) -> str:
        return f"a number from {self.least:g} to {self.most:g}"

    def check(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        if not self.least <= value <= self.most:
            raise ValueError
        return float(value)

    def plain(self, text: str) -> Any:
        try:
            number = float(text)
        except ValueError:
            return text
        return number if math.isfinite(number) else text

    def show(self, value: Any) -> Any:
        return None if value is None else show_duration(value)

    def form(self) -> dict[str, Any]:
        return {"type": "number", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, kw_only=True)
class Duration(Kind):
    """Seconds: a number, or text with a unit."""

    least: float
    most: float

    @property
    def words(self) -> str:
        return (
            f"a duration from {self.least:g} to {self.most:g} seconds, as in 0.5, 500ms, 30s or 5m"
        )

    def check(self, value: Any) -> float:
        seconds = parse_duration(value)
        if not self.least <= seconds <= self.most:
            raise ValueError
        return seconds

    def show(self, value: Any) -> Any:
        return None if value is None else show_duration(value)

    def form(self) -> dict[str, Any]:
        return {
            "anyOf": [
                {"type": "number", "minimum": self.least, "maximum": self.most},
                {"type": "string", "pattern": r"^\s*[0-9.]+(e-?[0-9]+)?\s*(us|ms|s|m|h|d)?\s*$"},
            ]
        }


@dataclass(frozen=True, kw_only=True)
class Size(Kind):
    """Octets: a number, or text with a unit."""

    least: int
    most: int

    @property
    def words(self) -> str:
        least, most = show_size(self.least), show_size(self.most)
        return f"a size from {least} to {most}, as in 512MB, 1GB (10^9 octets) or 64MiB (2^20)"

    def check(self, value: Any) -> int:
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise ValueError
        octets = parse_size(value)
        if not self.least <= octets <= self.most:
            raise ValueError
        return octets

    def show(self, value: Any) -> Any:
        return None if value is None else show_size(value)

    def form(self) -> dict[str, Any]:
        return {
            "anyOf": [
                {"type": "integer", "minimum": self.least, "maximum": self.most},
                {"type": "string", "pattern": r"^\s*[0-9.]+\s*[KMGTkmgt]?([iI]?[bB])?\s*$"},
            ]
        }


@dataclass(frozen=True, kw_only=True)
class Choice(Kind):
    """One of a few words; capitals do not matter."""

    names: tuple[str, ...]

    @property
    def words(self) -> str:
        return f"one of {', '.join(self.names)}"

    def check(self, value: Any) -> str:
        if not isinstance(value, str) or value.strip().lower() not in self.names:
            raise ValueError
        return value.strip().lower()

    def refusal(self, value: Any) -> str:
        near = nearest(str(value).lower(), self.names)
        hint = f"; did you mean {near}?" if near else ""
        return f"{self.shown(value)} is not {self.allowed}{hint}"

    def form(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.names)}


@dataclass(frozen=True, kw_only=True)
class Folder(Kind):
    """The path of a directory; it need not exist yet."""

    words = "the path of a directory, as in /var/lib/sage/memory"

    def check(self, value: Any) -> str:
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise ValueError
        return value

    def form(self) -> dict[str, Any]:
        return {"type": "string", "pattern": r"\S"}


@dataclass(frozen=True, kw_only=True)
class Host(Kind):
    """A name or address of this machine to listen at."""

    words = "the name or address of a machine, as in 127.0.0.1, or * for all its addresses"

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError
        host = value.strip()
        inner = host.removeprefix("[").removesuffix("]")
        address = f"[{inner}]" if ":" in inner else host
        parse_endpoint(f"tcp://{address}:1", bind=True)
        return host

    def form(self) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^\s*[^\s/]+\s*$"}


@dataclass(frozen=True, kw_only=True)
class Address(Kind):
    """Where to serve HTTP."""

    words = "HOST:PORT, as in 127.0.0.1:9090, or unix:PATH"

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError
        address = value.strip()
        if address.startswith("unix:"):
            if not address.removeprefix("unix:") or not address.isprintable():
                raise ValueError
            return address
        parse_endpoint(f"tcp://{address}", bind=True)
        if not address.rpartition(":")[2].isdecimal():
            raise ValueError
        return address

    def form(self) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^\s*(unix:.+|[^\s/]+:[0-9]+)\s*$"}


@dataclass(frozen=True, kw_only=True)
class Endpoints(Kind):
    """Addresses, as a list or a text with one or several; `bind` are to listen at."""

    bind: bool = False

    @property
    def words(self) -> str:
        also = "" if self.bind else ", dns://HOST:PORT"
        return f"a list of endpoints, each as tcp://HOST:PORT, HOST:PORT{also} or ipc://PATH"

    def check(self, value: Any) -> tuple[str, ...]:
        texts = self.plain(value) if isinstance(value, str) else value
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
            raise ValueError
        return tuple(dict.fromkeys(parse_endpoint(text, bind=self.bind) for text in texts))

    def refusal(self, value: Any) -> str:
        texts = self.plain(value) if isinstance(value, str) else value
        for text in texts if isinstance(texts, list | tuple) else ():
            try:
                parse_endpoint(text, bind=self.bind)
            except ConfigError as error:
                return str(error)
            except AttributeError:
                return f"{self.shown(text)} in the list is not text; {self.allowed} is needed"
        return super().refusal(value)

    def plain(self, text: str) -> Any:
        return text.replace(",", " ").split()

    def show(self, value: Any) -> Any:
        return None if value is None else list(value)

    def form(self) -> dict[str, Any]:
        return {
            "anyOf": [
                {"type": "array", "items": {"type": "string", "minLength": 1}},
                {"type": "string"},
            ]
        }


@dataclass(frozen=True, kw_only=True)
class Url(Kind):
    """The address of another program's server. A password in it is not shown."""

    schemes: tuple[str, ...]

    @property
    def words(self) -> str:
        return f"an address that begins with {', '.join(f'{s}://' for s in self.schemes)}"

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError
        scheme, mark, rest = value.strip().partition("://")
        if not mark or not rest or scheme not in self.schemes or not value.strip().isprintable():
            raise ValueError
        return value.strip()

    def hide(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        scheme, mark, rest = value.rpartition("://")
        credentials, at, server = rest.rpartition("@")
        user, colon, _ = credentials.partition(":")
        hidden = f"{user}:***" if colon else credentials
        server = re.sub(r"(?i)(password=)[^&]*", r"\1***", server)
        return f"{scheme}{mark}{hidden}{at}{server}"

    def shown(self, value: Any) -> str:
        return super().shown(self.hide(value))

    def form(self) -> dict[str, Any]:
        names = "|".join(re.escape(scheme) for scheme in self.schemes)
        return {"type": "string", "pattern": rf"^\s*({names})://."}


@dataclass(frozen=True, kw_only=True)
class Missing(Kind):
    """A key of a function that does not exist yet. It may be there, with a value that is `off`.

    `what` says what any other value asks for.
    """

    what: str
    off: tuple[Any, ...] = (None,)

    @property
    def words(self) -> str:
        return " or ".join(self.shown(value) for value in self.off)

    def shown(self, value: Any) -> str:
        return value if isinstance(value, str) and value in self.off else super().shown(value)

    def check(self, value: Any) -> Any:
        for known in self.off:
            if type(value) is type(known) and value == known:
                return known
        raise ValueError

    def plain(self, text: str) -> Any:
        lowered = text.lower()
        if lowered in _NOTHING:
            return None
        if bool in map(type, self.off) and lowered in _FLAGS:
            return _FLAGS[lowered]
        return int(text) if _WHOLE.fullmatch(text) else text

    def refusal(self, value: Any) -> str:
        off = [self.shown(known) for known in self.off if known is not None]
        remedy = f"set it to {off[0]}, or remove it" if off else "remove it"
        return (
            f"{self.shown(value)} asks for {self.what}, which is not available in this version; "
            f"{remedy}"
        )

    def form(self) -> dict[str, Any]:
        return {"enum": list(self.off)}
