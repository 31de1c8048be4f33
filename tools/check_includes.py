#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Who may include whom (docs/ARCHITECTURE.md has the table for readers; this one is enforced).

Prints TAP: one test a source folder, and one each for the rules that hold everywhere:
includes of ours are written from src/; foo_int.h stays inside its folder; only src/loop includes
uv.h; keeper/ includes nothing of src/, fetch/ base alone; folders include each other in one direction;
the library of role/orchestratord is not linked with what belongs to a node. Exit 1 if any fails.

Usage: tools/check_includes.py [ROOT]
"""
import pathlib
import re
import sys

# Folder: what it may include besides itself and base. "*" minus names: all but those.
ALLOWED = {
    "base": "",
    "db": "",
    "loop": "",
    "log": "",
    "metrics": "",
    "config": "",
    "wire": "",
    "auth": "db",
    "placement": "",
    "gguf": "db",
    "net": "loop",
    "http": "loop net metrics",
    "gpu": "loop",
    "supervise": "loop log metrics",
    "provision": "loop log net http metrics gguf db",
    "node": "loop log metrics net http wire gpu gguf provision supervise",
    "registry": "loop log metrics wire db",
    "pool": "loop metrics",
    "dialect": "http",
    "proxy": "loop log metrics net http pool dialect auth",
    "tasks": "loop log metrics registry pool proxy",
    "control": "loop log metrics config http wire registry placement pool",
    "api": "loop log metrics http dialect wire config control pool registry tasks auth",
    "role/orchestratord": "* -node -gpu -provision -supervise",
    "role/engine_provisioner": "* -registry -placement -control -tasks -api",
    "role/pool_managerd": "loop config log metrics net http wire registry",
    "cli": "loop net http config wire gguf placement pool gpu auth",
}
# Outside libraries that one folder alone may know.
ONLY_IN = {
    "uv.h": {"loop"},
    "llhttp.h": {"http"},
    "libfyaml.h": {"config"},
    "sqlite3.h": {"db", "registry", "provision", "auth", "gguf"},
}
KEEPER = "keeper/ includes nothing of src/"
FETCH = "fetch/ includes nothing of src/ but base"
# The executable's main() and the shared wiring beside the roles hold all roles.
ROLE_ROOT = "role"

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')
C_SUFFIXES = {".c", ".h"}


def folder_of(path):
    """src-relative path -> key of ALLOWED; None for files directly in src/ or in role/."""
    parts = path.parts
    if parts[0] == ROLE_ROOT and len(parts) > 2:
        return "/".join(parts[:2])
    if len(parts) < 2 or parts[0] == ROLE_ROOT:
        return None
    return parts[0]


def may_include(me, other):
    """May folder `me` include a header of folder `other`?"""
    if other in (me, "base"):
        return True
    rule = ALLOWED[me].split()
    if rule[:1] == ["*"]:
        banned = {word[1:] for word in rule[1:]}
        return other not in banned and not other.startswith(ROLE_ROOT)
    return other in rule


def includes_of(path):
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if match:
            yield number, match[1], match[2]


class Tree:
    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.src = self.root / "src"
        self.problems = {}  # test name -> sentences
        self.edges = {}     # folder -> folders it includes

    def bad(self, test, sentence):
        self.problems.setdefault(test, []).append(sentence)

    def check_one(self, path, number, quote, target):
        rel = path.relative_to(self.src)
        me = folder_of(rel)
        where = f"src/{rel}:{number}"
        name = pathlib.PurePosixPath(target)
        if target in ONLY_IN and me is not None and me not in ONLY_IN[target]:
            self.bad("outside libraries stay in their folder",
                     f"{where}: <{target}> is for {', '.join(sorted(ONLY_IN[target]))} alone")
        if quote != '"':
            return
        if not (self.src / target).exists():
            if (path.parent / target).exists():
                self.bad("includes are written from src/",
                         f"{where}: write the path from src/, not \"{target}\"")
            return
        other = folder_of(pathlib.PurePosixPath(target)) or name.parts[0]
        if name.name.endswith("_int.h") and name.parent != pathlib.PurePosixPath(rel.parent.as_posix()):
            self.bad("foo_int.h stays inside its folder",
                     f"{where}: {target} belongs to src/{name.parent} alone")
        if me is None:
            return
        if other != me:
            self.edges.setdefault(me, {})[other] = where
        if not may_include(me, other):
            allowed = ALLOWED[me] or "nothing"
            self.bad(f"{me}/ includes what it may",
                     f"{where}: {me}/ may not include {other}/ (besides base: {allowed})")

    def check_src(self):
        seen = set()
        for path in sorted(self.src.rglob("*")):
            if path.suffix not in C_SUFFIXES or not path.is_file():
                continue
            rel = path.relative_to(self.src)
            me = folder_of(rel)
            if me is not None:
                seen.add(me)
                if me not in ALLOWED:
                    self.bad("every folder is in the table",
                             f"src/{me}/ is not in the table of tools/check_includes.py")
                    continue
            for number, quote, target in includes_of(path):
                self.check_one(path, number, quote, target)
        return seen

    def check_programs(self):
        """Programs of their own: the keeper knows nothing of src/, the fetcher base alone."""
        for folder, allowed, test in (("keeper", (), KEEPER), ("fetch", ("base",), FETCH)):
            base = self.root / folder
            for path in sorted(base.rglob("*")) if base.exists() else []:
                if path.suffix not in C_SUFFIXES:
                    continue
                for number, _, target in includes_of(path):
                    ours = (self.src / target).exists() or "src/" in target or target.startswith("../")
                    if ours and target.split("/")[0] not in allowed:
                        self.bad(test, f"{path.relative_to(self.root)}:{number}: {target} is of src/")

    def check_cycles(self):
        done, path = set(), []

        def walk(folder):
            if folder in path:
                ring = path[path.index(folder):] + [folder]
                wheres = [self.edges[a][b] for a, b in zip(ring, ring[1:])]
                self.bad("folders include each other in one direction",
                         " -> ".join(ring) + ": " + ", ".join(wheres))
                return
            if folder in done:
                return
            path.append(folder)
            for other in sorted(self.edges.get(folder, {})):
                walk(other)
            path.pop()
            done.add(folder)

        for folder in sorted(self.edges):
            walk(folder)

    def run(self):
        seen = self.check_src()
        self.check_programs()
        self.check_cycles()
        tests = ["every folder is in the table", "includes are written from src/",
                 "foo_int.h stays inside its folder",
                 "outside libraries stay in their folder", KEEPER, FETCH,
                 "folders include each other in one direction"]
        tests += [f"{folder}/ includes what it may" for folder in sorted(seen) if folder in ALLOWED]
        return tests


def tap(tests, problems):
    print(f"1..{len(tests)}")
    for number, test in enumerate(tests, 1):
        found = problems.get(test, [])
        print(f"{'not ok' if found else 'ok'} {number} - {test}")
        for sentence in found:
            print(f"  # {sentence}")
    return 1 if any(problems.get(test) for test in tests) else 0


def main():
    here = pathlib.Path(__file__).resolve().parent.parent
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here
    if not (root / "src").is_dir():
        print(f"check_includes: {root} has no folder src/", file=sys.stderr)
        return 2
    tree = Tree(root)
    tests = tree.run()
    return tap(tests, tree.problems)


if __name__ == "__main__":
    sys.exit(main())
