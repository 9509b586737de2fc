#!/usr/bin/env bash
# Export what two checkouts describe, measure both in turns, compare them, write the report.
# Exit 1 where something regressed. From the environment:
#   LLX_EXPORT, LLX_BENCH   arguments of `llx export` and `llx bench`, quoted as in a shell
#   LLX_HEAD, LLX_BASE      folders of the checkouts: the one that is judged, and against which
#   LLX_BASE_LLX            the llx that exports the base   [llx]
#   LLX_GATE                a file of gates                 [those of `llx compare`]
#   LLX_WORK                a folder that the artifacts stay in   [one that is removed]
#   LLX_OUTPUT              folder for results.json, comparison.md and the report
set -euo pipefail
: "${LLX_EXPORT?}" "${LLX_BENCH?}" "${LLX_HEAD:?}" "${LLX_BASE:?}" "${LLX_OUTPUT:?}"

# Put the words of a line that is quoted as in a shell into an array; nothing in it is run.
words() {
  local found
  if ! found=$(python3 -c 'import shlex, sys; print(*shlex.split(sys.argv[1]), sep="\n")' "$2" 2>/dev/null); then
    echo "llx: this is not quoted as in a shell: $2" >&2
    exit 2
  fi
  if [ -n "$found" ]; then mapfile -t "$1" <<< "$found"; fi
}
export_arguments=() bench_arguments=()
words export_arguments "$LLX_EXPORT"
words bench_arguments "$LLX_BENCH"

mkdir -p "$LLX_OUTPUT"
output=$(realpath "$LLX_OUTPUT")
gate=()
if [ -n "${LLX_GATE:-}" ]; then gate=(--gate "$(realpath "$LLX_GATE")"); fi
if [ -n "${LLX_WORK:-}" ]; then
  mkdir -p "$LLX_WORK"
  work=$(realpath "$LLX_WORK")
else
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi

# What stands there of the same export is kept, and anything else replaced.
(cd "$LLX_HEAD" && llx export "${export_arguments[@]}" -o "$work/head" --overwrite)
(cd "$LLX_BASE" && "${LLX_BASE_LLX:-llx}" export "${export_arguments[@]}" -o "$work/base" --overwrite)

# Exit 1 says that a test is slower: what that means is for the gates to say.
status=0
llx bench "$work/head" --against "$work/base" "${bench_arguments[@]}" -o json \
  > "$output/results.json" || status=$?
if [ "$status" -gt 1 ]; then exit "$status"; fi

llx report "$output/results.json" "${gate[@]}" -o "$output"
status=0
llx compare "$output/results.json" "${gate[@]}" -o md > "$output/comparison.md" || status=$?
cat "$output/comparison.md"
if [ -n "${GITHUB_ACTIONS:-}" ]; then llx compare "$output/results.json" "${gate[@]}" -o github || true; fi
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then cat "$output/comparison.md" >> "$GITHUB_STEP_SUMMARY"; fi
exit "$status"
