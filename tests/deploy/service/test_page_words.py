"""What the page makes of texts that are not what they look like, in Node.js."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import deploy.service

WORDS = Path(deploy.service.__file__).parent / "page" / "words.js"


def shown(*texts: str) -> list[str]:
    """The texts as the page shows them."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    program = (
        f"import {{ plain }} from {json.dumps(WORDS.as_uri())};"
        f"process.stdout.write(JSON.stringify({json.dumps(texts)}.map(plain)))"
    )
    ended = subprocess.run(
        [node, "--no-warnings", "--input-type=module", "--eval", program], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_what_is_not_seen_is_shown_as_its_code():
    hidden = {
        "photo\u202egpj.exe": r"photo\u202Egpj.exe",
        "\u2066a\u2069\u200f\u061c": r"\u2066a\u2069\u200F\u061C",
        "a\u200bb\ufeff\xad": r"a\u200Bb\uFEFF\u00AD",
        "\x00\x1b[31m\x7f\x85": r"\u0000\u001B[31m\u007F\u0085",
        "half \ud83d of one": r"half \uD83D of one",
        "\udc00": r"\uDC00",
    }
    assert shown(*hidden) == list(hidden.values())


def test_all_else_stays():
    texts = ["a\tb\r\nc", "größe, 學習 and שלום", "😀 👩\u200d🔬 क्\u200dष", "<b>&amp;</b> \\u202E", ""]
    assert shown(*texts) == texts
