"""What vLLM's API server takes of its core; inside vLLM's environment: ``python api_work.py SERVE.py TEXT…``.

Starts ``vllm serve`` on a tiny model with a byte-pair tokenizer trained on the texts, sends streamed completions of several
shapes, and reads the processor time of the API server's process. One JSON line per round: requests, input and output
tokens, seconds; at its end seconds per request, input token and output token (least squares over the rounds, with standard
errors). Processor time hardly grows when others use the machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

MODEL = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 64, "vocab_size": 32000,
    "max_position_embeddings": 8192, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}  # fmt: skip
ENV = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
SHAPES = ((16, 8), (16, 128), (2000, 8), (600, 64), (2000, 128))  # input, output tokens, about
ROUNDS, REQUESTS, CLIENTS = 4, 48, 12


def main(serve: str, texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        words = write_model(Path(folder), texts)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        flags = ["--load-format", "dummy", "--enforce-eager", "--max-model-len", "4096", "--port", str(port)]
        command = [sys.executable, serve, folder, *flags, "--served-model-name", "tiny", "--disable-uvicorn-access-log"]
        server = subprocess.Popen(command, env=os.environ | ENV, start_new_session=True)
        try:
            await_ready(server, port)
            rounds = asyncio.run(drive(server.pid, port, words))
        finally:
            server.terminate()
            server.wait(30)
    report(rounds)


def write_model(folder: Path, texts: list[str]) -> list[str]:
    """Config and tokenizer; the words of the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train(texts, trainers.BpeTrainer(vocab_size=32000, special_tokens=["<eos>"], initial_alphabet=alphabet))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "model_max_length": 8192}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(MODEL), encoding="utf-8")
    return " ".join(Path(text).read_text(encoding="utf-8") for text in texts).split()


def await_ready(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(1200):
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return
        except OSError:
            time.sleep(0.25)
    sys.exit("the server did not get ready")


async def drive(pid: int, port: int, words: list[str]) -> list[dict[str, Any]]:
    """The rounds, the first of each shape left out: it warms up."""
    import aiohttp

    dice, rounds = random.Random(0), []
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        for number in range(ROUNDS + 1):
            for tokens_in, tokens_out in SHAPES:
                before = cpu_s(pid)
                used = await send(session, words, dice, tokens_in, tokens_out)
                await asyncio.sleep(0.3)
                row = {"requests": REQUESTS, **used, "api_s": cpu_s(pid) - before}
                if number:
                    rounds.append(row)
                    print(json.dumps(row), flush=True)
    return rounds


async def send(session: Any, words: list[str], dice: random.Random, tokens_in: int, tokens_out: int) -> dict[str, int]:
    """One round: tokens that the server says it read and wrote."""
    seats, sums = asyncio.Semaphore(CLIENTS), {"input_tokens": 0, "output_tokens": 0}

    async def one() -> None:
        start = dice.randrange(len(words) - tokens_in)
        body = {"model": "tiny", "prompt": " ".join(words[start : start + tokens_in // 2]), "max_tokens": tokens_out,
                "stream": True, "ignore_eos": True, "stream_options": {"include_usage": True}}  # fmt: skip
        async with seats, session.post("/v1/completions", json=body) as answer:
            last: dict[str, Any] = {}
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    last = json.loads(line[6:])
            sums["input_tokens"] += last["usage"]["prompt_tokens"]
            sums["output_tokens"] += last["usage"]["completion_tokens"]

    await asyncio.gather(*(one() for _ in range(REQUESTS)))
    return sums


def cpu_s(pid: int) -> float:
    """Processor time of the process alone, its engine left out."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(rounds: list[dict[str, Any]]) -> None:
    import numpy as np

    names = ("requests", "input_tokens", "output_tokens")
    work = np.array([[row[name] for name in names] for row in rounds], dtype=float)
    spent = np.array([row["api_s"] for row in rounds])
    fitted, *_ = np.linalg.lstsq(work, spent, rcond=None)
    rest = spent - work @ fitted
    errors = np.sqrt(np.diag(np.linalg.inv(work.T @ work)) * (rest @ rest) / (len(spent) - len(names)))
    units = ("request_s", "input_token_s", "output_token_s")
    print(json.dumps({unit: [float(a), float(b)] for unit, a, b in zip(units, fitted, errors, strict=True)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
