"""Reading Containerfiles: what each line means, and where exactly it is wrong."""

from __future__ import annotations

import stat
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_kernel.containerfile import ignore, modes, mounts, words
from sandbox_kernel.containerfile import instructions as i
from sandbox_kernel.containerfile.glob import Glob
from sandbox_kernel.containerfile.parse import parse, parse_trigger
from sandbox_kernel.containerfile.source import Piece, Place, Source
from sandbox_kernel.errors import ContainerfileError


def only(text: str) -> i.Instruction:
    (made,) = parse(f"FROM scratch\n{text}").stages[0].instructions
    return made


def error(text: str) -> ContainerfileError:
    with pytest.raises(ContainerfileError) as caught:
        parse(text, "Some.file")
    return caught.value


def piece(text: str) -> Piece:
    return Piece(text, Source("test", [(text, 1, 1)]), 0)


def test_lines_are_continued_and_comments_between_are_no_part() -> None:
    made = only("RUN one \\\n  # comment\n\n  two \\  \n three")
    assert isinstance(made, i.Run)
    assert made.command == i.Command(("one   two  three",), True)


def test_two_escapes_at_the_end_do_not_continue() -> None:
    assert [type(each) for each in parse("FROM a\nRUN x\\\\\nRUN y").stages[0].instructions] == [
        i.Run,
        i.Run,
    ]


def test_the_escape_can_be_a_back_tick() -> None:
    file = parse("# escape=`\nFROM a\nRUN one `\n two\\\nCMD x")
    run, cmd = file.stages[0].instructions
    assert isinstance(run, i.Run) and run.command.words == ("one  two\\",)
    assert isinstance(cmd, i.Cmd)


def test_directives_end_with_the_first_other_line() -> None:
    assert parse("# comment\n# escape=`\nFROM a").directives.escape == "\\"
    assert parse("\N{ZERO WIDTH NO-BREAK SPACE}# escape=`\r\nFROM a\r\n").directives.escape == "`"
    assert error("# escape=x\nFROM a").line == 1
    assert "twice" in error("# escape=`\n# escape=`\nFROM a").why


def test_here_documents_belong_to_their_instruction() -> None:
    made = only("RUN <<EOF\n# no comment\nFROM x\nEOF")
    assert isinstance(made, i.Run)
    assert made.documents[0].content == "# no comment\nFROM x\n"
    copied = only('COPY <<-"A" <<B /to/\n\tone $X\n\tA\n\ttwo\nB')
    assert isinstance(copied, i.Copy)
    first, second = copied.sources
    assert (first.name, first.content, first.expand) == ("A", "one $X\n", False)
    assert (second.name, second.content, second.expand) == ("B", "\ttwo\n", True)
    assert isinstance(only("CMD cat <<EOF"), i.Cmd)
    assert isinstance(only('RUN cat "<<EOF"'), i.Run)


