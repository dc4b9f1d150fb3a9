"""anthropic: a message, then one that streams; with `refused`, a call that the gateway refuses."""

import sys

import anthropic

client = anthropic.Anthropic(max_retries=0)
if sys.argv[1:] == ["refused"]:
    client.beta.files.list()
ask = dict(model="claude-sonnet-4-5", max_tokens=100, messages=[{"role": "user", "content": "hello"}])
print("whole:", client.messages.create(**ask).content[0].text, flush=True)
with client.messages.stream(**ask) as stream:
    for text in stream.text_stream:
        print("part:", text, flush=True)
