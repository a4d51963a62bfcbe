#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The doctor against our own teacher and folders: what it says is so, and its exit code.
. "$(dirname "$0")/lib.sh"

# has NAME WORDS: the report has a line with the words (an extended regular expression).
has() { if grep -qE "$2" "$tmp/report.txt"; then ok "$1"; else fail "$1" "no line '$2' in: $(cat "$tmp/report.txt")"; fi; }
doctor() { "$bin/limbeck" doctor "$@" >"$tmp/report.txt" 2>"$tmp/doctor.txt"; }

printf 'sk-doctor\n' >"$tmp/key"
chmod 600 "$tmp/key"
start teacher limbeck-teacher --model "$models/teacher" --listen 127.0.0.1:0 --threads 1 || exit
start locked limbeck-teacher --model "$models/teacher" --listen 127.0.0.1:0 --threads 1 --key-file "$tmp/key" || exit

doctor "$url_teacher"
check "doctor: our own teacher is fine" 0 $?
check "doctor: nothing fails" "" "$(grep '^FAIL' "$tmp/report.txt")"
has "doctor: it finds every dialect that the teacher has" '^ok    dialect: native, vllm, echo'
has "doctor: they agree" '^ok    dialects: native and vllm differ by 0 nats'
has "doctor: entries are not shifted" '^ok    shift: .*3 of 3'
has "doctor: answers are the same in company" '^ok    determinism: on 4 connections at once, all answers are the same'
has "doctor: temperature is not applied" '^ok    temperature: raw'
has "doctor: the whole vocabulary sums to 1" '^ok    logs: natural logs: .*whole vocabulary.*(1\.00000|0\.99999)'
has "doctor: k goes up to the vocabulary" '^ok    logprobs: k up to 320'
has "doctor: bodies are limited" '^ok    body: .* refused with 413'
has "doctor: a prompt beyond the context is refused" '^ok    context: a prompt of 129 tokens is refused with 400'
digest=$(curl -s "$url_teacher/v1/models" | grep -o '"tokenizer_sha256":"[0-9a-f]*' | cut -d'"' -f4)
has "doctor: the tokenizer's digest is the published one" "identity: tokenizer_sha256 $digest"

doctor "$url_teacher" --json
check "doctor: JSON has the verdict" '"kind":"teacher","verdict":"ok"' "$(grep -o '"kind":"teacher","verdict":"[^"]*"' "$tmp/report.txt")"
check "doctor: JSON has the noise floor" 0 "$(field noise_concurrent_nats "$(cat "$tmp/report.txt")")"

doctor "$url_locked"
check "doctor: a teacher that wants a key" 4 $?
doctor "$url_locked" --key-file "$tmp/key"
check "doctor: the same with the key" 0 $?
doctor "$url_teacher" --model nobody
check "doctor: a model that the teacher has not" 1 $?
doctor "$url_teacher" --tokens 20,21,22,13,20,19,24,28,25,13
check "doctor: a probe of one's own" 0 $?
doctor "$url_teacher" --tokens 20,21,22,13,20,999999
check "doctor: a probe outside the vocabulary" 1 $?
doctor http://127.0.0.1:9
check "doctor: nobody answers" 8 $?
doctor "$tmp/nothing"
check "doctor: no such model" 3 $?

doctor "$models/teacher"
check "doctor: a folder that is fine" 0 $?
has "doctor: it has the teacher's tokenizer" "^ok    tokenizer: .*sha256 $digest"
has "doctor: it counts parameters" '^ok    weights: 1291936 parameters'

has "doctor: it knows the chat template, or says that there is none" '^note  chat template: none'
has "doctor: it predicts memory" '^ok    memory: worker, bf16: [0-9]+ MiB resident'
# damage NAME WORDS FILE SED: a copy of the folder with one thing changed fails in those words.
damage() {
  rm -rf "$tmp/model" && cp -r "$models/teacher" "$tmp/model" && chmod -R u+w "$tmp/model"
  # shellcheck disable=SC2086
  if [ "$4" = none ]; then rm "$tmp/model/$3"; else sed -i -e "$4" "$tmp/model"/$3; fi
  doctor "$tmp/model"
  check "doctor: $1: code" 1 $?
  has "doctor: $1" "$2"
}
damage "no weights" '^FAIL  weights: ' model.safetensors none
damage "an unknown architecture" '^FAIL  config: .*(model_type|architectures)' config.json 's/"model_type": *"[^"]*"/"model_type": "mamba"/; s/Qwen3ForCausalLM/MambaForCausalLM/'
damage "a vocabulary smaller than the tokenizer's" '^FAIL  tokenizer: its ids reach' '*config.json' 's/"vocab_size": *[0-9]*/"vocab_size": 300/; s/317/299/'
damage "a broken tokenizer" '^FAIL  tokenizer: ' tokenizer.json 's/"BPE"/"Unigram"/'
damage "weights cut short" '^FAIL  weights: ' model.safetensors '$d'

stop teacher
stop locked
