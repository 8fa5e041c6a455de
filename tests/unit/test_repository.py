"""Promises about the repository itself: its links, commands, words and floors."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base", "core", "stuff"}
PROSE = re.compile(r"(?<![`\w])(?:/home/[a-z][\w-]*/)")


def tracked(pattern: str) -> list[Path]:
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--", pattern],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    ).stdout
    names = [name for name in listing.decode().split("\0") if name]
    return [REPOSITORY / name for name in names if (REPOSITORY / name).exists()]


def shipped_modules() -> list[Path]:
    roots = [REPOSITORY / name for name in ("sandbox_kernel", "magics")]
    return [path for path in tracked("*.py") if any(path.is_relative_to(root) for root in roots)]


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


# -- words ----------------------------------------------------------------------------------------


def test_every_module_says_in_its_first_line_what_is_there() -> None:
    silent = []
    for path in tracked("*.py"):
        text = path.read_text()
        # The text of boot.py itself goes inside: its first line is a comment.
        if not text.removeprefix("#!/usr/bin/env python3\n").startswith(('"""', 'r"""', "# ")):
            silent.append(str(path.relative_to(REPOSITORY)))

    assert silent == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [path for path in tracked("*.py") if path.stem in EMPTY_NAMES] == []


def test_no_tracked_file_names_a_place_of_one_machine() -> None:
    here = [f"{REPOSITORY}/", f"{sys.base_prefix}/" * (sys.base_prefix != "/usr")]
    home = str(Path.home())
    here += [f"{home}/"] if home != "/" else []
    about_such_places = {"tests/hostile", "tests/integration", "tests/unit", "tests/cgroup2"}
    found = []
    for path in tracked("*"):
        name = str(path.relative_to(REPOSITORY))
        if any(name.startswith(folder) for folder in about_such_places):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{name}: {place}" for place in here if place and place in text]
        found += [f"{name}: {match}" for match in PROSE.findall(text)]

    assert found == []


# -- what the code never does ---------------------------------------------------------------------


@pytest.mark.cve("CVE-2023-24816")
def test_no_host_command_is_ever_built_from_a_string() -> None:
    found = []
    for path in shipped_modules():
        for name, call in calls(ast.parse(path.read_text())):
            shell = any(keyword.arg == "shell" for keyword in call.keywords)
            if shell or name in {"os.system", "os.popen", "subprocess.getoutput"}:
                found.append(f"{path.relative_to(REPOSITORY)}:{call.lineno}")

    assert found == []


def test_nothing_that_comes_from_inside_can_be_code() -> None:
    unsafe = {"pickle", "shelve", "dill", "cloudpickle", "joblib"}
    found = []
    for path in shipped_modules():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if {name.split(".")[0] for name in names} & unsafe:
                found.append(str(path.relative_to(REPOSITORY)))
        own = path == REPOSITORY / "sandbox_kernel/oci/entry.py"  # beside Python's own byte code
        inside = "inside" in path.parts  # reads what the outside made for it
        for name, call in calls(tree):
            if name in {"marshal.load", "marshal.loads"} and not (inside or own):
                found.append(f"{path.relative_to(REPOSITORY)}:{call.lineno}")
            if any(
                keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
                for keyword in call.keywords
            ):
                found.append(f"{path.relative_to(REPOSITORY)}:{call.lineno}")

    assert found == []


def test_what_runs_in_an_image_is_python_3_9() -> None:
    """An image may have any Python from 3.9 on, and nothing else parses these before it does."""
    sources = tracked("sandbox_kernel/inside/*.py")

    assert len(sources) > 10
    for path in sources:
        ast.parse(path.read_text(), str(path), feature_version=(3, 9))


def test_no_archive_is_unpacked_by_pythons_library() -> None:
    """What is in a layer, a wheel or a package is written by our own readers, which refuse."""
    unpacking = {"extract", "extractall", "unpack_archive"}
    own = {"magics": 0, "sandbox_kernel": 0}
    found = []
    for path in shipped_modules():
        own[path.relative_to(REPOSITORY).parts[0]] += 1
        for called, node in calls(ast.parse(path.read_text())):
            if called.rpartition(".")[2] in unpacking:
                found.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")

    assert found == []
    assert all(own.values())


def test_nothing_waits_by_sleeping() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{call.lineno}"
        for path in shipped_modules()
        for name, call in calls(ast.parse(path.read_text()))
        if name in {"time.sleep", "asyncio.sleep", "sleep"}
    ]

    assert found == []


def test_imports_point_down_only() -> None:
    checked = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout


# -- documents ------------------------------------------------------------------------------------


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def heading_anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ +(.+)$", path.read_text(), flags=re.M)
    kept = [re.sub(r"[^\w\- ]", "", title.strip().lower()) for title in titles]
    return {title.replace(" ", "-") for title in kept}


@pytest.mark.parametrize(
    "page", tracked("*.md"), ids=lambda page: str(page.relative_to(REPOSITORY))
)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (
            anchor and file.suffix == ".md" and anchor not in heading_anchors(file)
        ):
            dead.append(target)

    assert dead == []


def test_each_promise_of_the_specification_names_a_test_that_exists() -> None:
    specification = REPOSITORY / "SPECIFICATION.md"
    promises = re.findall(r"^- .*(?:\n  .*)*", specification.read_text(), flags=re.M)
    wrong = []
    for promise in promises:
        proofs = re.findall(r"\[`(test_\w+)`\]\(([^)]+\.py)\)", promise)
        if not proofs:
            wrong.append(f"no test: {promise}")
        for name, file in proofs:
            source = REPOSITORY / file
            if not source.exists() or f"def {name}(" not in source.read_text():
                wrong.append(f"no `{name}` in {file}")

    assert promises
    assert wrong == []


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "docs/getting-started.md"])
def test_make_commands_that_a_page_names_are_there(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.M))
    text = (REPOSITORY / page).read_text()
    named = set(re.findall(r"(?:^|`|\$ )make ([a-z-]+)", text, flags=re.M))

    assert named
    assert named <= targets


def test_the_readme_starts_with_the_two_commands() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        first_block = re.search(r"```\w*\n(.*?)```", (REPOSITORY / name).read_text(), re.S)
        assert first_block
        assert re.findall(r"^make (\w+)", first_block[1], re.M) == ["demo", "test"]


def test_the_chinese_readme_is_a_twin() -> None:
    english = (REPOSITORY / "README.md").read_text()
    chinese = (REPOSITORY / "README.zh-CN.md").read_text()

    def shape(text: str) -> list[object]:
        code = [
            re.sub(r"#.*|//.*", "", block) for block in re.findall(r"```\w*\n(.*?)```", text, re.S)
        ]
        code = ["\n".join(line.rstrip() for line in block.splitlines()) for block in code]
        levels = re.findall(r"^(#+) ", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
        return [code, levels, len(re.findall(r"^\|", text, re.M))]

    assert shape(english) == shape(chinese)


def test_there_is_a_changelog_with_this_version() -> None:
    import sandbox_kernel

    assert f"## {sandbox_kernel.__version__}" in (REPOSITORY / "CHANGELOG.md").read_text()


# -- notebooks ------------------------------------------------------------------------------------


def cells(path: Path) -> list[dict[str, object]]:
    notebook = json.loads(path.read_text())
    return [cell | {"source": "".join(cell["source"])} for cell in notebook["cells"]]


class _WithoutProse(ast.NodeTransformer):
    """Text for people goes; what is written to machines has no space or non-ASCII letter in it."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if isinstance(node.value, str) and not re.fullmatch(r"[!-~]+", node.value):
            return ast.Constant("...")
        return node


