#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Workers of two kinds of chip in one job: the adapter is that of either kind alone. LB_BIN has the
# programs of this machine, LB_ARM_BIN those for 64-bit Arm, which run in QEMU. tests/run arm.
. "$(dirname "$0")/lib.sh"

here=$bin
arm=${LB_ARM_BIN:?LB_ARM_BIN must name the folder of the programs for Arm}
small_job "$tmp/job.json" 3
start teacher limbeck-teacher --model "$models/teacher" --listen 127.0.0.1:0 --threads 1 || exit

# What `start` runs for Arm: the worker in QEMU.
mkdir "$tmp/arm"
printf '#!/bin/sh\nexec qemu-aarch64 %s/limbeck-worker "$@"\n' "$arm" >"$tmp/arm/limbeck-worker"
chmod +x "$tmp/arm/limbeck-worker"

# digest_with DTYPE KIND...: of the adapter after a worker of each of these kinds has pushed units.
digest_with() {
  local dtype=$1 kind n=0 job
  shift
  start coordinator limbeck-coordinator --data "$tmp/data-$dtype-$*" --listen 127.0.0.1:0 \
    --model "student=$models/student" --teacher "teacher=$url_teacher" --lease-ttl-ms 60000 >&2 || return
  export LIMBECK_COORDINATOR=$url_coordinator
  for kind in "$@"; do
    n=$((n + 1))
    [ "$kind" = arm ] && bin=$tmp/arm
    start "w$n" limbeck-worker --coordinator "$url_coordinator" --model "student=$models/student" \
      --name "$kind$n" --threads 1 --dtype "$dtype" >&2 || return
    bin=$here
  done
  job=$("$bin/limbeck" job create --file "$tmp/job.json" --data "$data/train.jsonl")
  digest_of "$job"
  while [ $n -gt 0 ]; do
    stop "w$n"
    grep -q unit_pushed "$tmp/w$n.err" || fail "arm: worker $n of $*" "it pushed nothing" >&2
    rm "$tmp/w$n.err"
    n=$((n - 1))
  done
  stop coordinator
}

for dtype in f32 fast; do
  digest_with "$dtype" here >"$tmp/digest"
  want=$(cat "$tmp/digest")
  check "arm: $dtype here gives an adapter" 64 ${#want}
  digest_with "$dtype" arm >"$tmp/digest"
  check "arm: $dtype on Arm gives the same" "$want" "$(cat "$tmp/digest")"
  digest_with "$dtype" here arm >"$tmp/digest"
  check "arm: $dtype on both together gives the same" "$want" "$(cat "$tmp/digest")"
done
