// Node's own fetch: a POST whose answer streams.
const answer = await fetch("https://api.openai.com/v1/chat/completions", {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ model: "gpt-5", stream: true, messages: [] }),
});
if (!answer.ok) throw new Error(`status ${answer.status}`);
const text = new TextDecoder();
for await (const chunk of answer.body) console.log("part:", text.decode(chunk).trim());
