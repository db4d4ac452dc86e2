#!/bin/sh
# Runs the tests of the compiled part under AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   tests/asan.sh [pytest arguments]
#
# PYTHON            interpreter with the test dependencies (default: python3)
# FASTNL_SANITIZE   what gcc's -fsanitize= gets (default: address,undefined)
#
# The extension is built from a copy of the sources in a temporary folder; the tree stays as it is.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cp -R "$root/src" "$root/engine" "$root/setup.py" "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$work"
find "$work/src" -name '*.so' -delete
(
    cd "$work"
    FASTNL_SANITIZE=${FASTNL_SANITIZE:-address,undefined} "$python" setup.py -q build_ext --inplace >build.log 2>&1
) || { cat "$work/build.log" >&2; exit 1; }

# the sanitizers' own libraries have to be there before Python's allocator, and every allocation be a real one
LD_PRELOAD="$(gcc -print-file-name=libasan.so)"
ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
PYTHONMALLOC=malloc
PYTHONPATH="$work/src:$work/engine${PYTHONPATH:+:$PYTHONPATH}"
export LD_PRELOAD ASAN_OPTIONS UBSAN_OPTIONS PYTHONMALLOC PYTHONPATH

"$python" -c '
import sys
import fastnl._afpacket
import fastnl._nl
for module in (fastnl._nl, fastnl._afpacket):
    if not module.__file__.startswith(sys.argv[1]):
        sys.exit(f"the tests would run {module.__file__}, which has no sanitizer in it")
' "$work"

cd "$root"
if [ $# -eq 0 ]; then
    set -- tests/unit/test_links.py tests/unit/test_messages.py tests/unit/test_reader.py tests/unit/test_writer.py \
        tests/fuzz/test_reader_fuzz.py tests/kernel/test_tours.py tests/kernel/test_connect.py \
        tests/kernel/test_disconnect.py tests/kernel/test_mend.py tests/unit/test_afpacket.py \
        tests/kernel/test_afpacket.py
fi
# --capture=sys leaves the error output itself alone, which is where reports go
"$python" -m pytest -q -p no:cacheprovider -p no:faulthandler --capture=sys --timeout 600 "$@"
