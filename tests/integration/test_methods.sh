#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A supervised job, a distillation that goes on from its adapter, and what the handshake publishes
# and refuses.
. "$(dirname "$0")/lib.sh"

lora='"lora":{"r":4,"alpha":8}'
awk 'NR <= 64' "$data/train.jsonl" | sed 's/"answer"/"completion"/' >"$tmp/supervised.jsonl"
cat >"$tmp/supervised.json" <<JSON
{"model":"student","training_file":"x","seed":3,"suffix":"taught","method":{"type":"supervised",
 "supervised":{"hyperparameters":{"n_epochs":2,"batch_size":16,"learning_rate":0.003,$lora}}}}
JSON
job_json() {   # job_json FILE TEACHER EXTRA-HYPERPARAMETERS EXTRA
  cat >"$1" <<JSON
{"model":"student","training_file":"x","seed":3,"suffix":"after"$4,
 "method":{"type":"on_policy_distillation","on_policy_distillation":{"teacher":{"model":"$2"},
 "hyperparameters":{"max_steps":2,"batch_size":4,"max_completion_tokens":16$3,$lora}}}}
JSON
}

# Another teacher that is the same but for the tokens at which it stops.
cp -r "$models/teacher" "$tmp/other"
sed -i 's/"eos_token_id": *[0-9]*/"eos_token_id": 5/' "$tmp/other/config.json"
rm -f "$tmp/other/generation_config.json"
start teacher limbeck-teacher --model "$models/teacher" --listen 127.0.0.1:0 --threads 1 || exit
start other limbeck-teacher --model "$tmp/other" --listen 127.0.0.1:0 --threads 1 || exit
start coordinator limbeck-coordinator --data "$tmp/data" --listen 127.0.0.1:0 --model "student=$models/student" \
  --teacher "teacher=$url_teacher" --teacher "other=$url_other" || exit
start worker limbeck-worker --coordinator "$url_coordinator" --model "student=$models/student" --threads 1 || exit
export LIMBECK_COORDINATOR=$url_coordinator

job=$("$bin/limbeck" job create --file "$tmp/supervised.json" --data "$tmp/supervised.jsonl" 2>"$tmp/create.err") ||
  fail "supervised job" "$(cat "$tmp/create.err")"
"$bin/limbeck" job watch "$job" --json >"$tmp/steps" 2>"$tmp/watch.err"
check "supervised: the job succeeds" 0 $?
check "supervised: two epochs of 64 rows in sixteens" 8 "$(wc -l <"$tmp/steps")"
check "supervised: there is no teacher_kl" null "$(field teacher_kl "$(head -n 1 "$tmp/steps")")"
if awk -v a="$(field loss "$(head -n 1 "$tmp/steps")")" -v b="$(field loss "$(tail -n 1 "$tmp/steps")")" 'BEGIN {exit !(b < a)}'; then
  ok "supervised: the loss falls"
else
  fail "supervised: the loss falls" "$(head -n 1 "$tmp/steps")"
fi

job_json "$tmp/after.json" teacher "" ',"from_adapter":"taught-latest"'
job=$("$bin/limbeck" job create --file "$tmp/after.json" --data "$data/train.jsonl")
"$bin/limbeck" job watch "$job" >"$tmp/watch.out" 2>&1
check "from_adapter: the job succeeds" 0 $?
"$bin/limbeck" adapter get taught-v8 --out "$tmp/taught" >/dev/null
"$bin/limbeck" adapter get after-v0 --out "$tmp/start" >/dev/null
check "from_adapter: version 0 is the other job's last" "$(sha256sum <"$tmp/taught/adapter_model.safetensors")" \
  "$(sha256sum <"$tmp/start/adapter_model.safetensors")"
"$bin/limbeck" job show "$job" --json >"$tmp/show"
check "handshake: the teacher's noise is published" 0 "$(field teacher_noise "$(cat "$tmp/show")")"
check "handshake: and the sampler's" 0 "$(field sampler_noise "$(cat "$tmp/show")")"

job_json "$tmp/bad.json" other "" ''
job=$("$bin/limbeck" job create --file "$tmp/bad.json" --data "$data/train.jsonl")
"$bin/limbeck" job watch "$job" >"$tmp/watch.out" 2>&1
check "handshake: other stop ids end the job" 7 $?
"$bin/limbeck" job show "$job" --json >"$tmp/show"
check "handshake: with its code" handshake_refused "$(field code "$(cat "$tmp/show")")"
check "handshake: before step 1" 0 "$(field step "$(cat "$tmp/show")")"
grep -q 'the teacher at \[5\]' "$tmp/show"
check "handshake: with the figure" 0 $?
job_json "$tmp/allowed.json" other ',"allow_mismatch":["stop_ids"]' ''
job=$("$bin/limbeck" job create --file "$tmp/allowed.json" --data "$data/train.jsonl")
"$bin/limbeck" job watch "$job" >"$tmp/watch.out" 2>&1
check "handshake: allow_mismatch takes it" 0 $?

# Messages need a template: the student has none, the job may name one.
printf '%s\n' '{"messages":[{"role":"user","content":"1+1="},{"role":"assistant","content":"2"}]}' >"$tmp/chat.jsonl"
"$bin/limbeck" job create --file "$tmp/supervised.json" --data "$tmp/chat.jsonl" >/dev/null 2>"$tmp/chat.err"
check "messages: without a template they are refused" 2 $?
grep -q 'line 1' "$tmp/chat.err"
check "messages: with the line" 0 $?
