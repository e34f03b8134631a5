"""Readers of weighted graphs: an edge list, the labels of some nodes, and nodes to be labelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ps.errors import DataError
from worker.data.columns import Column, Found
from worker.data.files import locate
from worker.data.ids import union
from worker.data.table import read_table

EDGES = (
    Column("u", ("u", "source", "src", "from", "fromnode", "node1", "nodeid1", "tail")),
    Column("v", ("v", "target", "dst", "to", "tonode", "node2", "nodeid2", "head")),
    Column("weight", ("weight", "w", "capacity"), number=True),
)
NODE = Column("node", ("node", "nodeid", "id", "vertex", "name"))
LABEL = Column("label", ("label", "class", "side", "group", "category", "terminal"))


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
    table, _ = read_table(path, EDGES)
    ids, (u, v) = union(table["u"], table["v"])
    negative = np.flatnonzero(table["weight"] < 0)
    if negative.size:
        edge = negative[0]
        raise DataError(
            f"{path}: weights must be >= 0, got {table['weight'][edge]} for the edge {ids[u[edge]]} - {ids[v[edge]]}"
        )
    proper = u != v
    if not proper.any():
        raise DataError(f"{path}: holds no edge between two different nodes")
    return ids, u[proper], v[proper], table["weight"][proper]


def read_terminals(name: str | Path, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, Found]:
    """Read a table of text with the columns node, label: the nodes whose label is known.

    Args:
      name: the file.
      ids: the nodes' ids as ``read_edges`` gave them.

    Returns:
      (nodes, classes, labels, columns): int64 indices into ``ids`` (k,); int64 indices into ``labels`` (k,); the sorted
      labels; where node and label stand.

    Raises:
      DataError: no such file, a node without an edge or with two labels, or fewer than two labels.
    """
    path = locate(name, "graph_cuts: terminals")
    table, found = read_table(path, (NODE, LABEL), known={"node": ids})
    places = table["node"].codes_in(ids)
    unknown = np.flatnonzero(places < 0)
    if unknown.size:
        raise DataError(f"{path}: node {table['node'].cells[unknown[0]]} has no edge; take it out or add one")
    labels, classes = table["label"].ids, table["label"].codes
    if labels.size < 2:
        raise DataError(
            f"{path}: must name at least two different labels, got {labels.size}; with one there is nothing to cut"
        )
    order = np.argsort(places, kind="stable")
    twice = np.flatnonzero((np.diff(places[order]) == 0) & (np.diff(classes[order]) != 0))
    if twice.size:
        raise DataError(f"{path}: node {ids[places[order][twice[0]]]} has two labels")
    return places, classes, labels, found


def read_nodes(name: str | Path, ids: np.ndarray, like: Found) -> np.ndarray:
    """Read a table of text with the column node; it needs no labels.

    Args:
      ids: the nodes' ids as ``read_edges`` gave them.
      like: the columns of the terminals' file.

    Returns:
      int64 indices into ``ids`` (n,).

    Raises:
      DataError: no such file, or a node that the graph does not have.
    """
    path = locate(name, "inputs")
    nodes = read_table(path, (NODE,), like=like, known={"node": ids})[0]["node"]
    places = nodes.codes_in(ids)
    unknown = np.flatnonzero(places < 0)
    if unknown.size:
        raise DataError(f"{path}: there is no node {nodes.cells[unknown[0]]} in the graph")
    return places
