"""Is asynchrony helping? The answer in plain words, and what to run, derived from the figures of the cells alone.

It is conservative. A cell counts only if it ended well, reached the target and still met it at the end; more workers are
suggested only while they pay; and asynchrony is said to help only where it beats both one worker and, if that was run,
synchronous training with as many workers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from deploy.compare.grid import SHORT, shown
from deploy.compare.measure import Figures, Target
from deploy.words import number, plural

WORTH = 1.15  # a gain below this is within what chance makes of one run
PAYS = 0.5  # more workers pay while the time falls at least with this power of their number: 4 times as many, half the time
FEW_EXCHANGES = 10


@dataclass(frozen=True)
class Advice:
    """What the comparison comes to.

    Attributes:
      helps: "yes", "a little" (the gain is far below the number of workers), "not by itself" (synchronous workers are as fast),
        "no" or "unknown".
      headline: the answer in a sentence.
      suggestion: what to run, in words; empty if nothing can be suggested.
      settings: the suggestion, by key as in --set.
      reasons: sentences, the weightiest first.
      strategies: per strategy, how it scales and where it breaks.
      cautions: what this comparison cannot tell.
    """

    helps: str
    headline: str
    suggestion: str = ""
    settings: Mapping[str, Any] | None = None
    reasons: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


def advise(
    figures: Sequence[Figures],
    target: Target | None,
    baseline: Figures | None,
    *,
    repeats: int = 1,
    cores: int | None = None,
) -> Advice:
    """The answer for these cells.

    Args:
      figures: of all cells. target: or None if nothing was evaluated.
      baseline: of the cells with the fewest workers the first to reach the target, or None.
      repeats: runs per cell. cores: of this machine, if the time was real.
    """
    if target is None:
        answer = Advice("unknown", "Nothing was evaluated, so there is nothing to compare by.")
    elif baseline is None or not baseline.seconds or baseline.cell.workers > 1:
        answer = _without_baseline(figures, target)
    else:
        figures_of_kind = [one for one in figures if one.cell.simulated == baseline.cell.simulated]
        answer = _against_baseline(figures_of_kind, target, baseline)
    lines, cautions = _lines_of(figures), _cautions(figures, repeats, cores)
    return replace(answer, strategies=tuple(lines), cautions=tuple(cautions))


def is_asynchronous(one: Figures) -> bool:
    """Whether replicas of this cell run apart."""
    if not one.cell.jobs:
        return one.cell.strategy not in ("sequential", "synchronous")
    job = one.cell.jobs[0]
    waits = job.strategy.options.get("mode") == "synchronous" or job.admission.policy in ("synchronous", "backup")
    return one.cell.strategy not in ("sequential", "synchronous") and not waits


def is_sound(one: Figures) -> bool:
    """It ended well, reached the target, and kept it."""
    return one.status == "done" and one.seconds is not None and one.holds


def seconds(one: Figures) -> str:
    """The time to the target as a person reads it."""
    return time_text(one.seconds, one.cell.simulated)


def time_text(value: float | None, virtual: bool) -> str:
    """``12.3 s``, ``410 virtual s``, or a dash."""
    if value is None:
        return "–"
    return (
        f"{value:,.0f}{' virtual' if virtual else ''} s"
        if value >= 100
        else f"{value:.3g}{' virtual' if virtual else ''} s"
    )


# -- answers ----------------------------------------------------------------------------------------------------------


def _against_baseline(figures: Sequence[Figures], target: Target, baseline: Figures) -> Advice:
    rivals = [one for one in figures if is_asynchronous(one) and one.cell.workers > 1 and is_sound(one)]
    best = min(rivals, key=_seconds, default=None)
    waiting = [one for one in figures if one.cell.workers > 1 and not is_asynchronous(one) and is_sound(one)]
    together = min(waiting, key=_seconds, default=None)
    if best is not None and _seconds(baseline) / _seconds(best) >= WORTH:
        chosen = _worth_its_workers(best, [one for one in rivals if _seconds(baseline) / _seconds(one) >= WORTH])
        if together is None or _seconds(together) * WORTH >= _seconds(chosen):
            return _yes(figures, target, baseline, best, chosen)
    if together is not None and _seconds(baseline) / _seconds(together) >= WORTH:
        return _together(target, baseline, together, best)
    return _no(figures, target, baseline, best)


def _yes(figures: Sequence[Figures], target: Target, baseline: Figures, best: Figures, chosen: Figures) -> Advice:
    """Asynchronous workers beat one worker; whether that is for their asynchrony, as many synchronous ones tell."""
    reasons = [_faster(chosen, baseline)]
    if chosen is not best:
        reasons.append(_no_longer_pays(chosen, best))
    peer = _peer(figures, chosen)
    if peer is not None:
        reasons.append(_beside(peer, chosen))
    reasons += _risks(figures, chosen)
    if peer is not None and is_sound(peer) and _seconds(peer) < WORTH * _seconds(chosen):
        headline = f"More workers help, asynchrony by itself does not: {peer.cell.title} is as fast."
        return Advice("not by itself", headline, _suggestion(peer), _settings(peer), tuple(reasons))
    gain = f"{chosen.cell.title} reaches {target.text} {_ratio(baseline, chosen)} as fast as {baseline.cell.title}"
    if pays(baseline, chosen):
        return Advice("yes", f"Yes: {gain}.", _suggestion(chosen), _settings(chosen), tuple(reasons))
    headline = f"A little: {gain}, with {chosen.cell.workers} times the workers."
    return Advice("a little", headline, _suggestion(chosen), _settings(chosen), tuple(reasons))


def _together(target: Target, baseline: Figures, together: Figures, rival: Figures | None) -> Advice:
    """Workers that wait for each other are faster than any that do not."""
    headline = f"More workers help, asynchrony does not: {together.cell.title} is first at {target.text}."
    reasons = [_faster(together, baseline)]
    if rival is not None:
        reasons.append(f"The best asynchronous cell, {rival.cell.title}, takes {seconds(rival)}.")
    return Advice("no", headline, _suggestion(together), _settings(together), tuple(reasons))


def _no(figures: Sequence[Figures], target: Target, baseline: Figures, best: Figures | None) -> Advice:
    """One worker is as good as any number."""
    tried = [one for one in figures if is_asynchronous(one) and one.cell.workers > 1]
    if not tried:
        return Advice("unknown", "Nothing asynchronous with several workers was tried.")
    if not any(one.ended for one in tried):
        return Advice("unknown", "Unknown: no asynchronous cell with several workers ran to its end.")
    suggestion, settings = _suggestion(baseline), _settings(baseline)
    if best is None:
        headline = "No: no asynchronous cell with several workers reached the target and kept it."
        reasons = tuple(f"{one.cell.title}: {_fate(one)}." for one in tried)
        return Advice("no", headline, suggestion, settings, reasons)
    headline = f"No: {best.cell.title} is the best of it, and hardly faster to {target.text} than one worker."
    if _seconds(best) > _seconds(baseline):
        headline = f"No: even the best of it, {best.cell.title}, takes longer to {target.text} than one worker."
    return Advice("no", headline, suggestion, settings, (_faster(best, baseline),))


def _without_baseline(figures: Sequence[Figures], target: Target) -> Advice:
    sound = [one for one in figures if is_sound(one)]
    if not sound:
        return Advice("unknown", f"No cell reached {target.text} and kept it.")
    best = min(sound, key=_seconds)
    alone = [one for one in figures if one.cell.workers == 1]
    why = f"{alone[0].cell.title} {_fate(alone[0])}" if alone else "none was run; add workers=1 or strategy=sequential"
    chosen = _worth_its_workers(best, sound)
    which = "The fastest is" if chosen is best else "The fastest whose workers pay is"
    headline = f"Unknown, for want of one worker to compare with ({why}). {which} {chosen.cell.title}."
    reasons = [f"It reaches {target.text} in {seconds(chosen)}."]
    if chosen is not best:
        reasons.append(_no_longer_pays(chosen, best))
    return Advice("unknown", headline, _suggestion(chosen), _settings(chosen), tuple(reasons))


# -- reasons --------------------------------------------------------------------------------------------------------------


def _worth_its_workers(best: Figures, rivals: Sequence[Figures]) -> Figures:
    """Of the best cell's kin (all settings but the number of workers equal) the largest whose last workers still paid."""
    kin = sorted((one for one in rivals if _kind(one) == _kind(best)), key=lambda one: one.cell.workers)
    for fewer, more in pairwise(kin):
        if not pays(fewer, more):
            return min((one for one in kin if one.cell.workers <= fewer.cell.workers), key=_seconds)
    return best


