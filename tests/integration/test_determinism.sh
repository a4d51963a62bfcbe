#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# One job, one adapter: the same SHA-256 with 1, 2 and 4 workers, and when a worker and the
# coordinator are killed with SIGKILL in the middle and started again.
. "$(dirname "$0")/lib.sh"

steps=6
if [ -n "${LB_LONG:-}" ]; then
  steps=$(sed -n 's/.*"max_steps": *\([0-9]*\).*/\1/p' "$root/deploy/quickstart/job.json")
  cp "$root/deploy/quickstart/job.json" "$tmp/job.json"
else
  small_job "$tmp/job.json" $steps
fi
start teacher limbeck-teacher --model "$models/teacher" --listen 127.0.0.1:0 --threads 1 || exit

coordinator() {   # coordinator DATA ADDRESS
  start coordinator limbeck-coordinator --data "$1" --listen "$2" --model "student=$models/student" \
    --teacher "teacher=$url_teacher" --lease-ttl-ms 3000
  export LIMBECK_COORDINATOR=$url_coordinator
}
worker() {        # worker NAME OPTIONS...
  start "$1" limbeck-worker --coordinator "$url_coordinator" --model "student=$models/student" --name "$1" --threads 1 "${@:2}"
}
submit() { "$bin/limbeck" job create --file "$tmp/job.json" --data "$data/train.jsonl"; }

reference=
for workers in 1 2 4; do
  coordinator "$tmp/data-$workers" 127.0.0.1:0 || exit
  for i in $(seq $workers); do worker "w$i" || exit; done
  digest=$(digest_of "$(submit)")
  if [ -z "$reference" ]; then
    reference=$digest
    check "determinism: $steps steps give an adapter" 64 ${#digest}
    cp -r "$tmp/adapter" "$tmp/reference"
  else
    check "determinism: $workers workers give the adapter that 1 gives" "$reference" "$digest"
  fi
  for i in $(seq $workers); do stop "w$i"; done
  check "determinism: SIGTERM ends a worker with code 0" 0 $?
  stop coordinator
  check "determinism: SIGTERM ends the coordinator with code 0" 0 $?
done

# Weights as integers are another class of numerics, with bits of its own that keep as well.
fast=
for workers in 1 2; do
  coordinator "$tmp/data-fast-$workers" 127.0.0.1:0 || exit
  for i in $(seq $workers); do worker "w$i" --dtype fast || exit; done
  digest=$(digest_of "$(submit)")
  if [ -z "$fast" ]; then
    fast=$digest
    check "determinism: fast is not f32" no "$([ "$fast" = "$reference" ] && echo yes || echo no)"
  else
    check "determinism: $workers workers in fast give the adapter that 1 gives" "$fast" "$digest"
  fi
  for i in $(seq $workers); do stop "w$i"; done
  stop coordinator
done

# The same job while things are killed: a worker twice, the coordinator twice.
coordinator "$tmp/data-kill" 127.0.0.1:0 || exit
address=${url_coordinator#http://}
worker a || exit
worker b || exit
job=$(submit)
await_step "$job" 1
kill9 a
worker c
await_step "$job" 2
kill9 coordinator
coordinator "$tmp/data-kill" "$address" || exit
await_step "$job" 3
kill9 b
kill9 coordinator
coordinator "$tmp/data-kill" "$address" || exit
worker d || exit
check "determinism: SIGKILL of workers and the coordinator leaves the adapter as it is" "$reference" "$(digest_of "$job")"
