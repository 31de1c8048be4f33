#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What it is worth that a conversation outlives its engine.

Two pools of one generated model, one with `kv_cache.save: on`, one with `off`, one slot each. Interleaved
rounds: a first turn of --tokens tokens, the engine is stopped (as a swap does), then the next turn is sent
to the stopped pool as a stream: the time from sending it to its first token, the start of the engine among
it. The two pools must answer the same bytes. Prints the medians and their ratio, as a table or with --json.

Usage: tests/bench/kv_swap.py [--build build] [--rounds 3] [--tokens 4000] [--layers 8] [--embd 1024]
                              [--llama-server PATH] [--engines DIR] [--json]
Without --llama-server Corral gets the distribution's package (--engines: a folder with engines it has got).
"""
import argparse
import http.client
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=1800)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(own, target, body):
    c = Unix(own)
    c.request("POST", target, json.dumps(body), {"Content-Type": "application/json"})
    return c, c.getresponse()


def turn(own, pool, messages):
    """Milliseconds to the first token and of the engine for the prompt, the answer's text, tokens of the
    prompt, those of them that were cached."""
    start, first, text, usage, prompt_ms = time.perf_counter(), None, "", {}, 0
    c, r = ask(own, "/v1/chat/completions",
               {"model": pool, "messages": messages, "max_tokens": 4, "temperature": 0, "stream": True,
                "stream_options": {"include_usage": True}})
    assert r.status == 200, r.read()
    for line in r:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        usage = event.get("usage") or usage
        prompt_ms = (event.get("timings") or {}).get("prompt_ms", prompt_ms)
        for choice in event.get("choices", []):
            piece = choice["delta"].get("content")
            if piece:
                first = first or time.perf_counter()
                text += piece
    c.close()
    details = usage.get("prompt_tokens_details") or {}
    return (first - start) * 1e3, prompt_ms, text, usage["prompt_tokens"], details.get("cached_tokens", 0)


def drained(own, pool):
    """Returns once no engine of the pool runs."""
    for verb in ("drain", "undrain"):
        c, r = ask(own, f"/v1/pools/{pool}/{verb}", {})
        assert r.status < 300, r.read()
        r.read()
        c.close()


def one_round(own, number, tokens):
    """Figures of both pools for a conversation nobody has had before."""
    out = {}
    story = f"{number} once upon a time " * (tokens // 20 + 1)
    for pool in ("saved", "unsaved"):
        said = [{"role": "user", "content": story[:tokens]}]
        _, _, text, prompt, _ = turn(own, pool, said)
        drained(own, pool)
        said += [{"role": "assistant", "content": text}, {"role": "user", "content": "Go"}]
        first, prompt_ms, text, _, cached = turn(own, pool, said)
        out[pool] = {"first_token_ms": first, "prefill_ms": prompt_ms, "text": text, "prompt_tokens": prompt,
                     "cached": cached}
    assert out["saved"]["text"] == out["unsaved"]["text"], "the same bytes"
    assert out["saved"]["cached"] >= out["saved"]["prompt_tokens"] - 1, out["saved"]
    assert out["unsaved"]["cached"] == 0, out["unsaved"]
    return out


def make_model(a, folder):
    path = f"{folder}/m.gguf"
    subprocess.run([sys.executable, str(ROOT / "tools/make_model.py"), "random", path, "--ctx", "65536",
                    "--layers", str(a.layers), "--embd", str(a.embd)], check=True, stdout=subprocess.DEVNULL)
    return path


def start(a, folder):
    engine = {"kind": "llamacpp", "args": ["-t", str(a.threads)]}
    if a.llama_server:
        engine |= {"mode": "binary", "path": a.llama_server}
    model = make_model(a, folder)
    if a.engines:
        os.makedirs(f"{folder}/s", exist_ok=True)
        os.symlink(os.path.abspath(a.engines), f"{folder}/s/engines")
    pools = [{"id": p, "model": model, "ctx": a.tokens + 1024, "slots": 1, "engine": engine,
              "kv_cache": {"save": save}} for p, save in (("saved", "on"), ("unsaved", "off"))]
    config = pathlib.Path(folder) / "corral.yaml"
    config.write_text(json.dumps({"listen": "127.0.0.1:0", "state_dir": f"{folder}/s",
                                  "runtime_dir": f"{folder}/r", "log": {"level": "warn"}, "pools": pools}))
    read, write = os.pipe()
    daemon = subprocess.Popen([f"{os.path.abspath(a.build)}/corral", "serve", "--config", str(config),
                               "--ready-fd", str(write)], pass_fds=[write])
    os.close(write)
    os.read(read, 4096)
    return daemon, f"{folder}/r/corral.sock"


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--build", default=str(ROOT / "build"))
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--tokens", type=int, default=4000)
    ap.add_argument("--layers", type=int, default=8)
    ap.add_argument("--embd", type=int, default=1024)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--llama-server")
    ap.add_argument("--engines")
    ap.add_argument("--json", action="store_true")
    a = ap.parse_args()
    folder = tempfile.mkdtemp(prefix="crl-")
    daemon = None
    try:
        daemon, own = start(a, folder)
        for pool in ("saved", "unsaved"):
            turn(own, pool, [{"role": "user", "content": "Hello"}])
        rounds = [one_round(own, i, a.tokens) for i in range(a.rounds)]
    finally:
        if daemon:
            daemon.terminate()
            daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)
    out = {"rounds": a.rounds, "prompt_tokens": rounds[0]["saved"]["prompt_tokens"],
           "cached_tokens": min(r["saved"]["cached"] for r in rounds)}
    for pool in ("saved", "unsaved"):
        for what in ("first_token_ms", "prefill_ms"):
            out[f"{pool}_{what}"] = round(statistics.median(r[pool][what] for r in rounds), 1)
    for what in ("first_token", "prefill"):
        out[f"{what}_ratio"] = round(out[f"unsaved_{what}_ms"] / out[f"saved_{what}_ms"], 1)
    if a.json:
        print(json.dumps(out))
    else:
        for key, value in out.items():
            print(f"{key:26} {value}")


if __name__ == "__main__":
    main()