def pays(fewer: Figures, more: Figures) -> bool:
    """Whether going from one cell to the next with more workers shortens the time enough."""
    if not fewer.seconds or not more.seconds or fewer.cell.workers >= more.cell.workers:
        return False
    return math.log(fewer.seconds / more.seconds) >= PAYS * math.log(more.cell.workers / fewer.cell.workers)


def _no_longer_pays(chosen: Figures, best: Figures) -> str:
    """A sentence on the fastest cell, whose last workers gain too little."""
    times = f"{best.cell.workers / chosen.cell.workers:g} times the workers"
    return (
        f"{best.cell.workers} workers bring it down to {seconds(best)}, {_ratio(chosen, best)} as fast with {times}: "
        f"beyond {chosen.cell.workers} they no longer pay."
    )


def _beside(peer: Figures, chosen: Figures) -> str:
    """A sentence on the cell whose workers, as many as the chosen one's, wait for each other."""
    if not is_sound(peer):
        return f"{peer.cell.title} {_fate(peer)}."
    if _seconds(peer) >= WORTH * _seconds(chosen):
        return f"{peer.cell.title} takes {seconds(peer)}, {_ratio(peer, chosen)} as long."
    gain = f"not waiting for each other gains less than {WORTH - 1:.0%}"
    return f"{peer.cell.title} takes {seconds(peer)}, {chosen.cell.title} {seconds(chosen)}: {gain}."