def test_a_place_is_that_of_the_character() -> None:
    wrong = error("FROM a\nRUN --mount=type=cache,target=/x \\\n  --mount=type=tmpfs,nothing=1 x")
    assert (wrong.file, wrong.line, wrong.column) == ("Some.file", 3, 30)
    assert str(wrong).startswith("read `Some.file`, line 3, column 30: ")
    late = error("FROM a\nENV A=1 \\\n    B")
    assert (late.line, late.column) == (3, 5)
    assert error("FROM a\n  RUNN x").column == 3
    assert error('FROM a\nLABEL a="b').column == 9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("RUN x", "before the first FROM"),
        ("FROM", "something after it"),
        ("FROM a AS", "FROM IMAGE"),
        ("FROM a AS B/c", "a stage is named"),
        ("FROM a AS x\nFROM b AS X", "is taken in line 1"),
        ("FROM a\nCOPY x", "a source and a destination"),
        ("FROM a\nCOPY --chown x y", "needs a value"),
        ("FROM a\nCOPY --chwon=1 x y", "did you mean `--chown`"),
        ("FROM a\nCOPY --link=maybe x y", "true or false"),
        ("FROM a\nCOPY --from=a --from=b x y", "twice"),
        ("FROM a\nADD --from=a x y", "no option"),
        ("FROM a\nCOPY x <<EOF\nEOF", "is a source"),
        ("FROM a\nENV A=1 B", "not NAME=VALUE"),
        ("FROM a\nENV A", "needs NAME=VALUE"),
        ("FROM a\nARG 1=2", "no name of a variable"),
        ("FROM a\nSHELL /bin/sh", "list in JSON"),
        ("FROM a\nHEALTHCHECK x", "HEALTHCHECK"),
        ("FROM a\nHEALTHCHECK --interval=5 CMD x", "a time is written"),
        ("FROM a\nHEALTHCHECK NONE x", "nothing more"),
        ("FROM a\nRUN --network=bridge x", "one of none, default, host"),
        ("FROM a\nRUN <<EOF\nx", "never closed"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    assert said in error(text).why


def test_lists_in_json_are_words_and_what_is_none_is_a_line() -> None:
    assert only('CMD ["a", "b c"]').command == i.Command(("a", "b c"), False)
    assert only("CMD [a, b]").command == i.Command(("[a, b]",), True)
    assert only('CMD ["a", 1]').command.shell


def test_times_of_a_health_check_are_nanoseconds() -> None:
    made = only("HEALTHCHECK --interval=1m30.5s --start-period=2h --retries=3 CMD x")
    assert isinstance(made, i.Healthcheck)
    assert (made.interval, made.start_period, made.retries) == (90_500_000_000, 7200 * 10**9, 3)
    assert made.timeout is None


def test_a_trigger_is_read_when_it_is_written_and_once_more_when_it_runs() -> None:
    made = only("ONBUILD COPY <<EOF /x\ntext\nEOF")
    assert isinstance(made, i.Onbuild)
    again = parse_trigger(made.trigger, "trigger")
    assert isinstance(again, i.Copy) and again.sources[0].content == "text\n"
    with pytest.raises(ContainerfileError, match="not allowed"):
        parse_trigger("FROM x", "trigger")


VALUES = {"a": "value", "empty": "", "path": "usr/local/lib/x.tar.gz", "two": "one  two"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$a", "value"), ("${a}", "value"), ("x${a}y", "xvaluey"), ("$none", ""),
        ("$a$a", "valuevalue"),
        ("'$a'", "$a"), ('"$a"', "value"), ("\\$a", "$a"), ('"\\$a"', "$a"), ("a\\ b", "a b"),
        ('"a\\b"', "a\\b"), ('"a\\\\b"', "a\\b"), ("'a\\b'", "a\\b"), ("$", "$"), ("$.", "$."),
        ("${none:-x}", "x"), ("${empty:-x}", "x"), ("${empty-x}", ""), ("${a:-x}", "value"),
        ("${a:+x}", "x"), ("${none:+x}", ""), ("${empty:+x}", ""), ("${empty+x}", "x"),
        ("${none:-$a}", "value"), ("${none:-${empty:-deep}}", "deep"), ("${none:-'x y'}", "x y"),
        ("${path#*/}", "local/lib/x.tar.gz"), ("${path##*/}", "x.tar.gz"),
        ("${path%.*}", "usr/local/lib/x.tar"), ("${path%%.*}", "usr/local/lib/x"),
        ("${path/lib/LIB}", "usr/LIB/x.tar.gz".replace("LIB", "local/LIB")),
        ("${path//l/L}", "usr/LocaL/Lib/x.tar.gz"), ("${path/nothing/x}", VALUES["path"]),
        ("${path%%}", VALUES["path"]), ("${a#v?l}", "ue"),
    ],
)  # fmt: skip
def test_variables(text: str, value: str) -> None:
    assert words.expand(piece(text), VALUES, "\\") == value


@pytest.mark.parametrize(
    ("text", "said", "column"),
    [
        ("x${none:?is missing}", "is missing", 2), ("${a", "not closed", 1), ("${}", "name", 1),
        ("${a!}", "no modifier", 4), ("'x", "not closed", 1), ('a"x', "not closed", 2),
        ("${a:-x", "not closed", 1),
    ],
)  # fmt: skip
def test_wrong_variables(text: str, said: str, column: int) -> None:
    with pytest.raises(ContainerfileError, match=said) as caught:
        words.expand(piece(text), VALUES, "\\")
    assert caught.value.column == column


def test_a_value_is_never_read_again() -> None:
    assert words.expand(piece("$x"), {"x": "$a '\"${"}, "\\") == "$a '\"${"


def test_words_of_unquoted_variables_are_split() -> None:
    assert words.expand_words(piece("a$two'$two'\"$two\""), VALUES, "\\") == [
        "aone", "two$twoone  two",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["755", "0640", "u=rwX,go=rX", "+x", "a-w,u+s", "g=u+r", "o=",
    "ug+s,o+t", "=r", "u=rwxs,g=s,o=t", "X", "8", "+q", "u+x,,o+r", "77777", ""])  # fmt: skip
def test_modes_are_those_of_chmod(text: str, tmp_path: Path) -> None:
    """Each is given to chmod(1), for a file that may be executed, one that may not, a folder."""
    found = modes.read(text)
    for kind, before in (("file", 0o640), ("program", 0o751), ("folder", 0o2711)):
        path = tmp_path / kind
        path.mkdir() if kind == "folder" else path.touch()
        path.chmod(before)
        # a umask would take part where nobody is named
        words = ["/bin/sh", "-c", 'umask 0; exec chmod -- "$0" "$1"', text, str(path)]
        done = subprocess.run(words, check=False, capture_output=True)
        if text in ("g=u+r", "X", "8", "+q", "u+x,,o+r", "77777", ""):
            assert found is None
            continue
        assert done.returncode == 0
        given = (
            found if isinstance(found, int) else modes.apply(before, found, folder=kind == "folder")
        )
        expected = stat.S_IMODE(path.stat().st_mode)
        if isinstance(found, int) and kind == "folder":
            expected &= ~0o2000  # chmod(1) keeps the set-group-id of folders, docker does not
        assert oct(given) == oct(expected), kind


