"""requests: a POST whose answer streams."""

import requests

body = {"model": "gpt-5", "stream": True, "messages": []}
with requests.post("https://api.openai.com/v1/chat/completions", json=body, stream=True, timeout=60) as answer:
    answer.raise_for_status()
    for line in answer.iter_lines(chunk_size=1):
        if line:
            print("part:", line.decode(), flush=True)
