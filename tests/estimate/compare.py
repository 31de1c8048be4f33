# SPDX-License-Identifier: Apache-2.0
"""Compares `corral estimate` with what llama-fit-params said (oracle.json). Prints TAP, a line a model.

    python3 compare.py CORRAL [--only NAME] [--docs FILE [--write]] [-v]

Where CORRAL_TEST_LLAMA_FIT_PARAMS names the program, it is asked too, about one setting of each model.
--docs: FILE must hold the table this would write; --write writes it.
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

HERE = os.path.dirname(os.path.abspath(__file__))
MIB = 1 << 20
# class: how far compute and total may be off
BOUNDS = {"dense": (0.05, 0.02), "moe": (0.08, 0.03), "hybrid": (0.15, 0.05), "mla": (0.15, 0.05)}


def estimate(corral, path, setting):
    ctx, slots, kv, ubatch, flash = setting
    return run(corral, path, "cpu", ["-c", str(ctx), "-np", str(slots), "-ctk", kv, "-ctv", kv,
                                     "-ub", str(ubatch), "-fa", flash])


def run(corral, path, devices, words):
    args = [corral, "estimate", "--json", "--devices", devices, "--source", "formula", path, "--"] + words
    p = subprocess.run(args, capture_output=True, text=True, timeout=60, env={"PATH": "/nowhere"})
    if p.returncode:
        raise RuntimeError(f"{' '.join(args)}: {p.stderr}")
    return json.loads(p.stdout)


class Off:
    """How far an estimate is from what was said, which was cut to whole MiB three times."""

    def __init__(self, said, e):
        self.setting, self.said, self.kind = None, said, e["class"]
        self.weights = e["weights_bytes"] / MIB - said[0]
        self.context = (e["kv_bytes"] + e["recurrent_bytes"]) / MIB - said[1]
        compute = e["compute_bytes"] / MIB - said[2]
        total = self.weights + self.context + compute
        self.compute = max(abs(compute - 0.5) - 0.5, 0) / max(said[2], 1) * (1 if compute > 0 else -1)
        self.total = max(abs(total - 1.5) - 1.5, 0) / max(sum(said), 1) * (1 if total > 0 else -1)
        bounds = BOUNDS.get(e["class"], (0, 0))
        self.well = (-1 <= self.weights < 2 and -1 <= self.context < 2
                     and abs(self.compute) <= bounds[0] and abs(self.total) <= bounds[1])

    def __str__(self):
        return (f"{self.setting}: said {self.said}, weights {self.weights:+.1f} MiB, context "
                f"{self.context:+.1f} MiB, compute {100 * self.compute:+.1f} %, "
                f"total {100 * self.total:+.1f} %")


def compare(corral, folder, name, answers, ask):
    m = cases.build(name)
    path = os.path.join(folder, name + ".gguf")
    gguf_sparse.write(path, m.keys, m.tensors)
    offs = []
    for i, (setting, said) in enumerate(answers):
        e = estimate(corral, path, setting)
        now = oracle.ask(ask, path, setting) if ask and i == len(name) % len(answers) else None
        for s in [said] + ([now] if now and "Host" in now else []):
            offs.append(Off(s["Host"], e))
            offs[-1].setting = setting
    os.unlink(path)
    return offs


HEAD = """# How near the estimate is

`corral estimate MODEL.gguf` tells what a model needs from its header: weights by layer, KV cache,
recurrent state, and the compute buffer, for which the graph of one batch is put together without
arithmetic and laid out as the engine's allocator would. This page compares it with what
`{program} -fitp on --no-repack` says on the host ({models} shapes of real models of {archs}
architectures, {n} runs). Its numbers are cut to whole MiB; what that explains is not counted. *Fresh*
shapes were not looked at while the formula was made.

Allowed: weights and context 1 MiB; compute 5 % dense, 8 % MoE, 15 % hybrid and MLA; total 2 / 3 / 5 %.
Written by `tests/estimate/compare.py`, which is also the test.

That is the formula. `--source auto` (the default) and the planner take a better source where there is one:

