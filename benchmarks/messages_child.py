"""The Messages API on a free port of the loopback, until standard input ends.

python -m benchmarks.messages_child     (prints its URL)
"""

from __future__ import annotations

import sys

from autopack.loopback.replies import Refusal, Reply, ReplyRequest
from autopack.loopback.server import serve_messages


class OneReply:
    """The same short reply to everything."""

    def reply(self, request: ReplyRequest) -> Reply | Refusal:  # noqa: ARG002 (the same to every request)
        """See `ReplySource.reply`."""
        return Reply(
            model="simulated-benchmark",
            input_tokens=1164,
            output_tokens=1218,
            stop_reason="end_turn",
            text="A short answer of a few words, in place of a long one.",
        )


if __name__ == "__main__":
    with serve_messages(OneReply()) as url:
        print(url, flush=True)
        sys.stdin.read()
