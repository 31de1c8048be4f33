#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Asks a running Corral one question and prints the answer while it streams.

Usage: tools/first_answer.py [--end-first PID] ADDRESS [MODEL] [PROMPT]
       tools/first_answer.py --choose ADDRESS

ADDRESS is http://HOST:PORT, or a unix socket as unix:PATH. Without MODEL the first listed one answers.
--choose asks nothing: it prints the id of the smallest model that writes text, a tab and a sentence that says
why; nothing when no model is served; a tab and a sentence when none of them writes text.
--end-first sends SIGTERM to a process that displays progress, just before the answer begins.
Needs Python alone. Exit 1 with a sentence when there is no answer.
"""
import http.client
import json
import os
import signal
import socket
import sys
import urllib.parse

WAIT_S = 1800  # a first start may fetch an engine and load a large model


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=WAIT_S)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def connect(address):
    if address.startswith(("unix:", "/")):
        return UnixConnection(address.removeprefix("unix:"))
    url = urllib.parse.urlsplit(address)
    return http.client.HTTPConnection(url.hostname, url.port or 80, timeout=WAIT_S)


def list_models(address):
    connection = connect(address)
    connection.request("GET", "/v1/models")
    return json.load(connection.getresponse())["data"]


def for_people(size):
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def choose(address):
    models = list_models(address)
    if not models:
        return ""
    # One whose file has gone, or whose size nobody knows, is no first choice.
    text = sorted((bool(m["corral"].get("problem")), m["meta"].get("size") or 1 << 62, m["id"], m)
                  for m in models if m["corral"].get("use") == "text")
    if not text:
        return f"\tNone of the {len(models)} models found writes text; they are for embeddings or ranking."
    size, model = text[0][1], text[0][3]
    size = for_people(size) if size < 1 << 62 else "size unknown"
    where = model["corral"].get("source") or "the configuration"
    others = len(models) - 1
    rest = f"{others} other{'' if others == 1 else 's'} can be asked too" if others else "it is the only one"
    why = "the smallest found" if others else "found"
    return f"{model['id']}\tAsking {model['id']}, {why} ({size}, {where}); {rest}."


def first_model(address):
    models = list_models(address)
    if not models:
        raise RuntimeError("no model is configured")
    return models[0]["id"]


def events(response):
    """The data of each SSE event, as it arrives."""
    for line in response:
        if line.startswith(b"data:"):
            yield line[5:].strip()


def end_process(pid):
    if pid:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass


def ask(address, model, prompt, progress_pid):
    body = {"model": model, "stream": True, "max_tokens": 200,
            "messages": [{"role": "user", "content": prompt}]}
    connection = connect(address)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(message_of(response.read()) or f"HTTP {response.status}")
    said = False
    for data in events(response):
        if data == b"[DONE]":
            return said
        chunk = json.loads(data)
        if "error" in chunk:
            raise RuntimeError(chunk["error"].get("message", "the stream ended with an error"))
        for choice in chunk.get("choices", []):
            delta = choice.get("delta", {})
            text = delta.get("content") or delta.get("reasoning_content") or ""
            if text and not said:
                end_process(progress_pid)
                sys.stdout.write("\n")
            said = said or bool(text)
            sys.stdout.write(text)
            sys.stdout.flush()
    raise RuntimeError("the stream ended before it was complete")


def message_of(body):
    try:
        return json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:500]


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if len(sys.argv) > 1 else 2
    args = sys.argv[1:]
    progress_pid = 0
    if args[0] == "--choose":
        try:
            print(choose(args[1]))
            return 0
        except (OSError, IndexError, ValueError, KeyError, http.client.HTTPException) as error:
            print(f"first_answer: the models cannot be listed: {error}", file=sys.stderr)
            return 1
    if args[0] == "--end-first":
        progress_pid, args = int(args[1]), args[2:]
    address = args[0]
    try:
        model = args[1] if len(args) > 1 else first_model(address)
        prompt = args[2] if len(args) > 2 else "Hello! Who are you?"
        said = ask(address, model, prompt, progress_pid)
        sys.stdout.write("\n")
        if not said:
            print("first_answer: the model answered, but said nothing", file=sys.stderr)
        return 0 if said else 1
    except (OSError, RuntimeError, ValueError, KeyError, http.client.HTTPException) as error:
        print(f"\nNo answer: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
