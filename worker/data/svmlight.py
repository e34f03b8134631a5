"""Reader of svmlight/libsvm files: ``label index:value index:value ... # comment``, one example a line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ps.errors import DataError
from ps.jit import njit
from worker.data.dataset import CsrDataset
from worker.data.files import locate, read_text

# Empty lines and comments, then a line that begins with a feature.
_LABEL_MISSING = re.compile(rb"(?:[ \t\r]*(?:#[^\n]*)?\n)*[ \t]*(?:qid:[^ \t\n]+[ \t]+)?[0-9]+:")
_PROBLEMS = {
    1: "a label (a number) is expected",
    2: "a feature index (an integer >= 0) is expected",
    3: "':' is expected after the feature index",
    4: "a value (a number) is expected after ':'",
    5: "the label is not finite",
    6: "the value is not finite",
    7: "the feature index is above 2147483647",
    8: "the feature stands twice in this line",
    9: "a feature index 0 in a file whose indices start at 1; set index_base = 0",
}


@dataclass
class SvmlightFile:
    """A file that was read.

    Attributes:
      data: the examples, indices 0-based, sorted and unique in each row.
      features: 1 + the greatest 0-based index (0 if no example has any).
      index_base: 0 or 1, what the file's own indices start at.
      lines: int64 (n,), the line of the file that each example stands in, from 1.
    """

    data: CsrDataset
    features: int
    index_base: int
    lines: np.ndarray


def read_svmlight(
    name: str | Path,
    *,
    index_base: int | None = None,
    dtype: str = "float32",
    what: str = "train",
    labelled: bool = True,
) -> SvmlightFile:
    """Read a file, plain or compressed by gzip, bzip2 or xz, or bundled (``hogshead:a9a``).

    Comments after ``#`` and ``qid:N`` are ignored, empty lines are skipped, unsorted rows are sorted. Numbers of up to
    15 digits and exponents within +-22 are exact in float64, others right to a few units in the last place.

    Args:
      name: path of the file.
      index_base: what indices start at: 0, 1, or None: 0 if any index is 0, else 1.
      dtype: of the values, float32 or float64.
      what: the option that named the file, for messages.
      labelled: every line begins with a label. If false, labels may be missing, in all lines: then they are 0, and an empty line
        is an example without features.

    Raises:
      DataError: no such file, malformed (file, line and column), not finite, a feature twice in a row, or no example.
    """
    path = locate(name, what)
    content = read_text(path)
    labelled = labelled or not _LABEL_MISSING.match(content)
    text = np.frombuffer(content, np.uint8)
    rows, pairs = _count(text)
    indptr = np.zeros(rows + 1, np.int64)
    indices, values = np.empty(pairs, np.int32), np.empty(pairs, dtype)
    labels, lines = np.empty(rows, dtype), np.empty(rows, np.int64)
    rows, problem, position = _parse(text, labelled, indptr, indices, values, labels, lines)
    if problem:
        _refuse(path, text, problem, position)
    if rows == 0:
        raise DataError(f"{path}: holds no example")
    indptr, labels = indptr[: rows + 1].copy(), labels[:rows].copy()
    indices, values = indices[: indptr[-1]].copy(), values[: indptr[-1]].copy()
    row = _sort_rows(indptr, indices, values)
    if row >= 0:
        raise DataError(f"{path}, line {lines[row]}: {_PROBLEMS[8]}")
    lowest = int(indices.min()) if indices.size else 1
    base = (0 if lowest == 0 else 1) if index_base is None else index_base
    if lowest < base:
        _refuse_zero(path, indptr, indices, lines)
    indices -= np.int32(base)
    features = int(indices.max()) + 1 if indices.size else 0
    return SvmlightFile(CsrDataset(indptr, indices, values, labels), features, base, lines[:rows].copy())


def widest(file: SvmlightFile) -> str:
    """Where the greatest index of a file stands: ``line 7 (feature index 123)``."""
    place = int(np.argmax(file.data.indices))
    row = int(np.searchsorted(file.data.indptr, place, side="right")) - 1
    return f"line {file.lines[row]} (feature index {file.features - 1 + file.index_base})"


def _refuse(path: Path, text: np.ndarray, problem: int, position: int) -> None:
    before = text[:position].tobytes()
    line = before.count(b"\n") + 1
    column = position - (before.rfind(b"\n") + 1) + 1
    token = bytes(text[position : position + 40]).split(b"\n")[0].split(b" ")[0].decode(errors="replace")
    raise DataError(f"{path}, line {line}, column {column}: {_PROBLEMS[problem]}, got {token!r}")


def _refuse_zero(path: Path, indptr: np.ndarray, indices: np.ndarray, lines: np.ndarray) -> None:
    row = int(np.searchsorted(indptr, int(np.argmax(indices == 0)), side="right")) - 1
    raise DataError(f"{path}, line {lines[row]}: {_PROBLEMS[9]}")


@njit(nogil=True, cache=True)
def _count(text):
    """Upper bounds on the numbers of rows and of index:value pairs."""
    rows, pairs = 1, 0
    for byte in text:
        if byte == 10:
            rows += 1
        elif byte == 58:
            pairs += 1
    return rows, pairs


@njit(nogil=True, cache=True)
def _blank(byte):
    return byte == 32 or byte == 9 or byte == 13


@njit(nogil=True, cache=True)
def _word_at(text, at, word):
    """Whether ``word`` (lower case) stands at ``at``, in any case."""
    if at + word.size > text.size:
        return False
    for offset in range(word.size):
        if text[at + offset] | 32 != word[offset]:
            return False
    return True


_NAN = np.frombuffer(b"nan", np.uint8)
_INF = np.frombuffer(b"inf", np.uint8)
_INFINITY = np.frombuffer(b"infinity", np.uint8)
_QID = np.frombuffer(b"qid:", np.uint8)
_POWERS = np.array([10.0**k for k in range(23)])


@njit(nogil=True, cache=True)
def _scale(mantissa, exponent):
    """mantissa * 10**exponent; exact while the mantissa is below 2**53 and |exponent| <= 22."""
    while exponent > 22:
        mantissa *= _POWERS[22]
        exponent -= 22
        if np.isinf(mantissa):
            return mantissa
    while exponent < -22:
        mantissa /= _POWERS[22]
        exponent += 22
        if mantissa == 0.0:
            return mantissa
    return mantissa * _POWERS[exponent] if exponent >= 0 else mantissa / _POWERS[-exponent]


@njit(nogil=True, cache=True)
def parse_number(text, at):
    """Read a decimal number. Returns (value, position after it); that position is ``at`` if there is none."""
    start, sign = at, 1.0
    if at < text.size and (text[at] == 43 or text[at] == 45):
        sign = -1.0 if text[at] == 45 else 1.0
        at += 1
    if _word_at(text, at, _NAN):
        return np.nan, at + 3
    if _word_at(text, at, _INFINITY):
        return sign * np.inf, at + 8
    if _word_at(text, at, _INF):
        return sign * np.inf, at + 3
    mantissa, kept, exponent, digits, after_point = np.int64(0), 0, 0, 0, False
    while at < text.size:
        byte = text[at]
        if 48 <= byte <= 57:
            digits += 1
            if kept < 18:
                mantissa = mantissa * 10 + (np.int64(byte) - 48)
                kept += 1 if mantissa > 0 else 0
                exponent -= 1 if after_point else 0
            else:
                exponent += 0 if after_point else 1
        elif byte == 46 and not after_point:
            after_point = True
        else:
            break
        at += 1
    if digits == 0:
        return 0.0, start
    if at < text.size and text[at] | 32 == 101:
        mark, negative, power, any_digit = at + 1, False, 0, False
        if mark < text.size and (text[mark] == 43 or text[mark] == 45):
            negative = text[mark] == 45
            mark += 1
        while mark < text.size and 48 <= text[mark] <= 57:
            power = min(power * 10 + (np.int64(text[mark]) - 48), 100000)
            any_digit = True
            mark += 1
        if not any_digit:
            return 0.0, start
        exponent += -power if negative else power
        at = mark
    return sign * _scale(np.float64(mantissa), exponent), at


@njit(nogil=True, cache=True)
def _ends(text, at):
    """Whether a token ends at ``at``."""
    return at >= text.size or _blank(text[at]) or text[at] == 10 or text[at] == 35


@njit(nogil=True, cache=True)
def _parse(text, labelled, indptr, indices, values, labels, lines):
    """Fill the arrays. Returns (rows, problem or 0, position of the problem)."""
    at, row, pair, line = 0, 0, 0, 1
    while at < text.size:
        while at < text.size and _blank(text[at]):
            at += 1
        if at < text.size and text[at] != 35 and (text[at] != 10 or not labelled):
            label = 0.0
            if labelled:
                token = at
                label, at = parse_number(text, at)
                if at == token or not _ends(text, at):
                    return row, 1, token
                if not np.isfinite(label):
                    return row, 5, token
            pair, at, problem = _parse_pairs(text, at, indices, values, pair)
            if problem:
                return row, problem, at
            labels[row] = label
            lines[row] = line
            row += 1
            indptr[row] = pair
        while at < text.size and text[at] != 10:
            at += 1
        at += 1
        line += 1
    return row, 0, 0


@njit(nogil=True, cache=True)
def _parse_pairs(text, at, indices, values, pair):
    """Read ``index:value`` up to the end of the line. Returns (pairs so far, position, problem or 0)."""
    while True:
        while at < text.size and _blank(text[at]):
            at += 1
        if at >= text.size or text[at] == 10 or text[at] == 35:
            return pair, at, 0
        token = at
        if _word_at(text, at, _QID):
            while not _ends(text, at):
                at += 1
            continue
        index = np.int64(0)
        while at < text.size and 48 <= text[at] <= 57:
            index = index * 10 + (np.int64(text[at]) - 48)
            if index > 2147483647:
                return pair, token, 7
            at += 1
        if at == token:
            return pair, token, 2
        if at >= text.size or text[at] != 58:
            return pair, token, 3
        at += 1
        begin = at
        value, at = parse_number(text, at)
        if at == begin or not _ends(text, at):
            return pair, begin, 4
        indices[pair] = index
        values[pair] = value
        if not np.isfinite(values[pair]):
            return pair, begin, 6
        pair += 1


@njit(nogil=True, cache=True)
def _sort_rows(indptr, indices, values):
    """Sort each row by index where it is not sorted. Returns a row with an index twice, or -1."""
    for row in range(indptr.size - 1):
        start, stop = indptr[row], indptr[row + 1]
        ordered = True
        for k in range(start + 1, stop):
            if indices[k] <= indices[k - 1]:
                ordered = False
                break
        if not ordered:
            order = np.argsort(indices[start:stop], kind="mergesort")
            indices[start:stop] = indices[start:stop][order]
            values[start:stop] = values[start:stop][order]
            for k in range(start + 1, stop):
                if indices[k] == indices[k - 1]:
                    return row
    return -1
