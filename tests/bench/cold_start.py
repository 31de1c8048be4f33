#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What Corral adds to an engine's own start.

Interleaved rounds: (a) the engine started by hand, its health asked in a tight loop, one request sent at
the first 200; (b) the same request to a Corral whose pool is unloaded. Prints the medians and their
difference in milliseconds, as a table or with --json.

Usage: tests/bench/cold_start.py [--rounds 15] [--json] [--llama-server PATH --model FILE.gguf]
Without --llama-server the fake engine is started (build/tests/fakes/fake-engine).
"""
import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BODY = json.dumps({"model": "p", "stream": True, "max_tokens": 1,
                   "messages": [{"role": "user", "content": "hi"}]}).encode()


def request(sock, method, path, body=b""):
    head = (f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode()
    sock.sendall(head + body)
    return sock.recv(65536)


def unix(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60)
    s.connect(path)
    return s


def by_hand(argv, path, cwd):
    """Milliseconds from exec to the first byte of an answer."""
    start = time.perf_counter()
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=cwd)
    try:
        while True:
            try:
                with unix(path) as s:
                    if b" 200 " in request(s, "GET", "/health")[:16]:
                        request(s, "POST", "/v1/chat/completions", BODY)
                        return (time.perf_counter() - start) * 1e3
            except (FileNotFoundError, ConnectionError):
                continue
    finally:
        child.kill()
        child.wait()
        pathlib.Path(path).unlink(missing_ok=True)


def by_corral(path):
    with unix(path) as s:
        start = time.perf_counter()
        first = request(s, "POST", "/v1/chat/completions", BODY)
        took = (time.perf_counter() - start) * 1e3
        assert b" 200 " in first[:16], first
    with unix(path) as s:
        request(s, "POST", "/v1/pools/p/drain", b"{}")
    with unix(path) as s:
        request(s, "POST", "/v1/pools/p/undrain", b"{}")
    return took


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--rounds", type=int, default=15)
    ap.add_argument("--json", action="store_true")
    ap.add_argument("--llama-server")
    ap.add_argument("--model")
    a = ap.parse_args()
    tmp = tempfile.mkdtemp(prefix="crl-")
    sock = f"{tmp}/e.sock"
    fake = str(ROOT / "build/tests/fakes/fake-engine")
    if a.llama_server:
        argv = [a.llama_server, "-m", a.model, "--host", sock, "-c", "16384", "-np", "2", "-t", "1"]
        pool = f"    model: {a.model}\n    engine: {{mode: binary, path: {a.llama_server}, args: '-t 1'}}\n"
    else:
        argv = [fake, "--host", sock, "-np", "2"]
        pool = f"    engine: {{kind: command, command: ['{fake}', --host, '{{socket}}', -np, '2']}}\n"
    config = pathlib.Path(tmp) / "corral.yaml"
    config.write_text(f"listen: 127.0.0.1:0\nstate_dir: {tmp}/s\nruntime_dir: {tmp}/r\n"
                      f"log: {{level: warn}}\npools:\n  - id: p\n{pool}")
    read, write = os.pipe()
    daemon = subprocess.Popen([str(ROOT / "build/corral"), "serve", "--config", str(config),
                               "--ready-fd", str(write)], pass_fds=[write])
    os.close(write)
    os.read(read, 4096)
    own = f"{tmp}/r/corral.sock"
    try:
        by_corral(own)
        hand, corral = [], []
        for _ in range(a.rounds):
            hand.append(by_hand(argv, sock, None))
            corral.append(by_corral(own))
    finally:
        daemon.terminate()
        daemon.wait()
    out = {"rounds": a.rounds, "engine_alone_ms": round(statistics.median(hand), 2),
           "through_corral_ms": round(statistics.median(corral), 2)}
    out["added_ms"] = round(out["through_corral_ms"] - out["engine_alone_ms"], 2)
    if a.json:
        print(json.dumps(out))
    else:
        for key, value in out.items():
            print(f"{key:20} {value}")


if __name__ == "__main__":
    main()
