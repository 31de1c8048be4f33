#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How soon a new orchestratord serves, and how soon a dead engine's request reaches another one.

(1) orchestratord is killed with -9 beside 100 pools, of which 20 have a running engine. Measured from
the exec of its successor: to its ready line, and to the moment when all 20 engines are in service again
with the same pids. (2) One of two replicas is killed with -9 while it holds a request without a byte.
Measured from kill(2): to the arrival of that request at the other replica (the engine's own record of it
says when).

Usage: tests/bench/readiness.py [--rounds 9] [--pools 100] [--engines 20] [--build DIR] [--json]
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def ask(path, method, target, body=None, timeout=60):
    """One request on a connection of its own to a unix socket; status and JSON."""
    data = b"" if body is None else json.dumps(body).encode()
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(timeout)
        s.connect(path)
        s.sendall(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                  f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        got = b""
        while part := s.recv(1 << 20):
            got += part
    head, _, rest = got.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        out = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            n = int(size, 16)
            out, rest = out + rest[:n], rest[n + 2:]
        rest = out
    try:
        return int(head.split()[1]), json.loads(rest)
    except ValueError:
        return int(head.split()[1]), None


class Corral:
    def __init__(self, build, pools):
        self.dir = tempfile.mkdtemp(prefix="crl-")
        self.build, self.sock = build, f"{self.dir}/r/corral.sock"
        self.config = pathlib.Path(self.dir, "corral.yaml")
        self.config.write_text(json.dumps({
            "listen": "127.0.0.1:0", "state_dir": f"{self.dir}/s", "runtime_dir": f"{self.dir}/r",
            "log": {"level": "warn", "format": "json"}, "pools": pools}))

    def start(self):
        """Milliseconds from exec to the ready line."""
        read, write = os.pipe()
        at = time.perf_counter()
        self.child = subprocess.Popen([f"{self.build}/corral", "serve", "--config", str(self.config),
                                       "--ready-fd", str(write)], pass_fds=[write],
                                      stderr=open(f"{self.dir}/log", "ab"))
        os.close(write)
        assert os.read(read, 4096), open(f"{self.dir}/log").read()
        took = (time.perf_counter() - at) * 1e3
        os.close(read)
        self.exec_at = at
        return took

    def replicas(self):
        pools = ask(self.sock, "GET", "/v1/pools")[1]["pools"]
        return [r for p in pools for r in p["replicas"] if r["ready"]]

    def wait_ready(self, n):
        while len(now := self.replicas()) < n:
            pass
        return now

    def stop(self):
        self.child.send_signal(signal.SIGTERM)
        self.child.wait()
        shutil.rmtree(self.dir)


def fake(build, i, **more):
    program = f"{build}/tests/fakes/fake-engine"
    return {"id": i, "slots": 4, "engine": {"kind": "command", "command": [
        program, "--host", "{socket}", "--alias", "{id}", "-np", "{slots}"]}, **more}


def readopt(a):
    on = {"replicas": {"min": 1, "max": 1}}
    c = Corral(a.build, [fake(a.build, f"p{i}", **(on if i < a.engines else {})) for i in range(a.pools)])
    ready, all_ready = [], []
    try:
        c.start()
        before = {r["id"]: r["pid"] for r in c.wait_ready(a.engines)}
        for _ in range(a.rounds):
            c.child.kill()
            c.child.wait()
            ready.append(c.start())
            after = c.wait_ready(a.engines)
            all_ready.append((time.perf_counter() - c.exec_at) * 1e3)
            assert {r["id"]: r["pid"] for r in after} == before, "the engines are the same"
    finally:
        c.stop()
    return ready, all_ready


def reroute(a):
    two = {"replicas": {"min": 2, "max": 2}}
    c = Corral(a.build, [fake(a.build, "p", **two)])
    took = []
    try:
        c.start()
        for n in range(a.rounds):
            replicas = {r["id"]: r for r in c.wait_ready(2)}
            socks = {i: r["address"].removeprefix("unix:") for i, r in replicas.items()}
            mark = f"round-{n}"
            body = {"model": "p", "stream": True, "messages": [{"role": "user", "content": mark}],
                    "fake": {"prefill_ms": 600}}
            answer = []
            t = threading.Thread(target=lambda: answer.append(
                ask(c.sock, "POST", "/v1/chat/completions", body)[0]))
            t.start()
            first = None
            while not first:
                first = next((i for i, s in socks.items()
                              if mark in json.dumps(ask(s, "GET", "/fake/requests")[1])), None)
            other = next(i for i in socks if i != first)
            with socket.socket(socket.AF_UNIX) as s:  # /fake/wait answers when its counter moves
                state = ask(socks[other], "GET", "/fake/state")[1]
                s.connect(socks[other])
                s.settimeout(60)
                want = state["requests"] + 1
                target = f"/fake/wait?requests={want}&timeout_ms=60000"
                s.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                # the question is in the engine when it answers another one after it
                ask(socks[other], "GET", "/fake/state")
                at = time.perf_counter()
                os.kill(replicas[first]["pid"], signal.SIGKILL)
                got = s.recv(65536)
                took.append((time.perf_counter() - at) * 1e3)
                assert b" 200 " in got[:20], got
            t.join()
            assert answer == [200], answer
            assert mark in json.dumps(ask(socks[other], "GET", "/fake/requests")[1])
    finally:
        c.stop()
    return took


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--rounds", type=int, default=9)
    ap.add_argument("--pools", type=int, default=100)
    ap.add_argument("--engines", type=int, default=20)
    ap.add_argument("--build", default=str(ROOT / "build"))
    ap.add_argument("--json", action="store_true")
    a = ap.parse_args()
    ready, all_ready = readopt(a)
    took = reroute(a)
    out = {}
    for key, list_ in (("ready_ms", ready), ("engines_ready_ms", all_ready), ("rerouted_ms", took)):
        out[key] = round(statistics.median(list_), 2)
        out[f"{key}_max"] = round(max(list_), 2)
    print(json.dumps(out) if a.json else "\n".join(f"{k:24} {v}" for k, v in out.items()))


if __name__ == "__main__":
    main()
