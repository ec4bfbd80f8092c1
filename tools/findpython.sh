# Sourced by the scripts at the root and by .ci/run; POSIX sh.
#
# python_candidates  prints every interpreter worth trying: what PATH has, newest name first, then pyenv's, newest first.
# usable_python P    true if P is at least 3.11 and can make virtual environments. pyenv's shims exist for versions
#                    that are not selected, and Debian ships python3 without ensurepip, so only a trial run tells.
# find_python [X.Y]  prints the first usable one (of that version, if given), or fails.
# need_python        find_python, or a message that says what is missing.

python_candidates() {
    for name in ${1:+python$1} ${1:-python3.13 python3.12 python3.11 python3}; do
        command -v "$name" 2>/dev/null || true
    done
    for version in ${1:-3.13 3.12 3.11}; do
        for path in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do
            [ -x "$path" ] && echo "$path"
        done
    done
    return 0
}

usable_python() {
    "$1" -c '
import sys
sys.exit(sys.version_info < (3, 11) or (sys.argv[1] != "" and sys.argv[1] != "%d.%d" % sys.version_info[:2]))
' "${2:-}" >/dev/null 2>&1 && "$1" -c 'import ensurepip, venv' >/dev/null 2>&1
}

find_python() {
    # a here-document, not a pipe: breaking out of a pipe would kill its writer, which `set -o pipefail` calls a failure
    while IFS= read -r candidate; do
        if [ -n "$candidate" ] && usable_python "$candidate" "${1:-}"; then
            echo "$candidate"
            return 0
        fi
    done <<LIST
$(python_candidates "${1:-}")
LIST
    return 1
}

need_python() {
    find_python || {
        echo "no Python >= 3.11 with venv and ensurepip found (on Debian: apt install python3-venv)" >&2
        return 1
    }
}
