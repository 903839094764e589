"""Metrics in the form of Prometheus, over HTTP, from the event loop: no thread, nothing that outlives its block.

Needs prometheus-client, so it is imported at the point of choice. A collector yields what it reads at the moment it is
asked; reading is quick, for `statistics()` are frozen records.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Protocol, cast

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder

from parrot_mq.errors import ConfigurationError
from parrot_mq.observability.histogram import Distribution
from parrot_mq.observability.logging import get_logger

__all__ = ["Collector", "counter", "gauge", "histogram", "open_metrics", "summary"]

MAX_REQUEST_BYTES = 16 * 1024
TIMEOUT_S = 5.0
"""A client that has not sent its request, or not read its answer, by then is cut off."""

Labels = tuple[str, ...]

log = get_logger(__name__)


class Collector(Protocol):
    """Reads metrics when it is asked."""

    def collect(self) -> Iterable[Metric]:
        """Yield one family after the other."""


# -- families --------------------------------------------------------------------------------------------------------


def gauge(name: str, help_: str, values: Mapping[Labels, float], labels: Labels = ()) -> Metric:
    """Values that go up and down, by their labels."""
    family = GaugeMetricFamily(name, help_, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def counter(name: str, help_: str, values: Mapping[Labels, float], labels: Labels = ()) -> Metric:
    """Values that only rise, by their labels; `_total` is added to the name."""
    family = CounterMetricFamily(name, help_, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def summary(name: str, help_: str, values: Mapping[Labels, tuple[int, float]], labels: Labels = ()) -> Metric:
    """How many there were, and their sum, by their labels."""
    family = SummaryMetricFamily(name, help_, labels=labels)
    for of, (count, total) in values.items():
        family.add_metric(of, count, total)
    return family


def histogram(name: str, help_: str, values: Mapping[Labels, Distribution], labels: Labels = ()) -> Metric:
    """How many there were of each size, by their labels."""
    family = HistogramMetricFamily(name, help_, labels=labels)
    for of, seen in values.items():
        buckets = [("+Inf" if bound == float("inf") else str(bound), float(num)) for bound, num in seen.cumulative]
        family.add_metric(of, buckets, seen.total)
    return family


# -- over HTTP -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_metrics(port: int, *collectors: Collector, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Serve `/metrics` during the block; what this process uses of the machine is among them.

    Args:
        port: Where to listen; 0 takes a free one.
        collectors: What is served.
        host: On which address to listen; an empty one is all of them.

    Yields: the port.

    Raises:
        ConfigurationError: The address cannot be listened on.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    connections: set[_Connection] = set()
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(lambda: _Connection(registry, connections), host or None, port)
    except OSError as error:
        sentence = f"metrics cannot be served on {host}:{port}: {error.strerror or error}; choose another port"
        raise ConfigurationError(sentence, setting="metrics_port") from error
    port = server.sockets[0].getsockname()[1]
    log.info("metrics_served", host=host, port=port)
    try:
        yield port
    finally:
        server.close()
        for connection in list(connections):
            connection.abort()
        await server.wait_closed()


class _Connection(asyncio.Protocol):
    """One request, one answer."""

    def __init__(self, registry: CollectorRegistry, connections: set[_Connection]) -> None:
        self._registry = registry
        self._connections = connections
        self._request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._connections.add(self)
        self._timer = asyncio.get_running_loop().call_later(TIMEOUT_S, self.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._connections.discard(self)

    def abort(self) -> None:
        """Cut it off."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        self._request += data
        head, is_whole, _ = self._request.partition(b"\r\n\r\n")
        if len(head) > MAX_REQUEST_BYTES:
            self._send(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif is_whole:
            self._answer(head.decode("latin-1"))

    def _answer(self, head: str) -> None:
        line, *headers = head.split("\r\n")
        method, _, rest = line.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in ("GET", "HEAD"):
            self._send(HTTPStatus.METHOD_NOT_ALLOWED)
        elif path != "/metrics":
            self._send(HTTPStatus.NOT_FOUND, b"metrics are at /metrics\n")
        else:
            self._send_metrics(dict(_parse_headers(headers)).get("accept", ""), has_body=method == "GET")

    def _send_metrics(self, accept: str, *, has_body: bool) -> None:
        encode, content_type = choose_encoder(accept)
        try:
            body = encode(self._registry)
        except Exception:  # a mistake in a collector must not end the service
            log.exception("metrics_failed")
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR)
        else:
            self._send(HTTPStatus.OK, body, content_type, has_body=has_body)

    def _send(
        self, status: HTTPStatus, body: bytes = b"", content_type: str = "text/plain", *, has_body: bool = True
    ) -> None:
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._transport.write(head.encode("latin-1") + (body if has_body else b""))
        self._transport.close()  # once all is written


def _parse_headers(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, _, value = line.partition(":")
        yield name.strip().lower(), value.strip()
