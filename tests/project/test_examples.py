"""The main job runs as the README says, in small: its exit status is its own judgement of what the murders cost."""

import subprocess
import sys
from pathlib import Path

SURVEY = Path(__file__).resolve().parents[2] / "examples" / "stdlib_survey.py"


def test_the_survey_survives_its_murders():
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SURVEY), "--files", "150", "--processes", "2"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    assert "Every call ended once, and each death cost what it hit." in done.stdout
    lost = done.stdout.partition("Lost, and why\n")[2].partition("\n\n")[0]
    assert "(the task that hangs)" in lost
    assert "TimeLimitExceeded" in lost
    assert "(the task that crashes)" in lost
    assert "SIGSEGV" in lost
