#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# limbeck up: starts everything, starts again what was killed, finishes the job, stops cleanly; and
# the command line's exit codes.
. "$(dirname "$0")/lib.sh"

small_job "$tmp/job.json" 6
"$bin/limbeck" up --teacher "$models/teacher" --student "$models/student" --workers 2 --threads 1 \
  --data "$tmp/data" --port 0 --teacher-port 0 --url-file "$tmp/url" >"$tmp/up.out" 2>"$tmp/up.err" &
up=$!
pids+=("$up")
for _ in $(seq 600); do [ -s "$tmp/url" ] && break; sleep 0.05; done
LIMBECK_COORDINATOR=$(cat "$tmp/url" 2>/dev/null)
export LIMBECK_COORDINATOR
check "up: tells the coordinator's URL" yes "$([ -n "$LIMBECK_COORDINATOR" ] && echo yes)"

job=$("$bin/limbeck" job create --file "$tmp/job.json" --data "$data/train.jsonl")
await_step "$job" 1
pkill -KILL -P "$up" -f limbeck-worker
await_step "$job" 2
pkill -KILL -P "$up" -f limbeck-coordinator
"$bin/limbeck" job watch "$job" >"$tmp/watch.out" 2>"$tmp/watch.err"
code=$?
# The coordinator may be away longer than the client's retries; then the user asks again.
[ $code -eq 8 ] && { sleep 3; "$bin/limbeck" job watch "$job" >"$tmp/watch.out" 2>"$tmp/watch.err"; code=$?; }
check "up: a job outlives killed workers and a killed coordinator" 0 $code
check "up: what was killed was started again" yes "$(grep -q 'started again' "$tmp/up.err" && echo yes)"

# exits NAME CODE WORDS...
exits() {
  local name=$1 want=$2
  shift 2
  "$bin/limbeck" "$@" >"$tmp/cli.out" 2>"$tmp/cli.err"
  check "cli: $name" "$want" $?
}
exits "a finished job that is shown" 0 job show "$job"
exits "a list of jobs" 0 job list
exits "adapters as JSON" 0 adapter list --json
exits "an adapter that is fetched" 0 adapter get quickstart-latest --out "$tmp/adapter"
exits "a job that is not there" 3 job show nothing
exits "an adapter that is not there" 3 adapter get nothing --out "$tmp/none"
exits "a missing argument" 2 job show
exits "an unknown command" 2 jobs
exits "an unknown option" 2 job list --jsno
exits "workers that cannot train in a dtype" 2 up --teacher "$models/teacher" --student "$models/student" \
  --data "$tmp/none" --dtype int8
exits "a dtype that is none" 2 up --teacher "$models/teacher" --student "$models/student" \
  --data "$tmp/none" --teacher-dtype f16
exits "a coordinator that is not there" 8 job list --coordinator http://127.0.0.1:1
exits "an evaluation with the adapter" 0 eval --model "$models/student" --adapter "$tmp/adapter" \
  --teacher "$models/teacher" --data "$data/heldout.jsonl" --limit 8 --max-tokens 48 --json
exits "a model that is not there" 3 score --model "$tmp/nowhere" --tokens 1,2
exits "an adapter folder that is not one" 3 score --model "$models/student" --adapter "$tmp" --tokens 1,2

kill -TERM "$up"
wait "$up"
check "up: SIGTERM ends it with code 0" 0 $?
check "up: none of its children stays" 0 "$(pgrep -c -f "$tmp/data" || true)"
