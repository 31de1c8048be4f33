#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts what a test runner reported, in the runner's own words.

Usage: tools/test_counts.py KIND FILE...    KIND: tap meson vtc node cucumber

Prints "PASSED FAILED SKIPPED" on the first line; then a line "failed NAME" or "skipped NAME" each.
A runner that ran nothing counts as one failure: an empty run must not look like a good one.
"""
import itertools
import json
import re
import sys

REASON = 400  # the most characters of an error that a line repeats

TAP_LINE = re.compile(r"^(\s*)(not ok|ok)\b\s*\d*\s*-?\s*(.*)$")
TAP_SKIP = re.compile(r"\s*#\s*(SKIP|TODO)\b.*$", re.I)
VTC_LINE = re.compile(r"^#\s+top\s+TEST (\S+) (passed|FAILED|TIMED OUT|skipped|had leaks)", re.M)
PASS_STATES = {"PASSED"}
SKIP_STATES = {"SKIPPED"}


class Counts:
    def __init__(self):
        self.passed, self.failed, self.skipped = 0, [], []

    def add(self, state, name):
        if state == "passed":
            self.passed += 1
        elif state == "skipped":
            self.skipped.append(name)
        else:
            self.failed.append(name)

    def total(self):
        return self.passed + len(self.failed) + len(self.skipped)


def count_tap(counts, text, prefix=""):
    """Leaves of a TAP report. The plan must be met: a program that died half-way has not passed."""
    planned, seen = 0, 0
    for line in text.splitlines():
        plan = re.match(r"^1\.\.(\d+)", line)
        if plan:
            planned += int(plan[1])
        match = TAP_LINE.match(line)
        if not match or match[1]:
            continue
        seen += 1
        skip = TAP_SKIP.search(match[3])
        name = prefix + TAP_SKIP.sub("", match[3])
        counts.add("skipped" if skip else "passed" if match[2] == "ok" else "failed", name)
    if seen < planned:
        counts.add("failed", f"{prefix}{planned - seen} of {planned} tests were never reported")


def count_unittest(counts, text, name):
    ran = re.search(r"^Ran (\d+) tests? in", text, re.M)
    if not ran:
        return
    end = re.search(r"^(?:OK|FAILED)(?: \((.*)\))?$", text, re.M)
    said = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", end[1] or "")} if end else {}
    failed = said.get("failures", 0) + said.get("errors", 0) + (not end)
    skipped = said.get("skipped", 0)
    counts.passed += int(ran[1]) - failed - skipped
    counts.failed += [f"{name}: a test" for _ in range(failed)]
    counts.skipped += [f"{name}: a test" for _ in range(skipped)]


def count_meson(counts, text):
    """testlog.json: one program a line; cmocka's TAP is in its stdout."""
    for line in text.splitlines():
        program = json.loads(line)
        one = Counts()
        count_tap(one, program.get("stdout", ""), program["name"] + ": ")
        result = program.get("result", "")
        if one.total() == 0:
            count_unittest(one, program.get("stdout", "") + program.get("stderr", ""), program["name"])
        if one.total() == 0 and result == "SKIP":
            one.add("skipped", program["name"])
        if one.total() == 0 or (result not in ("OK", "SKIP") and not one.failed):
            one.add("failed", f"{program['name']}: {result or 'no result'}, "
                    f"{one.total()} tests reported, exit status {program.get('returncode')}")
        counts.passed += one.passed
        counts.failed += one.failed
        counts.skipped += one.skipped


def count_vtc(counts, text):
    for name, state in VTC_LINE.findall(text):
        counts.add(state, name)


def node_reason(lines):
    """What the YAML block of a failed test gives as its error, on one line; "" without one."""
    said = []
    for line in itertools.takewhile(lambda line: line.strip() != "...", lines):
        if said and not re.match(r"^ {4,}\S|^\s*$", line):
            break
        if said or re.match(r"^\s*error: ", line):
            said.append(line.strip())
    text = " ".join(word for word in said if word)
    return f" ({text[:REASON]})" if text else ""


def count_node(counts, text):
    """node's TAP: subtests are indented; a leaf is a point whose YAML block does not say type: 'suite'."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        match = TAP_LINE.match(line)
        if not match:
            continue
        block = "\n".join(lines[number + 1:number + 4])
        if re.search(r"type: '?suite", block):
            continue
        if match[3].endswith(".mjs"):  # node names the file when it has no test, or died
            why = "has no test" if match[2] == "ok" else "did not run to its end"
            counts.add("failed", f"{match[3]}: {why}")
            continue
        skip = TAP_SKIP.search(match[3])
        state = "skipped" if skip else "passed" if match[2] == "ok" else "failed"
        name = TAP_SKIP.sub("", match[3])
        counts.add(state, name + node_reason(lines[number + 1:]) if state == "failed" else name)
    said = {key: int(value) for key, value in re.findall(r"^# (tests|fail|cancelled) (\d+)", text, re.M)}
    if not said:
        counts.add("failed", "node did not reach its summary")
    elif said.get("fail", 0) + said.get("cancelled", 0) > 0 and not counts.failed:
        counts.add("failed", f"node reports {said.get('fail')} failed and {said.get('cancelled')} cancelled")


def count_cucumber(counts, text):
    for feature in json.loads(text or "[]"):
        for scenario in feature.get("elements", []):
            if scenario.get("type") == "background":
                continue
            states = {step.get("result", {}).get("status", "undefined") for step in scenario.get("steps", [])}
            state = "passed" if states <= {"passed"} else "failed"
            if states & {"skipped"} and not states & {"failed", "undefined", "ambiguous", "pending"}:
                state = "skipped"
            counts.add(state if states else "failed", f"{feature.get('name')}: {scenario.get('name')}")


KINDS = {"tap": count_tap, "meson": count_meson, "vtc": count_vtc, "node": count_node,
         "cucumber": count_cucumber}


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in KINDS:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    counts = Counts()
    for path in sys.argv[2:]:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                KINDS[sys.argv[1]](counts, file.read())
        except (OSError, ValueError) as error:
            counts.add("failed", f"the report {path} cannot be read: {error}")
    if counts.total() == 0:
        counts.add("failed", "the runner ran no test")
    print(counts.passed, len(counts.failed), len(counts.skipped))
    for name in counts.failed:
        print("failed", name)
    for name in counts.skipped:
        print("skipped", name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
