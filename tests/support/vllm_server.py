"""What stands in for vLLM's command in tests: ``serve MODEL …`` that speaks its documented completions protocol, and
that for adapters that come and go.

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
ADAPTERS: dict[str, str] = {}
"""Folders by the names they are served by."""


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
        if self.path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            return self._adapter(self.path.split("/")[-1].startswith("load"), body)
        if body["model"] not in {"@base", *ADAPTERS}:
            return self._refuse(404, f"The model `{body['model']}` does not exist.")
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

    def _adapter(self, load: bool, body: dict[str, Any]) -> None:
        name = body["lora_name"]
        held = Path(os.environ.get("STAND_IN_HOLD", "/nonexistent"))
        while held.exists():  # a load that takes long
            time.sleep(0.01)
        if os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") != "True":
            return self._refuse(404, "Not Found")
        if load and name in ADAPTERS:
            return self._refuse(400, f"The lora adapter '{name}' has already been loaded.")
        if load:
            config = json.loads((Path(body["lora_path"]) / "adapter_config.json").read_text())
            if config.get("target_modules") == ["no"]:
                return self._refuse(500, "expected target modules in {'q_proj'} but received modules ['no']")
        if not load and name not in ADAPTERS:
            return self._refuse(404, f"The lora adapter '{name}' cannot be found.")
        if load:
            ADAPTERS[name] = body["lora_path"]
        else:
            del ADAPTERS[name]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
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
    if "--lora-modules" in arguments:
        modules = arguments[arguments.index("--lora-modules") + 1 :]
        ADAPTERS.update((name, path) for name, _, path in (module.partition("=") for module in modules))
    port = int(arguments[arguments.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
