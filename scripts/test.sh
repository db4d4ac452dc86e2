#!/bin/bash
# The whole suite in four processes at a time: much of it waits for others, and each has namespaces of its own.
# With arguments: pytest with these, in one process.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
pytest=(.venv/bin/python -m pytest)
[ $# -gt 0 ] && exec "${pytest[@]}" "$@"

parts=("tests/engine tests/chaos" "tests/ligato tests/nsm tests/kv tests/docker" "tests/bench tests/fleet")
rest=""
for folder in tests/*/; do
    folder=${folder%/}
    [[ " ${parts[*]} " == *" $folder "* ]] || rest+=" $folder"
done
parts+=("$rest")

logs=$(mktemp -d)
running=()
trap 'kill "${running[@]}" 2>/dev/null; rm -rf "$logs"' EXIT
for n in "${!parts[@]}"; do
    # shellcheck disable=SC2086
    "${pytest[@]}" ${parts[$n]} >"$logs/$n" 2>&1 &
    running+=($!)
done
failed=0
for n in "${!parts[@]}"; do
    wait "${running[$n]}" || failed=1
    cat "$logs/$n"
done
exit $failed
