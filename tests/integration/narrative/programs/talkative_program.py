"""A process that writes a line longer than any buffer, and then is ready."""

from healthy_program import serve

print("a" * 300_000, flush=True)
print("b", flush=True)
serve()
