"""Fuzzes http2: see fuzzing.py."""

from fuzzing import fuzz

if __name__ == "__main__":
    fuzz("http2", "http2")