def _risks(figures: Sequence[Figures], chosen: Figures) -> list[str]:
    """What goes wrong next to the suggestion."""
    kin = sorted((one for one in figures if _kind(one) == _kind(chosen)), key=lambda one: one.cell.workers)
    wrong = [one for one in kin if one.cell.workers > chosen.cell.workers and one.ended and not is_sound(one)]
    notes = []
    if wrong:
        notes.append(f"With {wrong[0].cell.workers} workers it breaks: {_fate(wrong[0])}.")
    elif kin and kin[-1] is chosen:
        notes.append(f"{chosen.cell.workers} is the most that was tried; it may scale further.")
    if chosen.staleness is not None:
        notes.append(f"Its mean staleness is {number(chosen.staleness)} versions.")
    return notes


def _lines_of(figures: Sequence[Figures]) -> list[str]:
    """One sentence per kind of cell (all settings but the number of workers), on how it scales and where it breaks."""
    lines = []
    for kind in dict.fromkeys(map(_kind, figures)):
        kin = sorted((one for one in figures if _kind(one) == kind), key=lambda one: one.cell.workers)
        if len(kin) > 1 or not is_sound(kin[0]):
            lines.append(_line(kin))
    return lines


def _line(kin: Sequence[Figures]) -> str:
    """``easgd: 1 worker 410 s, 4 workers 120 s (3.4x), 16 workers 60 s (6.8x); 64 workers: diverged``."""
    sound = [one for one in kin if is_sound(one)]
    fates = {_fate(one) for one in kin}
    if not sound and len(kin) > 1 and len(fates) == 1:
        return f"{_kin_title(kin[0])}: with any number of workers {fates.pop()}."
    parts = []
    for one in kin:
        label = plural(one.cell.workers, "worker")
        if one in sound:
            times = f" ({_ratio(sound[0], one)})" if one is not sound[0] else ""
            parts.append(f"{label} {seconds(one)}{times}")
        else:
            parts.append(f"{label}: {_fate(one)}")
    stop = next(((fewer, more) for fewer, more in pairwise(sound) if not pays(fewer, more)), None)
    tail = ""
    if stop is not None:
        slower = _seconds(stop[1]) >= _seconds(stop[0])
        tail = f"; more than {stop[0].cell.workers} {'only slow it down' if slower else 'hardly pay'}"
    return f"{_kin_title(kin[0])}: {', '.join(parts)}{tail}."


def _fate(one: Figures) -> str:
    """Why a cell does not count, in words."""
    if one.status == "diverged":
        return f"diverged{_brief(one.message)}"
    if one.status != "done":
        return f"{one.status}{_brief(one.message)}"
    if one.seconds is not None and not one.holds:
        return f"reached the target but ended worse, at {number(one.final)}"
    if _met_rarely(one):
        each = f"{one.steps_per_worker:.0f} steps and {exchanges_per_worker(one):.0f} exchanges of each worker"
        return f"ended at {number(one.final)}, short of the target, after {each}"
    return f"ended at {number(one.final)}, short of the target"


def exchanges_per_worker(one: Figures) -> float | None:
    """How often each worker met the center, where that is once in many steps."""
    if not one.cell.jobs or one.steps_per_worker is None:
        return None
    options = one.cell.jobs[0].strategy.options
    period = max(options.get("tau") or 1, options.get("n_push") or 1)
    return one.steps_per_worker / period if period > 1 else None


