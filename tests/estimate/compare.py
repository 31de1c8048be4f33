# SPDX-License-Identifier: Apache-2.0
"""Compares `corral estimate` with what llama-fit-params said (oracle.json), and with the program itself
where one is named.

    python3 compare.py CORRAL [--only NAME] [--program LLAMA_FIT_PARAMS] [--table FILE] [-v]
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
import oracle

MIB = 1 << 20
# class: how far compute and total may be off
BOUNDS = {"dense": (0.05, 0.02), "moe": (0.08, 0.03), "hybrid": (0.15, 0.05), "mla": (0.15, 0.05),
          "unknown": (1, 1)}


def estimate(corral, path, setting):
    ctx, slots, kv, ubatch, flash = setting
    args = [corral, "estimate", "--json", "--devices", "cpu", "--source", "formula", path, "--", "-c", str(ctx),
            "-np", str(slots), "-ctk", kv, "-ctv", kv, "-ub", str(ubatch), "-fa", flash]
    p = subprocess.run(args, capture_output=True, text=True, timeout=30)
    if p.returncode:
        raise SystemExit(f"{' '.join(args)}: {p.stderr}")
    return json.loads(p.stdout)


def rows_of(corral, folder, name, answers):
    m = cases.build(name)
    path = os.path.join(folder, name + ".gguf")
    gguf_sparse.write(path, m.keys, m.tensors)
    for setting, said in answers:
        if "Host" not in said:
            continue
        e = estimate(corral, path, setting)
        yield name, setting, said["Host"], e
    os.unlink(path)


def judge(said, e):
    """(what is off in the weights and the context, in MiB; in compute and in total, as shares; is it well)."""
    weights = e["weights_bytes"] / MIB - said[0]
    context = (e["kv_bytes"] + e["recurrent_bytes"]) / MIB - said[1]
    compute = e["compute_bytes"] / MIB - said[2]
    total = weights + context + compute
    allowed = BOUNDS[e["class"]]
    # What is printed is cut to whole MiB: 1 MiB more is no mistake.
    share = max(abs(compute - 0.5) - 0.5, 0) / max(said[2], 1)
    whole = max(abs(total - 1.5) - 1.5, 0) / max(sum(said), 1)
    well = -1 <= weights < 2 and -1 <= context < 2 and share <= allowed[0] and whole <= allowed[1]
    return weights, context, compute / max(said[2], 1), total / max(sum(said), 1), well


def main():
    p = argparse.ArgumentParser()
    p.add_argument("corral")
    p.add_argument("--only")
    p.add_argument("--program")
    p.add_argument("-v", action="store_true")
    a = p.parse_args()
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "oracle.json")) as f:
        found = json.load(f)
    bad = n = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, answers in found.items():
            if a.only and not re.search(a.only, name):
                continue
            if a.program:
                answers = oracle.ask_model(a.program, folder, name, [x for x, _ in answers])
            for name, setting, said, e in rows_of(a.corral, folder, name, answers):
                weights, context, compute, total, well = judge(said, e)
                n, bad = n + 1, bad + (not well)
                if a.v or not well:
                    print(f"{'ok ' if well else 'BAD'} {name:28} {str(setting):36} {said} "
                          f"w {weights:+.1f} c {context:+.1f} compute {100 * compute:+.1f} % "
                          f"total {100 * total:+.1f} %  {e['class']}")
    print(f"{n} compared, {bad} off")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
