"""A server that speaks as vLLM does and ticks at known times; standard library only.

``python fake_vllm.py PORT [TTFT_S GAP_S] [--die-after N] [--not-vllm] [--refuse]``: token k of a request leaves TTFT_S + k ×
GAP_S after its arrival, several as they fall due. After N requests the process is gone.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(sys.argv[1])
TTFT_S, GAP_S = (float(word) for word in sys.argv[2:4])
FLAGS = sys.argv[4:]
DIE_AFTER = int(FLAGS[FLAGS.index("--die-after") + 1]) if "--die-after" in FLAGS else None
METRICS = """# HELP vllm:num_requests_running Number of requests.
vllm:num_requests_running{{engine="0",model_name="fake"}} {running}.0
vllm:num_requests_waiting{{engine="0",model_name="fake"}} 0.0
vllm:num_requests_waiting_by_reason{{engine="0",model_name="fake",reason="capacity"}} 7.0
vllm:kv_cache_usage_perc{{engine="0",model_name="fake"}} 0.25
vllm:num_preemptions_total{{engine="0",model_name="fake"}} 3.0
vllm:cache_config_info{{block_size="128",enable_prefix_caching="False",engine="0",num_gpu_blocks="1000"}} 1.0
"""


class State:
    running = 0
    served = 0
    lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        pages = {
            "/health": "",
            "/version": json.dumps({"version": "0.32.0"}),
            "/metrics": METRICS.format(running=State.running),
            "/v1/models": json.dumps({"data": [{"id": "fake", "max_model_len": 2560}]}),
        }
        if "--not-vllm" in FLAGS:
            pages = {"/health": "", "/metrics": "process_cpu_seconds_total 3.0\n"}
        body = pages.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or "")))
        self.end_headers()
        self.wfile.write((body or "").encode())

    def do_POST(self) -> None:
        arrived = time.perf_counter()
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with State.lock:
            State.served += 1
            State.running += 1
        if DIE_AFTER is not None and State.served > DIE_AFTER:
            os._exit(9)
        if "--refuse" in FLAGS:
            self.send_response(400)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"full")
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for token in range(asked["max_tokens"]):
            time.sleep(max(0.0, arrived + TTFT_S + token * GAP_S - time.perf_counter()))
            line = f'data: {{"choices": [{{"text": "", "token_ids": [{token}]}}]}}\n\n'
            cut = len(line) // 2  # wherever the transfer is cut, a line is a line
            self._chunk(line[:cut])
            self._chunk(line[cut:])
        self._chunk("data: [DONE]\n\n")
        with State.lock:
            State.running -= 1
        self._chunk("")

    def _chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())
        self.wfile.flush()


if __name__ == "__main__":
    ThreadingHTTPServer.request_queue_size = 64
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
