#!/bin/sh
# Prints the newest Python from 3.11 on that can make a virtual environment, or says what is missing.
# A name on PATH is not enough: version managers put up names that lead nowhere, and Debian ships
# a Python whose venv module is a package of its own. So each candidate is run.
# PYTHON=/path/to/python overrides the choice.
set -u

without_venv=""
for name in ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3 python}; do
    "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue
    if "$name" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        # The path itself: a version manager's name may mean another Python elsewhere.
        "$name" -c 'import sys; print(sys.executable)'
        exit 0
    fi
    without_venv=${without_venv:-$name}
done

if [ -n "$without_venv" ]; then
    echo "$without_venv cannot make virtual environments: its venv or ensurepip module is missing." >&2
    echo "On Debian or Ubuntu: apt install python3-venv" >&2
elif [ -n "${PYTHON:-}" ]; then
    echo "PYTHON=$PYTHON is not a Python 3.11 or newer that runs." >&2
else
    echo "No Python 3.11 or newer was found on PATH. Install one, or name it: make PYTHON=/path/to/python" >&2
fi
exit 1
