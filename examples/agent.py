"""An agent with a tool: three lines are autopack's, none of them at the call.

TELEMETRY_DB_ENABLED=1 python examples/agent.py
"""

import asyncio
import os
from typing import Any

from anthropic import AsyncAnthropic

import autopack  # 1

TOOLS: Any = [{"name": "read_file", "description": "Reads a file.", "input_schema": {"type": "object"}}]
MODEL = os.environ.get("MODEL", "claude-sonnet-5-5")


async def main() -> None:
    client = autopack.instrument(AsyncAnthropic())  # 2
    messages: list[Any] = [{"role": "user", "content": "Rename the function in src/clock.py."}]
    with autopack.phase("rename", run_id="agent-1", category="refactoring", deliverables=["src/clock.py"]):  # 3
        while True:
            async with client.messages.stream(model=MODEL, max_tokens=4096, messages=messages, tools=TOOLS) as stream:
                reply = await stream.get_final_message()
            print(reply.stop_reason, reply.usage.output_tokens)
            if reply.stop_reason != "tool_use":
                return
            messages += [
                {"role": "assistant", "content": reply.content},
                {"role": "user", "content": "the file's text"},
            ]


if __name__ == "__main__":
    asyncio.run(main())