def test_here_documents_keep_their_quotes() -> None:
    assert words.expand_document(piece("'$a' \"\\$a\" \\n"), VALUES, "\\") == "'value' \"$a\" \\n"


def test_mount_options_are_typed() -> None:
    made = only("RUN --mount=type=cache,target=$D/x,id=pip,mode=0700,uid=5,sharing=locked,ro x")
    assert isinstance(made, i.Run)
    found = mounts.resolve(made.mounts[0], {"D": "/d,rw"}, "\\", "/")
    assert (found.target, found.mode, found.uid, found.read_only) == ("/d,rw/x", 0o700, 5, True)
    relative = only('RUN --mount=type=tmpfs,"target=x,y",size=2m x')
    assert isinstance(relative, i.Run)
    tmpfs = mounts.resolve(relative.mounts[0], {}, "\\", "/work")
    assert (tmpfs.target, tmpfs.size) == ("/work/x,y", 2 << 20)


@pytest.mark.parametrize(
    ("pattern", "met", "missed"),
    [
        ("*.txt", ["a.txt", ".txt"], ["a/b.txt", "a.txtx"]),
        ("a/*/c", ["a/b/c"], ["a/c", "a/b/b/c"]),
        ("**/c", ["c", "a/c", "a/b/c"], ["a/cc"]),
        ("a/**", ["a", "a/b", "a/b/c"], ["b"]),
        ("a/**/z", ["a/z", "a/b/z"], ["a/zz"]),
        ("[a-c]?", ["ax", "cx"], ["dx", "a"]),
        ("[^a]x", ["bx"], ["ax"]),
        ("\\*", ["*"], ["a"]),
        ("[]]", ["]"], ["a"]),
        ("a*b*c", ["abc", "axxbxxc"], ["abcd", "acb"]),
    ],
)
def test_patterns(pattern: str, met: list[str], missed: list[str]) -> None:
    glob = Glob(pattern, Place("test", 1, 1))
    assert [path for path in met + missed if glob.matches(path.split("/"))] == met


def left_out(text: str, paths: list[str]) -> list[str]:
    """Which of the paths an ignore file leaves out, walked as a context is."""
    rules = ignore.read(text, ".dockerignore")
    found = []
    for path in paths:
        state, out, parts = None, False, path.split("/")
        for depth in range(1, len(parts) + 1):
            out, state = rules.is_left_out("/".join(parts[:depth]), state)
        found += [path] if out else []
    return found


def test_the_last_rule_of_an_ignore_file_decides() -> None:
    paths = ["a.md", "README.md", "docs/x.md", "docs/keep/y", "docs/keep/z", "src/a.o", "b/.git/x"]
    text = "# c\n*.md\n!README.md\ndocs\n!docs/keep\ndocs/keep/z\n**/*.o\n  **/.git  \n\n/absolute/"
    assert left_out(text, paths) == ["a.md", "docs/x.md", "docs/keep/z", "src/a.o", "b/.git/x"]
    assert left_out("*\n!src", ["a", "src/b", "src"]) == ["a"]


def test_an_ignore_file_names_its_wrong_line() -> None:
    with pytest.raises(ContainerfileError, match="leads out") as caught:
        ignore.read("ok\n  !../x\n", ".dockerignore")
    assert (caught.value.file, caught.value.line, caught.value.column) == (".dockerignore", 2, 3)
    with pytest.raises(ContainerfileError, match="not closed"):
        ignore.read("a[b", ".dockerignore")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="FROMRUNCPYA abc\\\n\"'$${}<E=-[],#/:*?\t\0é", max_size=200))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    for whole in (text, "FROM a\n" + text, "FROM a\nRUN " + text, "FROM a\nCOPY " + text):
        try:
            parse(whole)
        except ContainerfileError as wrong:
            assert 1 <= wrong.line <= whole.count("\n") + 1 and wrong.column >= 1


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab$${}:-+?#%/\\\"' *", max_size=80))
def test_any_value_is_replaced_or_refused(text: str) -> None:
    try:
        words.expand(piece(text), VALUES, "\\")
    except ContainerfileError as wrong:
        assert 1 <= wrong.column <= len(text) + 1


def test_reading_takes_linear_time() -> None:
    def once(text: str) -> float:
        begun = time.process_time()
        parse(text)
        return time.process_time() - begun

    def seconds(count: int) -> float:
        text = "FROM a\nRUN " + "x y \\\n" * count + "z\nENV " + "A=$B" * count
        # The least of some: in one of them all that the tests before left may be collected.
        return min(once(text) for _ in range(3))

    seconds(100)
    assert seconds(40_000) < 20 * max(seconds(4_000), 0.005)
