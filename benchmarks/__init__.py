"""Commands that measure what docs/performance.md claims about speed and memory: `python -m benchmarks.<name>`."""
