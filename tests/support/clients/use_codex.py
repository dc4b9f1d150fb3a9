"""Codex by its app-server, as an editor drives it: a turn whose answer streams. `codex exec` prints whole answers."""

import os

from openai_codex import Codex, Sandbox

with Codex() as codex:
    codex.login_api_key(os.environ["OPENAI_API_KEY"])
    thread = codex.thread_start(model="gpt-5", sandbox=Sandbox.full_access)
    for event in thread.turn("Run the command.").stream():
        if event.method == "item/agentMessage/delta":
            print("part:", event.payload.delta, flush=True)
