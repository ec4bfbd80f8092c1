"""kombu's filesystem transport with whole messages only.

kombu opens a message under its final name and then writes it, so that a reader may take half of it and die of the
JSON. That would be blamed on the pool. Here a message gets its name when it is complete.
"""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem

SCHEME = "wholefiles"


class Channel(filesystem.Channel):
    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        # Readers sort by name and look at what follows the first dot.
        final = Path(self.data_folder_out) / f"{time.monotonic_ns():020}_{uuid.uuid4()}.{queue}.msg"
        part = final.with_name(f"{uuid.uuid4()}.part")
        part.write_text(json.dumps(payload))
        part.rename(final)


class Transport(filesystem.Transport):
    Channel = Channel


TRANSPORT_ALIASES[SCHEME] = f"{__name__}:Transport"
