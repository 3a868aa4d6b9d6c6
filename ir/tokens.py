"""The tokens of a graph's text, and where in it an error is."""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, NoReturn, TypeVar

import numpy as np

from .dims import Dim, is_dim, symbols
from .elements import parse_elements
from .errors import ModelError
from .suggestion import did_you_mean
from .types import Container, DType, TensorType

_NAME = r"/?[\w.$-]+(?:/[\w.$-]+)*"
_WORD = r"[A-Za-z_][\w.]*(?:::[\w.]+)*"
_STRING = r'"(?:[^"\\\n]|\\.)*"'
_TENSOR = r"[a-z]\w*\[[^\]\n]*\]"
_HELD = r"(?:optional\(sequence|sequence\(map_(?:int64|string))"
_TOKEN = re.compile(
    rf"""(?P<blank>\s+|//[^\n]*)
       | (?P<name>%(?:{_STRING}|{_NAME}))
       | (?P<string>{_STRING})
       | (?P<type>{_HELD}\({_TENSOR}\)\)|(?:optional|sequence)\({_TENSOR}\)|{_TENSOR})
       | (?P<number>[-+]?(?:0x[0-9a-f]+|\d+(?:\.\d*)?(?:e[-+]?\d+)?)|-inf)
       | (?P<word>{_WORD})
       | (?P<mark>[(){{}}\[\],:=@])
       | (?P<end>\Z)""",
    re.VERBOSE | re.ASCII,
)
Item = TypeVar("Item")


class ParseError(ModelError):
    """Text that is no graph; the message starts with line and column."""


def format_name(name: str) -> str:
    """A value's name as it stands in the text: quoted where it has unusual characters."""
    return "%" + (name if re.fullmatch(_NAME, name, re.ASCII) else json.dumps(name))


def format_word(text: str) -> str:
    """A word as it stands in the text: quoted where it isn't one."""
    return text if re.fullmatch(_WORD, text, re.ASCII) else json.dumps(text)


class Token(NamedTuple):
    kind: str
    text: str
    offset: int


class Tokens:
    """The text as tokens, and where in it an error is."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[Token] = []
        self._next = 0
        offset = 0
        while not self._tokens or self._tokens[-1].kind != "end":
            match = _TOKEN.match(text, offset)
            if match is None:
                self.fail(f"unexpected {text[offset]!r}", offset)
            if match.lastgroup != "blank":
                self._tokens.append(Token(match.lastgroup or "", match[0], offset))
            offset = match.end()

    @property
    def next(self) -> Token:
        return self._tokens[self._next]

    def take(self, kind: str) -> Token:
        token = self.next
        if token.kind != kind:
            self.fail(f"expected a {kind}, found {token.text or 'the end'}", token.offset)
        self._next += 1
        return token

    def accept(self, text: str) -> bool:
        if self.next.text != text:
            return False
        self._next += 1
        return True

    def expect(self, text: str) -> None:
        if not self.accept(text):
            self.fail(f"expected {text}, found {self.next.text or 'the end'}", self.next.offset)

    def word(self) -> str:
        """A bare word or a quoted one."""
        return self.string() if self.next.kind == "string" else self.take("word").text

    def string(self) -> str:
        token = self.take("string")
        return self.convert(token, lambda: json.loads(token.text))

    def type(self) -> TensorType:
        token = self.take("type")
        return self.convert(token, lambda: _parse_type(token.text))

    def name(self) -> tuple[Token, str]:
        token = self.take("name")
        text = token.text[1:]
        return token, self.convert(token, lambda: json.loads(text)) if text.startswith('"') else text

    def sequence(self, close: str, item: Callable[[], Item]) -> list[Item]:
        """Items between commas, up to a closing mark."""
        found: list[Item] = []
        while not self.accept(close):
            if found:
                self.expect(",")
            found.append(item())
        return found

    def element(self) -> str:
        """The text of a tensor's element."""
        if self.next.kind not in ("number", "word", "string"):
            self.fail(f"expected an element, found {self.next.text or 'the end'}", self.next.offset)
        return self.take(self.next.kind).text

    def tensor(self, type: TensorType) -> np.ndarray:
        start = self.next
        elements = self.sequence("]", self.element) if self.accept("[") else [self.element()]
        return self.convert(start, lambda: parse_elements(elements, type))

    def convert(self, token: Token, conversion: Callable[[], Item]) -> Item:
        try:
            return conversion()
        except ValueError as error:
            self.fail(str(error), token.offset)

    def fail(self, message: str, offset: int) -> NoReturn:
        line = self._text.count("\n", 0, offset) + 1
        column = offset - self._text.rfind("\n", 0, offset)
        raise ParseError(f"line {line}, column {column}: {message}")


@lru_cache(maxsize=1 << 9)
def _parse_type(text: str) -> TensorType:
    match = re.fullmatch(r"((?:\w+\()*)(\w+)\[(.*)\]\)*", text)
    assert match is not None  # as the token's pattern has it
    holders, name, dims = match.groups()
    if name not in DType.__members__:
        raise ValueError(f"{name} is no element type{did_you_mean(name, DType.__members__, spell=str)}")
    container = Container(" ".join(re.findall(r"\w+", holders)))
    shape = None if dims.strip() == "..." else tuple(map(_parse_dim, _split(dims)))
    return TensorType(DType[name], shape, container)


def _split(text: str) -> list[str]:
    """The parts between commas outside parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [] if parts == [""] else parts


def _parse_dim(text: str) -> Dim:
    text = text.strip()
    if text.isdecimal() and len(text) < 20 and int(text) < 1 << 63:
        return int(text)
    if not is_dim(text) or not symbols(text):
        raise ValueError(f"{text or 'nothing'} is no dimension")
    return text
