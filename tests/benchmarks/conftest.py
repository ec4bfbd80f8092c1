import sys
from pathlib import Path

# Behind everything else: benchmarks/ holds a program named celery.py, which must not hide the library
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
