#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that fake-engine does what its --help promises: test_fake_engine.py PATH-OF-FAKE-ENGINE."""
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

FAKE = sys.argv.pop(1) if len(sys.argv) > 1 else "fake-engine"
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


class Engine:
    def __init__(self, *flags, env=None):
        self.p = subprocess.Popen([FAKE, "--port", "0", "-np", "2", *flags], stdout=subprocess.PIPE,
                      stderr=subprocess.PIPE, env={**os.environ, **(env or {})})
        line = self.p.stdout.readline().decode().strip()
        self.port = int(line.rsplit(":", 1)[1]) if line else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.p.kill()
        self.p.communicate()

    def call(self, method, path, body=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            c.request(method, path, None if body is None else json.dumps(body))
            r = c.getresponse()
            return r.status, r.read()
        finally:
            c.close()

    def raw(self, body, path="/v1/chat/completions"):
        """Everything the engine sends until it closes."""
        with self.send(body, path) as s:
            got = b""
            try:
                while part := s.recv(65536):
                    got += part
            except ConnectionResetError:
                got += b"<reset>"
            return got

    def send(self, body, path="/v1/chat/completions"):
        data = json.dumps(body).encode()
        s = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        s.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
              % (path.encode(), len(data), data))
        return s

    def json(self, path):
        return json.loads(self.call("GET", path)[1])


def chat(fault=None, stream=True, **fake):
    if fault:
        fake["fault"] = fault
    return {**CHAT, "stream": stream, "fake": fake}


def dechunk(raw):
    head, _, rest = raw.partition(b"\r\n\r\n")
    out, sizes = b"", []
    while rest:
        n, _, rest = rest.partition(b"\r\n")
        sizes.append(int(n, 16))
        out, rest = out + rest[:sizes[-1]], rest[sizes[-1] + 2:]
        if sizes[-1] == 0:
            break
    return out, sizes


