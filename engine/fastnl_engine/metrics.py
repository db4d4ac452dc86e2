"""What the engine counts, for Prometheus.  Everything begins with fastnl_."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """One set of counters; each engine has its own registry, so that tests can have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"fastnl_{name}", what, labels, registry=self.registry)

        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(f"fastnl_{name}", what, labels, registry=self.registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"fastnl_{name}", what, labels, buckets=buckets, registry=self.registry)

        self.requests = counter("requests", "Requests by op.", "op")
        self.refused = counter("requests_refused", "Requests refused as a whole, by error code.", "code")
        self.items = counter("items", "Items done, by what was done and its result: ok or the error.", "verb", "result")
        self.kernel_errors = counter("kernel_errors", "Errors of the kernel, by errno.", "errno")
        self.mends = counter("mends", "Connections made again because somebody broke them.")
        self.events = counter("events", "Events published.")
        self.stage = histogram(
            "stage_seconds", "Time of a cycle in each stage: waiting, intent, kernel, outcome.", SECONDS, "stage"
        )
        self.cycle = histogram("cycle_items", "Items of a cycle.", SIZES)
        self.queue = gauge("queue_jobs", "Jobs taken on and not answered.")
        self.connections = gauge("connections", "Connections by state.", "state")
        self.namespaces = gauge("namespaces_watched", "Namespaces that connections refer to.")
        self.unwritten = gauge("store_unwritten", "Outcomes that could not be written to the disk yet.")
        self.info = gauge("info", "Always 1; version and instance are its labels.", "version", "instance")

    def text(self) -> bytes:
        return generate_latest(self.registry)


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

        self._server = ThreadingHTTPServer(address, Handler)
        self._server.daemon_threads = True
        self.address = self._server.server_address
        self._thread = threading.Thread(target=self._server.serve_forever, name="http")
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
