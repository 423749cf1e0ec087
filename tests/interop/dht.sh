#!/usr/bin/env bash
# Puts the binary into a DHT of 30 libtorrent nodes on loopback and has both sides find what the other has stored.
#
#   MISCHIEF=path/to/mischief tests/interop/dht.sh
#
# DHT_MINUTES says for how long our node has to stay good in their tables: 1 without it.
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

if ! "$python" -c 'import libtorrent, cryptography' 2>/dev/null; then
    echo "installing libtorrent and cryptography"
    if ! { "$python" -m venv "$scratch/venv" &&
        timeout 240 "$scratch/venv/bin/pip" install -q libtorrent cryptography; }; then
        echo "the Python packages cannot be installed" >&2
        exit 77
    fi
    python=$scratch/venv/bin/python
fi
minutes=${DHT_MINUTES:-1}
timeout $((minutes * 60 + 180)) "$python" -B dht_lab.py "$mischief" "$minutes"
