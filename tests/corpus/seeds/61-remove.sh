# by: operator
# exit: 0
# prints: 204
curl -sS -w '\n%{http_code}\n' -X DELETE http://localhost:8081/internal/containers/172.18.0.5
