"""A place in a query string that moves forward, and errors that point at places."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

from mesh.errors import InvalidArgument
from workers.search.query import lexis
from workers.search.query.clauses import boosted, check_boost
from workers.search.query.nodes import Node

T = TypeVar("T")


class Scanner:
    """`text`, read up to `at`."""

    __slots__ = ("at", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def skip(self) -> None:
        """Pass over spaces."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def quoted(self) -> str:
        """The text in the quotes that open here."""
        found = lexis.QUOTED[self.text[self.at]].match(self.text, self.at)
        if found is None:
            self.fail(self.at, "this quote is not closed; write \\ before it to search for it")
        self.at = found.end()
        return lexis.inner(found[1])

    def ending(self) -> tuple[str, str]:
        """The number of moves, and the boost, that follow directly; "" for none."""
        found = lexis.ENDING.match(self.text, self.at)
        if found is None or found.end() == self.at:
            if self.text.startswith("*", self.at):
                self.fail(self.at, "* stands behind a word only, as in cach*")
            return "", ""
        self.at = found.end()
        return found[1] or "", found[2] or ""

    def ended(self, node: Node) -> Node:
        """`node` with the boost that follows it."""
        moves, factor = self.ending()
        if moves:
            self.fail(self.at, f"~{moves:.10} stands behind a word or a phrase only")
        return self.boosted(node, factor)

    def boosted(self, node: Node, factor: str) -> Node:
        """`node` with a boost that ends here; "" for none."""
        if not factor:
            return node
        try:
            number: float | str = float(factor)
        except ValueError:
            number = factor
        return boosted(node, self.placed(self.at - len(factor), lambda: check_boost(number)))

    def placed(self, at: int, make: Callable[[], T]) -> T:
        """What `make` returns; an error of it is one of that place."""
        try:
            return make()
        except InvalidArgument as error:
            if "position" in error.data:
                raise
            self.fail(at, error.message)

    def fail(self, at: int, problem: str) -> NoReturn:
        """Raise InvalidArgument about that place."""
        raise InvalidArgument(
            f"position {at}: {problem}\n{lexis.pointed(self.text, at)}", data={"position": at}
        ) from None
