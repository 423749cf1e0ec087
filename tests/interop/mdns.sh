#!/usr/bin/env bash
# Puts avahi and python-zeroconf beside the binary, on a network of namespaces with multicast.
#
#   MISCHIEF=path/to/mischief tests/interop/mdns.sh
#
# Needs root. Ends with 77 if namespaces, avahi, D-Bus or Python's zeroconf cannot be had.
set -eu -o pipefail
cd "$(dirname "$0")"
mischief=${MISCHIEF:?the path of the binary to test}
python=${PYTHON:-python3}

missing() {
    echo "$1" >&2
    exit 77
}

[ "$(id -u)" = 0 ] || missing "not root"
for command in "$python" ip avahi-daemon avahi-browse dbus-daemon unshare mount; do
    command -v "$command" >/dev/null 2>&1 || missing "no $command"
done
ip netns add mischief-try 2>/dev/null || missing "no network namespaces"
ip netns del mischief-try

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if ! "$python" -c 'import zeroconf' 2>/dev/null; then
    echo "installing zeroconf"
    if ! { "$python" -m venv "$scratch/venv" &&
        timeout 240 "$scratch/venv/bin/pip" install -q zeroconf; }; then
        missing "python-zeroconf cannot be installed"
    fi
    python=$scratch/venv/bin/python
fi
mkdir "$scratch/run"
timeout --kill-after=20 480 "$python" -B mdns_lab.py "$mischief" "$scratch/run"