def _met_rarely(one: Figures) -> bool:
    exchanges = exchanges_per_worker(one)
    return exchanges is not None and exchanges < FEW_EXCHANGES


def _cautions(figures: Sequence[Figures], repeats: int, cores: int | None) -> list[str]:
    notes = []
    if repeats == 1 and any(one.ended for one in figures):
        notes.append(f"One run per cell: differences below {WORTH - 1:.0%} or so may be chance; --repeats 3 tells.")
    real = [one.cell.workers for one in figures if one.ended and not one.cell.simulated]
    if cores and real and max(real) > cores:
        notes.append(
            f"This machine has {cores} cores: more workers than that cannot gain time here; --backend simulation can show it."
        )
    short = [one for one in figures if one.status == "done" and one.seconds is None and _met_rarely(one)]
    if short:
        most = max(short, key=lambda one: one.cell.workers)
        notes.append(
            f"{most.cell.title}: each worker met the center only {exchanges_per_worker(most):.0f} times, as all cells share "
            "one budget; a longer run (--set stop.epochs=...) or a smaller tau or n_push may change that."
        )
    missing = [one for one in figures if one.status in ("waiting", "interrupted")]
    if missing:
        notes.append(f"{len(missing)} of {len(figures)} cells did not run to their end.")
    return notes


# -- small words ------------------------------------------------------------------------------------------------------------


def _seconds(one: Figures) -> float:
    return math.inf if one.seconds is None else max(one.seconds, 1e-9)


def _peer(figures: Sequence[Figures], chosen: Figures) -> Figures | None:
    """A cell whose workers wait for each other, as many as the chosen one's; the fastest of several."""
    peers = [
        one for one in figures if one.cell.workers == chosen.cell.workers and not is_asynchronous(one) and one.ended
    ]
    return min(peers, key=lambda one: (not is_sound(one), _seconds(one)), default=None)


def _kind(one: Figures) -> tuple:
    """What cells that differ in the number of workers only have in common."""
    rest = ((key, repr(value)) for key, value in one.cell.settings.items() if SHORT.get(key, key) != "workers.count")
    return one.cell.strategy, *rest


def _kin_title(one: Figures) -> str:
    rest = {k: v for k, v in one.cell.settings.items() if SHORT.get(k, k) not in ("workers.count", "strategy.name")}
    return ", ".join(
        [one.cell.strategy, *(f"{key} {shown(value)}" for key, value in rest.items() if value is not None)]
    )


def _settings(one: Figures) -> dict[str, Any]:
    """The suggestion as keys of a job: what was varied, and the strategy's period."""
    settings = {SHORT.get(key, key): value for key, value in one.cell.settings.items() if value is not None}
    options = one.cell.jobs[0].strategy.options if one.cell.jobs else {}
    periods = {f"strategy.{key}": options[key] for key in ("tau", "n_fetch", "n_push") if key in options}
    return {"strategy.name": one.cell.strategy, **settings, "workers.count": one.cell.workers, **periods}


def _suggestion(one: Figures) -> str:
    """``easgd with 16 workers and tau = 10``."""
    options = one.cell.jobs[0].strategy.options if one.cell.jobs else {}
    varied = {SHORT.get(key, key) for key in one.cell.settings}
    periods = [
        f"{key} = {options[key]}{'' if f'strategy.{key}' in varied else ' (the only one tried)'}"
        for key in ("tau", "n_fetch", "n_push")
        if key in options
    ]
    others = [
        f"{key} = {shown(value)}"
        for key, value in one.cell.settings.items()
        if value is not None
        and SHORT.get(key, key)
        not in ("strategy.name", "workers.count", "strategy.tau", "strategy.n_push", "strategy.n_fetch")
    ]
    workers = plural(one.cell.workers, "worker")
    return ", ".join([f"{one.cell.strategy} with {workers}", *periods, *others])


def _faster(one: Figures, baseline: Figures) -> str:
    workers = f"{_ratio(baseline, one)} the speed for {one.cell.workers} times the workers"
    return f"{one.cell.title} takes {seconds(one)}, {baseline.cell.title} {seconds(baseline)}: {workers}."


def _ratio(slow: Figures, fast: Figures) -> str:
    """``3.4x``."""
    return f"{_seconds(slow) / _seconds(fast):.2g}x"


def _brief(message: str) -> str:
    """The first line of a message, short."""
    line = message.strip().splitlines()[0] if message.strip() else ""
    return f" ({line if len(line) <= 110 else line[:107] + '...'})" if line else ""
