"""``hogshead reproduce``: which claims, what is printed of each, and the exit code."""

from __future__ import annotations

import shutil
import textwrap
from argparse import Namespace
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from deploy.exit_codes import DONE, FAILED
from deploy.reproduce.claim import Claim
from deploy.reproduce.registry import CLAIMS, build_claim, names_of
from deploy.reproduce.runner import Outcome, make_folder, reproduce
from deploy.words import clock, plural, short_path
from ps.errors import UsageError

WORDS = {True: ("HOLDS", "bold green"), False: ("DOES NOT HOLD", "bold red"), None: ("NOT MEASURABLE HERE", "yellow")}
LABEL_WIDTH = 11
WIDEST = 110
MOST_SEEDS = 1000


def run(arguments: Namespace) -> int:
    """List the claims, or run those asked for; 1 if one of them does not hold."""
    console = Console(highlight=False, soft_wrap=True)
    if arguments.list:
        for name in CLAIMS:
            claim = build_claim(name)
            console.print(Text(f"{name:8}{claim.title}  ({_about(claim)}; {claim.source})"))
        return DONE
    names = _chosen(arguments)
    folder = make_folder(arguments.out)
    outcomes = []
    for name in names:
        claim = build_claim(name)
        _print_claim(console, claim)
        if console.is_terminal:  # overwritten by what comes out; no thread may spin while processes are forked
            console.print(Text(f"  running ({_about(claim)} a seed)", style="dim"), end="\r")
        outcome = reproduce(claim, range(arguments.seeds), folder)
        _print_outcome(console, outcome, arguments.debug)
        outcomes.append(outcome)
    _print_table(console, outcomes)
    return FAILED if any(outcome.verdict.holds is False for outcome in outcomes) else DONE


def _chosen(arguments: Namespace) -> list[str]:
    if not 1 <= arguments.seeds <= MOST_SEEDS:
        raise UsageError(f"--seeds must be >= 1 and <= {MOST_SEEDS}, got {arguments.seeds}")
    if arguments.claims and arguments.all:
        raise UsageError("reproduce takes names of claims or --all, got both")
    if not arguments.claims and not arguments.all:
        raise UsageError("reproduce needs a claim, e.g. `hogshead reproduce beale`, or --all; --list shows them")
    return list(CLAIMS) if arguments.all else names_of(arguments.claims)


def _about(claim: Claim) -> str:
    return f"about {claim.seconds} s" if claim.seconds < 100 else f"about {round(claim.seconds / 60)} min"


def _print_claim(console: Console, claim: Claim) -> None:
    """What is known before anything has been run."""
    console.print(Text(f"{claim.name}  {claim.title}", style="bold"))
    _print_labelled(console, "paper", f"{claim.paper} ({claim.source})")
    _print_labelled(console, "run", claim.setting)
    _print_labelled(console, "threshold", claim.threshold)


def _print_outcome(console: Console, outcome: Outcome, debug: bool) -> None:
    _print_labelled(console, "figure", outcome.verdict.figure)
    word, style = WORDS[outcome.verdict.holds]
    seeds = f"{plural(len(outcome.seeds), 'seed')}, " if outcome.claim.seeded else ""
    files = ", ".join(map(short_path, outcome.files))
    console.print(Text.assemble("  ", (word, style), f"  {seeds}{clock(outcome.seconds)}  {files}\n"))
    if outcome.traceback and debug:
        console.print(Text(outcome.traceback))


def _print_labelled(console: Console, label: str, text: str) -> None:
    width = min(WIDEST, shutil.get_terminal_size().columns) - LABEL_WIDTH - 2
    lines = textwrap.wrap(text, max(width, 30)) or [""]
    for index, line in enumerate(lines):
        console.print(Text(f"  {label if index == 0 else '':{LABEL_WIDTH}}{line}"))


def _print_table(console: Console, outcomes: Iterable[Outcome]) -> None:
    for outcome in outcomes:
        word, style = WORDS[outcome.verdict.holds]
        lead = f"{outcome.claim.name:8}{clock(outcome.seconds):>6}  "
        console.print(Text.assemble(lead, (f"{word:21}", style), outcome.claim.title))
