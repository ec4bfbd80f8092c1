"""The fresh process: one library, one piece of work, one answer.

`python -m harness.child PROGRAM:FUNCTION LIBRARY PARAMS OUT` imports the program, calls
`FUNCTION(library, **params)` and writes what it returns to OUT as JSON. A file and not a pipe: whatever workers
survive would hold the pipe open, and the runner would wait for them.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path


def main(work: str, library: str, params: str, out: str) -> None:
    program, function = work.split(":")
    answer = getattr(importlib.import_module(program), function)(library, **json.loads(params))
    part = Path(f"{out}.part")
    part.write_text(json.dumps(answer))
    part.rename(out)
    # A pool that does not close must not turn a finished measurement into a hang; the runner kills what is left.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
