"""README.md: every snippet is executed, in order and in one folder, and the lists in it are complete."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.cli import main
from deploy.job import Job
from ps.rules import RULES
from worker.strategies import STRATEGIES
from worker.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND = ".venv/bin/hogshead "
MODULE = ".venv/bin/python -m "


@dataclass
class Snippet:
    """A fenced block of the README.

    Attributes:
      language: after the fence.
      text: between the fences.
      line: number of its first line.
      file: name of the file that it is, from a comment in its first line, or None.
    """

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        found = re.match(r"# (\S+\.(?:py|toml))\n", self.text)
        return found[1] if found else None


def snippets() -> list[Snippet]:
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [Snippet(match[1], match[2], README.count("\n", 0, match.start()) + 2) for match in found]


@pytest.mark.timeout(600)
def test_snippets(tmp_path, monkeypatch, capfd):
    """All in one test, because each finds what those before it have written."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")  # the folder stands for the checkout
    monkeypatch.chdir(tmp_path)
    for snippet in snippets():
        try:
            run_snippet(snippet, capfd)
        except BaseException as error:
            raise AssertionError(f"README.md, line {snippet.line}: {error}") from error


def run_snippet(snippet: Snippet, capfd) -> None:
    if snippet.file:
        Path(snippet.file).write_text(snippet.text)
    if snippet.language == "bash":
        for line in snippet.text.splitlines():
            run_line(line, capfd)
    elif snippet.language == "toml":
        document = tomllib.loads(snippet.text)
        whole = (
            {} if "task" in document else {"task": "mlp", "data": {"train": "sklearn:digits"}, "strategy": "downpour"}
        )
        Job.from_dict({**whole, **document})
    elif snippet.language == "python":
        exec(compile(snippet.text, f"README.md, line {snippet.line}", "exec"), {"__name__": "readme"})
    else:
        assert snippet.language == "", f"nothing executes {snippet.language}"


def run_line(line: str, capfd) -> None:
    """Execute one line of a bash snippet; the commands of make run this very suite, so they are only looked up."""
    words = shlex.split(line, comments=True)
    if line.startswith(COMMAND):
        code = main(words[1:])
        assert code == 0, capfd.readouterr().err
    elif line.startswith(MODULE):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words[2:])
            patch.syspath_prepend(str(ROOT))
            patch.delitem(sys.modules, words[2], raising=False)  # a test of it may have run in this process before
            with pytest.raises(SystemExit) as ended:
                runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        assert not ended.value.code
    else:
        assert words[0] == "make" and set(words[1:]) <= set(targets()), f"nothing executes {line!r}"


def targets() -> list[str]:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return phony[1].split()


def test_the_two_commands_are_targets():
    assert {"demo", "test", "venv"} <= set(targets())


@pytest.mark.parametrize(("registry", "names"), [("strategies", STRATEGIES), ("rules", RULES), ("tasks", TASKS)])
def test_the_tables_name_everything(registry, names):
    missing = [name for name in names if f"`{name}`" not in README]
    assert not missing, f"README.md does not name the {registry} {missing}"


def test_the_files_it_names_exist():
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [path for path in linked if not (ROOT / path).exists()] == []
    picture = re.findall(r"(?<![\w/.])((?:deploy|worker|ps)/[\w/]+(?:\.py|/))", README)
    assert [path for path in picture if not (ROOT / path).exists()] == []


def test_the_first_job_is_the_example():
    shown = next(snippet for snippet in snippets() if "hogshead:a9a" in snippet.text and snippet.language == "toml")
    example = tomllib.loads((ROOT / "examples" / "adult_hogwild.toml").read_text())
    del example["task"]["l2"]  # its default
    assert Job.from_dict(tomllib.loads(shown.text)) == Job.from_dict(example)
