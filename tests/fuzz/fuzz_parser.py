"""Fuzzes parser: see fuzzing.py."""

from fuzzing import fuzz

if __name__ == "__main__":
    fuzz("parser", "parser")
