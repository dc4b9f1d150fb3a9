"""aiohttp: a POST whose answer streams. With `deaf` without trust_env, which its sessions need to read the proxy."""

import asyncio
import sys

import aiohttp

body = {"model": "gpt-5", "stream": True, "messages": []}


async def main():
    async with aiohttp.ClientSession(trust_env=sys.argv[1:] != ["deaf"], raise_for_status=True) as session:
        async with session.post("https://api.openai.com/v1/chat/completions", json=body) as answer:
            async for line in answer.content:
                if line.strip():
                    print("part:", line.decode().strip(), flush=True)


asyncio.run(main())
