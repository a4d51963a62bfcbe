#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# limbeck bench in every phase, and the dtypes whose error a teacher publishes.
. "$(dirname "$0")/lib.sh"

fields="tokens_per_s gflops limit_gflops limit_share gb_per_s limit_gb_per_s rss_mb seconds phase dtype threads tokens batch rank"
# bench NAME ARGS...: one run must print one JSON object with every field, and rates above 0.
bench() {
  local name=$1 out missing=""
  shift
  out=$("$bin/limbeck" bench --model "$models/student" --runs 1 --threads 2 --json "$@" 2>"$tmp/bench.err")
  for key in $fields; do printf '%s' "$out" | grep -q "\"$key\":" || missing="$missing $key"; done
  if [ -n "$missing" ]; then fail "bench: $name" "no$missing; $(cat "$tmp/bench.err")"; return; fi
  for key in tokens_per_s gflops limit_gflops limit_gb_per_s rss_mb; do
    printf '%s' "$out" | grep -q "\"$key\":[1-9]\|\"$key\":0\.0*[1-9]" || missing="$missing $key"
  done
  if [ -n "$missing" ]; then fail "bench: $name" "nothing for$missing in $out"; else ok "bench: $name"; fi
}
bench "scoring in f32" --phase score --tokens 64 --batch 2 --dtype f32
bench "scoring in int8" --phase score --tokens 64 --dtype int8
bench "decoding in bf16" --phase decode --tokens 32 --batch 3 --prompt 20 --dtype bf16
bench "decoding with an adapter" --phase decode --tokens 32 --batch 3 --prompt 20 --rank 8 --dtype fast
bench "training" --phase train --tokens 24 --batch 2 --rank 4
bench "training in fast" --phase train --tokens 24 --batch 2 --rank 4 --dtype fast

table=$("$bin/limbeck" bench --model "$models/student" --runs 1 --tokens 32 2>/dev/null)
if printf '%s' "$table" | grep -q '^tokens/s' && printf '%s' "$table" | grep -q '^GFLOP/s .* of '; then
  ok "bench: a table for people"
else
  fail "bench: a table for people" "$table"
fi

# refuse NAME FIELD ARGS...: exit code 2, and the field in the message.
refuse() {
  local name=$1 word=$2 code
  shift 2
  "$bin/limbeck" bench "$@" >/dev/null 2>"$tmp/cli.txt"
  code=$?
  if [ $code -eq 2 ] && grep -q -- "$word" "$tmp/cli.txt"; then ok "bench: refuses $name"; else fail "bench: refuses $name" "code $code: $(cat "$tmp/cli.txt")"; fi
}
refuse "no model" model --phase score
refuse "an unknown phase" phase --model "$models/student" --phase fly
refuse "an unknown dtype" dtype --model "$models/student" --dtype f16
refuse "8-bit integers to train with" dtype --model "$models/student" --phase train --dtype int8
refuse "too many tokens" tokens --model "$models/student" --tokens 30000
refuse "no runs" runs --model "$models/student" --runs 0
refuse "too few tokens to be told from their prompt" "too few" --model "$models/student" --phase decode --tokens 2 --prompt 120 --runs 1

# A teacher with integer weights says how far it is from f32.
for dtype in f32 fast int8; do
  start "$dtype" limbeck-teacher --model "$models/teacher" --listen 127.0.0.1:0 --threads 2 --dtype "$dtype" || exit
  url="url_$dtype"
  models_reply=$(curl -s "${!url}/v1/models")
  error=$(printf '%s' "$models_reply" | grep -o '"logprob_error":\(null\|{[^}]*}\)')
  check "teacher: /v1/models names $dtype" "\"dtype\":\"$dtype\"" "$(printf '%s' "$models_reply" | grep -o '"dtype":"[a-z0-9]*"')"
  case $dtype in
    f32) check "teacher: f32 has no error to publish" '"logprob_error":null' "$error" ;;
    *) if printf '%s' "$error" | grep -q '"reference":"f32","mean_abs":0\.0[0-9]*,"max_abs":[0-9.e-]*,"bias":[0-9.e-]*,"tokens":[1-9]'; then
         ok "teacher: $dtype publishes its error"
       else
         fail "teacher: $dtype publishes its error" "$error"
       fi ;;
  esac
  stop "$dtype"
done
"$bin/limbeck-worker" --coordinator http://127.0.0.1:1 --model student="$models/student" --dtype int8 >/dev/null 2>"$tmp/cli.txt"
check "worker: refuses to train in int8" 2 $?
