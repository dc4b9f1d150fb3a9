"""urllib of Python's own library: a POST whose answer streams."""

import json
import urllib.request

body = json.dumps({"model": "gpt-5", "stream": True, "messages": []}).encode()
headers = {"content-type": "application/json"}
request = urllib.request.Request("https://api.openai.com/v1/chat/completions", body, headers)
with urllib.request.urlopen(request, timeout=60) as answer:
    for line in answer:
        if line.strip():
            print("part:", line.decode().strip(), flush=True)
