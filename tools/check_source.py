#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The limits of CONTRIBUTING.md, checked. Prints TAP: one test a rule, with file:line and what is accepted.

Usage: tools/check_source.py [--root DIR] [--build DIR]

--build names a build folder without sanitizers; its static libraries are read with nm for exported
mutable variables, and for what role/orchestratord must not be linked with. Without it those two rules
are reported as skipped.
"""
import argparse
import pathlib
import re
import subprocess
import sys

FUNCTION_SOFT, FUNCTION_HARD = 60, 120
FILE_SOFT, FILE_HARD = 600, 1000
HEADER_SOFT, HEADER_HARD = 200, 400
PARAMETERS_HARD = 7
LINE_SOFT, LINE_HARD, TAB = 100, 110, 8

BANNED = ("atoi atol atoll atof strtol strtoul strtoll strtoull sprintf vsprintf strcpy strcat "
          "stpcpy gets strtok tmpnam mktemp alloca sleep usleep").split()
BANNED_OUTSIDE_TESTS = ("system", "popen")
BANNED_CALL = re.compile(r"(?<![\w.>])(" + "|".join((*BANNED, *BANNED_OUTSIDE_TESTS)) + r")\s*\(")
STRUCT_TYPEDEF = re.compile(r"^typedef\s+(?:struct|union)\b[^;{]*(?:\{([^}]*)\})?\s*(\w+)\s*;", re.M)
SHOWN_MAX = 40
GOTO = re.compile(r"\bgoto\s+(\w+)\s*;")
LABEL = re.compile(r"^(?:\t| {0,8})?([a-z_]\w*):(?!:)\s*(?:;.*)?$")

# Written in halves, so that this file does not find itself.
FOREIGN = [re.compile(p) for p in (
    r"(?<![\w.~}-])/wo" + r"rk/", r"(?<![\w.~}-])/ro" + r"ot/",
    r"\b(?:deb|security|ftp)\.deb" + r"ian\.org\b",
    r"\b(?:archive|security|ports)\.ubu" + r"ntu\.com\b",
    r"\bregistry\.npm" + r"js\.org\b", r"\bpyp" + r"i\.org\b")]
C_FOLDERS = ("src", "keeper", "fetch", "test", "tests", "test-harness")
SPDX = "SPDX-License-Identifier: Apache-2.0"
SPDX_SUFFIXES = {".c", ".h", ".py", ".mjs", ".js", ".sh", ".vtc"}
TEXT_SUFFIXES = SPDX_SUFFIXES | {""}
GENERATED = {"package-lock.json"}


def strip_c(text):
    """Comments and string contents become blanks; the lines stay where they are."""
    def blank(match):
        found = match[0]
        if found[0] == "/":
            return re.sub(r"[^\n]", " ", found)
        return found[0] + re.sub(r"[^\n]", " ", found[1:-1]) + found[-1]
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text, flags=re.S)


def functions(stripped):
    """(first line of the body, length in lines, signature, body lines) of each function of a C file."""
    lines = stripped.splitlines()
    number = 0
    while number < len(lines):
        if lines[number].rstrip() != "{":
            number += 1
            continue
        end = number
        while end < len(lines) and not lines[end].startswith("}"):
            end += 1
        head = number - 1
        while head > 0 and lines[head].strip() and not lines[head].startswith(("}", "#")) \
                and not lines[head].rstrip().endswith(";"):
            head -= 1
        signature = " ".join(part.strip() for part in lines[max(head, 0):number])
        yield number + 1, end - number + 1, signature, lines[number:end + 1]
        number = end + 1


def parameter_count(signature):
    start = signature.find("(")
    if start < 0:
        return 0
    depth, commas = 0, 0
    for char in signature[start:]:
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 1:
            commas += 1
        if depth == 0:
            break
    return commas + 1


class Report:
    def __init__(self):
        self.tests, self.problems, self.warnings, self.skipped = [], {}, {}, {}

    def rule(self, name):
        if name not in self.tests:
            self.tests.append(name)
        return name

    def bad(self, name, sentence):
        self.problems.setdefault(self.rule(name), []).append(sentence)

    def warn(self, name, sentence):
        self.warnings.setdefault(self.rule(name), []).append(sentence)

    def print(self):
        print(f"1..{len(self.tests)}")
        for number, name in enumerate(self.tests, 1):
            found = self.problems.get(name, [])
            skip = f" # SKIP {self.skipped[name]}" if name in self.skipped else ""
            print(f"{'not ok' if found else 'ok'} {number} - {name}{skip}")
            for sentence in found[:SHOWN_MAX]:
                print(f"  # {sentence}")
            if len(found) > SHOWN_MAX:
                print(f"  # and {len(found) - SHOWN_MAX} more")
            for sentence in self.warnings.get(name, []):
                print(f"  # warning: {sentence}")
        return 1 if self.problems else 0


R_FUNCTION = f"functions are at most {FUNCTION_HARD} lines"
R_PARAMS = f"functions take at most {PARAMETERS_HARD} parameters"
R_FILE = f"files are at most {FILE_HARD} lines, headers {HEADER_HARD}"
R_LINE = f"lines are at most {LINE_HARD} columns"
R_BANNED = "no banned function is called"
R_TYPEDEF = "structs have no typedef"
R_GOTO = "goto goes forwards"
R_SPDX = "each source file begins with its SPDX line"
R_HEAD = "each header begins with a comment that says what it is"
R_FOREIGN = "no file names a path of one machine or the host of a registry"
R_GLOBALS = "no library exports a mutable variable"
R_LINK = "role/orchestratord is linked without supervise, provision, gpu and node"
RULES = (R_FUNCTION, R_PARAMS, R_FILE, R_LINE, R_BANNED, R_TYPEDEF, R_GOTO, R_SPDX, R_HEAD, R_FOREIGN)


def check_function(report, where, first, length, signature, body):
    name = re.search(r"(\w+)\s*\(", signature)
    label = f"{where}:{first}: {name[1] if name else '?'}()"
    if length > FUNCTION_HARD:
        report.bad(R_FUNCTION,
                   f"{label} has {length} lines; {FUNCTION_HARD} are accepted, {FUNCTION_SOFT} wanted")
    elif length > FUNCTION_SOFT:
        report.warn(R_FUNCTION, f"{label} has {length} lines, {FUNCTION_SOFT} are wanted")
    count = parameter_count(signature)
    if count > PARAMETERS_HARD:
        report.bad(R_PARAMS,
                   f"{label} takes {count}; {PARAMETERS_HARD} are accepted, then an options struct")
    labels = set()
    for offset, line in enumerate(body):
        match = LABEL.match(line)
        if match and match[1] != "default":
            labels.add(match[1])
        for goto in GOTO.finditer(line):
            if goto[1] in labels:
                report.bad(R_GOTO, f"{where}:{first + offset}: goto {goto[1]} goes backwards; write a loop")


def check_c(report, where, path, text):
    stripped = strip_c(text)
    for number, line in enumerate(stripped.splitlines(), 1):
        for match in BANNED_CALL.finditer(line):
            if match[1] not in BANNED_OUTSIDE_TESTS or not where.startswith("test"):
                report.bad(R_BANNED, f"{where}:{number}: {match[1]}() is banned")
    for match in STRUCT_TYPEDEF.finditer(stripped):
        if (match[1] or "").count(";") == 1 and match[2].endswith("_t"):
            continue  # a wrapped scalar such as mono_t
        number = stripped.count("\n", 0, match.start()) + 1
        report.bad(R_TYPEDEF, f"{where}:{number}: write `struct x` without a typedef")
    for function in functions(stripped):
        check_function(report, where, *function)
    if path.suffix == ".h" and text.startswith("/* SPDX"):
        comment = text[:text.find("*/")]
        if len(comment.splitlines()) < 3:
            report.bad(R_HEAD, f"{where}: say in the head comment what this is, who owns what, its bounds")


def check_text(report, where, path, text, is_c):
    lines = text.splitlines()
    hard, soft = (HEADER_HARD, HEADER_SOFT) if path.suffix == ".h" else (FILE_HARD, FILE_SOFT)
    if len(lines) > hard:
        report.bad(R_FILE, f"{where} has {len(lines)} lines; {hard} are accepted, {soft} wanted")
    elif len(lines) > soft:
        report.warn(R_FILE, f"{where} has {len(lines)} lines, {soft} are wanted")
    for number, line in enumerate(lines, 1):
        width = len(line.expandtabs(TAB))
        if width > LINE_HARD and path.suffix != ".vtc":  # a .vtc holds bytes of the wire
            report.bad(R_LINE,
                       f"{where}:{number} has {width} columns; {LINE_HARD} are accepted, {LINE_SOFT} wanted")
    if path.suffix in SPDX_SUFFIXES or (lines and lines[0].startswith("#!")):
        if not any(SPDX in line for line in lines[:2]):
            report.bad(R_SPDX, f"{where}: the first line (the second after #!) must hold \"{SPDX}\"")


def check_foreign(report, where, text):
    for number, line in enumerate(text.splitlines(), 1):
        for pattern in FOREIGN:
            match = pattern.search(line)
            if match:
                report.bad(R_FOREIGN, f"{where}:{number}: \"{match[0]}\"; use a path relative to the tree, "
                           "or ask the system for its mirror")


def files_of(root):
    """Every file that is or would be in the repository; outside one, every file."""
    try:
        found = subprocess.run(["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "-z"],
                               check=True, capture_output=True).stdout.decode().split("\0")
        names = sorted(set(filter(None, found)))
    except (OSError, subprocess.CalledProcessError):
        names = sorted(str(p.relative_to(root)) for p in root.rglob("*"))
    return [name for name in names if (root / name).is_file() and not (root / name).is_symlink()]


def check_files(report, root):
    for rule in RULES:
        report.rule(rule)
    count = 0
    for name in files_of(root):
        path = root / name
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        check_foreign(report, name, text)
        if path.name in GENERATED:
            continue
        is_c = path.suffix in (".c", ".h") and name.split("/")[0] in C_FOLDERS
        if path.suffix in SPDX_SUFFIXES or text.startswith("#!"):
            check_text(report, name, path, text, is_c)
        if is_c:
            count += 1
            check_c(report, name, path, text)
    if count == 0:
        report.bad("there is C to look at", f"no .c or .h file below {root}")


def symbols(archive):
    """(name, kind, section) of each symbol in a static library."""
    command = ["nm", "--format=sysv", str(archive)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for line in out.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) == 7 and fields[0] != "Name":
            yield fields[0], fields[2], fields[6]


def check_globals(report, archives):
    for archive in archives:
        for name, kind, section in symbols(archive):
            if kind in "DBCSG" and not section.startswith((".data.rel.ro", ".rodata")) and kind.isupper():
                report.bad(R_GLOBALS, f"{archive.name}: {name} ({section or 'common'}); "
                           "make it static, or const, or a member of what owns it")


def check_link(report, archives):
    by_name = {archive.name: archive for archive in archives}
    role = by_name.get("libcorral_role_orchestratord.a")
    if role is None:
        report.skipped[R_LINK] = "there is no libcorral_role_orchestratord.a in the build folder"
        return
    wanted = {name for name, kind, _ in symbols(role) if kind == "U"}
    for folder in ("supervise", "provision", "gpu", "node"):
        archive = by_name.get(f"libcorral_{folder}.a")
        for name, kind, _ in symbols(archive) if archive else []:
            if kind in "TDRB" and name in wanted:
                report.bad(R_LINK, f"it calls {name}() of {folder}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--build", type=pathlib.Path)
    args = parser.parse_args()
    report = Report()
    check_files(report, args.root.resolve())
    for rule in (R_GLOBALS, R_LINK):
        report.rule(rule)
        if args.build is None:
            report.skipped[rule] = "no --build folder given"
    if args.build is not None:
        archives = sorted(args.build.rglob("libcorral_*.a"))
        if not archives:
            report.bad(R_GLOBALS, f"no libcorral_*.a below {args.build}; build first")
        check_globals(report, archives)
        check_link(report, archives)
    return report.print()


if __name__ == "__main__":
    sys.exit(main())
