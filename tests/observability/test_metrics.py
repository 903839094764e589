"""Metrics over HTTP: what Prometheus asks is answered, whatever else comes does no harm, and nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from parrot_mq.errors import ConfigurationError
from parrot_mq.observability import Histogram
from parrot_mq.observability import metrics as metrics_module
from parrot_mq.observability.metrics import counter, gauge, histogram, open_metrics, summary


class _Collector:
    """Yields one family of each kind. Fails when it is told to."""

    is_broken = False

    def collect(self) -> Iterator[Metric]:
        if self.is_broken:
            raise ZeroDivisionError("in the collector")
        sizes = Histogram((1.0, 2.0))
        for value in (0.5, 1.5, 3.0):
            sizes.observe(value)
        yield gauge("parrot_things", "Things", {("a",): 1, ("b",): 2}, ("kind",))
        yield counter("parrot_events", "Events", {(): 7})
        yield summary("parrot_step_seconds", "Steps", {(): (4, 0.5)})
        yield histogram("parrot_size_seconds", "Sizes", {("a",): sizes.statistics()}, ("kind",))


async def _ask(port: int, request: bytes) -> tuple[str, dict[str, str], str]:
    """Status line, headers and body of the answer to a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    return status, dict(line.split(": ", 1) for line in lines), body


async def test_metrics_are_served_as_prometheus_reads_them() -> None:
    async with open_metrics(0, _Collector()) as port:
        status, headers, body = await _ask(port, b"GET /metrics?x=1 HTTP/1.1\r\nHost: here\r\n\r\n")
        assert status == "HTTP/1.1 200 OK"
        assert headers["Content-Type"].startswith("text/plain")
        assert int(headers["Content-Length"]) == len(body.encode())
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
        }
        assert found["parrot_things", "a"] == 1
        assert found["parrot_events_total",] == 7
        assert (found["parrot_step_seconds_count",], found["parrot_step_seconds_sum",]) == (4, 0.5)
        buckets = [found["parrot_size_seconds_bucket", "a", bound] for bound in ("1.0", "2.0", "+Inf")]
        assert buckets == [1, 2, 3]
        assert found["parrot_size_seconds_sum", "a"] == 5
        assert ("process_cpu_seconds_total",) in found


async def test_who_asks_for_openmetrics_gets_it() -> None:
    async with open_metrics(0, _Collector()) as port:
        _, headers, body = await _ask(
            port, b"GET /metrics HTTP/1.1\r\nACCEPT: application/openmetrics-text; version=1.0.0\r\n\r\n"
        )
        assert headers["Content-Type"].startswith("application/openmetrics-text")
        assert body.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", "200 OK", ""),
        (b"GET / HTTP/1.1\r\n\r\n", "404 Not Found", "metrics are at /metrics\n"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed", ""),
        (b"\x00\xff\xfe garbage\r\n\r\n", "405 Method Not Allowed", ""),
        (b"GET\r\n\r\n", "404 Not Found", "metrics are at /metrics\n"),
        (b"GET /metrics HTTP/1.1\r\nx: " + b"y" * 20_000, "431 Request Header Fields Too Large", ""),
    ],
)
async def test_whatever_is_asked_has_an_answer(request_: bytes, status: str, body: str) -> None:
    async with open_metrics(0, _Collector()) as port:
        found, _, text = await _ask(port, request_)
        assert found == f"HTTP/1.1 {status}"
        assert text == body


async def test_a_request_may_come_in_pieces() -> None:
    async with open_metrics(0, _Collector()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in (b"GET /met", b"rics HTTP/1.1\r", b"\n\r", b"\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.001)
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        writer.close()


async def test_a_collector_that_fails_is_told_in_the_log_and_ends_nothing() -> None:
    collector = _Collector()
    async with open_metrics(0, collector) as port:
        collector.is_broken = True
        with capture_logs() as logs:
            status, _, _ = await _ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")
        assert status == "HTTP/1.1 500 Internal Server Error"
        assert [log["event"] for log in logs] == ["metrics_failed"]
        collector.is_broken = False
        status, _, _ = await _ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")
        assert status == "HTTP/1.1 200 OK"


async def test_a_client_that_says_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "TIMEOUT_S", 0.02)
    async with open_metrics(0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics")
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_at_the_end_nobody_is_waited_for_and_the_port_is_free() -> None:
    async with asyncio.timeout(10):
        async with open_metrics(0) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0.01)
        writer.close()
        async with open_metrics(port) as again:
            assert again == port


async def test_a_port_in_use_is_an_error_that_names_it() -> None:
    async with open_metrics(0) as port:
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}.*choose another port"):
            async with open_metrics(port):
                pass


def test_it_works_on_the_faster_loop_too() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def ask() -> str:
        async with open_metrics(0, _Collector()) as port:
            status, _, _ = await _ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")
            return status

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ask()) == "HTTP/1.1 200 OK"
