#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Asks a running Corral one question and prints the answer while it streams.

Usage: tools/first_answer.py [--end-first PID] ADDRESS [MODEL] [PROMPT]

ADDRESS is http://HOST:PORT, or a unix socket as unix:PATH. Without MODEL the first listed one answers.
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


def first_model(address):
    connection = connect(address)
    connection.request("GET", "/v1/models")
    models = json.load(connection.getresponse())["data"]
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
