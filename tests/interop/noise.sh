#!/usr/bin/env bash
# Puts a peer that shares no code with this project beside the binary: written in Python from docs/wire.md, on the Noise
# implementation of the package `noiseprotocol` and on `msgpack`. Both roles, with and without a network key.
#
#   MISCHIEF=path/to/mischief tests/interop/noise.sh
#
# Ends with 77 if Python or its packages cannot be had.
set -eu -o pipefail
cd "$(dirname "$0")"
mischief=${MISCHIEF:?the path of the binary to test}
python=${PYTHON:-python3}

if ! command -v "$python" >/dev/null 2>&1; then
    echo "no $python" >&2
    exit 77
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if ! "$python" -c 'import noise, msgpack, cryptography' 2>/dev/null; then
    echo "installing noiseprotocol, msgpack and cryptography"
    if ! { "$python" -m venv "$scratch/venv" &&
        timeout 240 "$scratch/venv/bin/pip" install -q noiseprotocol msgpack cryptography; }; then
        echo "the Python packages cannot be installed" >&2
        exit 77
    fi
    python=$scratch/venv/bin/python
fi
exec_dir=$scratch/run
mkdir "$exec_dir"
timeout 120 "$python" -B noise_peer.py "$mischief" "$exec_dir"