class Answers(unittest.TestCase):
    def test_dialects(self):
        with Engine("--embeddings", "--rerank", "--metrics", "-c", "8192") as e:
            for path, body, marks in (
                ("/v1/chat/completions", CHAT, (b'"content":"tok0 "', b"data: [DONE]\n\n")),
                ("/v1/completions", {"prompt": "x"}, (b'"text":"tok0 "', b"data: [DONE]\n\n")),
                ("/completion", {"prompt": "x"}, (b'"content":"tok0 "', b'"stop":true')),
                ("/v1/messages", CHAT, (b"event: message_start", b"event: message_stop")),
                ("/v1/responses", {"input": "x"},
                 (b"event: response.created", b"event: response.completed"))):
                status, streamed = e.call("POST", path, {**body, "stream": True})
                self.assertEqual(status, 200)
                for m in marks:
                    self.assertIn(m, streamed)
                for line in streamed.split(b"\n"):
                    if line.startswith(b"data: {"):
                        json.loads(line[6:])
                status, whole = e.call("POST", path, body)
                self.assertIn("tok0 tok1 ", json.dumps(json.loads(whole)))
            usage = json.loads(e.call("POST", "/v1/chat/completions", {**CHAT, "max_tokens": 3})[1])
            self.assertEqual(usage["usage"]["completion_tokens"], 3)
            self.assertEqual(usage["choices"][0]["finish_reason"], "length")
            for path, body in (("/v1/embeddings", {"input": ["a", "bb"]}),
                       ("/v1/rerank", {"query": "q", "documents": ["a", "b"]}),
                       ("/tokenize", {"content": "ab"}), ("/detokenize", {"tokens": [97, 98]}),
                       ("/apply-template", CHAT), ("/v1/messages/count_tokens", CHAT)):
                status, whole = e.call("POST", path, body)
                self.assertEqual(status, 200, path)
                json.loads(whole)
            self.assertEqual(e.json("/props")["total_slots"], 2)
            self.assertEqual(e.json("/props")["default_generation_settings"]["n_ctx"], 4096)
            status, whole = e.call("POST", "/completion", {"prompt": "a" * 5000})
            self.assertEqual((status, json.loads(whole)["error"]["n_ctx"]), (400, 4096))
            self.assertEqual(e.call("GET", "/nothing")[0], 404)

    def test_the_same_body_for_every_write_and_chunk_size(self):
        with Engine("--tokens", "60") as e:
            body, _ = dechunk(e.raw(chat()))
            for fake in ({"write_size": 1}, {"chunk_size": 1}, {"chunk_size": 65536},
                         {"chunk_size": 100, "write_size": 7}):
                got, sizes = dechunk(e.raw(chat(**fake)))
                self.assertEqual(got, body)
                if "chunk_size" in fake:
                    self.assertTrue(all(n == fake["chunk_size"] for n in sizes[:-2]))

    def test_record_and_echo(self):
        with tempfile.TemporaryDirectory() as d, Engine("--record", d + "/r") as e:
            e.call("POST", "/fake/echo", "häuser")
            data = json.dumps("häuser").encode()
            with open(d + "/r", encoding="utf-8") as f:
                r = json.loads(f.readline())
            self.assertEqual((r["body"], r["body_length"]), (data.decode(), len(data)))
            self.assertEqual(r["body_sha256"], hashlib.sha256(data).hexdigest())
            self.assertEqual(e.json("/fake/requests"), [r])
            for n in (0, 55, 56, 63, 64, 65, 1000):
                e.call("POST", "/fake/echo", "x" * n)
                self.assertEqual(e.json("/fake/requests")[-1]["body_sha256"],
                         hashlib.sha256(json.dumps("x" * n).encode()).hexdigest())

    def test_chunked_request_and_pipelining(self):
        with Engine() as e:
            with socket.create_connection(("127.0.0.1", e.port), timeout=20) as s:
                s.sendall(b"POST /fake/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                      b"3\r\nabc\r\n2;x=y\r\nde"
                      b"\r\n0\r\nT: 1\r\n\r\nGET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
                got = b""
                while part := s.recv(65536):
                    got += part
            self.assertIn(b"\r\n\r\nabcdeHTTP/1.1 200", got)
            self.assertIn(b'{"status":"ok"}', got)


class Cancel(unittest.TestCase):
    def test_a_client_that_leaves_frees_its_slot(self):
        with Engine("--event-interval-us", "100000", "--tokens", "100000") as e:
            s = e.send(chat())
            s.recv(10)
            self.assertEqual([x["is_processing"] for x in e.json("/slots")].count(True), 1)
            s.close()
            self.assertEqual(e.json("/fake/wait?cancelled=1")["cancelled"], 1)
            s = e.send(chat(slot_linger_ms=600000))
            s.recv(10)
            s.close()
            e.json("/fake/wait?cancelled=2")
            self.assertEqual([x["is_processing"] for x in e.json("/slots")].count(True), 1)

    def test_a_request_waits_for_a_slot(self):
        with Engine() as e:
            held = [e.send(chat("hang@head")) for _ in range(2)]
            for s in held:
                s.recv(10)
            third = e.send(CHAT)
            e.json("/fake/wait?requests=3")
            held[0].close()
            self.assertIn(b"200 OK", third.recv(100))
            for s in held + [third]:
                s.close()


class Faults(unittest.TestCase):
    def test_dies_where_asked(self):
        for where, tokens, done in (("request", 0, 0), ("head", 0, 0), ("2", 2, 0), ("last", 4, 0),
                                    ("done", 4, 0),
                        ("end", 4, 1)):
            with Engine("--tokens", "4") as e:
                got = e.raw(chat("signal:11@" + where))
                self.assertEqual((got.count(b"tok"), got.count(b"[DONE]")), (tokens, done), where)
                self.assertEqual(got.startswith(b"HTTP"), where != "request")
                self.assertEqual(b'"finish_reason":"stop"' in got, where in ("done", "end"))
                self.assertEqual(e.p.wait(20), -signal.SIGSEGV)
        with Engine() as e:
            e.raw(chat("exit:7@mid:1"))
            self.assertEqual(e.p.wait(20), 7)
        with Engine("--abort-on", "poison") as e:
            e.raw({**CHAT, "user": "poison"})
            self.assertEqual(e.p.wait(20), -signal.SIGABRT)

    def test_puts_and_ends(self):
        with Engine("--tokens", "2") as e:
            for what, mark in (("garbage", b"data data data"), ("nul", b"a\0b"), ("bad_utf8", b"\xc3\x28"),
                       ("error", b'data: {"error"'), ("comment", b": ping")):
                got = e.raw(chat(what + "@1"))
                self.assertIn(mark, got)
                self.assertIn(b"[DONE]", got)
            self.assertGreater(len(e.raw(chat("long_line:10@1"))), 10 << 20)
            got = e.raw(chat("close@1"))
            self.assertFalse(got.endswith(b"0\r\n\r\n"))
            self.assertIn(b"<reset>", e.raw(chat("reset@1")))
            with e.send(chat("half_close@1")) as s:
                while s.recv(65536):
                    pass
            with e.send(chat("hang@1", stream=False)) as s:
                s.settimeout(0.2)
                self.assertRaises(TimeoutError, s.recv, 1)

    def test_framing(self):
        with Engine("--tokens", "2") as e:
            got = e.raw(chat(framing="short"))
            head, _, body = got.partition(b"\r\n\r\n")
            self.assertIn(b"Content-Length: %d" % (len(body) + 10), head)
            got = e.raw(chat(framing="long", stream=False))
            head, _, body = got.partition(b"\r\n\r\n")
            self.assertIn(b"Content-Length: %d" % (len(body) - 5), head)
            self.assertNotIn(b"Content-Length", e.raw(chat(framing="close", stream=False)))
            self.assertIn(b"\r\n\r\nFFFFFFFFFFFFFFFFF\r\n", e.raw(chat(framing="overflow")))
            self.assertIn(b"\r\n\r\nzz\r\n", e.raw(chat(framing="bad_chunk")))
            self.assertFalse(e.raw(chat(framing="no_end")).endswith(b"0\r\n\r\n"))
            self.assertTrue(e.raw(chat(head="garbage")).startswith(b"\x16\x03"))
            self.assertTrue(e.raw(chat(head="informational")).startswith(b"HTTP/1.1 103"))
            self.assertGreater(len(e.raw(chat(head="big"))), 128 << 10)

    def test_statuses(self):
        with Engine() as e:
            status, body = e.call("POST", "/v1/chat/completions",
                                  {**CHAT, "fake": {"status": 429, "error_body": "{\"a\":1}"}})
            self.assertEqual((status, body), (429, b'{"a":1}'))
            e.call("POST", "/fake/behave", {"status": 500, "for_requests": 2})
            self.assertEqual([e.call("POST", "/v1/completions", {})[0] for _ in range(3)], [500, 500, 200])
            self.assertEqual(e.call("POST", "/fake/behave", {"nonsense": 1})[0], 400)


class Process(unittest.TestCase):
    def test_readiness(self):
        with Engine("--ready-after-ms", "600000") as e:
            self.assertEqual(e.call("GET", "/health")[0], 503)
            self.assertEqual(e.call("POST", "/v1/completions", {})[0], 503)
            e.call("POST", "/fake/behave", {"health_lies": 1})
            self.assertEqual(e.call("GET", "/health")[0], 200)
            self.assertEqual(e.call("POST", "/v1/completions", {})[0], 503)
            e.call("POST", "/fake/behave", {"ready_after_ms": 0})
            self.assertEqual(e.call("POST", "/v1/completions", {})[0], 200)

    def test_start_failures(self):
        with Engine(env={"FAKE_START_FAILS": "oom_vram"}) as e:
            self.assertIn(b"out of memory", e.p.stderr.read())
            self.assertEqual(e.p.wait(20), 1)
        with Engine("--exit-at-start", "9") as e:
            self.assertEqual(e.p.wait(20), 9)

    def test_term_and_socket(self):
        with tempfile.TemporaryDirectory() as d:
            for flags, left in ((), False), (("--leave-socket", "1"), True):
                path = d + "/e.sock"
                p = subprocess.Popen([FAKE, "--host", path, *flags], stderr=subprocess.PIPE)
                self.assertIn(b"listening on unix", p.stderr.readline())
                p.terminate()
                self.assertEqual(p.wait(20), 0)
                p.stderr.close()
                self.assertEqual(os.path.exists(path), left)
            again = subprocess.run([FAKE, "--host", path], stderr=subprocess.DEVNULL, timeout=20)
            self.assertEqual(again.returncode, 1)
        with Engine("--ignore-term", "1") as e:
            e.p.terminate()
            self.assertEqual(e.call("GET", "/health")[0], 200)
        with Engine("--term-waits", "1", "--term-exit", "4") as e:
            s = e.send(chat("hang@1"))
            s.recv(10)
            e.p.terminate()
            self.assertEqual(e.call("GET", "/health")[0], 200)
            s.close()
            self.assertEqual(e.p.wait(20), 4)

    def test_grandchild_and_flood(self):
        with Engine("--grandchild", "1") as e:
            line = e.p.stderr.readline()
            pid = int(line.split()[-1])
            e.p.kill()
            e.p.wait()
            os.kill(pid, 0)
            os.kill(pid, signal.SIGKILL)
        p = subprocess.run([FAKE, "--log-flood-mb", "3", "--exit-at-start", "0"], stderr=subprocess.PIPE,
                           timeout=60)
        self.assertGreaterEqual(len(p.stderr), 3 << 20)

    def test_connections_end(self):
        with Engine("--max-requests", "2", "--idle-close-ms", "50") as e:
            c = http.client.HTTPConnection("127.0.0.1", e.port, timeout=20)
            c.request("GET", "/health")
            self.assertIsNone(c.getresponse().getheader("connection") or None)
            c.close()
            with socket.create_connection(("127.0.0.1", e.port), timeout=20) as s:
                self.assertEqual(s.recv(1), b"")


if __name__ == "__main__":
    unittest.main()
