#!/usr/bin/env bash
# Add results to a branch's history, draw it on the page, and push it: each branch has a small file
# on one branch that holds nothing else. Runs in a clone whose `origin` may be pushed to, with the
# results of a branch that is trusted. From the environment:
#   RESULTS          results.json
#   BRANCH           what was measured
#   LABEL            of what, such as a commit
#   OUTPUT           folder for the page
#   HISTORY_BRANCH   where the files are   [llx-history]
#   LLX_GATE         a file of gates       [those of `llx compare`]
set -euo pipefail
: "${RESULTS:?}" "${BRANCH:?}" "${LABEL:?}" "${OUTPUT:?}"

history=refs/heads/${HISTORY_BRANCH:-llx-history}
file=${BRANCH//\//-}.jsonl
gate=()
if [ -n "${LLX_GATE:-}" ]; then gate=(--gate "$LLX_GATE"); fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for try in 1 2 3 4 5 6 7 8 9 10; do
  rm -rf "${work:?}"/*
  parent=()
  status=0
  git ls-remote --exit-code origin "$history" > /dev/null || status=$?
  if [ "$status" = 0 ]; then
    git fetch --quiet --depth 1 origin "$history"
    parent=(-p FETCH_HEAD)
    if git cat-file -e "FETCH_HEAD:$file" 2> /dev/null; then
      git show "FETCH_HEAD:$file" > "$work/$file"
    fi
  elif [ "$status" != 2 ]; then # 2: there is no such branch yet
    exit 1
  fi

  llx report "$RESULTS" "${gate[@]}" -o "$OUTPUT" \
    --history "$work/$file" --label "$LABEL" --branch "$BRANCH"

  # A commit beside what is checked out: nothing there is touched.
  export GIT_INDEX_FILE="$work/index"
  if [ "${#parent[@]}" -gt 0 ]; then git read-tree FETCH_HEAD; fi
  blob=$(git hash-object -w "$work/$file")
  git update-index --add --cacheinfo "100644,$blob,$file"
  commit=$(
    git -c user.name=llx -c user.email=llx@users.noreply.github.com \
      commit-tree "$(git write-tree)" "${parent[@]}" -m "$BRANCH: $LABEL"
  )
  unset GIT_INDEX_FILE
  # Somebody else may have pushed meanwhile: then once more, from what is there now.
  if git push --quiet origin "$commit:$history"; then exit 0; fi
  sleep "$((RANDOM % try))" # several that push at once do not meet again
done
echo "llx: the history could not be pushed: look above" >&2
exit 1
