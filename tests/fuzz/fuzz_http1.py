"""Fuzzes http1: see fuzzing.py."""

from fuzzing import fuzz

if __name__ == "__main__":
    fuzz("http1", "http1_")
