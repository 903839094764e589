"""Runs a command of parrot-mq in a process whose SDK of OpenTelemetry writes its spans to a file, as JSON lines.

traced.py FILE coordinator|scripted-worker ARGUMENTS…
"""

import json
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

SCRIPTED_WORKER = Path(__file__).parents[1] / "systemd" / "scripted_worker.py"


class _ToFile(SpanExporter):
    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._path.open("a") as file:
            for span in spans:
                file.write(json.dumps(json.loads(span.to_json())) + "\n")
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(_ToFile(Path(sys.argv[1]))))
trace.set_tracer_provider(provider)

if sys.argv[2] == "scripted-worker":
    sys.argv[1:] = sys.argv[3:]
    runpy.run_path(str(SCRIPTED_WORKER), run_name="__main__")
else:
    sys.argv[1:] = sys.argv[2:]
    runpy.run_module("parrot_mq", run_name="__main__", alter_sys=True)
