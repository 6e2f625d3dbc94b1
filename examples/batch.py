"""A batch script on OpenAI's SDK and LiteLLM, with threads: three lines are autopack's, none of them at the calls.

TELEMETRY_DB_ENABLED=1 python examples/batch.py
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import litellm
from openai import OpenAI

import autopack

MODEL = os.environ.get("MODEL", "gpt-5-mini")
client = autopack.instrument(OpenAI())  # 1
litellm.callbacks = [autopack.LiteLLMCallback()]  # 2


@autopack.phase(category="extraction")  # 3: each call of the function is a phase of its own
def extract(item: str) -> int:
    messages: list[Any] = [{"role": "user", "content": f"Extract the dates from: {item}"}]
    first = client.chat.completions.create(model=MODEL, max_completion_tokens=512, messages=messages)
    second = client.responses.create(model=MODEL, max_output_tokens=1024, input=f"Order these: {item}")
    third = litellm.completion(model=f"openai/{MODEL}", max_tokens=512, messages=messages)
    replies = [first.usage.completion_tokens if first.usage else 0, second.usage.output_tokens if second.usage else 0]
    return sum(replies) + int(third.usage.completion_tokens)


def main() -> None:
    with ThreadPoolExecutor(4) as pool:
        print(sum(pool.map(extract, [f"item {number}" for number in range(5)])))


if __name__ == "__main__":
    main()
