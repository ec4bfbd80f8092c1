"""Put the table of ten ordinary faults, as last measured by benchmarks/faults.py, into the README between its markers.

    python tools/readme.py            fill in
    python tools/readme.py --check    only look

With ``--check`` the exit status is 1 if the README shows something else.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results" / "faults.md"
MARKED = re.compile(r"<!-- faults -->\n.*?<!-- end -->", re.DOTALL)


def first_table(text: str) -> str:
    """The rows of the first table in a Markdown text."""
    lines = text[text.index("\n|") + 1 :].splitlines()
    return "\n".join(lines[: next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))])


def filled(readme: str) -> str:
    table = first_table(RESULTS.read_text())
    done, count = MARKED.subn(lambda _: f"<!-- faults -->\n\n{table}\n\n<!-- end -->", readme)
    if count != 1:
        raise SystemExit("the README must have the markers <!-- faults --> and <!-- end --> once")
    return done


def main(arguments: list[str]) -> int:
    readme = README.read_text()
    if "--check" in arguments:
        return int(filled(readme) != readme)
    README.write_text(filled(readme))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
