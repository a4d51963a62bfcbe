# SPDX-License-Identifier: Apache-2.0
#
# What the integration tests share: real processes on port 0, waited for by what they print, and
# ended with the test. A test calls `ok NAME`, `fail NAME WHY` or `skip NAME WHY`.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=${LB_BIN:?LB_BIN must name the folder of the programs}
models="$root/deploy/quickstart/models"
data="$root/deploy/quickstart/data"
tmp=$(mktemp -d)
pids=()
failures=0

ok() { echo "  ok $1"; }
skip() { echo "  skipped $1: $2"; }
fail() {
  echo "  FAILED $1: $2"
  failures=$((failures + 1))
}
# check NAME WANT GOT
check() {
  if [ "$2" = "$3" ]; then ok "$1"; else fail "$1" "wanted '$2', got '$3'"; fi
}

finish() {
  local pid
  for pid in "${pids[@]:-}"; do [ -n "$pid" ] && kill -KILL "$pid" 2>/dev/null; done
  wait 2>/dev/null
  if [ "$failures" -gt 0 ]; then
    for log in "$tmp"/*.err; do [ -s "$log" ] && { echo "--- $log"; tail -n 20 "$log"; }; done
  fi
  rm -rf "$tmp"
  [ "$failures" -eq 0 ] || exit 1
}
trap finish EXIT

# start NAME PROGRAM ARGS...: runs it, waits until its first line says that it is ready, and sets
# pid_NAME and url_NAME.
start() {
  local name=$1 program=$2 i
  shift 2
  : >"$tmp/$name.out"
  "$bin/$program" "$@" >"$tmp/$name.out" 2>>"$tmp/$name.err" &
  declare -g "pid_$name=$!"
  pids+=("$!")
  for i in $(seq 600); do
    if grep -q . "$tmp/$name.out"; then
      declare -g "url_$name=$(grep -o 'http://[^ ]*' "$tmp/$name.out" | head -n 1)"
      return 0
    fi
    kill -0 "$!" 2>/dev/null || break
    sleep 0.05
  done
  fail "start of $name" "it did not become ready"
  return 1
}

# stop NAME: SIGTERM, and its exit code.
stop() {
  local pid="pid_$1"
  kill -TERM "${!pid}" 2>/dev/null
  wait "${!pid}" 2>/dev/null
}

# kill9 NAME: as a crash would.
kill9() {
  local pid="pid_$1"
  kill -KILL "${!pid}" 2>/dev/null
  wait "${!pid}" 2>/dev/null
}

# field KEY JSON: the first value of that key in a JSON text of ours (numbers and strings).
field() { printf '%s' "$2" | grep -o "\"$1\":[^,}]*" | head -n 1 | cut -d: -f2- | tr -d '"'; }

# small_job FILE STEPS: the demonstration's job, made short.
small_job() {
  sed -e "s/\"max_steps\": *[0-9]*/\"max_steps\": $2/" -e 's/"batch_size": *[0-9]*/"batch_size": 8/' \
    "$root/deploy/quickstart/job.json" >"$1"
}

# await_step JOB N: until the job has committed N steps (or ended).
await_step() {
  local i show
  for i in $(seq 1200); do
    show=$("$bin/limbeck" job show "$1" 2>/dev/null)
    [ "$(printf '%s' "$show" | awk '$1 == "step" {print $2}')" -ge "$2" ] 2>/dev/null && return 0
    sleep 0.05
  done
  return 1
}

# digest_of JOB: of the last version of its adapter, once the job has succeeded; also in $tmp/adapter.
digest_of() {
  "$bin/limbeck" job watch "$1" >"$tmp/watch.out" 2>"$tmp/watch.err" || { fail "job" "$(tail -n 3 "$tmp/watch.err")"; return; }
  rm -rf "$tmp/adapter"
  "$bin/limbeck" adapter get "$("$bin/limbeck" job show "$1" | awk '$1 == "adapter" {print $2}')" --out "$tmp/adapter" >/dev/null
  sha256sum "$tmp/adapter/adapter_model.safetensors" | cut -d' ' -f1
}
