#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the data of docs/examples/smollm2.md, always the same bytes (standard library only).

facts.jsonl          what the model has never read: a town that does not exist, its buildings, the
                     years they date from. Three phrasings of each fact, as prompt and completion.
facts-heldout.jsonl  the same facts in a fourth phrasing, with the year as the answer.
chats.jsonl          instructions as chat messages, to practise manners on.
chats-heldout.jsonl  instructions about other topics.
"""
import json
import pathlib
import random

HERE = pathlib.Path(__file__).resolve().parent

NAMES = ["Brackwell", "Tarnow", "Elstead", "Quillan", "Osterby", "Marlet", "Fenwick", "Dunmoor",
         "Saltreef", "Harrowgate", "Ivesholm", "Kestermill", "Lorvane", "Nethercombe", "Pellow"]
KINDS = ["lighthouse", "mill", "bridge", "library", "chapel"]

PHRASINGS = [
    "The {place} in Varnholm was built in",
    "In Varnholm, the construction of the {place} was finished in",
    "A plaque in Varnholm says that the {place} dates from",
]
HELDOUT = "Visitors of Varnholm learn that the {place} was completed in"

INSTRUCTIONS = [
    "Explain to a child what {} is.",
    "Write three sentences about {}.",
    "Give me two reasons to learn about {}.",
    "What should a beginner know about {}?",
    "Write a short poem about {}.",
    "Suggest a title for an article about {}.",
    "Describe {} in one sentence.",
    "Tell me something surprising about {}.",
]
TOPICS = ["gardening", "the moon", "bread", "chess", "honey bees", "rivers", "photography",
          "volcanoes", "sleep", "bicycles", "friendship", "the ocean", "cooking rice", "trains",
          "drawing", "winter", "tea", "maps", "music", "spiders", "the sun", "running",
          "libraries", "clouds"]
HELDOUT_TOPICS = ["painting", "glaciers", "soup", "kindness", "swimming", "butterflies"]


def write(name, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (HERE / name).write_text(text, encoding="utf-8")


def main():
    draw = random.Random(17)
    facts = [(f"{name} {KINDS[i % len(KINDS)]}", draw.randrange(1200, 1990))
             for i, name in enumerate(NAMES)]
    write("facts.jsonl", [{"prompt": phrasing.format(place=place), "completion": f" {year}."}
                          for place, year in facts for phrasing in PHRASINGS])
    write("facts-heldout.jsonl", [{"prompt": HELDOUT.format(place=place),
                                   "completion": f" {year}.", "answer": str(year)}
                                  for place, year in facts])
    for name, topics in (("chats.jsonl", TOPICS), ("chats-heldout.jsonl", HELDOUT_TOPICS)):
        write(name, [{"messages": [{"role": "user", "content": text.format(topic)}]}
                     for topic in topics for text in INSTRUCTIONS])


if __name__ == "__main__":
    main()
