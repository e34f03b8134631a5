"""TOML from a stranger: Python's reader takes time and memory that grow with the square of how long a dotted key is."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from ps.errors import JobError

MOST_TEXT = 256 << 10  # characters
MOST_DOTS = 32  # of one key
MOST_KEYS = 2000
# A string or a comment, whole; a dot; what ends a key. An open string reaches to the end, so that each letter is read once.
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"""|\\?\Z)'
    r"|'''.*?(?:'''|\Z)"
    r'|"(?:\\.|[^"\\\n])*"?'
    r"|'[^'\n]*'?"
    r"|#[^\n]*"
    r"|(?P<dot>\.)|(?P<end>[,=\[\]{}\n])"
    r"|[^\"'#.,=\[\]{}\n]+",
    re.DOTALL,
)


def read(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
      JobError: see ``check``; or it has tables too deep in each other, or is not TOML.
    """
    check(text)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise JobError("the job has tables or lists in each other too deep") from None
    except ValueError as error:  # also a number of too many digits
        raise JobError(f"the job is not valid TOML: {error}") from None


def check(text: str) -> None:
    """Refuse what would take too long to read.

    Raises:
      JobError: the text is too long, or has too many keys, or one of too many parts.
    """
    if len(text) > MOST_TEXT:
        raise JobError(f"a job must have at most {MOST_TEXT} characters, got {len(text)}")
    dots = keys = 0
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "dot":
            dots += 1
            if dots > MOST_DOTS:
                raise JobError(
                    f"a key must have at most {MOST_DOTS} dots, got more near {text[token.start() - 40 : token.end()]!r}"
                )
        elif token.lastgroup == "end":
            dots = 0
            keys += token.group() == "="
    if keys > MOST_KEYS:
        raise JobError(f"a job must have at most {MOST_KEYS} keys, got {keys}")
