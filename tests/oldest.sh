#!/bin/sh
# Runs tests with the oldest release of every dependency that pyproject.toml allows, tests/oldest.txt.
#
#   tests/oldest.sh [pytest arguments]      (default: the unit tests, those of the engine and of what extras are for)
#
# PYTHON   interpreter to begin with (default: python3)
# VENV     where it is all installed, kept for the next time (default: .venv/oldest)
#
# fastnl is built from a copy of the sources in a temporary folder; the tree stays as it is.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
venv=${VENV:-$root/.venv/oldest}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cp -R "$root/src" "$root/engine" "$root/setup.py" "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$work"
find "$work/src" -name '*.so' -delete
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
# fastnl itself anew each time, whose version does not tell that its sources changed
"$venv/bin/pip" install -q --disable-pip-version-check -c "$root/tests/oldest.txt" "${work}[test]"
"$venv/bin/pip" install -q --disable-pip-version-check --force-reinstall --no-deps "$work"

cd "$root"
[ $# -gt 0 ] || set -- tests/unit tests/engine tests/kv tests/ligato tests/nsm
"$venv/bin/python" -m pytest "$@"
