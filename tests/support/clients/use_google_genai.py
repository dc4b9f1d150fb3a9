"""google-genai: generate_content, then the same as a stream."""

from google import genai

client = genai.Client()
ask = dict(model="gemini-2.5-flash", contents="hello")
print("whole:", client.models.generate_content(**ask).text, flush=True)
for chunk in client.models.generate_content_stream(**ask):
    print("part:", chunk.text, flush=True)