def bones(source: str) -> str:
    """The source of a cell without what may differ between languages."""
    magics = [line for line in source.splitlines() if line.startswith(("%", "!"))]
    rest = "\n".join(line for line in source.splitlines() if not line.startswith(("%", "!")))
    if any("--program" in line for line in magics):
        return "\n".join(magics)
    if any(line.startswith("%%container build") for line in magics):
        # a Containerfile: what is no instruction is the text of a file
        instructions = [line for line in rest.splitlines() if re.match(r"[A-Z]{2,}\b", line)]
        return "\n".join([*magics, *instructions])
    return "\n".join(magics) + ast.unparse(_WithoutProse().visit(ast.parse(rest)))


@pytest.mark.parametrize(
    "english", tracked("notebooks/en/*.ipynb"), ids=lambda path: Path(path).stem
)
def test_a_notebook_has_a_twin_in_chinese(english: Path) -> None:
    chinese = REPOSITORY / "notebooks/zh" / english.name
    ours, theirs = cells(english), cells(chinese)

    assert [cell["cell_type"] for cell in ours] == [cell["cell_type"] for cell in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if one["cell_type"] == "code":
            assert bones(str(one["source"])) == bones(str(other["source"]))
        else:
            assert re.search(r"[一-鿿]", str(other["source"]))


@pytest.mark.parametrize(
    "path", tracked("notebooks/*.ipynb"), ids=lambda path: "/".join(path.parts[-2:])
)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    for cell in cells(path):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
