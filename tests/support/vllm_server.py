"""What stands in for vLLM's command in tests: ``serve MODEL …`` that speaks its documented completions protocol.

There is no model behind it: the answer counts on from the prompt's last id. Every request, and whether its client
stayed, is written as a line to the file named in ``STAND_IN_LOG``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VOCABULARY = 500


def tell(kind: str, **values: Any) -> None:
    with Path(os.environ["STAND_IN_LOG"]).open("a") as file:
        file.write(json.dumps({"kind": kind, **values}) + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            return self._refuse(401, "Unauthorized")
        tell("request", path=self.path, body=body)
        if body["temperature"] == 1.25:
            return self._refuse(400, "this temperature is refused")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            self._answer(body)
        except OSError:
            tell("gone")
        return None

    def _answer(self, body: dict[str, Any]) -> None:
        last = body["prompt"][-1]
        for step in range(1, body["max_tokens"] + 1):
            for index in range(body["n"]):
                token = (last + step + 100 * index) % VOCABULARY
                stopped = token in body["stop_token_ids"]
                choice: dict[str, Any] = {"index": index, "text": "", "token_ids": [token], "finish_reason": None}
                if stopped or step == body["max_tokens"]:
                    choice["finish_reason"] = "stop" if stopped else "length"
                if "logprobs" in body:
                    best = {f"token_id:{token + place}": -1.0 - place for place in range(body["logprobs"] + 1)}
                    choice["logprobs"] = {
                        "tokens": [f"token_id:{token}"],
                        "token_logprobs": [-1.0],
                        "top_logprobs": [best],
                        "text_offset": [0],
                    }
                self.wfile.write(f"data: {json.dumps({'id': 'cmpl-1', 'choices': [choice]})}\n\n".encode())
                self.wfile.flush()
            if body["max_tokens"] > 200:
                time.sleep(0.01)
        self.wfile.write(b"data: [DONE]\n\n")

    def _refuse(self, status: int, message: str) -> None:
        text = json.dumps({"error": {"message": message, "code": status}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def main() -> None:
    arguments = sys.argv[1:]
    tell("started", arguments=arguments)
    if "--fail" in os.environ.get("STAND_IN_OPTIONS", ""):
        print("torch.OutOfMemoryError: CUDA out of memory")
        sys.exit(3)
    port = int(arguments[arguments.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
