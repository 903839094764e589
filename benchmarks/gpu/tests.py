"""The tests that are marked `gpu`, with the settings of the project that a host may lack plugins for switched off."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu.model import IS_REHEARSAL
from benchmarks.gpu.stage import Deadline, tell

SUITES = (
    "tests/attention/test_flashinfer.py",
    "tests/workers/test_engine_in_graphs.py",
    "tests/workers/test_cuda_graphs.py",
)
MAX_FAILURES = 12


def main() -> None:
    seconds = int(Deadline().left_s)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = ["pytest", *SUITES, "-q", "--noconftest", "--override-ini=filterwarnings=", "-p", "no:cacheprovider"]
        chosen = ["-k", "not families_wait"] if IS_REHEARSAL else ["-m", "gpu"]
        command += [*chosen, f"--timeout={seconds}", f"--junit-xml={results}", "--tb=short"]
        code = subprocess.run([sys.executable, "-m", *command], env=os.environ, check=False).returncode
        _tell_results(results)
    sys.exit(code)


def _tell_results(results: Path) -> None:
    suite = next(ElementTree.parse(results).iter("testsuite"))
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    tell("tests", **counts, seconds=float(suite.attrib["time"]))
    problems = [(case, problem) for case in suite.iter("testcase") for problem in _problems(case)]
    for case, problem in problems[:MAX_FAILURES]:
        tell("failure", test=case.attrib["name"], message=_short(problem.attrib.get("message", "")))


def _problems(case: ElementTree.Element) -> list[ElementTree.Element]:
    return [problem for kind in ("failure", "error") for problem in case.iter(kind)]


def _short(message: str) -> str:
    return re.sub(r"\s+", " ", message)[:300]


if __name__ == "__main__":
    main()
