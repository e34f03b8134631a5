"""D1: elastic averaging is stable wherever its condition says so; ADMM in the same round robin is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.reproduce import drawing
from deploy.reproduce.claim import Claim, Figures, Verdict
from ps import elastic
from ps.layout import Layout
from ps.rules import build_rule
from worker.commands import ComputeGradient, Exchange
from worker.replica import Replica
from worker.strategies import STRATEGIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ETA, RHO = 0.001, 2.5
ADMM = {2: (0.99900, 5e-6), 3: (1.000974, 1e-6), 8: (1.002258, 1e-6)}  # p -> spectral radius and its last digit
POINTS = 2000
REPLICAS = (1, 2, 3, 4, 8, 16)
ROUNDING = 1e-9  # an eigenvalue that is 1 in truth
GRID = 60


class Stability(Claim):
    """The linear maps of one round over p replicas on F(x) = x²/2, and their largest eigenvalues."""

    name = "D1"
    title = "EASGD is stable in round robin where ADMM is not"
    paper = (
        "on F = x²/2 ADMM's map has an eigenvalue above 1 for p = 3 and p = 8 (at η = 0.001, ρ = 2.5), whereas EASGD is stable "
        "for 0 <= η <= 2 and 0 <= α <= (4−2η)/(4−η), whatever p"
    )
    source = "Zhang, Choromanska, LeCun 2015, section 3.3, figures 2 and 3"
    setting = (
        f"ADMM's map for p = 2, 3, 8; EASGD's map, built from what the strategy does to unit vectors, at {POINTS} random points "
        f"inside the region (and as many outside, for information), p of {', '.join(map(str, REPLICAS))}"
    )
    threshold = (
        "ADMM's spectral radius 0.99900 (p=2), 1.000974 (p=3), 1.002258 (p=8) to the last digit; no unstable point of EASGD "
        "inside its region"
    )
    seconds = 5

    def run(self, seed: int) -> Figures:
        rng = np.random.default_rng([seed, 200])
        inside = [spectral_radius(easgd_round(*_random_point(rng, inside=True))) for _ in range(POINTS)]
        outside = [spectral_radius(easgd_round(*_random_point(rng, inside=False))) for _ in range(POINTS)]
        return {
            "admm": {str(p): spectral_radius(admm_round(p, ETA, RHO)) for p in ADMM},
            "largest_inside": max(inside),
            "unstable_inside": sum(radius > 1 + ROUNDING for radius in inside),
            # The condition is sharp for one replica; with an even number of them a sliver beyond it is stable too.
            "unstable_outside": sum(radius > 1 + ROUNDING for radius in outside),
        }

    def judge(self, runs: Sequence[Figures]) -> Verdict:
        admm, points = runs[0]["admm"], POINTS * len(runs)
        right = all(abs(admm[str(p)] - radius) <= within for p, (radius, within) in ADMM.items())
        wrong, beyond = (sum(run[key] for run in runs) for key in ("unstable_inside", "unstable_outside"))
        radii = ", ".join(f"{radius:.6f} (p={p})" for p, radius in admm.items())
        sentence = (
            f"ADMM {radii}; EASGD unstable at {wrong} of {points} points inside (largest radius "
            f"{max(run['largest_inside'] for run in runs):.6f}), at {beyond} of {points} outside"
        )
        return Verdict(right and wrong == 0, sentence)

    def draw(self, runs: Sequence[Figures], path: Path) -> list[Path]:
        figure = drawing.figure(10, 7.6)
        (left, right), (region, course) = figure.subplots(2, 2)
        image = None
        for axes, p in ((left, 3), (right, 8)):
            image = _draw_admm(axes, p)
        figure.colorbar(image, ax=[left, right], label="spectral radius", format="%.4f")
        image = _draw_easgd(region)
        figure.colorbar(image, ax=region, label="spectral radius")
        _draw_course(course)
        return [drawing.save(figure, path)]


def spectral_radius(matrix: np.ndarray) -> float:
    """Largest absolute eigenvalue."""
    return float(np.abs(np.linalg.eigvals(matrix)).max())


# -- ADMM: not in this project, hence from its formula ------------------------------------------------------------------


def admm_round(p: int, eta: float, rho: float) -> np.ndarray:
    """One turn of each replica on (x¹…xᵖ, λ¹…λᵖ, x̃): (2p + 1, 2p + 1)."""
    whole = np.eye(2 * p + 1)
    for active in range(p):
        for change in _admm_turn(active, p, eta, rho):
            whole = change @ whole
    return whole


def _admm_turn(i: int, p: int, eta: float, rho: float) -> tuple[np.ndarray, ...]:
    """λ ← λ − (x − x̃); x ← (x − η∇F + ηρ(λ + x̃))/(1 + ηρ); x̃ ← mean over j of (x − λ)."""
    dual, primal, mean = np.eye(2 * p + 1), np.eye(2 * p + 1), np.eye(2 * p + 1)
    dual[p + i, i], dual[p + i, 2 * p] = -1, 1
    primal[i, i] = (1 - eta) / (1 + eta * rho)
    primal[i, [p + i, 2 * p]] = eta * rho / (1 + eta * rho)
    mean[2 * p] = [1 / p] * p + [-1 / p] * p + [0]
    return dual, primal, mean


# -- EASGD: what the strategy does --------------------------------------------------------------------------------------


def easgd_step(eta: float, alpha: float) -> np.ndarray:
    """The map (x, x̃) → (x, x̃) of one step of the strategy, τ = 1, (2, 2).

    The vector has two coordinates that do not see each other; each is one unit vector.
    """
    layout = Layout.of({"x": np.zeros(2)})
    replica = Replica(layout, local_rule=build_rule({"name": "sgd", "lr": eta}))
    center = np.array([0.0, 1.0])
    replica.parameters[:] = 1.0, 0.0
    steps = STRATEGIES["easgd"](tau=1, alpha=alpha).step(replica)
    answer: Any = None
    while True:
        try:
            command = steps.send(answer)
        except StopIteration:
            return np.array([replica.parameters, center])
        answer = _perform(command, replica, center)


def _perform(command: Any, replica: Replica, center: np.ndarray) -> Any:
    if isinstance(command, Exchange):
        elastic.step(replica.parameters, center, command.alpha)
        return None
    assert isinstance(command, ComputeGradient), command
    return (replica.parameters if command.at is None else command.at).copy()  # the gradient of x²/2 at x is x


def easgd_round(p: int, eta: float, alpha: float) -> np.ndarray:
    """One turn of each replica on (x¹…xᵖ, x̃): (p + 1, p + 1)."""
    step, whole = easgd_step(eta, alpha), np.eye(p + 1)
    for active in range(p):
        turn = np.eye(p + 1)
        turn[np.ix_([active, p], [active, p])] = step
        whole = turn @ whole
    return whole


def largest_stable_alpha(eta: float | np.ndarray) -> Any:
    """(4 − 2η)/(4 − η)."""
    return (4 - 2 * eta) / (4 - eta)


def _random_point(rng: np.random.Generator, inside: bool) -> tuple[int, float, float]:
    """p, η and α, well inside what the strategy takes (0 < α < 1), or beyond the condition."""
    while True:
        p, eta, alpha = int(rng.choice(REPLICAS)), rng.uniform(0, 2.4), rng.uniform(0, 1)
        stable = eta <= 2 and alpha <= largest_stable_alpha(eta)
        if stable == inside and alpha > 0 and eta > 0:
            return p, eta, alpha


# -- the picture --------------------------------------------------------------------------------------------------------


def _draw_admm(axes: Axes, p: int) -> Any:
    etas, rhos = np.linspace(1e-5, 0.01, GRID), np.linspace(0.01, 10, GRID)
    radii = np.array([[spectral_radius(admm_round(p, eta, rho)) for eta in etas] for rho in rhos])
    image = axes.pcolormesh(etas, rhos, radii, cmap="RdBu_r", vmin=0.995, vmax=1.005, shading="gouraud")
    axes.contour(etas, rhos, radii, [1.0], colors="black", linewidths=1)
    axes.plot(ETA, RHO, "k*", markersize=9)
    axes.set(title=f"ADMM, p = {p}: unstable where red", xlabel="η", ylabel="ρ")
    return image


def _draw_easgd(axes: Axes) -> Any:
    etas, alphas = np.linspace(0.01, 2.4, GRID), np.linspace(0.005, 0.995, GRID)
    radii = np.array([[spectral_radius(easgd_round(3, eta, alpha)) for eta in etas] for alpha in alphas])
    image = axes.pcolormesh(etas, alphas, radii, cmap="RdBu_r", vmin=0.5, vmax=1.5, shading="gouraud")
    line = np.linspace(0, 2, 200)
    axes.plot(line, largest_stable_alpha(line), "k-", linewidth=1.5, label="α = (4−2η)/(4−η)")
    axes.set(title="EASGD, p = 3: stable below the line", xlabel="η", ylabel="α", ylim=(0, 1), xlim=(0, 2.4))
    axes.legend(loc="upper right", framealpha=0.9)
    return image


def _draw_course(axes: Axes, rounds: int = 12_000, p: int = 3, first: float = 1000.0) -> None:
    """The center over many rounds from x = x̃ = 1000, as the paper's figure 3; EASGD with α = ηρ beside it."""
    for label, turn, state, color in (
        ("ADMM", admm_round(p, ETA, RHO), np.array([first] * p + [0.0] * p + [first]), drawing.BAD),
        ("EASGD", easgd_round(p, ETA, ETA * RHO), np.full(p + 1, first), drawing.GOOD),
    ):
        centers = []
        for _ in range(rounds):
            centers.append(state[-1])
            state = turn @ state
        axes.plot(centers, color=color, linewidth=1, label=label)
    axes.axhline(0, color=drawing.QUIET, linewidth=0.6)
    axes.set(title=f"the center, p = {p}, η = {ETA}, ρ = {RHO}, start {first:g}", xlabel="rounds", ylabel="x̃")
    axes.legend(loc="upper right", framealpha=0.9)
