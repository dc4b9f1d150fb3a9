# by: owner
# exit: 0
# prints: 200
# arrives: POST api.anthropic.com/v1/messages
curl -sS -w '\n%{http_code}\n' https://api.anthropic.com/v1/messages -H 'content-type: application/json' -H 'anthropic-version: 2023-06-01' -d '{"model":"claude-sonnet-4-5","max_tokens":16,"messages":[{"role":"user","content":"hello"}]}'
