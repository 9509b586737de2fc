#!/usr/bin/env bash
# Say on a pull request how its measurement compares, in one comment that later ones replace.
# Runs with a token and with llx of the default branch, on results that a pull request's own code
# wrote: they are data, `llx compare` renders them here, and the pull request is the one whose head
# was measured, whatever the results say. From the environment:
#   GH_TOKEN            may write on pull requests
#   REPOSITORY          owner/name
#   HEAD_OWNER, HEAD_BRANCH, HEAD_SHA   what was measured
#   RESULTS             results.json
#   LLX_GATE            a file of gates   [those of `llx compare`]
set -euo pipefail

marker='<!-- llx bench -->'
number=$(
  gh api --method GET "repos/$REPOSITORY/pulls" -f state=open -f "head=$HEAD_OWNER:$HEAD_BRANCH" \
    --jq "map(select(.head.sha == \"$HEAD_SHA\")) | first | .number // empty"
)
if [ -z "$number" ]; then
  echo "no open pull request has the head $HEAD_SHA any more: nothing to say"
  exit 0
fi

gate=()
if [ -n "${LLX_GATE:-}" ]; then gate=(--gate "$LLX_GATE"); fi
body=$(mktemp)
trap 'rm -f "$body"' EXIT
echo "$marker" > "$body"
status=0
llx compare "$RESULTS" "${gate[@]}" -o md >> "$body" || status=$?
if [ "$status" -gt 1 ]; then exit "$status"; fi

comment=$(
  gh api --paginate "repos/$REPOSITORY/issues/$number/comments" \
    --jq ".[] | select(.user.type == \"Bot\" and (.body | startswith(\"$marker\"))) | .id" | head -n 1
)
if [ -n "$comment" ]; then
  gh api --method PATCH "repos/$REPOSITORY/issues/comments/$comment" -F "body=@$body" --silent
else
  gh api --method POST "repos/$REPOSITORY/issues/$number/comments" -F "body=@$body" --silent
fi
