"""Calls come in by themselves: the phase that they belong to, and the hooks that see them. `autopack` hands them on.

A hook begins a `calls.Call` when a call of a model starts and finishes it with one `replies.ModelReply`, or fails it
for one reason. So the order of reading: `phases`, `executions` (attempts and turns), `calls`, `replies`; then a hook.

    anthropic_spans   Anthropic's SDK, which traces itself: its spans, on their way to where they went before
    sdk_requests      OpenAI's SDK, and Anthropic's before 2.0: a subclass of the client, at `request`
    span_processor    any stack that makes GenAI spans
    litellm_callback  LiteLLM
"""
