"""Readers of weighted graphs: an edge list and the labels of some nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ps.errors import DataError
from worker.data.files import locate
from worker.data.table import read_table, remap


def read_edges(name: str | Path, *, what: str = "train") -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read a table of text (see ``read_table``) with the columns node, node, weight.

    Edges from a node to itself are dropped: they are never cut.

    Returns:
      (ids, u, v, weight): the nodes' ids, sorted (nodes,); the ends of each edge as int64 indices into them (n,);
      weights float64 (n,), >= 0.

    Raises:
      DataError: no such file, malformed (line and column), a weight < 0, or no edge.
    """
    path = locate(name, what)
    table = read_table(path, ("u", "v"), ("weight",))
    negative = np.flatnonzero(table["weight"] < 0)
    if negative.size:
        edge = negative[0]
        raise DataError(
            f"{path}: weights must be >= 0, got {table['weight'][edge]} for the edge "
            f"{table['u'][edge]} - {table['v'][edge]}"
        )
    ids, (u, v) = remap(table["u"], table["v"])
    proper = u != v
    if not proper.any():
        raise DataError(f"{path}: holds no edge between two different nodes")
    return ids, u[proper], v[proper], table["weight"][proper]


def read_terminals(name: str | Path, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read a table of text with the columns node, label: the nodes whose label is known.

    Args:
      name: the file.
      ids: the nodes' ids as ``read_edges`` gave them.

    Returns:
      (nodes, classes, labels): int64 indices into ``ids`` (k,); int64 indices into ``labels`` (k,); the sorted labels.

    Raises:
      DataError: no such file, a node without an edge or with two labels, or fewer than two labels.
    """
    path = locate(name, "graph_cuts: terminals")
    table = read_table(path, ("node", "label"), ())
    if ids.dtype.kind != "U":
        table = _without_header(table)
    nodes = table["node"].astype(ids.dtype) if ids.dtype.kind == "U" else table["node"]
    if nodes.dtype.kind != ids.dtype.kind:
        raise DataError(f"{path}: its nodes are text, but the nodes of the edges are integers")
    places = np.minimum(np.searchsorted(ids, nodes), ids.size - 1)
    unknown = np.flatnonzero(ids[places] != nodes)
    if unknown.size:
        raise DataError(f"{path}: node {nodes[unknown[0]]} has no edge; take it out or add one")
    labels, classes = np.unique(table["label"], return_inverse=True)
    if labels.size < 2:
        raise DataError(
            f"{path}: must name at least two different labels, got {labels.size}; with one there is nothing to cut"
        )
    order = np.argsort(places, kind="stable")
    twice = np.flatnonzero((np.diff(places[order]) == 0) & (np.diff(classes[order]) != 0))
    if twice.size:
        raise DataError(f"{path}: node {ids[places[order][twice[0]]]} has two labels")
    return places, classes.astype(np.int64), labels


def _without_header(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drop a first line that is the only one whose node is no integer: with labels of text, nothing else tells a header."""
    nodes = table["node"]
    if nodes.dtype.kind != "U" or nodes.size < 2:
        return table
    try:
        return {"node": nodes[1:].astype(np.int64), "label": table["label"][1:]}
    except ValueError:
        return table
