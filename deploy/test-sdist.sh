#!/bin/sh
# Whether `pip install fastnl` works from the source distribution: builds it, a wheel from it, and installs the former
# in a clean environment in an empty folder.  Nothing of the working tree is touched.
#
#     [PYTHON=python3.12] deploy/test-sdist.sh [FOLDER]     FOLDER gets what was built
#
# Ends with 77 where no package index can be reached.
set -eu
root=$(realpath "$(dirname "$0")/..")
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/tree" "$work/dist" "$work/empty"

# as a checkout has it, whatever earlier builds have left
cd "$root"
git ls-files -z --cached --others --exclude-standard |
    tar --null --ignore-failed-read --files-from - --create 2>/dev/null | tar -x -C "$work/tree"

"$python" -m venv "$work/build"
"$work/build/bin/pip" install -q --disable-pip-version-check build || {
    echo "test-sdist: no package index can be reached" >&2
    exit 77
}
"$work/build/bin/python" -m build --outdir "$work/dist" "$work/tree" >"$work/log" 2>&1 || {
    cat "$work/log"
    exit 1
}
sdist=$(echo "$work"/dist/*.tar.gz)
wheel=$(echo "$work"/dist/*.whl)

# the sources are all there, and nothing that was built
tar -tf "$sdist" | sed 's|^[^/]*/||' >"$work/names"
(cd "$work/tree" && find src/fastnl -name '*.py*' -o -name '*.px*' -o -name 'py.typed') >"$work/wanted"
missing=$(grep -vxFf "$work/names" "$work/wanted" || true)
[ -z "$missing" ] || { echo "not in the source distribution: $missing"; exit 1; }
built=$(grep -E '\.(so|pyc|c|html)$' "$work/names" | grep -v '^tests/\|^bench/' || true)
[ -z "$built" ] || { echo "built things in the source distribution: $built"; exit 1; }
"$python" -m zipfile -l "$wheel" >"$work/in-wheel"
for part in 'fastnl/_nl\..*\.so' 'fastnl/_nl\.pyi' 'fastnl/_afpacket\..*\.so' 'fastnl/py\.typed' 'fastnl_engine/main\.py' 'fastnl_engine/bench/quick\.py' 'fastnl_engine/cli/app\.py'; do
    grep -q "^$part" "$work/in-wheel" || { echo "not in the wheel: $part"; exit 1; }
done

cd "$work/empty"
"$python" -m venv "$work/clean"
"$work/clean/bin/pip" install -q --disable-pip-version-check "$sdist"
"$work/clean/bin/python" - "$work/clean" <<'PYTHON'
import sys

import fastnl
import fastnl._nl
import fastnl_engine.client
import fastnl_engine.main

assert fastnl._nl.__file__.startswith(sys.argv[1]), fastnl._nl.__file__
print("fastnl", fastnl.__version__, "on Python", sys.version.split()[0])
PYTHON
"$work/clean/bin/fastnl" --help >/dev/null
"$work/clean/bin/fastnl" graph --help >/dev/null
"$work/clean/bin/fastnl-engine" --version
[ $# = 0 ] || cp "$sdist" "$wheel" "$1"
echo "test-sdist: installs from $(basename "$sdist")"
