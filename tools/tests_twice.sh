#!/bin/sh
# CI's way to run the tests: ./check, and what failed once more, alone.
#
# The tests keep stated times with real processes, and a CI machine may be shared with anything. A test that passes alone is
# reported by name as flaky, in the log and in the closing line, and is to be looked into; one that fails twice fails the run.
# ./check itself never repeats anything.
set -u
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
./check "$@" >"$log" 2>&1
status=$?
cat "$log"
[ $status -eq 1 ] || exit $status # 0: all passed; 2 and above: pytest could not run them
flaky=$(grep -E '^(FAILED|ERROR) ' "$log" | cut -d' ' -f2 | sort -u)
echo "=== once more, alone: what failed"
./check --last-failed || exit $?
echo "flaky, failed once and passed alone:" $flaky
