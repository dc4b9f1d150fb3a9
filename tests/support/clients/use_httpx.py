"""httpx: a POST whose answer streams."""

import httpx

body = {"model": "gpt-5", "stream": True, "messages": []}
with httpx.stream("POST", "https://api.openai.com/v1/chat/completions", json=body, timeout=60) as answer:
    answer.raise_for_status()
    for line in answer.iter_lines():
        if line:
            print("part:", line, flush=True)
