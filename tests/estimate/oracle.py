# SPDX-License-Identifier: Apache-2.0
"""Asks llama-fit-params what each model of the comparison needs, and writes down its answers.

    python3 oracle.py PROGRAM [--only NAME] [-o oracle.json]

PROGRAM is llama-fit-params or a script that starts it. The models are headers over holes; they are removed.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

import cases
import gguf_sparse


def command(program, path, setting):
    ctx, slots, kv, ubatch, flash = setting
    return [program, "-m", path, "-c", str(ctx), "-np", str(slots), "-ctk", kv, "-ctv", kv,
            "-ub", str(ubatch), "-fa", flash, "-fitp", "on", "--no-repack"]


def ask(program, path, setting, more=()):
    """{device: [model, context, compute]} in MiB; None when it cannot start a model so."""
    words = command(program, path, setting) + list(more)
    p = subprocess.run(words, capture_output=True, text=True, timeout=120)
    rows = re.findall(r"^(\S+) (\d+) (\d+) (\d+) *$", p.stdout, re.M)
    if p.returncode or not rows:
        return None
    return {name: [int(a), int(b), int(c)] for name, a, b, c in rows}


def ask_model(program, folder, name, settings):
    m = cases.build(name)
    path = os.path.join(folder, name + ".gguf")
    gguf_sparse.write(path, m.keys, m.tensors)
    try:
        answers = [[list(x), ask(program, path, x)] for x in settings]
        return [x for x in answers if x[1]]
    finally:
        os.unlink(path)


def version(program):
    p = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20)
    found = re.search(r"version: (\S+)", p.stdout + p.stderr)
    return "llama-fit-params " + (found[1] if found else "?")


def write(path, found):
    models = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(found["models"].items()))
    with open(path, "w") as f:
        f.write(f'{{"program": {json.dumps(found["program"])}, "models": {{\n{models}\n}}}}\n')


def main():
    p = argparse.ArgumentParser()
    p.add_argument("program")
    p.add_argument("--only")
    p.add_argument("-o", "--out", default=os.path.join(os.path.dirname(__file__), "oracle.json"))
    a = p.parse_args()
    found = {"program": version(a.program), "models": {}}
    if a.only and os.path.exists(a.out):
        with open(a.out) as f:
            found["models"] = json.load(f)["models"]
    with tempfile.TemporaryDirectory() as folder:
        for name in list(cases.TRAIN) + list(cases.FRESH):
            if a.only and not re.search(a.only, name):
                continue
            found["models"][name] = ask_model(a.program, folder, name, cases.SETTINGS)
            for setting, answer in found["models"][name]:
                print(name, setting, answer, file=sys.stderr)
    write(a.out, found)


if __name__ == "__main__":
    main()
