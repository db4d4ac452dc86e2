"""What the engine counts, for Prometheus.  Everything begins with fastnl_."""

from __future__ import annotations

import socket
import threading
from collections import Counter as Counted
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)

AT_A_TIME = 32  # connections over HTTP; beyond, they are closed: each has a thread and a descriptor of the engine's
SAYS_NOTHING = 5.0  # seconds until who connects and does not ask is hung up on

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, that nobody asks for


class Tally(Collector):
    """A counter for what happens with every item: a third of the price of the library's, which takes a lock.

    For one thread that counts; any may look.
    """

    def __init__(self, name: str, what: str, labels: tuple[str, ...]) -> None:
        self.name, self.labels = name, labels
        self._what = what
        self._counts: dict[tuple[str, ...], int] = {} if labels else {(): 0}

    def add(self, *labels: str, by: int = 1) -> None:
        self._counts[labels] = self._counts.get(labels, 0) + by

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self.name, self._what, labels=self.labels)
        for values, count in self._counts.copy().items():
            family.add_metric(values, count)
        yield family


class Metrics:
    """One set of counters; each engine has its own registry, so that tests can have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"fastnl_{name}", what, labels, registry=self.registry)

        def tally(name: str, what: str, *labels: str) -> Tally:
            made = Tally(f"fastnl_{name}", what, labels)
            self.registry.register(made)
            return made

        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(f"fastnl_{name}", what, labels, registry=self.registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"fastnl_{name}", what, labels, buckets=buckets, registry=self.registry)

        self.requests = tally("requests", "Requests by op.", "op")
        self.refused = counter("requests_refused", "Requests refused as a whole, by error code.", "code")
        self.replies_lost = counter("replies_lost", "Replies thrown away, as their client did not read.")
        self.items = tally("items", "Items done, by what was done and its result: ok or the error.", "verb", "result")
        self.results = tally("results", "Items answered, by op and result: ok or the error.", "op", "result")
        self.kernel_errors = counter("kernel_errors", "Errors of the kernel, by errno.", "errno")
        self.mends = counter("mends", "Connections made again because somebody broke them.")
        self.namespace_changes = counter("namespace_changes", "Namespaces that came and went.", "change")
        self.nsm_calls = counter("nsm_calls", "Calls of the mesh's API, by method and gRPC status.", "method", "status")
        self.events = tally("events", "Events published.")
        self.stage = histogram(
            "stage_seconds", "Time of a cycle in each stage: waiting, intent, kernel, outcome.", SECONDS, "stage"
        )
        self.store = histogram(
            "store_seconds", "Time of one step: intend (before the kernel), sync (beside it), settle (after it).",
            SECONDS, "step",
        )  # fmt: skip
        self.cycle = histogram("cycle_items", "Items of a cycle.", SIZES)
        self.queue = gauge("queue_jobs", "Jobs taken on and not answered.")
        self.connections = gauge("connections", "Connections by state.", "state")
        self.pending = gauge("pending", "Pending connections by the kind of namespace that they wait for.", "reason")
        self.namespaces = gauge("namespaces_watched", "Namespaces that connections refer to.")
        self.unwritten = gauge("store_unwritten", "Outcomes that could not be written to the disk yet.")
        self.info = gauge("info", "Always 1; version and instance are its labels.", "version", "instance")

    def stages(self) -> dict[str, dict[str, Any]]:
        """Of every stage how many cycles went through it, their seconds together, and how many took at most so long."""
        found: dict[str, dict[str, Any]] = {}
        for sample in _samples(self.stage):
            of = found.setdefault(sample.labels["stage"], {"count": 0, "seconds": 0.0, "within": []})
            if sample.name.endswith("_count"):
                of["count"] = int(sample.value)
            elif sample.name.endswith("_sum"):
                of["seconds"] = sample.value
            elif sample.labels["le"] != "+Inf":
                of["within"].append([float(sample.labels["le"]), int(sample.value)])
        return found

    def errors(self) -> dict[str, int]:
        """Items and requests that were answered with an error, by its code."""
        found: Counted[str] = Counted()
        for sample in (*_samples(self.results), *_samples(self.refused)):
            found[sample.labels.get("code") or sample.labels["result"]] += int(sample.value)
        found.pop("ok", None)
        return dict(found.most_common())

    def text(self) -> bytes:
        return generate_latest(self.registry)


def _samples(metric: Collector) -> Iterator[Sample]:
    for family in metric.collect():
        yield from family.samples


class Http:
    """/metrics, /livez and /readyz on a thread of their own.

    refresh()   brings the gauges up to date before they are shown
    ready()     why the engine does not serve yet, "" when it does
    alive()     why it should be restarted, "" when it need not be
    """

    def __init__(
        self, address: tuple[str, int], metrics: Metrics, refresh: Callable[[], None],
        ready: Callable[[], str], alive: Callable[[], str],
    ) -> None:  # fmt: skip
        class Handler(BaseHTTPRequestHandler):
            timeout = SAYS_NOTHING

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    refresh()
                    self._answer(200, metrics.text(), CONTENT_TYPE_LATEST)
                elif path in ("/livez", "/readyz"):
                    problem = alive() if path == "/livez" else ready()
                    self._answer(503 if problem else 200, f"{problem or 'ok'}\n".encode(), "text/plain; charset=utf-8")
                else:
                    self._answer(404, b"/metrics, /livez, /readyz\n", "text/plain; charset=utf-8")

            def _answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Probes come every few seconds; they are no news."""

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            daemon_threads = True
            request_queue_size = AT_A_TIME
            room = threading.BoundedSemaphore(AT_A_TIME)

            def process_request(self, request: Any, client_address: Any) -> None:
                if not self.room.acquire(blocking=False):
                    self.shutdown_request(request)
                    return
                try:
                    super().process_request(request, client_address)
                except BaseException:  # no thread to be had
                    self.room.release()
                    raise

            def process_request_thread(self, request: Any, client_address: Any) -> None:
                try:
                    super().process_request_thread(request, client_address)
                finally:
                    self.room.release()

            def handle_error(self, *_: object) -> None:
                """Who asks and goes before the answer is no news either."""

        self._server = Server(address, Handler)
        self.address = self._server.server_address
        self._thread = threading.Thread(target=self._server.serve_forever, name="http")
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