1. *learned*: an engine of this machine ran with the same model (its files' headers and sizes), context,
   slots, arguments, `LLAMA_ARG_` and `GGML_` variables, layers and devices, and build, and said how
   large its buffers are; on a GPU the driver said what its processes hold. Within 1 %. Kept in
   `learned.db` in `state_dir`, 1,024 rows, the longest unused goes first. Another context or number of
   slots is another row: nothing is extrapolated. Not with a projector or adapters.
2. *oracle*: `llama-fit-params`, where it is found (`corral estimate` alone).
3. *formula*.

`--source learned` fails where nothing was learned: let a pool with that `ctx`, `slots` and `engine.args`
become ready once. What the formula cannot know is in it: weights that the CPU repacks, what a driver
keeps. Where the two differ by more than the formula's error, the log says so once (`learned`).

The last columns are the compute buffer the program told, in MiB, and how far ours is off, under

{settings}

| model | class | weights MiB | off by | context off by | compute | total | {columns} |
|---|---|---|---|---|---|---|{dashes}
"""


def cell(offs, setting):
    for o in offs:
        if o.setting == list(setting):
            return f"{o.said[2]} ({100 * o.compute:+.1f} %)"
    return "-"  # the program refuses such a cache for this model


def worst(values):
    return max(values, key=abs)


def table(program, results):
    kinds = {name: cases.build(name).arch for name in results}
    lines = [f"{i + 1}. {c} tokens, {s} slot{'s' if s > 1 else ''}, KV {t}, batch {u}, flash attention {f}"
             for i, (c, s, t, u, f) in enumerate(cases.SETTINGS)]
    out = HEAD.format(program=program, models=len(results), archs=len(set(kinds.values())),
                      n=sum(len(x) for x in results.values()), settings="\n".join(lines),
                      columns=" | ".join(str(i + 1) for i in range(len(lines))), dashes="---|" * len(lines))
    for name, offs in sorted(results.items(), key=lambda x: (x[0] in cases.FRESH, x[0])):
        fresh = ", fresh" if name in cases.FRESH else ""
        out += (f"| {name} | {offs[0].kind}{fresh} | {offs[0].said[0]} | "
                f"{worst([o.weights for o in offs]):+.1f} | {worst([o.context for o in offs]):+.1f} | "
                f"{100 * worst([o.compute for o in offs]):+.1f} % | "
                f"{100 * worst([o.total for o in offs]):+.1f} % | "
                + " | ".join(cell(offs, s) for s in cases.SETTINGS) + " |\n")
    return out


def place(e):
    return [e["weights_bytes"] / MIB, (e["kv_bytes"] + e["recurrent_bytes"]) / MIB, e["compute_bytes"] / MIB]


def on_devices(corral, folder):
    """[(case, what the estimate says of each device and the host, is it well)]"""
    for case in cases.DEVICES:
        name, words, devices, host = case
        m = cases.build(name)
        path = os.path.join(folder, name + ".gguf")
        gguf_sparse.write(path, m.keys, m.tensors)
        e = run(corral, path, str(len(devices)), words.split())
        ours = [place(x) for x in e["per_device"] + [e["host"]]]
        well = True
        for got, said in zip(ours, devices + [host]):
            well &= all(-1 <= got[i] - said[i] < 2 for i in range(2))
            well &= -0.15 <= (got[2] - said[2]) / said[2] <= 0.4  # a device's own order; on the safe side
        os.unlink(path)
        yield case, ours, well


DEVICE_HEAD = """
## On devices

The same program with software Vulkan devices, flash attention on: compute told, and how far ours is off.
Weights and context are within 1 MiB. Layers that stay on the host are still computed on the first device for
a long prompt; ours counts the largest matrix or layer's cache that visits it, which is an upper bound.

| model | arguments | devices | compute MiB | host |
|---|---|---|---|---|
"""


def device_table(rows):
    out = DEVICE_HEAD
    for (name, words, devices, host), ours, _ in rows:
        told = [f"{said[2]} ({100 * (got[2] - said[2]) / said[2]:+.0f} %)"
                for got, said in zip(ours, devices + [host])]
        out += f"| {name} | `{words}` | {len(devices)} | {', '.join(told[:-1])} | {told[-1]} |\n"
    return out


def check_docs(number, path, text, write):
    if write:
        with open(path, "w") as f:
            f.write(text)
    with open(path) as f:
        same = f.read() == text
    print(f"{'ok' if same else 'not ok'} {number} - {os.path.basename(path)} is what the comparison writes")
    return same


def main():
    p = argparse.ArgumentParser()
    p.add_argument("corral")
    p.add_argument("--only")
    p.add_argument("--docs")
    p.add_argument("--write", action="store_true")
    p.add_argument("-v", action="store_true")
    a = p.parse_args()
    ask = os.environ.get("CORRAL_TEST_LLAMA_FIT_PARAMS")
    with open(os.path.join(HERE, "oracle.json")) as f:
        found = json.load(f)
    names = [x for x in found["models"] if not a.only or re.search(a.only, x)]
    print(f"1..{len(names) + len(cases.DEVICES) + bool(a.docs)}")
    results, bad = {}, 0
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(names):
            offs = results[name] = compare(a.corral, folder, name, found["models"][name], ask)
            wrong = [o for o in offs if not o.well]
            bad += bool(wrong)
            print(f"{'not ok' if wrong else 'ok'} {i + 1} - {name}, {len(offs)} settings")
            for o in offs if a.v else wrong:
                print(f"  # {o}")
        rows = list(on_devices(a.corral, folder))
    at = len(names)
    for case, ours, well in rows:
        at, bad = at + 1, bad + (not well)
        print(f"{'ok' if well else 'not ok'} {at} - {case[0]} {case[1]} on {len(case[2])} devices")
        if not well:
            print(f"  # {case[2:]}: found {ours}")
    if a.docs and not ask:
        text = table(found["program"], results) + device_table(rows)
        bad += not check_docs(at + 1, a.docs, text, a.write)
    elif a.docs:
        print(f"ok {at + 1} - the page # SKIP the program was asked too")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
