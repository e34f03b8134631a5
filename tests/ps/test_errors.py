"""The error tree is the one that its page draws."""

from __future__ import annotations

import inspect
import re

import pytest

from ps import errors
from ps.errors import HogsheadError, TransportError, UsageError, meant, nearest

CLASSES = {name: cls for name, cls in vars(errors).items() if inspect.isclass(cls) and cls.__module__ == "ps.errors"}


def test_the_drawing_shows_every_class_below_its_base():
    path, seen = ["", ""], {}  # the last name at the first and at the second depth
    for line in errors.__doc__.splitlines():
        if match := re.match(r"    (\w+)$", line):
            path[0] = match[1]
        elif match := re.match(r"      └── (\w+)", line):
            path[1] = match[1]
            seen[match[1]] = path[0]
        elif match := re.match(r"            [└├]── (\w+)", line):
            seen[match[1]] = path[1]
    assert seen == {name: cls.__base__.__name__ for name, cls in CLASSES.items()}


def test_a_users_mistake_is_a_value_error_and_a_failure_is_not():
    assert issubclass(UsageError, ValueError) and not issubclass(HogsheadError, ValueError)


def test_a_failure_carries_where_it_happened():
    error = TransportError("gone", shard=2, replica=1, version=7)
    assert (str(error), error.shard, error.replica, error.version) == ("gone", 2, 1, 7)
    assert (TransportError("gone").shard, TransportError("gone").replica) == (None, None)


@pytest.mark.parametrize(
    "word, known, said",
    [
        ("taw", ["tau", "beta"], "; did you mean 'tau'?"),
        ("xyz", ["tau", "beta"], "; there are: beta, tau"),
        ("xyz", [], "; there are: none"),
    ],
)
def test_nearest(word, known, said):
    assert nearest(word, known) == said


@pytest.mark.parametrize(("word", "said"), [("taw", "; did you mean 'tau'?"), ("xyz", ""), (3, ""), (None, "")])
def test_a_message_that_lists_the_choices_does_not_list_them_twice(word, said):
    assert meant(word, ["tau", "beta"]) == said
