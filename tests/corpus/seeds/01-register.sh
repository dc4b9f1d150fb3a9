# by: operator
# exit: 0
# prints: "container_id":"abc123def456"
# prints: 201
curl -sS -w '\n%{http_code}\n' -X POST http://localhost:8081/internal/containers -H 'Content-Type: application/json' -d '{"container_ip":"172.18.0.5","container_id":"abc123def456","repos":["owner/repo1","owner/repo2"],"auth_mode":"bot","allowed_branches":["sandbox/*","bot/*"],"expires_at":"2027-01-15T00:00:00Z"}'
