"""What malloc keeps for payloads."""

import platform
import subprocess
import sys

import pytest

FAULTS_OF_A_COPY = (1 << 20) // 4096

PROGRAM = """
import resource
from billiard import Pool

def echo(x):
    return x

def faults(_=None):
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

with Pool(1) as pool:
    for value in (bytes(1 << 20), "x" * (1 << 20)):
        for _ in range(5):
            pool.apply(echo, (value,))
        before = faults() + pool.apply(faults, (0,))
        for _ in range(50):
            pool.apply(echo, (value,))
        print((faults() + pool.apply(faults, (0,)) - before) / 50)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries keep other things")
def test_payloads_do_not_fault_in_anew_each_time():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    per_call = [float(line) for line in done.stdout.split()]
    assert len(per_call) == 2
    assert max(per_call) < FAULTS_OF_A_COPY / 4, per_call
