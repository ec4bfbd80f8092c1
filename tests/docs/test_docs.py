"""Every Python block in the documentation and the README runs.

A page's blocks, in order, are one program: a fresh interpreter in an empty directory, with a time limit and warnings as
errors. A block with a title is a program of its own, in a file of that name. A program has its blocks on the lines they
have in the page, so a traceback names the line to mend.
A fence marked `text title="Output"` is what the program must print: the page's output blocks must appear in order, with
`…` standing for whatever differs from run to run (a pid). A block that must not run is `text`, never `python`.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
LANGUAGES = {"python", "text", "sh", "toml", "ini", "json", "mermaid"}
OUTPUT = 'text title="Output"'
LIMIT_S = 60

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>.*)$")


class Block(NamedTuple):
    """One fenced block: its first line's number (from 0), the fence's words, the text."""

    line: int
    info: str
    text: str


def blocks_of(page):
    """The fenced blocks of a page. A fence that is never closed is an error, not a block to the end."""
    found, opened = [], None
    for number, line in enumerate(page.splitlines()):
        match = FENCE.match(line)
        if opened is None and match:
            opened = number, match
            body = []
        elif opened and match and not match["info"].strip() and len(match["ticks"]) >= len(opened[1]["ticks"]):
            found.append(Block(opened[0] + 1, opened[1]["info"].strip(), "\n".join(body)))
            opened = None
        elif opened:
            body.append(line.removeprefix(opened[1]["indent"]))
    assert opened is None, f"line {opened[0] + 1}: fence not closed"
    return found


TITLED = re.compile(r'python title="(\w+\.py)"$')


def program_of(blocks):
    """The untitled Python blocks as one program, each on its own lines of the page."""
    lines = []
    for block in blocks:
        if block.info == "python":
            lines += [""] * (block.line - len(lines)) + block.text.splitlines()
    return "\n".join(lines) + "\n"


def programs_of(blocks):
    """Every program of the page: file name and text."""
    found = {"page.py": program_of(blocks)}
    for block in blocks:
        if titled := TITLED.match(block.info):
            found[titled[1]] = "\n" * block.line + block.text + "\n"
    return {name: text for name, text in found.items() if text.strip()}


def assert_prints(out, blocks):
    """The output blocks appear in `out`, in order."""
    place = 0
    for block in blocks:
        if block.info == OUTPUT:
            wanted = ".*".join(re.escape(part) for part in block.text.split("…"))
            match = re.compile(f"^{wanted}$", re.M).search(out, place)
            assert match, f"line {block.line}: the program does not print\n{block.text}\nbut\n{out[place:]}"
            place = match.end()


def run(text, directory, name="page.py"):
    script = directory / name
    script.write_text(text)
    return subprocess.run(
        [sys.executable, "-W", "error", script.name], cwd=directory,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip


def test_the_pages_were_found():
    assert len(PAGES) > 8
    assert sum(program_of(blocks_of(page.read_text())).strip() != "" for page in PAGES) > 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page, tmp_path):
    blocks = blocks_of(page.read_text())
    strange = [f"line {block.line}: {block.info!r}" for block in blocks if not is_understood(block.info)]
    assert strange == [], "a fence says which language it holds, and `text` if it must not run"
    out = ""
    for name, text in programs_of(blocks).items():
        done = run(text, tmp_path, name)
        if done.returncode:
            pytest.fail(f"{name}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}", pytrace=False)
        out += done.stdout
    assert_prints(out, blocks)


def is_understood(info):
    """A Python block is plain or titled as a file: anything else would be a block that is not run in silence."""
    language = info.split(" ")[0]
    return language in LANGUAGES and (language != "python" or info == "python" or TITLED.match(info))


def test_a_titled_block_is_a_program_of_its_own(tmp_path):
    page = "```python\nx = 1\n```\n\n```python title=\"own.py\"\nassert 'x' not in globals()\nassert False\n```\n"
    programs = programs_of(blocks_of(page))
    assert list(programs) == ["page.py", "own.py"]
    done = run(programs["own.py"], tmp_path, "own.py")
    assert done.returncode == 1
    assert 'own.py", line 7' in done.stderr
    assert not is_understood("python linenums=1")


def test_a_failing_block_is_noticed(tmp_path):
    page = "# Title\n\n```python\nx = 1\n```\n\nwords\n\n```python\nassert x == 2\n```\n"
    done = run(program_of(blocks_of(page)), tmp_path)
    assert done.returncode == 1
    assert "line 10" in done.stderr


def test_a_wrong_output_is_noticed(tmp_path):
    page = "```python\nprint('pid 17 one')\nprint('two')\n```\n\n" + f"```{OUTPUT}\npid … one\n{{}}\n```\n"
    good, bad = (blocks_of(page.format(last)) for last in ("two", "three"))
    out = run(program_of(good), tmp_path).stdout
    assert_prints(out, good)
    with pytest.raises(AssertionError, match="does not print"):
        assert_prints(out, bad)


def test_an_open_fence_is_noticed():
    with pytest.raises(AssertionError, match="line 3: fence not closed"):
        blocks_of("a\n\n```python\nx = 1\n")
