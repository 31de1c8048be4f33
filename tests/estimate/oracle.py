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
    return [program, "-m", path, "-c", str(ctx), "-np", str(slots), "-ctk", kv, "-ctv", kv, "-ub", str(ubatch),
            "-fa", flash, "-fitp", "on", "--no-repack"]


def ask(program, path, setting, more=()):
    """{device: [model, context, compute]} in MiB, or the reason why not."""
    p = subprocess.run(command(program, path, setting) + list(more), capture_output=True, text=True, timeout=120)
    rows = re.findall(r"^(\S+) (\d+) (\d+) (\d+) *$", p.stdout, re.M)
    if p.returncode or not rows:
        lines = [x for x in p.stderr.splitlines() if "E " in x] or p.stderr.splitlines()[-3:]
        return {"error": " | ".join(lines[:3])[:300]}
    return {name: [int(a), int(b), int(c)] for name, a, b, c in rows}


def ask_model(program, folder, name, settings):
    m = cases.build(name)
    path = os.path.join(folder, name + ".gguf")
    gguf_sparse.write(path, m.keys, m.tensors)
    try:
        return [[list(x), ask(program, path, x)] for x in settings]
    finally:
        os.unlink(path)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("program")
    p.add_argument("--only")
    p.add_argument("-o", "--out", default=os.path.join(os.path.dirname(__file__), "oracle.json"))
    a = p.parse_args()
    found = {}
    if a.only and os.path.exists(a.out):
        with open(a.out) as f:
            found = json.load(f)
    with tempfile.TemporaryDirectory() as folder:
        for name in list(cases.TRAIN) + list(cases.FRESH):
            if a.only and not re.search(a.only, name):
                continue
            found[name] = ask_model(a.program, folder, name, cases.SETTINGS)
            for setting, answer in found[name]:
                print(name, setting, answer, file=sys.stderr)
    with open(a.out, "w") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(found.items())) + "\n}\n")


if __name__ == "__main__":
    main()
