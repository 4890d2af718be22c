"""A chat API on this machine that answers as a test says; it may fail, stall and talk rubbish."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, bytes, dict[str, str]]


def chat(text: str) -> Reply:
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode(), {}


class Server:
    """Answers with ``reply(prompt, how many calls came before)``."""

    def __init__(self, reply: Callable[[str, int], Reply | float]) -> None:
        self.reply = reply
        self.calls: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    before = len(outer.calls)
                    outer.calls.append(body | {"path": self.path})
                    outer.headers.append(dict(self.headers))
                found = outer.reply(body["messages"][0]["content"], before)
                if isinstance(found, float):  # stall, then hang up
                    time.sleep(found)
                    return
                status, data, headers = found
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *words: Any) -> None:
                return None

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
