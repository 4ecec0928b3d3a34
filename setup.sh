#!/usr/bin/env bash
# Creates the virtual environment VENV and installs the builder: setup.sh VENV
set -euo pipefail

venv=$1
state=${HFDLC_STATE:-${XDG_CACHE_HOME:-$HOME/.cache}/hfdlc}
export PIP_CACHE_DIR="$state/pip" PIP_DISABLE_PIP_VERSION_CHECK=1

# Prints the first Python 3.11 or newer that has venv, or nothing.
python() {
    local name
    for name in python3.13 python3.12 python3.11 python3; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
}

if [ -z "$(python)" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "error: no Python 3.11 or newer with venv was found" >&2
        echo "  hint: install python3 and python3-venv, then run this again" >&2
        exit 1
    fi
    echo "installing missing packages with apt-get: python3 python3-venv" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 python3-venv ca-certificates >&2
fi

echo "setting up $venv with $(python)" >&2
"$(python)" -m venv "$venv"
"$venv/bin/python" -m pip install -qq --editable '.[dev]'
