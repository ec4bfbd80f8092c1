"""MkDocs hook: put every page of docs/decisions/ into the navigation, so that writing one is enough to publish it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Called by MkDocs once the configuration is read."""
    docs = Path(config["docs_dir"])
    pages = [page.relative_to(docs).as_posix() for page in sorted((docs / "decisions").glob("*.md"))]
    if pages:
        config["nav"].append({"Decisions": pages})
    return config
