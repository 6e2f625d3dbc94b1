"""A service: FastAPI under gunicorn with several worker processes, into PostgreSQL. Two lines are autopack's.

TELEMETRY_DB_ENABLED=1 DATABASE_URL=postgresql://… \
        gunicorn -k asgi -w 2 --chdir examples service:app
"""

import os
from typing import Any

from anthropic import AsyncAnthropic
from fastapi import FastAPI

import autopack

MODEL = os.environ.get("MODEL", "claude-sonnet-5-5")
app = FastAPI()
client = autopack.instrument(AsyncAnthropic())  # 1


@app.post("/answer/{topic}")
@autopack.phase(category="answers")  # 2: each request is a phase of its own
async def answer(topic: str) -> dict[str, Any]:
    reply = await client.messages.create(
        model=MODEL, max_tokens=2048, messages=[{"role": "user", "content": f"Explain {topic}."}]
    )
    return {"pid": os.getpid(), "tokens": reply.usage.output_tokens}
