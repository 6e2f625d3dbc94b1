"""Every block of docs/instrumentation.md does what the page says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.instrumentation.recording import Script
from tests.instrumentation.test_examples import environment
from tests.openai_loopback import serve_openai
from tests.write_side import PACKAGE, ROOT

from autopack.loopback.server import serve_messages

PAGE = (ROOT / "docs" / "instrumentation.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PRINTED = {
    "from anthropic": "coefficients\n",
    "def where": "nowhere p3\np3\n\n",
    "from openai": "hello\nNone\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_the_guide_runs(number: int, tmp_path: Path) -> None:
    block = BLOCKS[number]
    for needed in ("openai", "litellm", "opentelemetry.sdk"):
        if f"import {needed}" in block or f"from {needed}" in block:
            pytest.importorskip(needed)
    with serve_messages(Script()) as url, serve_openai() as server:
        variables = environment(ANTHROPIC_BASE_URL=url, OPENAI_BASE_URL=server.url, OPENAI_API_BASE=server.url)
        child = subprocess.run(
            [sys.executable, "-c", block], env=variables, cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert child.returncode == 0, child.stderr
    for beginning, printed in PRINTED.items():
        if beginning in block:
            assert child.stdout.startswith(printed), child.stdout
    assert "rror" not in child.stderr


def test_the_guide_names_every_reason() -> None:
    """Those that the hooks count."""
    room = PACKAGE / "instrumentation"
    source = "".join(path.read_text() for path in room.glob("*.py"))
    counted = set(re.findall(r'(?:fail|add|conclude)\(\s*"([a-z_0-9]+)"', source))
    assert {"broken_stream", "without_usage", "cached", "retried"} <= counted
    assert {reason for reason in counted if f"`{reason}`" not in PAGE} == set()
