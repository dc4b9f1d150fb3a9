"""openai: the chat or the responses, whichever is named, as a stream; with `refused`, a call that the gateway refuses."""

import sys

import openai

client = openai.OpenAI(max_retries=0)
if sys.argv[1] == "refused":
    client.files.list()
if sys.argv[1] == "chat":
    messages = [{"role": "user", "content": "hello"}]
    for chunk in client.chat.completions.create(model="gpt-5", messages=messages, stream=True):
        if chunk.choices and chunk.choices[0].delta.content:
            print("part:", chunk.choices[0].delta.content, flush=True)
else:
    for event in client.responses.create(model="gpt-5", input="hello", stream=True):
        if event.type == "response.output_text.delta":
            print("part:", event.delta, flush=True)
