#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Chat templates on the command line: a model's own, a named one, and what is refused.
. "$(dirname "$0")/lib.sh"

student="$tmp/student"
mkdir "$student"
ln -s "$models"/student/* "$student"
rm "$student/tokenizer_config.json"
printf '{"bos_token":"<s>","eos_token":"</s>"}' >"$student/tokenizer_config.json"

# ids ARGS...: the prompt's tokens
ids() { "$bin/limbeck" generate --model "$student" --max-tokens 1 --temperature 0 --json "$@" 2>"$tmp/cli.txt" | grep -o '"prompt_tokens":\[[^]]*\]'; }
# refused NAME WORD COMMAND ARGS...: fails, and says WORD
refused() {
  local name=$1 word=$2 code
  shift 2
  "$bin/limbeck" "$@" >/dev/null 2>"$tmp/cli.txt"
  code=$?
  if [ $code -ne 0 ] && [ $code -lt 128 ] && grep -q -- "$word" "$tmp/cli.txt"; then ok "chat: $name"; else fail "chat: $name" "code $code, $(cat "$tmp/cli.txt")"; fi
}

refused "a model without a template is refused" "--chat-template" generate --model "$student" --chat --prompt 1+1=
refused "an unknown name lists the known ones" qwen2.5 generate --model "$student" --chat --chat-template nobody --prompt 1+1=
refused "a template whose turns never end is refused" eos_token_id generate --model "$student" --chat --chat-template mistral-v3 --prompt 1+1=
refused "--system goes with --chat" "--chat" generate --model "$student" --prompt 1+1= --system 1
refused "--chat needs a message" "--prompt" generate --model "$student" --chat --tokens 1,2

named=$(ids --chat --chat-template smollm2 --prompt '1+1=')
if [ -n "$named" ]; then ok "chat: a named template renders"; else fail "chat: a named template renders" "$(cat "$tmp/cli.txt")"; fi
# The template of SmolLM2 (Apache-2.0), whose bytes are what it is known by.
printf '%s' "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}" >"$student/chat_template.jinja"
check "chat: the model's own template gives the same tokens" "$named" "$(ids --chat --prompt '1+1=')"

# A model named as on the hub has its template in the cache, too.
export HF_HUB_CACHE="$tmp/cache"
mkdir -p "$HF_HUB_CACHE/models--org--student/refs" "$HF_HUB_CACHE/models--org--student/snapshots"
printf main1 >"$HF_HUB_CACHE/models--org--student/refs/main"
ln -s "$student" "$HF_HUB_CACHE/models--org--student/snapshots/main1"
check "chat: a model of the Hugging Face cache, by name" "$named" \
  "$("$bin/limbeck" generate --model org/student --max-tokens 1 --temperature 0 --json --chat --prompt '1+1=' 2>"$tmp/cli.txt" | grep -o '"prompt_tokens":\[[^]]*\]')"
check "chat: its tokenizer, by name" "$("$bin/limbeck" tokenize --model "$student" <<<'1+1=')" \
  "$("$bin/limbeck" tokenize --model org/student <<<'1+1=' 2>"$tmp/cli.txt")"

plain=$(ids --chat --chat-template chatml --system s --prompt q)
end=$(printf '%s' "$plain" | grep -o '\b317\b' | wc -l)
check "chat: each message ends with the end token" 2 "$end"
end=$(ids --chat --chat-template chatml --system s --prompt '<|im_end|>' | grep -o '\b317\b' | wc -l)
check "chat: a message cannot spell the end token" 2 "$end"

rows="$tmp/rows.jsonl"
printf '%s\n' '{"messages":[{"role":"user","content":"1+1="}],"answer":"2"}' \
  '{"messages":[{"role":"user","content":"1+1="},{"role":"assistant","content":"2"}]}' >"$rows"
out=$("$bin/limbeck" eval --model "$student" --data "$rows" --max-tokens 2 --json 2>"$tmp/cli.txt")
check "chat: eval reads messages" '"prompts":2' "$(printf '%s' "$out" | grep -o '"prompts":[0-9]*')"
printf '%s\n' '{"messages":[{"role":"user","content":"1+1="},{"role":"robot","content":"2"}]}' >>"$rows"
refused "eval names the line and the member" "messages\[1\].role" eval --model "$student" --data "$rows"
refused "eval names the line" "line 3" eval --model "$student" --data "$rows"
printf '{{ 1 }}' >"$student/chat_template.jinja"
refused "eval refuses messages under an unknown template" "SHA-256" eval --model "$student" --data "$rows"
