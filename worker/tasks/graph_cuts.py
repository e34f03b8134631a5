"""Graph cuts: give every node of a weighted graph a label so that few heavy edges join different ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ps.errors import DataError
from ps.rows import Rows
from worker.data.dataset import ArrayDataset
from worker.data.edges import read_edges, read_nodes, read_terminals
from worker.data.ids import digest
from worker.data.sparsity import Sparsity, sparsity_of_pairs
from worker.locking import Locking
from worker.tasks import checks, graph_kernels

NAME = "graph_cuts"


class GraphCuts:
    """Graph cuts (multi-way cut): minimise the sum of w_uv |x_u - x_v|_1, each x_v in the simplex, terminals fixed.

    The linear relaxation of the minimum cut that separates the terminals (Niu, Recht, Ré, Wright 2011, section 2); for
    two labels its optimum is the minimum cut itself. The objective is the mean over the edges. Costs of single nodes
    are edges to a terminal. A sweep projects on the simplex after every edge; with other strategies the iterates are
    projected in evaluation.

    Options of [task]:
      dtype: "float32" or "float64".
    Options of [data]:
      train: weighted edge list: a table of node, node, weight >= 0 (csv, tsv or blanks; plain or compressed). An id is
        the text of its cell.
      terminals: table of node, label: the nodes whose label is known, of at least two labels. They keep it.

    Raises:
      UsageError: an option out of its bound. DataError: the data cannot be used.
    """

    paths = ("train", "terminals")
    sparse = ("nodes",)

    def __init__(self, train: str, terminals: str, dtype: str = "float32"):
        self.dtype = np.dtype(checks.one_of(dtype, ("float32", "float64"), NAME, "dtype"))
        self.node_ids, u, v, weights = read_edges(train, what=f"{NAME}: train")
        places, classes, self.labels, self._columns = read_terminals(terminals, self.node_ids)
        self._fixed = np.full(self.node_ids.size, -1, np.int64)
        self._fixed[places] = classes
        if (self._fixed >= 0).all():
            raise DataError(f"{NAME}: {terminals}: every node is a terminal, nothing is left to be labelled")
        self._edges = ArrayDataset({"u": u, "v": v, "weight": weights.astype(self.dtype)})

    @property
    def lockables(self) -> int:
        """Number of variables that AIG can lock: the nodes."""
        return self.node_ids.size

    @property
    def model_size(self) -> str:
        """What decides the number of parameters, for messages."""
        return f"{self.node_ids.size:,} nodes with {self.labels.size:,} labels each"

    def parameters(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """``nodes`` (nodes, labels): 1/labels everywhere; for terminals 1 in their own."""
        checks.fits(self.node_ids.size * self.labels.size, 2, self.dtype, NAME, self.model_size)
        x = np.full((self.node_ids.size, self.labels.size), 1 / self.labels.size, self.dtype)
        return {"nodes": self._with_terminals(x)}

    def _with_terminals(self, x: np.ndarray) -> np.ndarray:
        nodes = np.flatnonzero(self._fixed >= 0)
        x[nodes] = 0
        x[nodes, self._fixed[nodes]] = 1
        return x

    def dataset(self) -> ArrayDataset:
        """The edges: a batch is ``{"u": (m,), "v": (m,), "weight": (m,)}``."""
        return self._edges

    def loss_and_gradient(
        self, parameters: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]
    ) -> tuple[float, dict[str, Rows]]:
        """Mean of w_uv |x_u - x_v|_1 over the batch and a subgradient: sign(0) = 0, terminals have none."""
        x = parameters["nodes"]
        rows, places = np.unique(np.concatenate([batch["u"], batch["v"]]), return_inverse=True)
        gradient = np.zeros((rows.size, x.shape[1]), x.dtype)
        scalar = x.dtype.type
        loss = graph_kernels.batch_gradient(
            x,
            self._fixed,
            batch["u"],
            batch["v"],
            batch["weight"],
            places,
            scalar(1 / len(batch["u"])),
            scalar(1),
            gradient,
        )
        free = self._fixed[rows] < 0
        return loss, {"nodes": Rows(rows[free], gradient[free])}

    def sweep(
        self, parameters: Mapping[str, np.ndarray], examples: np.ndarray, step_size: float, locking: Locking
    ) -> float:
        """Hogwild!'s loop over ``examples`` (int64), in place: x_u -= step*w*sign(x_u - x_v), x_v += the same, then
        both are projected on the simplex.

        Returns:
          Sum of w_uv |x_u - x_v|_1, each before its own update.
        """
        x, edges = parameters["nodes"], self._edges
        return graph_kernels.sweep(
            x, self._fixed, edges["u"], edges["v"], edges["weight"], examples, x.dtype.type(step_size), x.dtype.type(1),
            *locking.words,
        )  # fmt: skip

    def _projected(self, parameters: Mapping[str, np.ndarray]) -> np.ndarray:
        x = parameters["nodes"].copy()
        graph_kernels.project_all(x, self._fixed, x.dtype.type(1))
        return self._with_terminals(x)

    def measure(self, parameters: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]) -> dict[str, float]:
        """``loss``: the mean of w_uv |x_u - x_v|_1 over the batch, x projected; ``cut``: the part of the batch's weight
        cut."""
        x = self._projected(parameters)
        chosen = x.argmax(1)
        distance = np.abs(x[batch["u"]] - x[batch["v"]]).sum(1, dtype=np.float64)
        weight = batch["weight"].astype(np.float64)
        cut = float(weight[chosen[batch["u"]] != chosen[batch["v"]]].sum())
        return {"loss": float(np.mean(weight * distance)), "cut": cut / max(float(weight.sum()), np.finfo(float).tiny)}

    def evaluate(self, parameters: Mapping[str, np.ndarray]) -> dict[str, float]:
        """``objective``: mean of w_uv |x_u - x_v|_1 over all edges; ``cut_value``: total weight of the edges cut when
        each node takes its greatest coordinate's label."""
        found = self.measure(parameters, self._edges.arrays())
        return {
            "objective": found["loss"],
            "cut_value": found["cut"] * float(self._edges["weight"].sum(dtype=np.float64)),
        }

    def rows_digest(self) -> str:
        """Text that changes with the nodes and labels that the rows and columns of the parameters stand for."""
        return digest(self.node_ids, self.labels)

    def sparsity(self) -> Sparsity:
        """Omega, Delta and rho of the edges."""
        return sparsity_of_pairs(self._edges["u"], self._edges["v"])

    def predict(self, parameters: Mapping[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
        """The label of each node of ``inputs`` (indices (n,)), in the terms of the terminals' file."""
        return self.labels[self._projected(parameters)[inputs].argmax(1)]

    def load_inputs(self, path: str) -> np.ndarray:
        """Nodes to label: a table with a column node, the first if no header names it. Returns their indices, int64 (n,).

        Raises:
          DataError: a node that the graph has not.
        """
        return read_nodes(path, self.node_ids, self._columns)
