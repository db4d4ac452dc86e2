#!/bin/bash
# The whole suite in two processes at a time: much of it waits for the kernel, and each has namespaces of its own.
# With arguments: pytest with these, in one process.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
pytest=(.venv/bin/python -m pytest)
[ $# -gt 0 ] && exec "${pytest[@]}" "$@"

half=(tests/engine tests/chaos)
rest=()
for folder in tests/*/; do
    [[ " ${half[*]} " == *" ${folder%/} "* ]] || rest+=("${folder%/}")
done
log=$(mktemp)
trap 'kill "$other" 2>/dev/null; rm -f "$log"' EXIT
"${pytest[@]}" "${rest[@]}" >"$log" 2>&1 &
other=$!
"${pytest[@]}" "${half[@]}"
first=$?
wait "$other"
second=$?
cat "$log"
[ $first -eq 0 ] && [ $second -eq 0 ]
