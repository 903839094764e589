"""On a machine without Node the tests of the examples say so; in CI that is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop import node
from tests.interop.node import EXAMPLES, NodeMissing, install

ROOT = Path(__file__).parents[2]
ONE_TEST = "tests/interop/test_node.py::test_a_bare_publish_sets_a_variable"


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_the_examples_are_skipped_without_node_and_fail_in_ci(ci: str, outcome: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ONE_TEST]
    env = {**os.environ, "PATH": str(tmp_path), "CI": ci}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert outcome in result.stdout.splitlines()[-1], result.stdout
    assert "Node.js or npm is not on the search path" in result.stdout


def test_a_registry_that_is_away_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    try:
        install(EXAMPLES)
    except NodeMissing as reason:
        pytest.skip(str(reason))
    monkeypatch.setattr(node, "CACHE", tmp_path / "node_modules")
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    with pytest.raises(NodeMissing, match="npm install failed: "):
        install(EXAMPLES)
    assert list((tmp_path / "node_modules").iterdir()) == []
