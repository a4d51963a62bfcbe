#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The command line and the daemon give the same bits for the same tokens, in every format.
. "$(dirname "$0")/lib.sh"

tokens=20,21,22,13,20,19,24,28,25,13
from_cli=$("$bin/limbeck" score --model "$models/teacher" --tokens $tokens --json | grep -o '"logprobs":.*]')
start teacher limbeck-teacher --model "$models/teacher" --listen 127.0.0.1:0 --threads 1 || exit

reply=$(curl -s "$url_teacher/v1/teacher/logprobs" -d "{\"sequences\":[[$tokens]]}")
check "score: the daemon's JSON has the command's bits" "$from_cli" "$(printf '%s' "$reply" | grep -o '"logprobs":\[[^]]*\]')"

# Companions and their order do not show.
reply=$(curl -s "$url_teacher/v1/teacher/logprobs" -d "{\"sequences\":[[20,20],[$tokens],[21,13,22]]}")
check "score: companions do not show in the bits" "$from_cli" "$(printf '%s' "$reply" | grep -o '"logprobs":\[[^]]*\]' | sed -n 2p)"

bf16=$("$bin/limbeck" score --model "$models/teacher" --tokens $tokens --dtype bf16 --json | grep -o '"logprobs":.*]')
check "score: bf16 storage of a bf16 checkpoint has the same bits" "$from_cli" "$bf16"

completion=$(curl -s "$url_teacher/v1/completions" -d "{\"prompt\":[$tokens],\"max_tokens\":1,\"prompt_logprobs\":0}")
want=$(printf '%s' "$from_cli" | grep -o '\-[0-9.e-]*' | tr '\n' ' ')
check "score: vLLM's prompt_logprobs have the same bits" "$want" "$(printf '%s' "$completion" | grep -o '"logprob":-[0-9.e-]*' | cut -d: -f2 | tr '\n' ' ')"

# expect NAME CODE PARAM ROUTE BODY
expect() {
  local got code param
  got=$(curl -s -w '\n%{http_code}' "$url_teacher$4" -d "$5")
  code=$(printf '%s' "$got" | tail -n 1)
  param=$(field param "$got")
  check "score: $1" "$2 $3" "$code $param"
}
expect "an unknown token is refused by name" 400 "sequences[0]" /v1/teacher/logprobs '{"sequences":[[999999]]}'
expect "an unknown model is refused" 404 model /v1/completions '{"model":"nobody","prompt":[20,21]}'
expect "a malformed body is refused" 400 null /v1/teacher/logprobs '{"sequences":'
expect "an unknown route is refused" 404 null /v1/nothing '{}'

stop teacher
check "score: SIGTERM ends the teacher with code 0" 0 $?

for word in "--tokens 1,2,x" "--tokens 1,,2" "--tokens 99999999999" "--nonsense" "--model /nowhere --tokens 1"; do
  # shellcheck disable=SC2086
  "$bin/limbeck" score --model "$models/student" $word >/dev/null 2>"$tmp/cli.txt"
  code=$?
  if [ $code -ne 0 ] && [ $code -lt 128 ] && [ -s "$tmp/cli.txt" ]; then ok "score: refuses $word"; else fail "score: refuses $word" "code $code"; fi
done
