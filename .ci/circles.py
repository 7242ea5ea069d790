#!/usr/bin/env python3
"""Names every circle of imports between modules of one crate; exits with 1 if there is one.

    .ci/circles.py [FOLDER]    checks every crate below FOLDER (default: this repository)
    .ci/circles.py --self-test plants circles in a temporary folder and expects them to be found

An edge leads from a module to the module that holds the item it names, in a `use` line or in a path that
begins with `crate`, `super`, `self` or a child module. Names are followed through re-exports. `mod x;` alone is
no edge. Code under `#[cfg(test)]` does not count.
"""

import contextlib
import io
import re
import sys
import tempfile
from pathlib import Path

TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*)"""
    r"""|(?P<raw>b?c?r(?P<hashes>\#*)"(?:.|\n)*?"(?P=hashes))"""
    r"""|(?P<text>[bc]?"(?:\\(?:.|\n)|[^"\\])*")"""
    r"""|(?P<char>b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^\\'])')"""
    r"""|(?P<lifetime>'\w+)"""
    r"""|(?P<name>(?:r\#)?[A-Za-z_]\w*)"""
    r"""|(?P<colons>::)|(?P<other>.)""",
    re.VERBOSE,
)
COMMENT_EDGE = re.compile(r"/\*|\*/")
DEFINES = {"fn", "struct", "enum", "trait", "type", "const", "static", "union"}
ITEMS = DEFINES | {"mod", "use", "impl", "unsafe", "async", "pub", "extern", "macro_rules", "let"}
TARGET_PATH = re.compile(r'(?m)^path = "(.*\.rs)"$')


def tokens_of(text):
    """The names and punctuation of Rust source as (text, line), without comments and literals."""
    tokens, at, line = [], 0, 1
    while at < len(text):
        match = TOKEN.match(text, at)
        end = match.end()
        if match.group() == "/*":
            depth = 1
            while depth and (edge := COMMENT_EDGE.search(text, end)):
                depth += 1 if edge.group() == "/*" else -1
                end = edge.end()
            end = end if not depth else len(text)
        elif match.lastgroup in ("name", "colons", "other"):
            tokens.append((match.group().removeprefix("r#"), line))
        line += text.count("\n", at, end)
        at = end
    return tokens


def closing(tokens, start):
    """The place behind the bracket that closes the one at `start`."""
    depth = 0
    for at in range(start, len(tokens)):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(tokens[at][0], 0)
        if depth == 0:
            return at + 1
    return len(tokens)


def behind_item(tokens, at):
    """The place behind the item, statement or field that begins at `at`, attributes included."""
    while at + 1 < len(tokens) and tokens[at][0] == "#":
        at = closing(tokens, at + 1)
    words = {tokens[at][0]} if at < len(tokens) else set()
    ends = {";"} if words & ITEMS else {";", ","}
    is_use = any(word == "use" for word, _ in tokens[at : at + 5])
    while at < len(tokens):
        word = tokens[at][0]
        if word in ends:
            return at + 1
        if word in ")]}":
            return at
        if word in "([{":
            at = closing(tokens, at)
            if word == "{" and not is_use:
                return at
        else:
            at += 1
    return at


class Module:
    """A module: its children, what it imports, defines and names."""

    def __init__(self, name, parent, file):
        self.name, self.parent, self.file = name, parent, file
        self.root = parent.root if parent else self
        self.children, self.defined, self.imports, self.globs = {}, set(), {}, []
        self.named = []  # (path, line)

    def folder(self):
        """Where the files of its children are."""
        if self.parent is None:
            return self.file.parent
        return self.parent.folder() / self.name

    def path(self):
        return f"{self.parent.path()}::{self.name}" if self.parent else "crate"

    def all(self):
        yield self
        for child in self.children.values():
            yield from child.all()

    def read_file(self, name):
        for file in (self.folder() / f"{name}.rs", self.folder() / name / "mod.rs"):
            if file.is_file():
                child = self.children[name] = Module(name, self, file)
                child.read(tokens_of(file.read_text()))

    def read(self, tokens):
        at = 0
        while at < len(tokens):
            word, line = tokens[at]
            after = tokens[at + 1][0] if at + 1 < len(tokens) else ""
            before = tokens[at - 1][0] if at else ""
            if word == "#" and after == "[":
                end = closing(tokens, at + 1)
                is_test = [text for text, _ in tokens[at + 2 : end - 1]] == ["cfg", "(", "test", ")"]
                at = behind_item(tokens, end) if is_test else end
            elif word == "mod" and at + 2 < len(tokens) and tokens[at + 2][0] in ";{":
                at += 2
                if tokens[at][0] == "{":
                    end = closing(tokens, at)
                    child = self.children[after] = Module(after, self, self.file)
                    child.read(tokens[at + 1 : end - 1])
                    at = end
                else:
                    self.read_file(after)
            elif word == "use" and before != "::":
                end = next(end for end in range(at, len(tokens)) if tokens[end][0] == ";")
                self.read_use(tokens[at + 1 : end], [], line)
                at = end
            elif after == "::" and before != "::" and re.match(r"\w", word):
                path = [word]
                at += 1
                while at + 1 < len(tokens) and tokens[at][0] == "::" and re.match(r"\w", tokens[at + 1][0]):
                    path.append(tokens[at + 1][0])
                    at += 2
                self.named.append((path, line))
            else:
                if word in DEFINES:
                    self.defined.add(after)
                at += 1

    def read_use(self, tokens, prefix, line):
        """Reads the tree of a `use` line; `prefix` is what stands before it."""
        path, at = list(prefix), 0
        while at < len(tokens):
            word, line = tokens[at]
            if word == "{":
                start, inner = at + 1, at + 1
                end = closing(tokens, at) - 1
                while inner < end:
                    if tokens[inner][0] == "{":
                        inner = closing(tokens, inner)
                    elif tokens[inner][0] == ",":
                        self.read_use(tokens[start:inner], path, line)
                        start = inner = inner + 1
                    else:
                        inner += 1
                if start < end:
                    self.read_use(tokens[start:end], path, line)
                return
            if word == "*":
                self.globs.append(path)
                self.named.append((path, line))
                return
            if word == "as":
                break
            if word != "::":
                path.append(word)
            at += 1
        if len(path) > 1 and path[-1] == "self":
            path.pop()
        alias = tokens[at + 1][0] if at + 1 < len(tokens) else path[-1]
        self.imports[alias] = path
        self.named.append((path, line))

    def holder(self, path, seen=frozenset()):
        """The module that holds what `path` names here; None if it is of another crate."""
        if (self, tuple(path)) in seen:
            return None
        seen = seen | {(self, tuple(path))}
        first, rest = path[0], path[1:]
        if first == "crate":
            place = self.root
        elif first == "self":
            place = self
        elif first == "super":
            place = self.parent
        elif first in self.children:
            place = self.children[first]
        else:
            return None
        while place and rest:
            name, rest = rest[0], rest[1:]
            if name == "super":
                place = place.parent
            elif name in place.children:
                place = place.children[name]
            elif name in place.imports and place.imports[name] != [name]:
                source = place.holder(place.imports[name] + rest, seen)
                return source or place
            else:
                sources = (place.holder(glob, seen) for glob in place.globs)
                return next((source for source in sources if source and name in source.defined), place)
        return place

    def edges(self):
        """The modules that this one needs, each with the line that says so."""
        found = {}
        for path, line in self.named:
            target = self.holder(path)
            if target and target is not self:
                found.setdefault(target, line)
        return found


def circles(root):
    """One shortest circle for each set of modules that need each other."""
    edges = {module: module.edges() for module in root.all()}
    found, done = [], set()
    for start in edges:
        if start in done:
            continue
        came_from, queue = {start: None}, [start]
        while queue:
            module = queue.pop(0)
            if start in edges[module]:
                circle = [start]
                while module is not start:
                    circle.insert(1, module)
                    module = came_from[module]
                found.append([(one, edges[one][circle[(at + 1) % len(circle)]]) for at, one in enumerate(circle)])
                done.update(circle)
                break
            for target in edges[module]:
                if target not in came_from:
                    came_from[target] = module
                    queue.append(target)
    return found


def check(top):
    """Prints the circles of all crates below `top`; returns how many there are, and of how many crates."""
    files, count = set(), 0
    for manifest in sorted(top.rglob("Cargo.toml")):
        if "target" in manifest.relative_to(top).parts:
            continue
        # Every library, program and test of a package is a crate of its own.
        for pattern in ("src/lib.rs", "src/main.rs", "src/bin/*.rs", "tests/*.rs", "tests/*/main.rs"):
            files.update(manifest.parent.glob(pattern))
        files.update(manifest.parent / path for path in TARGET_PATH.findall(manifest.read_text()))
    for file in sorted(files):
        root = Module("crate", None, file)
        root.read(tokens_of(file.read_text()))
        for circle in circles(root):
            count += 1
            names = [module.path() for module, _ in circle]
            print(f"{file.relative_to(top)}: {' -> '.join([*names, names[0]])}")
            for (module, line), target in zip(circle, names[1:] + names[:1]):
                print(f"    {module.file.relative_to(top)}:{line} names {target}")
    return count, len(files)


CIRCLES = {
    "use lines": {"lib.rs": "mod a; mod b;", "a.rs": "use crate::b::{self, B};", "b.rs": "use super::a::A;"},
    "a path in code": {"lib.rs": "mod a; mod b;", "a.rs": "fn f() { crate::b::g() }", "b.rs": "use crate::a;"},
    "three modules": {
        "lib.rs": "mod a; mod b; mod c;",
        "a.rs": "use crate::{b};",
        "b.rs": "use crate::c::C as D;",
        "c.rs": "use crate::a::*;",
    },
    "parent and child": {"lib.rs": "mod a; pub struct P; fn f() { a::g() }", "a.rs": "use super::P;"},
    "a re-export": {
        "lib.rs": "mod a; mod b; pub use b::B;",
        "a.rs": "use crate::B;",
        "b.rs": "use crate::a::A;",
    },
    "deeper modules": {
        "lib.rs": "mod a; mod b;",
        "a.rs": "mod c;",
        "a/c.rs": "use crate::b::B;",
        "b.rs": "use crate::a::c;",
    },
    "modules in one file": {"lib.rs": "mod a { use super::b::B; } mod b { use crate::a::A; }"},
}
NO_CIRCLES = {
    "a parent that only declares": {"lib.rs": "mod a; pub struct P;", "a.rs": "use crate::P;"},
    "tests": {
        "lib.rs": "mod a; mod b;",
        "a.rs": "use crate::b::B;",
        "b.rs": "#[cfg(test)] mod tests { use crate::a::A; }",
    },
    "comments and texts": {
        "lib.rs": "mod a; mod b;",
        "a.rs": "use crate::b;",
        "b.rs": '// crate::a::A\n/* /* */ use crate::a; */ const C: &str = "crate::a::A";',
    },
    "names handed through": {"lib.rs": "mod a; mod b; pub use a::A; pub use b::B;", "a.rs": "use crate::B;", "b.rs": ""},
    "names of other crates": {
        "lib.rs": "mod a; mod b;",
        "a.rs": "use crate::b::B; use std::a::A;",
        "b.rs": "use tokio::a::b;",
    },
}


def self_test():
    for cases, wanted in ((CIRCLES, 1), (NO_CIRCLES, 0)):
        for case, files in cases.items():
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as printed:
                source = Path(folder) / "src"
                for name, text in {"../Cargo.toml": "[package]", **files}.items():
                    (source / name).parent.mkdir(parents=True, exist_ok=True)
                    (source / name).write_text(text)
                count, _ = check(Path(folder))
            if count != wanted:
                sys.exit(f"{case}: {wanted} circles planted, {count} found\n{printed.getvalue()}")
    print("Every planted circle is found, and no other.")


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        self_test()
    else:
        top = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).resolve().parent.parent
        count, crates = check(top)
        print(f"{count} circles in {crates} crates")
        sys.exit(1 if count or not crates else 0)
