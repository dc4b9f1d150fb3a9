"""google-genai: generate_content, then the same as a stream; with `refused`, a call that the gateway refuses."""

import sys

from google import genai

client = genai.Client()
if sys.argv[1:] == ["refused"]:
    list(client.files.list())
ask = dict(model="gemini-2.5-flash", contents="hello")
print("whole:", client.models.generate_content(**ask).text, flush=True)
for chunk in client.models.generate_content_stream(**ask):
    print("part:", chunk.text, flush=True)
